"""fewshot presets: list the presets, or print one as a file to start from."""

import argparse
import itertools
import json
import re
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
    parser.add_argument("--dataset", metavar="NAME|DIR", help="print the preset for this data set")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the list, or the file of the preset."""
    if options.name:
        print(_of_dataset(read_text(preset_path(options.name, options.dataset)), options.dataset), end="")
        return
    for name, files in baselines.presets().items():
        for kind, path in files.items():
            print(f"{name}, for {kind}")
            print(_paragraph(about(path)))
            learners = f"learners: {', '.join(tomllib.loads(read_text(path))['learners'])}"
            print(f"{_paragraph(learners)}\n")


def about(path: Path) -> str:
    """What the file of a preset says of itself: the first paragraph of the comment that it starts with."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), read_text(path).splitlines())
    return " ".join(line.removeprefix("# ") for line in lines)


def _paragraph(text: str) -> str:
    """The text in lines, indented, that break at spaces alone: a name stays whole."""
    indent = " " * 4
    return textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _of_dataset(text: str, dataset: str | None) -> str:
    """The file of a preset that names this data set, and none to fall back on."""
    if not dataset:
        return text
    line = f"dataset = {json.dumps(dataset, ensure_ascii=False)}"
    text = re.sub(r"(?m)^fallback = .*\n", "", text)
    if re.search(r"(?m)^dataset = ", text):
        return re.sub(r"(?m)^dataset = .*$", lambda _: line, text, count=1)
    return re.sub(r"(?m)^\[", lambda _: f"[data]\n{line}\n\n[", text, count=1)
