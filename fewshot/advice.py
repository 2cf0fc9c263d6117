"""Which head to take for one's own pictures, by a run that trained nothing, and the command that predicts with it."""

import shlex
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from episodes.datasets import ALL, find_source, forms
from fewshot.backbones import find_backbone
from fewshot.learners.registry import learner_names
from fewshot.loading import SIZE
from fewshot.records import LEAGUE, MODEL, array_of, labels
from fewshot.statistics import over_episodes, ranks


class Advice(NamedTuple):
    """The best head of a run.

    sentence  its name, its accuracy with the 95 % interval over episodes, and which heads cannot be told apart from it
    command   what labels pictures with it; '' if no command of the suite can
    """

    sentence: str
    command: str

    @property
    def lines(self) -> list[str]:
        return [self.sentence, *([f"To label pictures with it: {self.command}"] if self.command else [])]


def advice(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray], dataset: str) -> Advice | None:
    """The advice of a run on all classes of `dataset`; None for other runs, since their learners differ in training.

    It goes by the episodes of most classes and, among them, of most shots: they come closest to a support set of all
    classes and all pictures. Two heads are told apart as in statistics.ranks.
    """
    if not len(results) or set(results["split"]) != {ALL}:
        return None
    plain = results[MODEL].assign(**dict.fromkeys(LEAGUE, False))  # whose labels have no marks
    named = results.assign(label=labels(plain, seeds=False))
    widest = named[named["way"] == named["way"].max()]
    cell = widest[widest["shot"] == widest["shot"].max()]
    arrays = {
        str(label): np.mean(
            [values for _, row in rows.iterrows() if (values := array_of(row, accuracies)) is not None], 0
        )
        for label, rows in cell.groupby("label", sort=False)
    }
    order = ranks(arrays)
    best = cell[cell["label"] == order.index[0]].iloc[0]
    mean, ci95 = over_episodes(100 * arrays[best["label"]])
    tied = list(order.index[order["best"]][1:])
    where = "" if str(best["label"]).endswith(best["backbone"]) else f" on {best['backbone']}"
    sentence = (
        f"Take {best['label']}{where}: {mean:.2f} ± {ci95:.2f} % of queries are answered rightly in"
        f" {best['way']}-way {best['shot']}-shot episodes; {_told(tied, len(arrays))}"
    )
    return Advice(sentence, _command(best, dataset))


def _told(tied: list[str], count: int) -> str:
    """Which of `count` heads cannot be told apart from the best, in words."""
    if not tied:
        return "each other head can be told apart from it" if count > 1 else "no other head was measured"
    return f"{_and(tied)} cannot be told apart from it"


def _and(names: list[str]) -> str:
    if any("," in name for name in names):
        return "; ".join(names)
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _command(row: pd.Series, dataset: str) -> str:
    """The command that predicts with the head of a row by the pictures of `dataset`.

    '' if its encoder does not bring its weights, or if the run prepared images in another way than `predict` does.
    """
    source, protocol = find_source(dataset)
    name, colours = forms.split_name(dataset)
    changed = {*colours} - {"rgb"}
    if source.features or changed or row["image_size"] != SIZE or not find_backbone(row["backbone"]).trained_on:
        return ""
    known = row["learner"] in learner_names()
    learner = ":".join(filter(None, [row["learner"], row["variant"]])) if known else "FILE.py:CLASS"
    folder = name.removesuffix(f":{protocol}" if protocol else "") if source.own else "DIR"
    words = ["fewshot", "predict", row["backbone"], "--learner", learner, "--support", folder]
    return f"{shlex.join(words)} QUERY --output answers.csv"
