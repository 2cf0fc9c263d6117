"""fewshot import: make a run of the accuracies of single episodes that another code base measured."""

import argparse

from rich.console import Console

from fewshot import tables
from fewshot.commands import arguments
from fewshot.importing import ABOUT_NAME, NAME, NEEDED, import_run
from fewshot.run_folder import read_sheets


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot import`."""
    parser = commands.add_parser(
        "import",
        help="make a run of accuracies that another code base measured",
        description="Make a run of the accuracies of single episodes that another code base measured, which tables,"
        " compare and report read.",
        epilog="Example: fewshot import accuracies.csv --name mine --output results/mine",
    )
    parser.add_argument(
        "file", type=arguments.path, metavar="FILE.csv", help=f"one line for each episode: {', '.join(NEEDED)}"
    )
    parser.add_argument("--name", type=_name, required=True, metavar="X", help="the code base, in the labels of tables")
    parser.add_argument("--output", type=arguments.path, required=True, metavar="DIR", help="the new run's folder")
    parser.add_argument(
        "--episodes-of",
        type=arguments.path,
        metavar="RUN",
        help="the file has the episodes of this run, number by number: paired tests compare the learners of both"
        " (default: other episodes, and no paired tests)",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the run and print its tables."""
    import_run(options.file, options.name, options.output, options.episodes_of)
    tables.show(read_sheets(options.output), console)
    print(f"Written to {options.output}; next: fewshot compare {options.output}")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no name: it has {ABOUT_NAME}")
    return text
