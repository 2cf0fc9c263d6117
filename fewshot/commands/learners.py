"""fewshot learners: list the learners."""

import argparse
import inspect
import sys

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
    parser = commands.add_parser("learners", help="list the learners")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print a table of all learners, then what some lack here, then which packages bring none that works."""
    rows, needs, faults = [], {}, []
    for name in learner_names():
        try:
            cls, _ = find_learner(name)
            if why := missing(cls, {}):
                needs[name] = why
        except InputError as error:  # of one package; the others are there all the same
            faults.append(str(error))
            continue
        about = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
        rows.append((name, ", ".join(cls.variants), cls.paper, _kind(cls), about))
    heads = ["learner", "variants", "paper", "kind", "what it does"]
    if options.markdown:
        print(pd.DataFrame(rows, columns=heads).to_markdown(index=False))
    else:
        shares = {"variants": 3, "paper": 2, "what it does": 4}  # of what the names and kinds leave of a line
        columns = (Column(head, ratio=shares.get(head), no_wrap=head == "learner", overflow="fold") for head in heads)
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        for name, why in needs.items():
            console.print(f"{name} needs more to run here: {why}", highlight=False, markup=False)
    for fault in faults:
        print(f"fewshot: {fault}", file=sys.stderr)


def _kind(cls: type[Learner]) -> str:
    """What sets a learner apart from one that trains on labels and scores each query by itself."""
    said = {
        "untrained": not cls.trained,
        "no labels": cls.trained and not cls.supervised,
        "adapts": cls.adapts,
        "transductive": cls.transductive,
        "reads names": cls.text,
        "external data": cls.external,
    }
    # some things hold of some variants alone
    return ", ".join(word if holds is True else f"{word}: {', '.join(holds)}" for word, holds in said.items() if holds)
