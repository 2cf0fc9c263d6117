"""The command line: fewshot bench, train, evaluate, compare, report, learners, check, backbones, data, perf."""

import argparse
import contextlib
import dataclasses
import errno
import inspect
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from episodes import ImageBank, InputError, ListedEpisodes, MissingData, load_dataset
from episodes.bank import cache_folder
from episodes.datasets import SOURCES, SPLITS, find_source, full_name, short_name, where
from episodes.errors import unknown_name
from episodes.inspection import draw_episode, find_twins, intact
from episodes.twins import twin_groups
from fewshot import checkpoints, comparison, tables
from fewshot.backbones import backbone_listing
from fewshot.benchmark import (
    build_learner,
    check_trainings_free,
    open_data,
    open_interval,
    run_benchmark,
    train_learner,
)
from fewshot.config import PROTOCOLS, evaluation_from, load_config
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import evaluate
from fewshot.files import replace_text, writing
from fewshot.fitting import fitted_generalised, with_held_out
from fewshot.learners import Learner, find_learner, learner_names
from fewshot.learners.faults import fault_of
from fewshot.learners.registry import missing, suite_learners
from fewshot.measurement import measure_backbones
from fewshot.models import about_of, check_fits
from fewshot.protocols.rows import check_protocols, measure
from fewshot.protocols.sheets import protocol_sheets
from fewshot.run_folder import check_free, find_runs, read_results, read_sheets

if TYPE_CHECKING:
    from fewshot.checks import Result
    from fewshot.specimen import Specimen

log = logging.getLogger("fewshot")
_LOGS = (log, logging.getLogger("episodes"))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 where it went well, 2 for bad input, 130 where it was interrupted.

    1 where the reader of its output has gone, as head does when it has had enough.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # of what the locale cannot show
    logging.raiseExceptions = False  # a line that cannot be written is told once, at the end, instead of by tracebacks
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout:  # None where it was closed before the start
                sys.stdout.flush()
    except OSError as error:
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO):
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"fewshot: its output cannot be written ({error.strerror}): send it to another place", file=sys.stderr)
        return 2


def _drop_output() -> None:
    """What stdout still holds goes nowhere, so that Python ends quietly."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    for one in _LOGS:
        one.setLevel(logging.INFO)
        if not one.handlers:
            one.addHandler(logging.StreamHandler(sys.stdout))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log has no edge to wrap at
    try:
        with logging_redirect_tqdm(list(_LOGS)):
            options.command(options, console)
    except InputError as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command with --resume goes on where it was" if "resume" in options else ""
        print(f"\nfewshot: interrupted{again}", file=sys.stderr)
        return 130
    except Exception as error:
        fault = fault_of(error) or _fault_of_system(error)
        if not fault:  # a bug of ours
            raise
        print(f"fewshot: {InputError(fault)}", file=sys.stderr)
        return 2
    return 0


def _fault_of_system(error: Exception) -> str:
    """What the system refused: a file that an argument names, or a home to this user, as in a container; '' else."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror})"
    try:
        cache_folder()
    except RuntimeError:
        return "there is no home folder to keep prepared images in: set FEWSHOT_CACHE to a folder for them"
    return ""


