"""Rewrites the tables of the documents and of results/reference from the committed rows: `make tables`, or
`python -m docs.tables`.

In a page of PAGES a table follows the line `<!-- table: NAME -->` and a blank line. NAME is a run of
results/reference, whose first table stands there, or one of TABLES.
"""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from pydantic import BaseModel

import baselines
from baselines import NOT_RUNNABLE, best
from baselines.published import LEAGUES
from fewshot import latex
from fewshot.ablation import RunResults, changes, sheet
from fewshot.commands.presets import about as about_preset
from fewshot.config import Data, Evaluation, Training, Validation, read_config
from fewshot.files import replace_text
from fewshot.records import UNIFORM
from fewshot.run_folder import page, read_results, read_sheets
from fewshot.tables import markdown, mean_ranks

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
REGULAR = "regular-mini_imagenet-"  # how the names of the runs with regularisers begin
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_MARKED = re.compile(r"^<!-- table: ([\w-]+) -->\n\n(?:\|.*\n)*\n*", re.MULTILINE)


def rewritten(page: str) -> str:
    """The text of a page with its marked tables as the committed rows have them."""
    made = _MARKED.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{table(found[1])}\n", page)
    return made.rstrip("\n") + "\n"


def table(name: str) -> str:
    """The lines of a table, in Markdown; KeyError if there is no such table."""
    if name in TABLES:
        return TABLES[name]()
    if not (REFERENCE / name).is_dir():
        raise KeyError(f"there is no run or table {name}: the runs are those of {REFERENCE}, the tables {list(TABLES)}")
    first, *_ = read_sheets(REFERENCE / name)
    return _lines(markdown([first]))


def about(run: Path) -> dict[str, str]:
    """How a reference run was made, from its about.toml: command, machine, time."""
    return tomllib.loads((run / "about.toml").read_text(encoding="utf-8"))


def reference_runs() -> str:
    """The reference runs, with the command, the machine and the time of each."""
    runs = {run.name: about(run) for run in sorted(REFERENCE.iterdir()) if run.is_dir()}
    rows = [[f"`{name}`", f"`{one['command']}`", one["machine"], one["time"]] for name, one in runs.items()]
    return _table(pd.DataFrame(rows, columns=["run", "command", "machine", "time"]))


def across_data_sets() -> str:
    """The models of a reference run on several data sets, in the first way and shot."""
    return _sheet("gpu-mini_imagenet-quick", "Across data sets")


def tuned_ranks(name: str) -> str:
    """The learners that were tuned alike on a data set, ranked on its test classes."""
    return _sheet(f"tuned-{name}", "Which can be told apart")


def tuned_gains(name: str) -> str:
    """What the reference search on a data set gained for each learner, on validation classes."""
    gains = pd.read_csv(REFERENCE / f"tuned-{name}" / "gains.csv")
    rows = [
        [one.learner, f"{one.untuned:.2f}", f"{one.tuned:.2f}", f"{one.gain:+.2f} ± {one.gain_ci95:.2f}"]
        if pd.notna(one.untuned)
        else [one.learner, "collapsed", f"{one.tuned:.2f}", "–"]
        for one in gains.itertuples()
    ]
    return _table(pd.DataFrame(rows, columns=["learner", "untuned", "tuned", "gain"]))


def tuned_across(*names: str) -> str:
    """The ranks of the learners that were tuned alike on these data sets, among these learners, and their means."""
    runs = {name: read_results(REFERENCE / f"tuned-{name}") for name in names}
    common = set.intersection(*(set(rows["learner"]) for rows, _ in runs.values()))
    ranks = {
        name: mean_ranks(rows[rows["learner"].isin(common)], accuracies) for name, (rows, accuracies) in runs.items()
    }
    wide = pd.DataFrame(ranks)
    wide.insert(0, "rank", wide.mean(axis=1))
    return _table(wide.sort_values("rank").map("{:.2f}".format).rename_axis("learner").reset_index())


def regularisers() -> str:
    """What each regulariser of a classifier gains over none, over training seeds."""
    runs = {path.name.removeprefix(REGULAR): path for path in sorted(REFERENCE.glob(f"{REGULAR}*"))}
    base = RunResults.of(runs.pop("plain"), "plain")
    found = pd.concat([changes(base, RunResults.of(path, name)) for name, path in runs.items()])
    return _lines(markdown([sheet(found, base)]))


