"""fewshot compare: put runs beside the published numbers of their data set and split protocol."""

import argparse
from collections import Counter

import pandas as pd
from rich.console import Console

from episodes import InputError
from fewshot import comparison, tables
from fewshot.commands import arguments, outputs
from fewshot.files import replace_text, writing
from fewshot.run_folder import find_runs, read_results


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot compare`."""
    parser = commands.add_parser(
        "compare",
        help="compare runs with the published numbers of the same data set",
        description="Put the accuracies of runs beside the published numbers of the same data set, split protocol, way"
        " and shot, and say which differences are significant.",
    )
    parser.add_argument(
        "runs", nargs="+", type=arguments.path, metavar="RUN", help="a run's folder, or a folder of such folders"
    )
    parser.add_argument("--all", action="store_true", help="also show numbers that are not comparable, with the reason")
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="FILE",
        help="write all of it to FILE.csv, FILE.md or FILE.tex instead of printing it",
    )
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the comparison, or write it to the file that was asked for."""
    if options.output:
        outputs.check_new(options.output, options.overwrite)
    runs = dict.fromkeys(run.resolve() for path in options.runs for run in find_runs(path))
    several = Counter(run.name for run in runs)
    names = {run: run.name if several[run.name] == 1 else str(run) for run in runs}
    found = pd.concat([comparison.compare(read_results(run)[0], run=names[run]) for run in runs], ignore_index=True)
    if not options.output:
        show_comparison(found, console, options.all)
        return
    writers = {
        ".csv": lambda: comparison.printed(found).to_csv(index=False),
        ".md": lambda: tables.markdown(comparison.sheets(found, every=True)),
        ".tex": lambda: tables.latex(comparison.sheets(found, every=True)),
    }
    if options.output.suffix not in writers:
        raise InputError(f"a comparison is written as {', '.join(writers)}, not as '{options.output.name}'")
    with writing(options.output.parent):
        replace_text(options.output, writers[options.output.suffix]())
    print(f"Written to {options.output}")


def show_comparison(found: pd.DataFrame, console: Console, every: bool = False) -> None:
    tables.show(comparison.sheets(found, every), console)
    if not len(found):
        print("There are no published numbers of this data set, way and shot to compare with")
