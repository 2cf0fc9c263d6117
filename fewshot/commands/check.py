"""fewshot check: tell whether learners keep the promises of the contract."""

import argparse
import logging
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tqdm import tqdm

from episodes import InputError
from fewshot.commands import arguments
from fewshot.learners.registry import suite_learners

if TYPE_CHECKING:
    from fewshot.testing.checks import Result
    from fewshot.testing.specimen import Specimen

log = logging.getLogger("fewshot")


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot check`."""
    parser = commands.add_parser(
        "check",
        help="check that learners work as the suite expects",
        description="Check each promise of learners on small data: the shapes and gradients of what they compute, that"
        " queries are scored by themselves, and so on.",
        epilog="Example: fewshot check my_idea.py:MyIdea",
    )
    parser.add_argument(
        "learner",
        type=arguments.names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{arguments.LEARNER}, or 'all'; without VARIANT, all of its variants",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Check each learner, print a table of its promises; InputError if one is broken."""
    # this import compiles what training needs; other commands need not wait for it
    from fewshot.testing.checks import CHECKS, broken
    from fewshot.testing.specimen import specimens

    found = []
    for spec in [name for one in options.learner for name in (suite_learners() if one == "all" else [one])]:
        these = specimens(spec)
        if why := these[0].missing:
            if "all" not in options.learner:
                raise InputError(f"{spec} cannot run here: {why}")
            log.warning("%s is left out: %s", spec, why)
            continue
        jobs = [(specimen, check) for specimen in these for check in CHECKS]
        bar = tqdm(jobs, desc=spec, unit="check", leave=False, disable=None)
        results = [(specimen, check(specimen)) for specimen, check in bar]
        console.print(_promises(spec, these, results))
        found += results
    if faults := broken(found):
        raise InputError("; ".join(faults))


def _promises(spec: str, these: list["Specimen"], results: list[tuple["Specimen", "Result"]]) -> Table:
    """A row for each promise with its result; if the variants differ, with the result of each variant."""
    variants = [specimen.variant for specimen in these if specimen.variant]
    title = f"{spec} ({', '.join(variants)})" if len(variants) > 1 else spec
    table = Table(Column("promise", ratio=1), Column(title, ratio=1), box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    by_promise: dict[str, dict[str, list[str]]] = {}
    for specimen, result in results:
        said = ": ".join(filter(None, [result.outcome, result.said]))
        by_promise.setdefault(result.check.promise, {}).setdefault(said, []).append(specimen.variant)
    for promise, found in by_promise.items():
        cells = [said if len(found) == 1 else f"{', '.join(of)}: {said}" for said, of in found.items()]
        broken = any(said.startswith("broken") for said in found)
        table.add_row(Text(promise), Text("\n".join(cells), style="bold" if broken else ""))
    return table
