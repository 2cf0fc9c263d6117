"""The command line: fewshot bench, train, evaluate, learners, data."""

import argparse
import inspect
import logging
import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tqdm.contrib.logging import logging_redirect_tqdm

from episodes import InputError, load_dataset
from episodes.datasets import SOURCES, SPLITS, data_folders, resolve
from fewshot import checkpoints, tables
from fewshot.benchmark import build_learner, open_data, run_benchmark, train_learner
from fewshot.config import load_config
from fewshot.evaluation import evaluate
from fewshot.learners import find_learner, learner_names

log = logging.getLogger("fewshot")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 where it went well, 2 for bad input, 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log has no edge to wrap at
    try:
        with logging_redirect_tqdm([log]):
            options.command(options, console)
    except InputError as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command with --resume goes on where it was" if "resume" in options else ""
        print(f"\nfewshot: interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fewshot", description="A few-shot learning benchmark suite.")
    parser.add_argument("--version", action="version", version=f"fewshot {version('fewshot')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: $FEWSHOT_DATA)")
    run = argparse.ArgumentParser(add_help=False, parents=[data])
    run.add_argument(
        "--preset", default="quick", metavar="NAME|FILE.toml", help="how learners are run (default: quick)"
    )
    run.add_argument("--dataset", metavar="NAME", help="omniglot, omniglot:lake or glyphs (default: the preset's)")
    run.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the preset's)")
    run.add_argument("--output", type=_path, metavar="DIR", help="the run's folder (default: results/PRESET-DATASET)")
    run.add_argument("--seed", type=_seeds, metavar="N[,N]", help="training seeds (default: the preset's)")
    run.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")

    bench = commands.add_parser("bench", parents=[run], help="train and evaluate learners, write the tables")
    bench.add_argument(
        "--learner",
        type=_names,
        metavar="NAME[,NAME]",
        help="NAME, NAME:VARIANT or FILE.py:CLASS, several with commas (default: the preset's)",
    )
    bench.set_defaults(command=_bench)

    train = commands.add_parser("train", parents=[run], help="train one learner, write its checkpoint")
    train.add_argument("--learner", required=True, metavar="NAME", help="NAME, NAME:VARIANT or FILE.py:CLASS")
    train.set_defaults(command=_train)

    test = commands.add_parser("evaluate", parents=[data], help="evaluate a checkpoint on one protocol")
    test.add_argument("checkpoint", type=_path, metavar="CHECKPOINT", help="best.pt of a learner")
    test.add_argument("--way", type=int, default=5, metavar="N", help="classes an episode (default: 5)")
    test.add_argument("--shot", type=int, default=1, metavar="K", help="support images a class (default: 1)")
    test.add_argument("--query", type=int, default=15, metavar="Q", help="queries a class (default: 15)")
    test.add_argument("--episodes", type=int, default=10_000, metavar="E", help="how many (default: 10000)")
    test.add_argument("--seed", type=int, default=0, metavar="N", help="of the episodes (default: 0)")
    test.add_argument("--dataset", metavar="NAME", help="default: the one it was trained on")
    test.add_argument("--split", default="test", metavar="SPLIT", help="train, validation or test (default: test)")
    test.add_argument("--learner", metavar="FILE.py:CLASS", help="where a learner that is not installed comes from")
    test.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    test.set_defaults(command=_evaluate)

    learners = commands.add_parser("learners", help="list the learners")
    learners.set_defaults(command=_learners)

    sets = commands.add_parser("data", help="list or prepare data sets").add_subparsers(required=True, metavar="ACTION")
    listing = sets.add_parser("list", parents=[data], help="the data sets there are, and where they were found")
    listing.set_defaults(command=_data_list)
    prepare = sets.add_parser("prepare", parents=[data], help="decode a data set into the cache folder")
    prepare.add_argument("name", metavar="NAME", help="omniglot, omniglot:lake, glyphs")
    prepare.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the customary one)")
    prepare.set_defaults(command=_data_prepare)
    return parser


