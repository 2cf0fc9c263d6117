"""fewshot data: list, prepare, check or show data sets."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from episodes import ImageBank, InputError, MissingData, ReadingOptions, load_dataset
from episodes.bank import cache_folder
from episodes.datasets import ALL, SOURCES, SPLITS, find_source, short_name, where
from episodes.errors import counted
from episodes.inspection import draw_episode, intact
from episodes.kinds import kind_sampler
from episodes.kinds.listed import COLUMNS, listed_lines
from episodes.pictures import all_damage
from episodes.twins import NEAR, Groups, Place, count_twins, near_groups, twin_groups
from fewshot.commands import arguments, outputs
from fewshot.files import no_formula, replace_text, writing

_TWINS = {"same_class": "the same class", "other_class": "another class", "other_split": "another split"}
_MOST = 20  # groups of repeated images that are named, and images of each


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot data` and its actions."""
    one_set = argparse.ArgumentParser(add_help=False, parents=[arguments.data_folder(), arguments.reading()])
    one_set.add_argument("name", metavar="NAME|DIR", help=arguments.DATASET)
    one_set.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width (default: the data set's usual size)"
    )
    parser = commands.add_parser(
        "data", help="list, prepare, check or show data sets", epilog="Example: fewshot data list"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        parents=[arguments.data_folder()],
        help="list the data sets, and where they were found",
        epilog="Example: fewshot data list",
    )
    listing.set_defaults(command=_list)
    prepare = actions.add_parser(
        "prepare",
        parents=[one_set],
        help="decode a data set into the cache folder",
        epilog="Example: fewshot data prepare omniglot",
    )
    _add_splits(prepare)
    prepare.set_defaults(command=_prepare)
    check = actions.add_parser(
        "check",
        parents=[one_set],
        help="find missing or damaged files, and images that occur twice",
        epilog="Example: fewshot data check my-classes/ --against mini_imagenet",
    )
    _add_splits(check)
    check.add_argument("--against", metavar="NAME|DIR", help="another data set; find images that are in both")
    check.add_argument(
        "--output", type=arguments.path, metavar="FILE.csv", help="a file that names all repeated images"
    )
    outputs.add_overwrite(check)
    check.set_defaults(command=_check)
    _declare_show(
        actions.add_parser(
            "show",
            parents=[one_set],
            help="write a picture of an episode",
            epilog="Example: fewshot data show omniglot --way 20 --output episode.png",
        )
    )
    parents = [arguments.data_folder(), arguments.reading()]
    _declare_episodes(
        actions.add_parser(
            "episodes",
            parents=parents,
            help="write episodes to a csv file",
            epilog="Example: fewshot data episodes --dataset omniglot --output episodes.csv",
        )
    )


