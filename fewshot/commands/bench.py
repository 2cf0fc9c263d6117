"""fewshot bench: train and evaluate learners, and write the tables of the run."""

import argparse
import contextlib
import functools
import shlex

from rich.console import Console

from episodes import InputError
from fewshot import comparison, tables
from fewshot.advice import advice
from fewshot.benchmark import open_data, rehearse, run_benchmark
from fewshot.commands import arguments
from fewshot.commands.compare import show_comparison
from fewshot.commands.dry_run import show_forecast
from fewshot.commands.job_array import commands_of
from fewshot.config import PROTOCOLS, load_config
from fewshot.curves import KINDS
from fewshot.forecast import forecasts
from fewshot.run_folder import check_free, read_results, read_sheets
from fewshot.set_aside import set_aside


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot bench`."""
    parser = commands.add_parser(
        "bench",
        parents=[arguments.run_settings("results/PRESET-DATASET", "only missing or outdated rows are computed")],
        help="train and evaluate learners, write the tables",
        description="Train learners on the base classes of a data set, evaluate them on its test classes, and write the"
        " results to a folder.",
        epilog="Example: fewshot bench --learner all --seed 0,1,2 --output results/all",
    )
    parser.add_argument(
        "--learner",
        type=arguments.names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{arguments.LEARNER}; several with commas; {arguments.EVERY} (default: the preset's)",
    )
    _declare_tests(parser)
    _declare_running(parser)
    parser.set_defaults(command=functools.partial(run, parser))


def _declare_tests(parser: argparse.ArgumentParser) -> None:
    """The test protocols and what replaces the numbers of a preset."""
    parser.add_argument(
        "--protocol",
        type=arguments.names_of("test protocol"),
        metavar="NAME[,NAME]",
        help=f"{arguments.PROTOCOL}; several with commas (default: episodes)",
    )
    arguments.add_kinds(parser)
    parser.add_argument(
        "--test",
        type=arguments.names_of("data set"),
        metavar="NAME[,NAME]",
        help="other data sets on which each model is tested too, by the test protocol domains; several with commas",
    )
    parser.add_argument(
        "--way", type=arguments.counts, metavar="N[,N]", help="classes per test episode (default: the preset's)"
    )
    parser.add_argument(
        "--shot", type=arguments.counts, metavar="N[,N]", help="support images per class (default: the preset's)"
    )
    parser.add_argument("--query", type=arguments.count, metavar="Q", help="queries per class (default: the preset's)")
    parser.add_argument("--episodes", type=arguments.several, metavar="E", help="test episodes (default: the preset's)")
    parser.add_argument(
        "--steps", type=arguments.count, metavar="S", help="training steps of each model (default: the preset's)"
    )


def _declare_running(parser: argparse.ArgumentParser) -> None:
    """How and whether the models of a run are trained and tested."""
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument(
        "--workers",
        type=arguments.workers,
        default="auto",
        metavar="N|auto",
        help="models that are trained and tested side by side, each in a process of its own: on the CPU with one thread"
        " each, on several GPUs in turn (default: auto, as many as there are cores if several models train on images on"
        " the CPU, else 1)",
    )
    arguments.add_ray(one_of, "the models")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="with --resume: keep and mark the rows that other versions of the code or of packages wrote, instead of"
        " computing them again",
    )
    parser.add_argument(
        "--log",
        choices=KINDS,
        default="",
        help="write the curves of each training while it goes on: curves.csv or events for TensorBoard beside its"
        " checkpoints, or metrics of MLflow",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="run nothing, and print a command for each learner and seed, such as for a job array; the same command"
        " without --plan and with --resume gathers their rows",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run nothing, and print the models with their steps and images, and the times by earlier runs beside it",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="if the folder holds a run, move that run beside it and begin a new one; a mistake in the settings moves"
        " nothing",
    )


def run(parser: argparse.ArgumentParser, options: argparse.Namespace, console: Console) -> None:
    """Run the benchmark; print its tables, the published numbers beside them, and which files hold them."""
    for protocol in options.protocol or []:
        arguments.check_protocol(protocol)
    wanted = load_config(
        options.preset,
        learners=options.learner,
        dataset=options.dataset,
        seeds=options.seed,
        size=options.size,
        protocols=options.protocol,
        held_out=options.held_out,
        min_images=options.min_images,
        skip_damaged=options.skip_damaged,
        others=options.test,
        ways=options.way,
        shots=options.shot,
        query=options.query,
        episodes=options.episodes,
        steps=options.steps,
        kinds=options.kind,
    )
    arguments.check_kinds(options.kind, wanted.evaluation.protocols)
    folder = options.output or arguments.default_folder(options.preset, wanted.data.dataset)
    if options.plan:
        print("\n".join(commands_of(parser, options, wanted, folder)))
        return
    if options.overwrite and options.resume:
        raise InputError("--overwrite begins a new run, and --resume continues the old one: give one of the two")
    check_free(folder, options.resume or options.overwrite)
    config, banks = open_data(wanted, options.data)
    folder = options.output or arguments.default_folder(options.preset, config.data.dataset)
    if options.dry_run:
        models = rehearse(config, banks, folder, device=options.device, resume=options.resume)
        show_forecast(forecasts(models, folder), console)
        return
    with set_aside(folder) if options.overwrite else contextlib.nullcontext():
        results = run_benchmark(
            config,
            banks,
            folder,
            device=options.device,
            resume=options.resume,
            keep=options.keep,
            workers=options.workers,
            curves=options.log,
            ray=options.ray,
        )
    tables.show(read_sheets(folder), console)
    more = [f"{name}.csv" for name in PROTOCOLS if (folder / f"{name}.csv").exists()]
    if not len(results):
        print(f"Written to {folder}: {', '.join(more)}, results.md and .tex and the rest of the run")
        return
    show_comparison(comparison.compare(results), console)
    files = ", ".join(["results.csv, .md and .tex", *more, "comparison.md", "episodes.npz", "classes.csv"])
    print(f"Written to {folder}: {files} and the rest of the run")
    print(f"Next: fewshot report {shlex.quote(str(folder))}")
    if found := advice(*read_results(folder), config.data.dataset):
        print("\n".join(found.lines))
