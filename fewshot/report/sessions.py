"""Accuracy after each session of class-incremental learning, on base and on novel classes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fewshot.records import LEARNER
from fewshot.report.figures import Curve, Style
from fewshot.statistics import over_seeds

MEASURES = {"base": "base classes", "novel": "novel classes so far", "all": "all classes so far"}


def by_session(rows: pd.DataFrame, styles: Mapping[tuple[str, ...], Style], measure: str) -> list[Curve]:
    """A line for each learner of the rows of sessions.csv: `measure` in percent against the session.

    Bars are the intervals over the draws; of a learner with several training seeds, Student's t intervals over them.
    Sessions without the measure are left out: there are no novel classes after session 0.
    """
    found = []
    for learner, style in styles.items():
        own = rows[(rows[LEARNER] == list(learner)).all(axis=1)].dropna(subset=[measure])
        points = [(session, *_together(cell, measure)) for session, cell in own.groupby("session")]
        if points:
            found.append(Curve(style, *np.transpose(points)))
    return found


def _together(cell: pd.DataFrame, measure: str) -> tuple[float, float]:
    """The mean and the half-width of the rows of one session, a row for each training seed."""
    if len(cell) == 1:
        return cell[measure].item(), np.nan_to_num(cell[f"{measure}_ci95"].item())
    return over_seeds(cell[measure].to_numpy())
