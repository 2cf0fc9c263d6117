"""fewshot presets: list the presets, or print one as a file to start from."""

import argparse
import itertools
import textwrap
import tomllib
from pathlib import Path

from rich.console import Console

import baselines
from fewshot.commands import arguments
from fewshot.config import preset_path
from fewshot.files import read_text


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot presets`."""
    parser = commands.add_parser(
        "presets",
        help="list the presets, or print one as a file to start from",
        description="List the presets with what each is for, or print one as TOML: change it, and name the file with"
        " --preset.",
        epilog="Example: fewshot presets quick > my.toml",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the preset to print")
    parser.add_argument("--dataset", metavar="NAME|DIR", help="print the preset's file for this data set")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the list, or the file of the preset."""
    if options.name:
        print(read_text(preset_path(options.name, options.dataset)), end="")
        return
    for name, files in baselines.presets().items():
        for kind, path in files.items():
            print(f"{name}, for {kind}")
            print(textwrap.fill(about(path), 100, initial_indent="    ", subsequent_indent="    "))
            print(f"    learners: {', '.join(tomllib.loads(read_text(path))['learners'])}\n")


def about(path: Path) -> str:
    """What the file of a preset says of itself: the first paragraph of the comment that it starts with."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), read_text(path).splitlines())
    return " ".join(line.removeprefix("# ") for line in lines)