def _bench(options: argparse.Namespace, console: Console) -> None:
    wanted = load_config(options.preset, options.learner, options.dataset, options.seed, options.size)
    config, banks = open_data(wanted, options.data)
    folder = options.output or _default_folder(options.preset, banks["test"])
    results = run_benchmark(config, banks, folder, device=options.device, resume=options.resume)
    tables.show(results, console)
    print(f"Written to {folder}: results.csv, .md and .tex, episodes.npz, config.toml and the rest of the run")


def _train(options: argparse.Namespace, console: Console) -> None:
    wanted = load_config(options.preset, [options.learner], options.dataset, options.seed, options.size)
    config, banks = open_data(wanted, options.data, splits=("train", "validation"))
    folder = options.output or _default_folder(f"train-{options.preset}", banks["train"])
    for path in train_learner(config, banks, folder, device=options.device, resume=options.resume):
        print(f"Written to {path.parent}; next: fewshot evaluate {shlex.quote(str(path))}")


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    content = checkpoints.load(options.checkpoint)
    about = content["about"]
    if not {"learner", "name", "variant", "settings", "dataset", "channels", "size", "classes", "seed"} <= about.keys():
        raise InputError(
            f"{options.checkpoint} does not say what learner it is of: it was not written by bench or train"
        )
    if ".py:" in about["learner"] and not options.learner:
        raise InputError(
            f"{options.checkpoint} is of the learner {about['learner']}: if you trust that file, name it with --learner"
        )
    bank = load_dataset(options.dataset or about["dataset"], options.split, data=options.data, size=about["size"])
    cls, _ = find_learner(options.learner or about["learner"])
    if cls.name != about["name"]:
        raise InputError(f"{options.checkpoint} is of the learner {about['name']}, not of {cls.name}")
    learner = build_learner(cls, about)
    checkpoints.restore(learner, content, options.checkpoint)
    accuracies = evaluate(
        learner, bank, options.way, options.shot, options.query, options.episodes, options.seed, options.device
    )
    row = {
        "dataset": bank.dataset,
        "split": bank.split,
        "learner": learner.name,
        "variant": learner.variant,
        "way": options.way,
        "shot": options.shot,
        "query": options.query,
        "episodes": options.episodes,
        "seed": about["seed"],
        "accuracy": accuracies.percent.mean,
        "ci95": accuracies.percent.ci95,
        "protocol": bank.protocol,
        "image_size": about["size"],
        "transductive": learner.transductive,
    }
    print(f"{learner.name} trained on {about['dataset']} with seed {about['seed']}")
    tables.show(pd.DataFrame([row]), console)


def _learners(options: argparse.Namespace, console: Console) -> None:
    table = Table("learner", "variants", "paper", "what it does", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in learner_names():
        cls, _ = find_learner(name)
        about = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
        table.add_row(*(Text(cell) for cell in (name, ", ".join(cls.variants), cls.paper, about)))
    console.print(table)


def _data_list(options: argparse.Namespace, console: Console) -> None:
    where = Column("where", overflow="fold")
    table = Table("data set", "protocols", "what it is", where, box=box.SIMPLE_HEAD, pad_edge=False)
    folders = data_folders(options.data)
    for name, source in SOURCES.items():
        cells = name, ", ".join(source.protocols), source.about, source.where(folders)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _data_prepare(options: argparse.Namespace, console: Console) -> None:
    resolve(options.name)
    for split in SPLITS:
        bank = load_dataset(options.name, split, data=options.data, size=options.size)
        print(
            f"{bank.name}: {bank.classes:,} classes, {len(bank):,} images of {bank.images.shape[2]}x"
            f"{bank.images.shape[3]} from {bank.source}, checksum {bank.checksum}"
        )


def _default_folder(preset: str, bank) -> Path:
    source = SOURCES[bank.dataset]
    protocol = "" if bank.protocol == source.protocols[0] else f"-{bank.protocol}"
    return Path("results") / f"{Path(preset).stem}-{bank.dataset}{protocol}"


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(seeds) != len(text.split(",")) or max(seeds) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on, nor several with commas")
    return seeds


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one learner")
    return names


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)
