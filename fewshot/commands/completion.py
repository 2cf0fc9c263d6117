"""fewshot completion: print what makes a shell complete the commands, their options and the names of files."""

import argparse

import shtab
from rich.console import Console

from fewshot.commands import arguments

_SHELLS = ("bash", "zsh")


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot completion`."""
    parser = commands.add_parser(
        "completion",
        help="print a script that makes a shell complete commands and options",
        description="Print a script for a shell. It completes commands, options, their choices and the names of files.",
        epilog='Example: eval "$(fewshot completion bash)"',
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads the script")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the script."""
    _complete_files(options.parser)
    print(shtab.complete(options.parser, options.shell))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments of a parser, and of those below it, that are paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_files(below)
        elif action.type is arguments.path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
