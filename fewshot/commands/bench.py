"""fewshot bench: train and evaluate learners, and write the tables of the run."""

import argparse
import shlex

from rich.console import Console

from fewshot import comparison, tables
from fewshot.advice import advice
from fewshot.benchmark import open_data, run_benchmark
from fewshot.commands import arguments
from fewshot.commands.compare import show_comparison
from fewshot.config import PROTOCOLS, load_config
from fewshot.run_folder import check_free, read_results, read_sheets


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot bench`."""
    parser = commands.add_parser(
        "bench",
        parents=[arguments.run_settings()],
        help="train and evaluate learners, write the tables",
        description="Train learners on the base classes of a data set, evaluate them on its test classes, and write the"
        " results to a folder.",
    )
    parser.add_argument(
        "--learner",
        type=arguments.names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{arguments.LEARNER}; several with commas; {arguments.EVERY} (default: the preset's)",
    )
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
    parser.add_argument(
        "--keep",
        action="store_true",
        help="with --resume: keep and mark the rows that other versions of the code or of packages wrote, instead of"
        " computing them again",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
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
    check_free(options.output or arguments.default_folder(options.preset, wanted.data.dataset), options.resume)
    config, banks = open_data(wanted, options.data)
    folder = options.output or arguments.default_folder(options.preset, config.data.dataset)
    results = run_benchmark(config, banks, folder, device=options.device, resume=options.resume, keep=options.keep)
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
