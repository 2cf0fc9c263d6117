"""Accuracy against the difficulty of episodes: what a run keeps of it, and groups of episodes of equal size."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from fewshot.protocols.kinds import SEPARATED, separation_name
from fewshot.records import LEARNER, array_of
from fewshot.report.data import LeftOut, Run
from fewshot.report.figures import Style
from fewshot.run_folder import read_kept
from fewshot.statistics import over_episodes

GROUPS = 10  # of episodes, at most


class Sorted(NamedTuple):
    """The episodes of one kind, way and shot, in groups of equal size by the separation of their classes.

    separations  (G,) the mean separation of each group, ascending
    lines        how each learner looks, and the accuracy of each group in percent with its half-width, (G,) both
    """

    kind: str
    way: int
    shot: int
    separations: np.ndarray
    lines: list[tuple[Style, np.ndarray, np.ndarray]]


def read_sorted(run: Run) -> list[Sorted]:
    """Of each kind whose episodes have separations, with one way and shot: 5-way 1-shot if the run has it.

    LeftOut if the run has too few episodes.
    """
    rows, arrays = run.protocols["kinds"], read_kept(run.folder, "kinds")
    found = []
    for kind in SEPARATED:
        own = rows[rows["kind"] == kind]
        if own.empty:
            continue
        cells = sorted(set(zip(own["way"].tolist(), own["shot"].tolist())))
        way, shot = (5, 1) if (5, 1) in cells else cells[0]
        separations = arrays[separation_name(kind, way, shot)]
        parts = groups(separations)
        if parts:
            cell = own[(own["way"] == way) & (own["shot"] == shot)]
            means = np.array([separations[part].mean() for part in parts])
            found.append(Sorted(kind, way, shot, means, _lines(run, cell, arrays, parts)))
    if not found:
        raise LeftOut("the run has too few episodes")
    return found


def groups(separations: np.ndarray) -> list[np.ndarray]:
    """The numbers of the episodes in groups of equal size or one more, by separation (E,); episodes of infinite
    separation are left out. No groups for fewer than 4 episodes: each has two or more, and there are two or more."""
    order = np.argsort(separations, kind="stable")
    order = order[np.isfinite(separations[order])]
    count = min(GROUPS, len(order) // 2)
    return np.array_split(order, count) if count > 1 else []


def _lines(
    run: Run, cell: pd.DataFrame, arrays: dict[str, np.ndarray], parts: list[np.ndarray]
) -> list[tuple[Style, np.ndarray, np.ndarray]]:
    """The line of each learner; of a learner with several seeds, each episode counts with the mean over them."""
    found = []
    for learner, style in run.styles.items():
        own = cell[(cell[LEARNER] == list(learner)).all(axis=1)]
        kept = [array for _, row in own.iterrows() if (array := array_of(row, arrays)) is not None]
        if kept:
            values = 100 * np.mean(kept, axis=0)
            means, widths = np.transpose([over_episodes(values[part]) for part in parts])
            found.append((style, means, widths))
    return found
