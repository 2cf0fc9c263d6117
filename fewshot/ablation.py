"""What a change of settings gains: learners beside the same learners of a base run, on the same episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from episodes import InputError
from fewshot.config import read_config
from fewshot.records import CELL, DATA, UNPAIRED, array_of
from fewshot.run_folder import read_results
from fewshot.statistics import over_seeds, paired
from fewshot.tables import Sheet, caption

_LEARNER = ["learner", "variant"]  # the backbone may be what was changed
_EPISODES = [*DATA, "split", *CELL, "query", "episodes", "data_version", "episodes_version"]
COLUMNS = [
    *["run", "base", *DATA, *_LEARNER, "backbone", *CELL, "seeds", "accuracy", "base_accuracy", "difference", "ci95"],
    *["interval", "episodes_ci95"],
]
_NOTE = (
    "A cell is the accuracy in the run and, in brackets, its difference from the accuracy of the same learner in the"
    " base run, in points, on the same episodes. With several training seeds both are means over the seeds, and ± is"
    " the 95 % interval over the differences of equal seeds (Student's t), which covers another training. With one"
    " seed, ± is the 95 % interval over the episodes (paired t test), which does not. Bold is a gain of more than its"
    " interval. Each interval is that of its cell alone: one in twenty misses its difference"
)


class RunResults(NamedTuple):
    """A run by its name: the tidy rows of its uniform episodes, the accuracies of each one, and their seed."""

    name: str
    rows: pd.DataFrame
    accuracies: Mapping[str, np.ndarray]
    seed: int

    @classmethod
    def of(cls, path: Path, name: str) -> Self:
        """The run in the folder `path`; InputError if there is none, or if it is damaged."""
        rows, accuracies = read_results(path)
        return cls(name, rows, accuracies, read_config(path / "config.toml").evaluation.seed)


def changes(base: RunResults, run: RunResults) -> pd.DataFrame:
    """A row for each learner, way and shot that both runs have tested on the same episodes: COLUMNS.

    seeds          training seeds that both runs have; all other columns are of these
    difference     the accuracy in `run` minus that in `base`, in points, the mean over the seeds
    ci95, interval 'seeds': Student's t over the differences of each seed; 'episodes' if there is one seed
    episodes_ci95  of the paired t test over the episodes, of the mean over the seeds; nan if episodes are not kept

    A learner of several backbones is compared backbone by backbone. InputError if there is nothing to compare.
    """
    ours, theirs = (_paired_rows(one.rows) for one in (run, base))
    learner = [*_LEARNER, "backbone"] if _has_several(ours) or _has_several(theirs) else _LEARNER
    keys = [*learner, *_EPISODES, "seed"]
    both = ours.assign(place=range(len(ours))).merge(
        theirs.assign(place=range(len(theirs))), on=keys, suffixes=("", "_base")
    )
    if both.empty or run.seed != base.seed:
        raise InputError(
            f"{run.name} and {base.name} have no learner with a common seed that was tested on the same episodes:"
            " compare runs of one data set with equal ways, shots, queries and episodes"
        )
    rows = []
    for _, pairs in both.groupby([*learner, *CELL], sort=False):
        own = _arrays(ours, pairs["place"], run.accuracies)
        other = _arrays(theirs, pairs["place_base"], base.accuracies)
        gains = (pairs["accuracy"] - pairs["accuracy_base"]).to_numpy()
        over = paired(own, other).ci95 if own is not None and other is not None else np.nan
        several = len(pairs) > 1
        found = {
            **pairs.iloc[0][[*DATA, *_LEARNER, "backbone", *CELL]],
            "seeds": len(pairs),
            "accuracy": pairs["accuracy"].mean(),
            "base_accuracy": pairs["accuracy_base"].mean(),
            "difference": gains.mean(),
            "ci95": over_seeds(gains).ci95 if several else over,
            "interval": "seeds" if several else "episodes",
            "episodes_ci95": over,
        }
        rows.append({"run": run.name, "base": base.name, **found})
    return pd.DataFrame(rows, columns=COLUMNS)


def sheet(found: pd.DataFrame, base: RunResults) -> Sheet:
    """The table of the rows of `changes` of several runs, all beside `base`."""
    several = found[_LEARNER].drop_duplicates().shape[0] > 1
    learners = found["learner"] + (" (" + found["variant"] + ")").where(found["variant"] != "", "")
    labels = found["run"] + (": " + learners if several else "")
    widths = found["ci95"].map("{:.2f}".format).replace("nan", "–")
    rows = found.assign(
        label=labels,
        column=[f"{way}-way {shot}-shot" for way, shot in zip(found["way"], found["shot"])],
        text=found["accuracy"].map("{:.2f}".format)
        + found["difference"].map(" ({:+.2f} ± ".format).str.replace("-", "−")
        + widths
        + ")",
        above=found["difference"] > found["ci95"],
    )
    columns = rows.sort_values(CELL)["column"].unique()

    def wide(values: str) -> pd.DataFrame:
        table = rows.pivot(index="label", columns="column", values=values)
        return table.reindex(index=labels.unique(), columns=columns).rename_axis(index="run", columns=None)

    cells, bold = wide("text").fillna("–"), wide("above").eq(True)
    cells.insert(0, "seeds", rows.groupby("label")["seeds"].max().astype(str))
    bold.insert(0, "seeds", False)
    text = f"{caption(base.rows)}, and the difference from {base.name} in points"
    return Sheet("", text, cells, bold, _NOTE)


def _paired_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without imported ones that may be of other episodes."""
    return rows[rows["imported"] != UNPAIRED] if "imported" in rows else rows


def _has_several(rows: pd.DataFrame) -> bool:
    """Whether a learner of the rows has several backbones."""
    return bool((rows.groupby(_LEARNER)["backbone"].nunique() > 1).any())


def _arrays(rows: pd.DataFrame, places: pd.Series, accuracies: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The accuracies (E,) in percent, the mean over the rows at these places; None if one of them kept none."""
    found = [array for place in places if (array := array_of(rows.iloc[place], accuracies)) is not None]
    return 100 * np.mean(found, axis=0) if len(found) == len(places) else None