_DATASET = "a data set ('fewshot data list' has them), with :PROTOCOL or without, or a folder of images"
_TWINS = {"same_class": "the same class", "other_class": "another class", "other_split": "another split"}
_MOST = 20  # images that occur again, and copies of one, that are named
_PROTOCOLS = f"of {', '.join(PROTOCOLS)}"
_LEARNER = "NAME, NAME:VARIANT or FILE.py:CLASS, each with @BACKBONE or without"
_EVERY = "'all' for every learner of the suite that can run here"


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
    run.add_argument("--dataset", metavar="NAME|DIR", help=f"{_DATASET} (default: the preset's)")
    run.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the preset's)")
    run.add_argument("--output", type=_path, metavar="DIR", help="the run's folder (default: results/PRESET-DATASET)")
    run.add_argument("--seed", type=_seeds, metavar="N[,N]", help="training seeds (default: the preset's)")
    run.add_argument(
        "--held-out", type=int, metavar="K", help="images a base class kept from training (default: the preset's)"
    )
    run.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")

    bench = commands.add_parser("bench", parents=[run], help="train and evaluate learners, write the tables")
    bench.add_argument(
        "--learner",
        type=_names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{_LEARNER}; several with commas; {_EVERY} (default: the preset's)",
    )
    bench.add_argument(
        "--protocol",
        type=_names_of("protocol"),
        metavar="NAME[,NAME]",
        help=f"{_PROTOCOLS}; several with commas (default: episodes)",
    )
    bench.add_argument("--way", type=_counts, metavar="N[,N]", help="classes a test episode (default: the preset's)")
    bench.add_argument("--shot", type=_counts, metavar="N[,N]", help="support images a class (default: the preset's)")
    bench.add_argument("--query", type=_count, metavar="Q", help="queries a class (default: the preset's)")
    bench.add_argument("--episodes", type=_several, metavar="E", help="how many (default: the preset's)")
    bench.add_argument("--steps", type=_count, metavar="S", help="steps of each training (default: the preset's)")
    bench.add_argument(
        "--keep",
        action="store_true",
        help="with --resume: rows of other code or packages than now stay, and are marked (default: run again)",
    )
    bench.set_defaults(command=_bench)

    train = commands.add_parser("train", parents=[run], help="train one learner, write its checkpoint")
    train.add_argument("--learner", required=True, metavar="NAME", help=_LEARNER)
    train.set_defaults(command=_train)

    test = commands.add_parser("evaluate", parents=[data], help="evaluate a checkpoint on one protocol")
    test.add_argument("checkpoint", type=_path, metavar="CHECKPOINT", help="best.pt of a learner")
    test.add_argument("--protocol", default="episodes", metavar="NAME", help=f"{_PROTOCOLS} (default: episodes)")
    test.add_argument("--way", type=int, default=5, metavar="N", help="classes an episode (default: 5)")
    test.add_argument("--shot", type=int, metavar="K", help="support images a class (default: 1; generalised: several)")
    test.add_argument("--query", type=int, default=15, metavar="Q", help="queries a class (default: 15)")
    test.add_argument("--episodes", type=int, metavar="E", help="how many (default: 10000; generalised: 2000)")
    test.add_argument("--seed", type=int, default=0, metavar="N", help="of the episodes or pairs (default: 0)")
    test.add_argument("--dataset", metavar="NAME", help="default: the one it was trained on")
    test.add_argument("--split", default="test", metavar="SPLIT", help="train, validation or test (default: test)")
    test.add_argument("--learner", metavar="FILE.py:CLASS", help="where a learner that is not installed comes from")
    test.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    test.set_defaults(command=_evaluate)

    beside = commands.add_parser("compare", help="put runs beside the published numbers of their protocol")
    beside.add_argument(
        "runs", nargs="+", type=_path, metavar="RUN", help="a run's folder, or a folder of such folders"
    )
    beside.add_argument("--all", action="store_true", help="also what is not comparable, with the reason")
    beside.add_argument(
        "--output", type=_path, metavar="FILE", help="write everything to FILE.csv, FILE.md or FILE.tex instead"
    )
    beside.set_defaults(command=_compare)

    page = commands.add_parser("report", parents=[data], help="write a run as one page with figures, report.html")
    page.add_argument("run", type=_path, metavar="RUN", help="a run's folder")
    page.add_argument("--output", type=_path, metavar="DIR", help="where to (default: into the run's folder)")
    page.set_defaults(command=_report)

    learners = commands.add_parser("learners", help="list the learners")
    learners.add_argument("--markdown", action="store_true", help="as a Markdown table")
    learners.set_defaults(command=_learners)

    promises = commands.add_parser("check", help="whether learners keep the promises of the contract")
    promises.add_argument(
        "learner",
        type=_names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{_LEARNER}, or 'all'; without VARIANT, all of its variants",
    )
    promises.set_defaults(command=_check)

    networks = commands.add_parser("backbones", help="list the backbones, or measure them on this machine")
    networks.add_argument("--size", type=_positive, default=84, metavar="PIXELS", help="of RGB images (default: 84)")
    networks.add_argument(
        "--measure", action="store_true", help="also how many images a second they train on and embed"
    )
    networks.add_argument("--batch", type=_positive, default=64, metavar="B", help="images at once (default: 64)")
    networks.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    networks.add_argument("--backbone", type=_names_of("backbone"), metavar="NAME[,NAME]", help="only these")
    networks.add_argument("--output", type=_path, metavar="FILE.csv", help="write the table to a file, too")
    networks.set_defaults(command=_backbones)

    speed = commands.add_parser("perf", parents=[data], help="measure speed and memory beside other packages")
    speed.add_argument(
        "--only",
        type=_names_of("part"),
        metavar="PART[,PART]",
        help="sampling, evaluation, training, growth, profile, target (default: all but target, which trains on"
        " Omniglot for a quarter of an hour)",
    )
    speed.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    speed.add_argument(
        "--output", type=_path, default=Path("results/perf"), metavar="DIR", help="(default: results/perf)"
    )
    speed.add_argument("--resume", action="store_true", help="go on with the measurements that the folder holds")
    speed.set_defaults(command=_perf)

    one_set = argparse.ArgumentParser(add_help=False, parents=[data])
    one_set.add_argument("name", metavar="NAME|DIR", help=_DATASET)
    one_set.add_argument("--size", type=int, metavar="PIXELS", help="height and width (default: the customary one)")
    sets = commands.add_parser("data", help="list, prepare, check or show data sets")
    sets = sets.add_subparsers(required=True, metavar="ACTION")
    listing = sets.add_parser("list", parents=[data], help="the data sets there are, and where they were found")
    listing.set_defaults(command=_data_list)
    prepare = sets.add_parser("prepare", parents=[one_set], help="decode a data set into the cache folder")
    prepare.set_defaults(command=_data_prepare)
    check = sets.add_parser(
        "check", parents=[one_set], help="what is there, missing or damaged, and which images occur twice"
    )
    check.set_defaults(command=_data_check)
    show = sets.add_parser("show", parents=[one_set], help="write a picture of an episode")
    show.add_argument("--split", default="test", metavar="SPLIT", help="train, validation or test (default: test)")
    show.add_argument("--way", type=_positive, default=5, metavar="N", help="classes (default: 5)")
    show.add_argument("--shot", type=_positive, default=1, metavar="K", help="support images a class (default: 1)")
    show.add_argument("--query", type=_positive, default=5, metavar="Q", help="queries a class (default: 5)")
    show.add_argument("--seed", type=_number, default=0, metavar="N", help="of the episodes (default: 0)")
    show.add_argument("--episode", type=_number, default=0, metavar="I", help="which of them (default: 0)")
    show.add_argument("--output", type=_path, metavar="FILE", help="(default: episode-NAME.png)")
    show.set_defaults(command=_data_show)
    return parser


def _bench(options: argparse.Namespace, console: Console) -> None:
    for protocol in options.protocol or []:
        _check_protocol(protocol)
    wanted = load_config(
        *(options.preset, options.learner, options.dataset, options.seed, options.size),
        protocols=options.protocol,
        held_out=options.held_out,
        ways=options.way,
        shots=options.shot,
        query=options.query,
        episodes=options.episodes,
        steps=options.steps,
    )
    check_free(options.output or _default_folder(options.preset, wanted.data.dataset), options.resume)
    config, banks = open_data(wanted, options.data)
    folder = options.output or _default_folder(options.preset, config.data.dataset)
    results = run_benchmark(config, banks, folder, device=options.device, resume=options.resume, keep=options.keep)
    tables.show(read_sheets(folder), console)
    more = [f"{name}.csv" for name in PROTOCOLS if (folder / f"{name}.csv").exists()]
    if not len(results):
        print(f"Written to {folder}: {', '.join(more)}, results.md and .tex and the rest of the run")
        return
    _show_comparison(comparison.compare(results), console)
    files = ", ".join(["results.csv, .md and .tex", *more, "comparison.md", "episodes.npz"])
    print(f"Written to {folder}: {files} and the rest of the run")
    print(f"Next: fewshot report {shlex.quote(str(folder))}")


def _train(options: argparse.Namespace, console: Console) -> None:
    wanted = load_config(
        *(options.preset, [options.learner], options.dataset, options.seed, options.size), held_out=options.held_out
    )
    name = f"train-{Path(options.preset).stem}"
    check_trainings_free(options.output or _default_folder(name, wanted.data.dataset), wanted, options.resume)
    config, banks = open_data(wanted, options.data, splits=("train", "validation"))
    folder = options.output or _default_folder(name, config.data.dataset)
    for path in train_learner(config, banks, folder, device=options.device, resume=options.resume):
        print(f"Written to {path.parent}; next: fewshot evaluate {shlex.quote(str(path))}")


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    _check_protocol(options.protocol)
    content = checkpoints.load(options.checkpoint)
    about = about_of(content, options.checkpoint)
    if ".py:" in about["learner"] and not options.learner:
        raise InputError(
            f"{options.checkpoint} is of the learner {about['learner']}: if you trust that file, name it with --learner"
        )
    bank = _load(options, about, options.split, options.dataset)
    cls, variant = find_learner(options.learner or about["learner"])
    if cls.name != about["name"] or (variant and variant != about["variant"]):
        raise InputError(f"{options.checkpoint} is of the learner {about['learner']}, not of {options.learner}")
    if bank.images.shape[1] != about["channels"]:
        raise InputError(
            f"{options.checkpoint} was trained on images of {about['channels']} channels, and those of {bank.name} have"
            f" {bank.images.shape[1]}"
        )
    check_fits(cls, about, options.checkpoint)
    learner = build_learner(cls, about)
    checkpoints.restore(learner, content, options.checkpoint)
    if options.dataset and full_name(options.dataset) != about["dataset"]:
        # classes that are tested may be among those it was trained on
        learner.traits = dataclasses.replace(learner.traits, external=True)
    print(f"{learner.name} trained on {about['dataset']} with seed {about['seed']}")
    if options.protocol == "episodes":
        tables.show(tables.sheets(_evaluate_episodes(options, about, learner, bank)), console)
    else:
        tables.show(protocol_sheets(options.protocol, _evaluate_protocol(options, about, learner, bank)), console)


def _evaluate_episodes(
    options: argparse.Namespace, about: dict[str, Any], learner: Learner, bank: ImageBank
) -> pd.DataFrame:
    """The one row of a checkpoint's accuracy."""
    settings = {"ways": [options.way], "query": options.query, "seed": options.seed}
    settings |= {"shots": [1 if options.shot is None else options.shot]}
    settings |= {} if options.episodes is None else {"episodes": options.episodes}
    wanted = evaluation_from(settings)
    (way,), (shot,), query = wanted.ways, wanted.shots, wanted.query
    accuracies = evaluate(learner, bank, way, shot, query, wanted.episodes, wanted.seed, options.device)
    if bank.listed:
        listed = ListedEpisodes(bank)
        way, shot, query = listed.way, listed.shot, listed.query
    row = {
        **_model(about, learner),
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
    return pd.DataFrame([row])


def _evaluate_protocol(
    options: argparse.Namespace, about: dict[str, Any], learner: Learner, bank: ImageBank
) -> pd.DataFrame:
    """The rows of a checkpoint of another protocol than episodes."""
    if options.protocol == "verification" and options.split == "validation":
        raise InputError("verification chooses its threshold on validation classes: take --split test")
    if options.protocol == "generalised" and options.split == "train":
        raise InputError("generalised needs classes that are not trained on: take --split test or validation")
    settings = {"way": options.way, "query": options.query}
    settings |= {} if options.shot is None else {"shots": [options.shot]}
    settings |= {} if options.episodes is None else {"episodes": options.episodes}
    wanted = evaluation_from({"protocols": [options.protocol], "seed": options.seed, "generalised": settings})
    if options.protocol == "generalised" and options.shot is None:
        wanted = wanted.model_copy(update={"generalised": fitted_generalised(wanted.generalised, bank)})
    banks = {"test": bank}
    if options.protocol == "verification":
        banks["validation"] = _load(options, about, "validation", options.dataset)
    if options.protocol == "generalised" and about.get("held_out"):
        banks = with_held_out({**banks, "train": _load(options, about, "train")}, about["held_out"])
    check_protocols(wanted, banks)
    device = choose_device(options.device)
    prepare(device)
    learner.to(device)
    data = {split: EmbeddedBank(learner, placed(one, device)) for split, one in banks.items()}
    return pd.DataFrame(measure(options.protocol, learner, data, wanted, _model(about, learner)))


def _model(about: dict[str, Any], learner: Learner) -> dict[str, Any]:
    """What the rows of a checkpoint say of it."""
    return {
        "learner": learner.name,
        "variant": learner.variant,
        "backbone": about["settings"]["backbone"],
        "seed": about["seed"],
        "image_size": about["size"],
        **{column: getattr(learner.traits, column) for column in tables.LEAGUE},
    }


def _load(options: argparse.Namespace, about: dict[str, Any], split: str, dataset: str | None = None) -> ImageBank:
    return load_dataset(dataset or about["dataset"], split, data=options.data, size=about["size"])


def _compare(options: argparse.Namespace, console: Console) -> None:
    runs = dict.fromkeys(run.resolve() for path in options.runs for run in find_runs(path))
    several = Counter(run.name for run in runs)
    names = {run: run.name if several[run.name] == 1 else str(run) for run in runs}
    found = pd.concat([comparison.compare(read_results(run)[0], run=names[run]) for run in runs], ignore_index=True)
    if not options.output:
        _show_comparison(found, console, options.all)
        return
    writers = {
        ".csv": lambda: found.round(4).to_csv(index=False),
        ".md": lambda: tables.markdown(comparison.sheets(found, every=True)),
        ".tex": lambda: tables.latex(comparison.sheets(found, every=True)),
    }
    if options.output.suffix not in writers:
        raise InputError(f"a comparison is written as {', '.join(writers)}, not as '{options.output.name}'")
    with writing(options.output.parent):
        replace_text(options.output, writers[options.output.suffix]())
    print(f"Written to {options.output}")


def _show_comparison(found: pd.DataFrame, console: Console, every: bool = False) -> None:
    tables.show(comparison.sheets(found, every), console)
    if not len(found):
        print("There are no published numbers of this data set, way and shot to compare with")


def _report(options: argparse.Namespace, console: Console) -> None:
    from fewshot.report import write_report  # its libraries take a second to load, which other commands need not wait

    path = write_report(options.run, options.data, options.output)
    print(f"Written to {path}; its figures, for papers, to {path.parent / 'figures'}")


def _learners(options: argparse.Namespace, console: Console) -> None:
    rows, needs, faults = [], {}, []
    for name in learner_names():
        try:
            cls, _ = find_learner(name)
            if why := missing(cls, {}):
                needs[name] = why
        except InputError as error:  # of one package; the others are there all the same
            faults.append(str(error))
            continue
        about = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
        rows.append((name, ", ".join(cls.variants), _papers(cls), _kind(cls), about))
    heads = ["learner", "variants", "paper", "kind", "what it does"]
    if options.markdown:
        print(pd.DataFrame(rows, columns=heads).to_markdown(index=False))
    else:
        shares = {"variants": 3, "paper": 2, "what it does": 4}  # of what the names and kinds leave of a line
        columns = (Column(head, ratio=shares.get(head), no_wrap=head == "learner", overflow="fold") for head in heads)
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        for name, why in needs.items():
            console.print(f"{name} needs more to run here: {why}", highlight=False, markup=False)
    for fault in faults:
        print(f"fewshot: {fault}", file=sys.stderr)


def _check(options: argparse.Namespace, console: Console) -> None:
    from fewshot.checks import CHECKS, broken  # compiles what training needs, which other commands need not wait for
    from fewshot.specimen import specimens

    found = []
    for spec in [name for one in options.learner for name in (suite_learners() if one == "all" else [one])]:
        these = specimens(spec)
        if why := these[0].missing:
            if "all" not in options.learner:
                raise InputError(f"{spec} cannot run here: {why}")
            log.warning("%s is left out: %s", spec, why)
            continue
        jobs = [(specimen, check) for specimen in these for check in CHECKS]
        bar = tqdm(jobs, desc=spec, unit="check", leave=False, disable=None)
        results = [(specimen, check(specimen)) for specimen, check in bar]
        console.print(_promises(spec, these, results))
        found += results
    if faults := broken(found):
        raise InputError("; ".join(faults))


def _promises(spec: str, these: list["Specimen"], results: list[tuple["Specimen", "Result"]]) -> Table:
    """Promise by promise what was found; where the variants differ, variant by variant."""
    variants = [specimen.variant for specimen in these if specimen.variant]
    title = f"{spec} ({', '.join(variants)})" if len(variants) > 1 else spec
    table = Table(Column("promise", ratio=1), Column(title, ratio=1), box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    by_promise: dict[str, dict[str, list[str]]] = {}
    for specimen, result in results:
        said = ": ".join(filter(None, [result.outcome, result.said]))
        by_promise.setdefault(result.check.promise, {}).setdefault(said, []).append(specimen.variant)
    for promise, found in by_promise.items():
        cells = [said if len(found) == 1 else f"{', '.join(of)}: {said}" for said, of in found.items()]
        broken = any(said.startswith("broken") for said in found)
        table.add_row(Text(promise), Text("\n".join(cells), style="bold" if broken else ""))
    return table


def _kind(cls: type[Learner]) -> str:
    """What sets a learner apart from one that trains on labels and scores each query by itself."""
    said = {
        "untrained": lambda traits: not traits.trains,
        "no labels": lambda traits: traits.trains and not traits.uses_labels,
        "adapts": lambda traits: traits.fits_episodes,
        "transductive": lambda traits: traits.transductive,
        "reads names": lambda traits: traits.text,
        "no support": lambda traits: not traits.sees_support,
        "external data": lambda traits: traits.external,
    }
    words = []
    for word, holds in said.items():
        variants = [name for name, traits in cls.variants.items() if holds(traits)]
        if variants:
            words.append(word if len(variants) == len(cls.variants) else f"{word}: {', '.join(variants)}")
    return ", ".join(words)


def _papers(cls: type[Learner]) -> str:
    """The publications of a learner's variants, each once."""
    return ", ".join(dict.fromkeys(traits.paper for traits in cls.variants.values() if traits.paper))


def _backbones(options: argparse.Namespace, console: Console) -> None:
    about = {name: (text, paper) for name, text, paper in backbone_listing()}
    names = options.backbone or [name for name in about if ":" not in name]
    rates = ["train img/s", "embed img/s"] if options.measure else []
    right = [Column(name, justify="right") for name in ("parameters", "embedding", *rates)]
    table = Table("backbone", *right, "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    measured = measure_backbones(names, options.size, options.batch, options.device, timed=options.measure)
    for row in measured.itertuples():
        numbers = [f"{row.parameters:,}", f"{row.embedding:,}"]
        numbers += [f"{rate:,.0f}" for rate in (row.train_rate, row.embed_rate)] if options.measure else []
        text, paper = about.get(row.backbone, ("", ""))
        table.add_row(row.backbone, *numbers, Text(f"{text} ({paper})" if paper else text))
    for name in [] if options.backbone else [name for name in about if name not in names]:
        table.add_row(name, *[""] * (2 + len(rates)), about[name][0])
    size = f"{options.size}x{options.size}"
    console.print(
        f"\nRGB images of {size}" + (f", {measured['device'][0]}" if options.measure else ""), highlight=False
    )
    console.print(table)
    if options.output:
        with writing(options.output.parent):
            replace_text(options.output, measured.round(1).to_csv(index=False))
        print(f"Written to {options.output}")


def _perf(options: argparse.Namespace, console: Console) -> None:
    from fewshot.performance import measure  # other commands need not wait for its libraries

    measure(options.output, options.only, quick=options.quick, resume=options.resume, data=options.data)
    print(f"Written to {options.output}: perf.md, perf.csv, environment.json and figures")


def _data_list(options: argparse.Namespace, console: Console) -> None:
    place = Column("where", overflow="fold")
    table = Table("data set", "protocols", "what it is", place, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, source in SOURCES.items():
        cells = name, ", ".join(source.protocols), source.about, where(source, options.data)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    print("Also torchvision:NAME, and the path of any folder or archive of images, each with :seedN or without")


def _data_prepare(options: argparse.Namespace, console: Console) -> None:
    find_source(options.name)
    for split in SPLITS:
        bank = load_dataset(options.name, split, data=options.data, size=options.size)
        print(f"{_described(bank)} from {bank.source}, checksum {bank.checksum}")


def _data_check(options: argparse.Namespace, console: Console) -> None:
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


def _data_show(options: argparse.Namespace, console: Console) -> None:
    bank = load_dataset(options.name, options.split, data=options.data, size=options.size)
    path = options.output or Path(f"episode-{short_name(options.name)}.png")
    draw_episode(bank, path, options.way, options.shot, options.query, options.seed, options.episode)
    print(f"Written to {path}")


def _described(bank: ImageBank) -> str:
    size = "x".join(map(str, bank.images.shape[2:]))
    return f"{bank.name}: {bank.classes:,} classes, {len(bank):,} images of {size}"


def _default_folder(preset: str, dataset: str) -> Path:
    return Path("results") / f"{Path(preset).stem}-{short_name(dataset)}"


def _check_protocol(name: str) -> None:
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(seeds) != len(text.split(",")) or max(seeds) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on, nor several with commas")
    return seeds


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {most:,}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1, 2**31 - 1)


def _several(text: str) -> int:
    return _whole(text, 2, 2**31 - 1)


def _counts(text: str) -> list[int]:
    """As many whole numbers as there are between the commas, each once."""
    return list(dict.fromkeys(_count(part.strip()) for part in text.split(",")))


def _number(text: str) -> int:
    return _whole(text, 0, 10**18)


def _positive(text: str) -> int:
    return _whole(text, 1, 4096)


def _names_of(what: str) -> Callable[[str], list[str]]:
    """The type of an argument that names several of `what`, with commas."""

    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if not found:
            raise argparse.ArgumentTypeError(f"name at least one {what}")
        return found

    return names


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)
