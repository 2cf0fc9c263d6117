"""fewshot report: write a run as one page with figures."""

import argparse

from rich.console import Console

from fewshot.commands import arguments, outputs


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot report`."""
    parser = commands.add_parser(
        "report",
        parents=[arguments.data_folder()],
        help="write a run as one page with figures, report.html",
        description="Write the tables of a run, figures and pictures of episodes as one page, report.html, and each"
        " figure as a file.",
        epilog="Example: fewshot report results/quick-omniglot",
    )
    parser.add_argument("run", type=arguments.path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="DIR",
        help="the folder to write to (default: the run's, in which the page is made again each time)",
    )
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page and its figures."""
    if options.output and options.output.resolve() != options.run.resolve():
        outputs.check_new_in(options.output, ["report.html"], options.overwrite)
    from fewshot.report import write_report  # its libraries take a second to load, which other commands need not wait

    path = write_report(options.run, options.data, options.output)
    print(f"Written to {path}; its figures, for papers, to {path.parent / 'figures'}")
