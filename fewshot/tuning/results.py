"""What a search found: the best trial of each learner, its gain over the untuned start, what mattered."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from fewshot.statistics import Difference, paired
from fewshot.tuning.study import SearchFolder

_TOP = 0.25  # the share of trials whose settings an importance tells apart from all others
_FEWEST = 8  # trials below which that share is too small to say anything
_GAINS = [
    *("learner", "untuned", "tuned", "gain", "gain_ci95", "chosen", "trials", "stopped", "failed", "images", "seconds")
]


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What the finished trials of one learner say.

    best  the trial with the highest validation accuracy; None if no training came to its end
    """

    learner: str
    trials: list[FrozenTrial]

    @functools.cached_property
    def start(self) -> FrozenTrial | None:
        """The untuned trial; None if its training failed."""
        return next((one for one in self._complete if one.user_attrs["place"] == 0), None)

    @functools.cached_property
    def best(self) -> FrozenTrial | None:
        measured = [one for one in self._complete if "fresh" in one.user_attrs]
        return max(measured, key=lambda one: (one.value, -one.user_attrs["place"]), default=None)

    @functools.cached_property
    def difference(self) -> Difference:
        """The accuracy of the best trial less that of the start in the same fresh episodes; nan without a start."""
        if self.start is None or self.best is None:
            return Difference(math.nan, math.nan, math.nan)
        return paired(np.array(self.best.user_attrs["fresh"]), np.array(self.start.user_attrs["fresh"]))

    @property
    def chosen(self) -> FrozenTrial | None:
        """The best trial, or the start if the best one gains nothing in fresh episodes."""
        return self.start if self.start is not None and not self.difference.mean > 0 else self.best

    @property
    def row(self) -> dict[str, Any]:
        """The learner's row of gains.csv."""
        states = [state_of(one) for one in self.trials]
        gains = self.difference if self.chosen is not self.start else Difference(0.0, 0.0, 1.0)
        return {
            "learner": self.learner,
            "untuned": _mean(self.start),
            "tuned": _mean(self.chosen),
            "gain": gains.mean,
            "gain_ci95": gains.ci95,
            "chosen": self.chosen.user_attrs["place"] if self.chosen else math.nan,
            "trials": len(states),
            "stopped": states.count("stopped"),
            "failed": states.count("failed"),
            "images": sum(one.user_attrs["images"] for one in self.trials),
            "seconds": round(sum(one.user_attrs["seconds"] for one in self.trials), 1),
        }

    @functools.cached_property
    def importance(self) -> dict[str, float]:
        """How much each value decides whether a trial is in the best quarter, by PED-ANOVA (Watanabe et al. 2023).

        Trials rank by how far they came, and then by their accuracy there. The importances add up to one; fewer than
        eight trials have none.
        """
        if len(self.trials) < _FEWEST:
            return {}
        ranked = sorted(self.trials, key=_reached)
        study = optuna.create_study(direction="maximize")
        for rank, one in enumerate(ranked):
            copy = optuna.trial.create_trial(value=rank, params=one.params, distributions=one.distributions)
            study.add_trial(copy)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_TOP)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)

    @property
    def _complete(self) -> list[FrozenTrial]:
        return [one for one in self.trials if one.state == TrialState.COMPLETE]


def state_of(trial: FrozenTrial) -> str:
    """'finished', 'stopped' early, or 'failed'."""
    if trial.state == TrialState.COMPLETE:
        return "finished"
    return "failed" if "failure" in trial.user_attrs else "stopped"


def found_in(folder: SearchFolder, learners: Iterable[str]) -> list[Found]:
    """What the search found for each of the learners that has finished trials."""
    every = [Found(asked, folder.finished(asked)) for asked in learners]
    return [one for one in every if one.trials]


def gains_of(found: list[Found]) -> pd.DataFrame:
    """The rows of gains.csv, the largest gain first: accuracies in percent in the fresh validation episodes."""
    rows = pd.DataFrame([one.row for one in found], columns=_GAINS).round(4)
    return rows.sort_values("gain", ascending=False, kind="stable").reset_index(drop=True)


def last_accuracy(trial: FrozenTrial) -> float:
    """The last validation accuracy of a trial in percent, the best one of a finished trial; nan if there is none."""
    if trial.value is not None:
        return trial.value
    return next(reversed(trial.intermediate_values.values()), math.nan)


def _reached(trial: FrozenTrial) -> tuple[bool, int, float]:
    """What a trial is ranked by."""
    return "failure" not in trial.user_attrs, len(trial.intermediate_values), last_accuracy(trial)


def _mean(trial: FrozenTrial | None) -> float:
    return float(np.mean(trial.user_attrs["fresh"])) if trial is not None else math.nan
