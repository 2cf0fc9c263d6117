"""fewshot compare: put runs beside the published numbers of their data set and split protocol."""

import argparse
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from episodes import InputError
from fewshot import ablation, comparison, latex, tables
from fewshot.commands import arguments, outputs
from fewshot.files import no_formula, replace_text, writing
from fewshot.literature import with_own
from fewshot.records import UNIFORM
from fewshot.run_folder import find_runs, read_protocols, read_results

log = logging.getLogger("fewshot")


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot compare`."""
    parser = commands.add_parser(
        "compare",
        help="compare runs with published numbers, or with another run",
        description="Put the accuracies of runs beside the published numbers of the same data set, split protocol, way"
        " and shot, and say which differences are significant. With --base, put them beside the same learners of"
        " another run.",
        epilog="Example: fewshot compare results/quick-omniglot --output comparison.tex",
    )
    parser.add_argument(
        "runs", nargs="+", type=arguments.path, metavar="RUN", help="a run's folder, or a folder of such folders"
    )
    parser.add_argument(
        "--published",
        type=arguments.path,
        metavar="FILE.csv",
        help="published numbers of your own, with the columns of baselines/published.csv, beside those of the suite",
    )
    parser.add_argument("--all", action="store_true", help="also show numbers that are not comparable, with the reason")
    parser.add_argument(
        "--base",
        type=arguments.path,
        metavar="RUN",
        help="the folder of one run: in place of published numbers, show what each learner gains over the same learner"
        " of this run, seed by seed on the same episodes; not with --published or --all",
    )
    parser.add_argument(
        "--output",
        type=arguments.path,
        metavar="FILE",
        help="write the tables to FILE.md or FILE.tex, or every number to FILE.csv, instead of printing them",
    )
    outputs.add_overwrite(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the comparison, or write it to the file that was asked for."""
    if options.output:
        outputs.check_new(options.output, options.overwrite)
    runs = dict.fromkeys(run.resolve() for path in options.runs for run in find_runs(path))
    several = Counter(run.name for run in {*runs, *([options.base.resolve()] if options.base else [])})
    names = {run: run.name if several[run.name] == 1 else str(run) for run in runs}
    if options.base:
        made = _beside_base(options, runs, names)
    else:
        literature = with_own(options.published) if options.published else None
        parts = [part for run in runs for part in _compared(run, names[run], literature)]
        found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        if not options.output:
            show_comparison(found, console, options.all)
            return
        made = Made(comparison.sheets(found, options.all), comparison.printed(found), comparison.summary(found))
    if options.output:
        _write(made, options.output)
    else:
        tables.show(made.sheets, console)


class Made(NamedTuple):
    """A comparison: its tables, every number of it, and a sentence that sums it up, or ''."""

    sheets: list[tables.Sheet]
    numbers: pd.DataFrame
    summary: str


def _write(made: Made, path: Path) -> None:
    writers = {
        ".csv": lambda: made.numbers.map(_shown).to_csv(index=False),
        ".md": lambda: f"{tables.markdown(made.sheets)}\n{made.summary}".strip() + "\n",
        ".tex": lambda: latex.page(made.sheets, path.stem),
    }
    if path.suffix not in writers:
        raise InputError(f"a comparison is written as {', '.join(writers)}, not as '{path.name}'")
    with writing(path.parent):
        replace_text(path, writers[path.suffix]())
    print(f"Written to {path}")


def _beside_base(options: argparse.Namespace, runs: Iterable[Path], names: Mapping[Path, str]) -> Made:
    """What the learners of the runs gain over those of the run --base, which itself is left out."""
    if options.published or options.all:
        raise InputError("--base compares with a run, not with published numbers: leave out --published and --all")
    home = options.base.resolve()
    base = ablation.RunResults.of(options.base, names.get(home, home.name))
    others = [run for run in runs if run != home]
    if not others:
        raise InputError(f"{options.base} is compared with itself alone: name other runs before --base")
    parts, apart = [], []
    for run in others:
        try:
            own = ablation.RunResults.of(run, names[run])
            parts.append(ablation.changes(base, own))
        except InputError as error:  # a folder of runs may hold some that do not fit
            apart.append(error)
            continue
        if left := ablation.left_out(parts[-1], base, own):
            log.warning("%s: without a counterpart in %s: %s", own.name, base.name, "; ".join(left))
    if not parts:
        raise apart[0]
    for why in apart:
        log.warning("left out: %s", why)
    found = pd.concat(parts, ignore_index=True)
    return Made([ablation.sheet(found, base)], found.round(4), "")


def _shown(cell: Any) -> Any:
    """A cell of a table that people open: no text is a formula."""
    return no_formula(cell) if isinstance(cell, str) else cell


def _compared(run: Path, name: str, literature: pd.DataFrame | None) -> list[pd.DataFrame]:
    """The comparisons of a run: of its uniform episodes, and of each other kind of episodes that it was tested on."""
    kinds = read_protocols(run).get("kinds", pd.DataFrame({"kind": []}))
    others = kinds[kinds["kind"] != UNIFORM].groupby("kind", sort=False)
    return [
        comparison.compare(read_results(run)[0], literature, name),
        *(comparison.compare(rows, literature, name, str(kind)) for kind, rows in others),
    ]


def show_comparison(found: pd.DataFrame, console: Console, every: bool = False) -> None:
    tables.show(comparison.sheets(found, every), console)
    print(comparison.summary(found))
