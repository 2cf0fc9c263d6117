"""fewshot learners: list the learners."""

import argparse
import inspect
import sys
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from episodes import InputError
from fewshot.commands import arguments
from fewshot.learners import Learner, find_learner, learner_names
from fewshot.learners.registry import missing


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot learners`."""
    parser = commands.add_parser(
        "learners",
        help="list the learners",
        description="List the learners with their variants, their publications and what sets each of them apart.",
        epilog="Example: fewshot learners --markdown",
    )
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print a table of all learners, then what some of them lack here, then which packages bring no working learner."""
    rows, needs, faults = [], {}, []
    for name in learner_names():
        try:
            cls, _ = find_learner(name)
            if why := missing(cls, {}):
                needs[name] = why
        except InputError as error:  # of one package; the other packages are listed
            faults.append(str(error))
            continue
        about = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
        rows.append((name, ", ".join(filter(None, cls.variants)), _papers(cls), _kind(cls), about))
    heads = ["learner", "variants", "paper", "kind", "what it does"]
    if options.markdown:
        print(pd.DataFrame(rows, columns=heads).to_markdown(index=False))
    else:
        console.print(_listing(heads, rows, console.width))
        for name, why in needs.items():
            console.print(f"{name} needs more to run here: {why}", highlight=False, markup=False)
    for fault in faults:
        print(f"fewshot: {fault}", file=sys.stderr)


def _listing(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A column for each head, none narrower than its longest word: the names of variants are there to be copied.

    Where these columns do not fit, two: the learner's name, and all the rest one below the other.
    """
    longest = [max(map(len, " ".join(cells).split())) for cells in zip(heads, *rows)]
    shares = 0, 3, 3, 3, 7  # of what the longest name leaves of a line
    columns = [
        Column(head, ratio=share, width=words, overflow="fold") for head, share, words in zip(heads, shares, longest)
    ]
    if sum(longest) + 3 * len(heads) - 1 > width:  # three between two columns, one at each edge
        columns = [Column(heads[0], no_wrap=True), Column(heads[-1], ratio=1, overflow="fold")]
        rows = [(row[0], "\n".join(_stacked(heads, row))) for row in rows]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _stacked(heads: Sequence[str], row: Sequence[str]) -> list[str]:
    """Lines about a learner: what it does, and below it what else is known, each with its head."""
    return [row[-1], *(f"{head}: {cell}" for head, cell in zip(heads[1:-1], row[1:-1]) if cell)]


def _kind(cls: type[Learner]) -> str:
    """What sets a learner apart from one that trains on labels and scores each query by itself."""
    said = {
        "untrained": lambda traits: not traits.trains,
        "no labels": lambda traits: traits.trains and not traits.uses_labels,
        "adapts": lambda traits: traits.fits_episodes,
        "transductive": lambda traits: traits.transductive,
        "reads names": lambda traits: traits.text,
        "no support": lambda traits: not traits.sees_support,
        "external data": lambda traits: traits.external,
        "feature maps": lambda traits: traits.maps,
    }
    words = []
    for word, holds in said.items():
        variants = [name for name, traits in cls.variants.items() if holds(traits)]
        if variants:
            words.append(word if len(variants) == len(cls.variants) else f"{word}: {', '.join(variants)}")
    return ", ".join(words)


def _papers(cls: type[Learner]) -> str:
    """The publications of a learner's variants, each once."""
    return ", ".join(dict.fromkeys(traits.paper for traits in cls.variants.values() if traits.paper))
