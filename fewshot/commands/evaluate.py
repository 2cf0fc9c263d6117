"""fewshot evaluate: evaluate a checkpoint by one test protocol, or all models of a run on other data sets."""

import argparse
from typing import Any

import pandas as pd
from rich.console import Console

from episodes import ImageBank, InputError, ListedEpisodes, ReadingOptions, load_dataset
from episodes.datasets import find_source, full_name
from episodes.reading import EVERYTHING
from episodes.sampler import sampler_of
from fewshot import class_records, tables
from fewshot.clamping import clamped_protocols, with_held_out
from fewshot.commands import arguments, evaluate_run, outputs
from fewshot.config import Evaluation, evaluation_from
from fewshot.confusion import count_answers
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank, check_channels
from fewshot.evaluation import evaluate
from fewshot.files import replace_text, write_arrays, writing
from fewshot.learners import Learner
from fewshot.loading import open_checkpoint
from fewshot.models import ModelSpec
from fewshot.protocols.base import Task
from fewshot.protocols.episodes import open_interval
from fewshot.protocols.registry import PROTOCOLS, check_protocols, measure, protocol_sheets, tell_remarks
from fewshot.records import row_of

_USUAL = {"way": 5, "shot": 1, "query": 15}  # of a checkpoint's episodes
_SEVERAL_SHOTS = ("generalised", "open_set")  # the test protocols that test with several shots
_BESIDE_BASE = ("generalised", "sessions")  # the test protocols that put test classes beside base classes


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot evaluate`."""
    parents = [arguments.data_folder(), arguments.reading()]
    parser = commands.add_parser(
        "evaluate",
        parents=parents,
        help="evaluate a checkpoint or a run",
        description="Measure a trained model by one test protocol, or all models of a run on other data sets, and print"
        " the table.",
        epilog="Example: fewshot evaluate MODEL/best.pt --way 20 --shot 5",
    )
    parser.add_argument(
        "checkpoint",
        type=arguments.path,
        metavar="CHECKPOINT|RUN",
        help="best.pt of a learner; or the folder of a run, for all its models on other data sets",
    )
    parser.add_argument(
        "--protocol", default="episodes", metavar="NAME", help=f"{arguments.PROTOCOL} (default: episodes)"
    )
    arguments.add_kinds(parser)
    parser.add_argument("--way", type=int, metavar="N", help="classes per episode (default: 5; of a run, its own)")
    parser.add_argument(
        "--shot",
        type=int,
        metavar="K",
        help="support images per class (default: 1; sessions and domain: 5; generalised and open_set: several; of a"
        " run, its own)",
    )
    parser.add_argument(
        "--query", type=int, metavar="Q", help="queries per class (default: 15; domain: 5; of a run, its own)"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="E",
        help="episodes (default: 10000; generalised, kinds and open_set: 2000; of a run, its own)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the episodes or pairs (default: 0; of a run, its own)"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="the data set to test on (default: that of the checkpoint's training); of a run, other data sets, several"
        " with commas",
    )
    parser.add_argument("--split", default="test", metavar="SPLIT", help=f"{arguments.SPLIT} (default: test)")
    parser.add_argument("--learner", metavar="FILE.py:CLASS", help="the class of a learner that is not installed")
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="DIR",
        help="write classes.csv and confusion.npz to this folder; of a run, domains.csv, .npz and .md",
    )
    outputs.add_overwrite(parser)
    arguments.add_device(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Rebuild the learner of a checkpoint, measure it and print the table; of a run, all its learners."""
    arguments.check_protocol(options.protocol)
    arguments.check_kinds(options.kind, [options.protocol])
    if options.checkpoint.is_dir():
        evaluate_run.run(options, console)
        return
    options.seed = options.seed or 0
    _check(options)
    by_shot = PROTOCOLS[options.protocol].by_shot
    wanted = _episodes(options) if by_shot else _wanted(options)
    spec, learner = open_checkpoint(options.checkpoint, options.learner or "", options.dataset or "")
    bank = _load(options, spec, options.split, options.dataset)
    print(f"{learner.name} trained on {spec.dataset} with seed {spec.seed}")
    if by_shot:
        tables.show(tables.sheets(_evaluate_episodes(options, wanted, spec, learner, bank)), console)
    else:
        rows = _evaluate_protocol(options, wanted, spec, learner, bank)
        tables.show(protocol_sheets(options.protocol, rows), console)


def _evaluate_episodes(
    options: argparse.Namespace, wanted: Evaluation, spec: ModelSpec, learner: Learner, bank: ImageBank
) -> pd.DataFrame:
    """The one row of a checkpoint's accuracy."""
    (way,), (shot,), query = wanted.ways, wanted.shots, wanted.query
    accuracies = evaluate(learner, bank, way, shot, query, wanted.episodes, wanted.seed, options.device)
    if bank.listed:
        listed = ListedEpisodes(bank)
        way, shot, query = listed.way, listed.shot, listed.query
    row: dict[str, Any] = {
        **row_of(spec, learner, bank),
        "dataset": bank.dataset,
        "split": bank.split,
        "way": way,
        "shot": shot,
        "query": query,
        "episodes": len(accuracies.values),
        "accuracy": accuracies.percent.mean,
        "ci95": accuracies.percent.ci95,
        "ci95_open": open_interval(accuracies, bank).ci95,
        "protocol": bank.protocol,
    }
    rows = pd.DataFrame([row])
    if options.output:
        sampler = sampler_of(bank, way, shot, query, wanted.seed)
        counts = class_records.to_arrays(spec.name, way, shot, count_answers(sampler, accuracies.answers), bank)
        with writing(options.output):
            options.output.mkdir(parents=True, exist_ok=True)
            write_arrays(options.output / class_records.FILE, counts)
            replace_text(options.output / "classes.csv", class_records.class_tables(rows, counts))
    return rows


def _evaluate_protocol(
    options: argparse.Namespace, wanted: Evaluation, spec: ModelSpec, learner: Learner, bank: ImageBank
) -> pd.DataFrame:
    """The rows of a checkpoint by a test protocol other than episodes."""
    # what nobody asked for is as much as there can be; what was asked for is refused
    if options.protocol in ("sessions", "query_gallery") or (
        options.protocol in _SEVERAL_SHOTS and options.shot is None
    ):
        wanted = clamped_protocols(wanted, bank)
    banks = {"test": bank}
    if options.protocol == "verification":
        banks["validation"] = _load(options, spec, "validation", options.dataset)
    if options.protocol in _BESIDE_BASE:
        banks = with_held_out({**banks, "train": _load(options, spec, "train")}, spec.held_out)
    check_protocols(wanted, banks)
    tell_remarks(wanted, banks)
    device = choose_device(options.device)
    prepare(device)
    learner.to(device)
    data = {split: EmbeddedBank(learner, placed(one, device)) for split, one in banks.items()}
    task = Task(learner, spec, data, wanted, (), row_of(spec, learner, bank))
    return pd.DataFrame(measure(options.protocol, task)[0])


def _check(options: argparse.Namespace) -> None:
    """InputError for arguments that do not fit each other or this machine, before anything is read."""
    if options.protocol == "domains":
        raise InputError("domains tests a whole run: name the run's folder, or one data set with --dataset alone")
    if options.output and not PROTOCOLS[options.protocol].by_shot:
        raise InputError(f"{options.protocol} has no answers by class: leave out --output, or --protocol")
    if options.output:
        outputs.check_new_in(options.output, (class_records.FILE, "classes.csv"), options.overwrite)
    if options.protocol == "verification" and options.split == "validation":
        raise InputError("verification chooses its threshold on validation classes: take --split test")
    trained = options.split == "train" or (options.split == "all" and not options.dataset)
    if options.protocol in _BESIDE_BASE and trained:
        raise InputError(f"{options.protocol} needs classes that are not trained on: take --split test or validation")
    choose_device(options.device)


def _episodes(options: argparse.Namespace) -> Evaluation:
    """The settings of the test protocol episodes, from the arguments."""
    given = {**_USUAL, **_given(options)}
    ways, shots = [given.pop("way")], [given.pop("shot")]
    return evaluation_from({"ways": ways, "shots": shots, "seed": options.seed, **given})


def _wanted(options: argparse.Namespace) -> Evaluation:
    """The settings of a test protocol other than episodes, from the arguments; InputError for one that it lacks."""
    field = Evaluation.model_fields.get(options.protocol)
    known = getattr(field.annotation, "model_fields", {}) if field else {}
    settings: dict[str, Any] = {}
    for name, value in _given(options).items():
        if not {name, f"{name}s"} & set(known):
            raise InputError(f"{options.protocol} has no {name}: leave out --{name}")
        settings |= {name: value} if name in known else {f"{name}s": [value]}
    if options.protocol == "kinds":
        settings = {"shots": [1], **settings} | ({} if options.kind is None else {"kinds": options.kind})
    own = {options.protocol: settings} if field else {}
    return evaluation_from({"protocols": [options.protocol], "seed": options.seed, **own})


def _given(options: argparse.Namespace) -> dict[str, int]:
    """The arguments that say how episodes are drawn, as far as they were given."""
    values = {name: getattr(options, name) for name in (*_USUAL, "episodes")}
    return {name: value for name, value in values.items() if value is not None}


def _load(options: argparse.Namespace, spec: ModelSpec, split: str, dataset: str | None = None) -> ImageBank:
    name = dataset or spec.dataset
    source = find_source(name)[0]
    if not source.features:
        check_channels(spec.channels, source.channels, name)  # before any image is decoded
    reading = ReadingOptions(options.min_images, options.skip_damaged)
    if reading == EVERYTHING and full_name(name) == spec.dataset:
        reading = spec.reading  # as in the training
    return load_dataset(name, split, data=options.data, size=spec.size, options=reading)
