"""fewshot report: write a run as one page with figures, or many runs as a board."""

import argparse

from rich.console import Console

from episodes import InputError
from fewshot.commands import arguments, outputs


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot report`."""
    parser = commands.add_parser(
        "report",
        parents=[arguments.data_folder()],
        help="write a run as one page with figures, report.html, or many runs as board.html",
        description="Write the tables of a run, figures and pictures of episodes as one page, report.html, and each"
        " figure as a file. For a folder of runs, write board.html: the learners of all runs and published methods in"
        " one ranking for each data set, split protocol, league, way and shot.",
        epilog="Example: fewshot report results/quick-omniglot",
    )
    parser.add_argument("run", type=arguments.path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="DIR",
        help="the folder to write to (default: the run's, in which the page is made again each time)",
    )
    parser.add_argument(
        "--learner",
        type=arguments.names_of("learner"),
        default=[],
        metavar="FILE.py:CLASS[,...]",
        help="trust the files of these learners and run their code, for a run that kept nothing of its models",
    )
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page and its figures, or the board."""
    several = not (options.run / "results.csv").is_file() and any(options.run.glob("*/results.csv"))
    if options.output and options.output.resolve() != options.run.resolve():
        outputs.check_new_in(options.output, ["board.html" if several else "report.html"], options.overwrite)
    from fewshot.report import write_board, write_report  # their libraries take a second to load

    if several and options.learner:
        raise InputError(f"{options.run} is a folder of runs, whose board runs no models: leave out --learner")
    if several:
        print(f"Written to {write_board(options.run, options.output)}")
        return
    path = write_report(options.run, options.data, options.output, options.learner)
    print(f"Written to {path}; its figures, for papers, to {path.parent / 'figures'}")