def best_published() -> str:
    """The best published number of each data set, split, league and family of backbones."""
    rows = best()
    rows = rows[~pd.Index(zip(rows["dataset"], rows["protocol"])).isin(list(NOT_RUNNABLE))]
    rows = rows.assign(
        cell=rows["accuracy"].map("{:.2f} ".format) + rows["method"] + " (" + rows["paper"] + ")",
        column=rows["way"].astype(str) + "-way " + rows["shot"].astype(str) + "-shot",
        split=rows["dataset"]
        + " ("
        + rows["protocol"]
        + ")"
        + (", " + rows["kind"]).where(rows["kind"] != UNIFORM, ""),
        league=pd.Categorical(rows["league"], LEAGUES),
    )
    heads = ["split", "league", "backbones"]
    wide = rows[rows["shot"].isin([1, 5])].pivot(index=heads, columns="column", values="cell").sort_index()
    columns = ["5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"]
    made = wide.reindex(columns=columns).fillna("–").reset_index()
    return _table(
        made.assign(backbones=made["backbones"].replace("", "not stated")).rename(columns={"split": "data set"})
    )


def presets() -> str:
    """Each file of each preset: the data sets that it is for, its learners, and what it says of itself."""
    rows = [
        [f"`{name}`", kind, ", ".join(f"`{one}`" for one in _learners(path)), about_preset(path)]
        for name, files in baselines.presets().items()
        for kind, path in files.items()
    ]
    return _table(pd.DataFrame(rows, columns=["preset", "for", "learners", "about"]))


def _learners(path: Path) -> list[str]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["learners"]


def settings() -> str:
    """The settings of a preset with their defaults, by table of the file; JSON writes these values as TOML does."""
    models = {"data": Data, "training": Training, "validation": Validation, "evaluation": Evaluation}
    rows = [
        [f"`[{table}]`", f"`{name}`", f"`{json.dumps(field.get_default(call_default_factory=True))}`"]
        for table, model in models.items()
        for name, field in model.model_fields.items()
        if not isinstance(field.get_default(call_default_factory=True), BaseModel)
    ]
    return _table(pd.DataFrame(rows, columns=["table", "setting", "default"]))


TABLES: dict[str, Callable[[], str]] = {
    "reference-runs": reference_runs,
    "across-data-sets": across_data_sets,
    "tuned-gains": lambda: tuned_gains("omniglot"),
    "tuned-gains-mini_imagenet": lambda: tuned_gains("mini_imagenet"),
    "tuned-ranks": lambda: tuned_ranks("omniglot"),
    "tuned-gains-cifar_fs": lambda: tuned_gains("cifar_fs"),
    "tuned-ranks-mini_imagenet": lambda: tuned_ranks("mini_imagenet"),
    "tuned-ranks-cifar_fs": lambda: tuned_ranks("cifar_fs"),
    "tuned-across": lambda: tuned_across("cifar_fs", "mini_imagenet", "omniglot"),
    "regularisers": regularisers,
    "best-published": best_published,
    "presets": presets,
    "settings": settings,
}


def _sheet(run: str, title: str) -> str:
    """The table of a reference run whose title begins with `title`."""
    return _lines(markdown([next(sheet for sheet in read_sheets(REFERENCE / run) if sheet.title.startswith(title))]))


def _table(rows: pd.DataFrame) -> str:
    return rows.to_markdown(index=False, disable_numparse=True) + "\n"


def _lines(page: str) -> str:
    """The lines of a page that are of its table."""
    return "".join(line for line in page.splitlines(keepends=True) if line.startswith("|"))


def files_of(run: Path) -> dict[str, str]:
    """The tables and references of a reference run, by the names of their files, from its committed rows."""
    sheets = read_sheets(run)
    results, arrays = read_results(run) if (run / "results.csv").is_file() else (pd.DataFrame(), {})
    dataset = read_config(run / "config.toml").data.dataset
    return {
        "results.md": page(sheets, results, arrays, dataset),
        "results.tex": latex.page(sheets, run.name),
        "references.bib": latex.bibliography(sheets),
    }


def rewrite_runs() -> None:
    """Write the tables and references of each reference run from its committed rows."""
    for path in REFERENCE.glob("*/results.tex"):
        for name, text in files_of(path.parent).items():
            replace_text(path.with_name(name), text)


def main() -> None:
    """Rewrite the pages whose tables have changed, and name them; and the tables of the reference runs."""
    rewrite_runs()
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := rewritten(before)) != before:
            replace_text(path, after)
            print(f"Rewritten: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
