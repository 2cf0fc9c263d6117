"""fewshot perf: compare speed and memory with other packages."""

import argparse
from pathlib import Path

from rich.console import Console

from fewshot.commands import arguments


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot perf`."""
    parser = commands.add_parser(
        "perf",
        parents=[arguments.data_folder()],
        help="compare speed and memory with other packages",
        epilog="Example: fewshot perf --output results/perf",
    )
    parser.add_argument(
        "--only",
        type=arguments.names_of("part"),
        metavar="PART[,PART]",
        help="what to measure: sampling, evaluation, training, growth, profile, target (default: all but target, which"
        " trains on Omniglot for a quarter of an hour)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="measure a little of everything, to test that all of it works"
    )
    parser.add_argument(
        "--output",
        type=arguments.path,
        default=Path("results/perf"),
        metavar="DIR",
        help="the folder of the measurements (default: results/perf)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the measurements in the folder")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure, and write the tables and figures."""
    from fewshot.performance import measure  # other commands need not wait for its libraries

    measure(options.output, options.only, quick=options.quick, resume=options.resume, data=options.data)
    print(f"Written to {options.output}: perf.md, perf.csv, environment.json and figures")