def _declare_show(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fewshot data show`."""
    parser.add_argument("--split", default="test", metavar="SPLIT", help=f"{arguments.SPLIT} (default: test)")
    parser.add_argument("--way", type=arguments.positive, default=5, metavar="N", help="classes (default: 5)")
    parser.add_argument(
        "--shot", type=arguments.positive, default=1, metavar="K", help="support images per class (default: 1)"
    )
    parser.add_argument(
        "--query", type=arguments.positive, default=5, metavar="Q", help="queries per class (default: 5)"
    )
    parser.add_argument(
        "--seed", type=arguments.number, default=0, metavar="N", help="seed of the episodes (default: 0)"
    )
    parser.add_argument("--episode", type=arguments.number, default=0, metavar="I", help="episode number (default: 0)")
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="FILE",
        help="the picture, .png, .pdf or .svg (default: episode-NAME.png)",
    )
    outputs.add_overwrite(parser)
    parser.set_defaults(command=_show)


def _declare_episodes(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fewshot data episodes`."""
    parser.add_argument("--dataset", dest="name", required=True, metavar="NAME|DIR", help=arguments.DATASET)
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width (default: the data set's usual size)"
    )
    parser.add_argument("--split", default="test", metavar="SPLIT", help=f"{arguments.SPLIT} (default: test)")
    parser.add_argument("--kind", default="uniform", metavar="NAME", help=f"{arguments.KIND} (default: uniform)")
    parser.add_argument("--way", type=arguments.positive, default=5, metavar="N", help="classes (default: 5)")
    parser.add_argument(
        "--shot", type=arguments.positive, default=1, metavar="K", help="support images per class (default: 1)"
    )
    parser.add_argument(
        "--query", type=arguments.positive, default=15, metavar="Q", help="queries per class (default: 15)"
    )
    parser.add_argument(
        "--seed", type=arguments.number, default=0, metavar="N", help="seed of the episodes (default: 0)"
    )
    parser.add_argument("--episodes", type=arguments.count, default=600, metavar="E", help="episodes (default: 600)")
    parser.add_argument("--output", type=arguments.path, required=True, metavar="FILE.csv", help="the file to write")
    outputs.add_overwrite(parser)
    parser.set_defaults(command=_episodes)


def _add_splits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split",
        type=arguments.names_of("split"),
        default=list(SPLITS),
        metavar="SPLIT[,SPLIT]",
        help=f"{arguments.SPLIT} (default: train,validation,test)",
    )


def _list(options: argparse.Namespace, console: Console) -> None:
    longest = max(len(f"{name},") for source in SOURCES.values() for name in source.protocols)
    columns = (
        Column("data set", no_wrap=True),
        Column("split protocols", ratio=3, width=longest, overflow="fold"),  # these names stay whole
        Column("what it is", ratio=3, overflow="fold"),
        Column("where", ratio=4, overflow="fold"),
    )
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name, source in SOURCES.items():
        cells = name, ", ".join(source.protocols), source.about, where(source, options.data)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    print("Also torchvision:NAME, and the path of any folder or archive of images, each with :seedN or without")


def _prepare(options: argparse.Namespace, console: Console) -> None:
    find_source(options.name)
    for split in options.split:
        bank = _load(options, split)
        print(f"{_described(bank)} from {bank.source}, checksum {bank.checksum}")


def _check(options: argparse.Namespace, console: Console) -> None:
    if options.output:
        outputs.check_new(options.output, options.overwrite)
    source, _ = find_source(options.name)
    print(f"{options.name}: {source.about}; {where(source, options.data, _reading(options))}")
    banks, faults = _opened(options)
    for bank in banks.values():
        fewest, most = int(bank.sizes.min()), int(bank.sizes.max())
        print(f"{_described(bank)}, {fewest if fewest == most else f'{fewest} to {most}'} a class, from {bank.source}")
        if intact(bank):
            print(f"  checksum {bank.checksum}, computed again and the same")
        else:
            faults.append(
                f"the prepared images of {bank.name} are damaged: remove {cache_folder() / 'banks'}, and they are made"
                " again"
            )
    if options.against:
        size = next((bank.images.shape[2] for bank in banks.values()), options.size)
        other = load_dataset(options.against, ALL, data=options.data, size=size)
        banks |= {f"all of {options.against}": other}
    if banks:
        _tell_twins(banks, options)
    if faults:
        raise InputError("; ".join(dict.fromkeys(faults)))


def _opened(options: argparse.Namespace) -> tuple[dict[str, ImageBank], list[str]]:
    """The splits that can be opened, and the faults of the others; each damaged image is printed."""
    banks, faults = {}, []
    for split in options.split:
        with all_damage() as damage:
            try:
                banks[split] = _load(options, split)
            except MissingData as error:
                faults.append(str(error))
                break
            except InputError as error:
                faults.append(str(error))
        for sentence in sorted(damage):
            print(f"damaged: {sentence}")
    return banks, faults


def _tell_twins(banks: dict[str, ImageBank], options: argparse.Namespace) -> None:
    """Print which images occur again or look alike, across two data sets if there is one to compare with."""
    same, near = twin_groups(banks), near_groups(banks)
    for split, counts in count_twins(same, list(banks)).items():
        told = [f"{count} in {_TWINS[kind]}" for kind, count in counts._asdict().items() if count]
        if told:
            print(f"{split}: images that occur again: {', '.join(told)}")
    if options.against:
        same, near = ([group for group in one if _crosses(group, options.against)] for one in (same, near))
    known = set(map(frozenset, same))
    near = [group for group in near if frozenset(group) not in known]
    _name_groups("the same", "images that occur again", same)
    _name_groups("alike", f"groups of images that look alike (hashes of 64 bits, {NEAR} or fewer differ)", near)
    if options.output:
        rows = [
            {"kind": kind, "group": number, **_cells_of(place)}
            for kind, groups in (("same", same), ("alike", near))
            for number, group in enumerate(groups, 1)
            for place in group
        ]
        table = pd.DataFrame(rows, columns=["kind", "group", *Place._fields]).to_csv(index=False)
        with writing(options.output.parent):
            replace_text(options.output, table)
        print(f"All of them are written to {options.output}")


def _cells_of(place: Place) -> dict[str, Any]:
    """The fields of a place as cells that no spreadsheet takes for formulas."""
    return {name: no_formula(value) if isinstance(value, str) else value for name, value in place._asdict().items()}


def _crosses(group: list[Place], other: str) -> bool:
    """Whether a group has images of the checked data set and of the other one."""
    return len({place.split == f"all of {other}" for place in group}) == 2


def _name_groups(word: str, what: str, groups: Groups) -> None:
    for group in groups[:_MOST]:
        print(f"{word}: {' = '.join(map(str, group[:_MOST]))}{', and more' if len(group) > _MOST else ''}")
    if len(groups) > _MOST:
        print(f"and {len(groups) - _MOST:,} more {what}; --output FILE.csv names all of them")


def _show(options: argparse.Namespace, console: Console) -> None:
    path = options.output or Path(f"episode-{short_name(options.name)}.png")
    outputs.check_new(path, options.overwrite)
    bank = _load(options, options.split)
    draw_episode(bank, path, options.way, options.shot, options.query, options.seed, options.episode)
    print(f"Written to {path}")


def _episodes(options: argparse.Namespace, console: Console) -> None:
    outputs.check_new(options.output, options.overwrite)
    bank = _load(options, options.split)
    sampler = kind_sampler(options.kind, bank, options.way, options.shot, options.query, options.seed)
    count = sampler.count or options.episodes
    table = pd.DataFrame(listed_lines(bank, sampler, count), columns=list(COLUMNS)).to_csv(index=False)
    with writing(options.output.parent):
        replace_text(options.output, table)
    print(f"{counted(count, 'episode')} of kind {options.kind} from {bank.name} written to {options.output}")


def _load(options: argparse.Namespace, split: str) -> ImageBank:
    return load_dataset(options.name, split, data=options.data, size=options.size, options=_reading(options))


def _reading(options: argparse.Namespace) -> ReadingOptions:
    return ReadingOptions(options.min_images, options.skip_damaged)


def _described(bank: ImageBank) -> str:
    return f"{bank.name}: {counted(bank.classes, 'class')}, {counted(len(bank), 'image')} of {bank.form}"
