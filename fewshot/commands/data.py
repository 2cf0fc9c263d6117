"""fewshot data: list, prepare, check or show data sets."""

import argparse
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from episodes import ImageBank, InputError, MissingData, load_dataset
from episodes.bank import cache_folder
from episodes.datasets import SOURCES, SPLITS, find_source, short_name, where
from episodes.inspection import draw_episode, find_twins, intact
from episodes.twins import twin_groups
from fewshot.commands import arguments

_TWINS = {"same_class": "the same class", "other_class": "another class", "other_split": "another split"}
_MOST = 20  # repeated images that are named, and copies of each


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot data` and its actions."""
    one_set = argparse.ArgumentParser(add_help=False, parents=[arguments.data_folder()])
    one_set.add_argument("name", metavar="NAME|DIR", help=arguments.DATASET)
    one_set.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the customary one)")
    parser = commands.add_parser("data", help="list, prepare, check or show data sets")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", parents=[arguments.data_folder()], help="the data sets there are, and where they were found"
    )
    listing.set_defaults(command=_list)
    prepare = actions.add_parser("prepare", parents=[one_set], help="decode a data set into the cache folder")
    prepare.set_defaults(command=_prepare)
    check = actions.add_parser(
        "check", parents=[one_set], help="what is there, missing or damaged, and which images occur twice"
    )
    check.set_defaults(command=_check)
    show = actions.add_parser("show", parents=[one_set], help="write a picture of an episode")
    show.add_argument("--split", default="test", metavar="SPLIT", help="train, validation or test (default: test)")
    show.add_argument("--way", type=arguments.positive, default=5, metavar="N", help="classes (default: 5)")
    show.add_argument(
        "--shot", type=arguments.positive, default=1, metavar="K", help="support images a class (default: 1)"
    )
    show.add_argument("--query", type=arguments.positive, default=5, metavar="Q", help="queries a class (default: 5)")
    show.add_argument("--seed", type=arguments.number, default=0, metavar="N", help="of the episodes (default: 0)")
    show.add_argument("--episode", type=arguments.number, default=0, metavar="I", help="which of them (default: 0)")
    show.add_argument("--output", type=arguments.path, metavar="FILE", help="(default: episode-NAME.png)")
    show.set_defaults(command=_show)


def _list(options: argparse.Namespace, console: Console) -> None:
    place = Column("where", overflow="fold")
    table = Table("data set", "protocols", "what it is", place, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, source in SOURCES.items():
        cells = name, ", ".join(source.protocols), source.about, where(source, options.data)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    print("Also torchvision:NAME, and the path of any folder or archive of images, each with :seedN or without")


def _prepare(options: argparse.Namespace, console: Console) -> None:
    find_source(options.name)
    for split in SPLITS:
        bank = load_dataset(options.name, split, data=options.data, size=options.size)
        print(f"{_described(bank)} from {bank.source}, checksum {bank.checksum}")


def _check(options: argparse.Namespace, console: Console) -> None:
    source, _ = find_source(options.name)
    print(f"{options.name}: {source.about}; {where(source, options.data)}")
    banks, faults = {}, []
    for split in SPLITS:
        try:
            banks[split] = load_dataset(options.name, split, data=options.data, size=options.size)
        except MissingData as error:
            faults.append(str(error))
            break
        except InputError as error:
            faults.append(str(error))
    twins = find_twins(banks)
    for split, bank in banks.items():
        fewest, most = int(bank.sizes.min()), int(bank.sizes.max())
        print(f"{_described(bank)}, {fewest if fewest == most else f'{fewest} to {most}'} a class, from {bank.source}")
        if intact(bank):
            print(f"  checksum {bank.checksum}, computed again and the same")
        else:
            faults.append(
                f"the prepared images of {bank.name} are damaged: remove {cache_folder() / 'banks'}, and they are made"
                " again"
            )
        counts = vars(twins[split])
        if any(counts.values()):
            told = [f"{count} in {_TWINS[kind]}" for kind, count in counts.items() if count]
            print(f"  images that occur again: {', '.join(told)}")
    groups = twin_groups(banks)
    for group in groups[:_MOST]:
        print(f"the same: {' = '.join(map(str, group[:_MOST]))}{', and more' if len(group) > _MOST else ''}")
    if len(groups) > _MOST:
        print(f"and {len(groups) - _MOST:,} more images that occur again")
    if faults:
        raise InputError("; ".join(dict.fromkeys(faults)))


def _show(options: argparse.Namespace, console: Console) -> None:
    bank = load_dataset(options.name, options.split, data=options.data, size=options.size)
    path = options.output or Path(f"episode-{short_name(options.name)}.png")
    draw_episode(bank, path, options.way, options.shot, options.query, options.seed, options.episode)
    print(f"Written to {path}")


def _described(bank: ImageBank) -> str:
    return f"{bank.name}: {bank.classes:,} classes, {len(bank):,} images of {bank.form}"
