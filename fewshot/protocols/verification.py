"""Verification: do two images show the same class? Balanced pairs of test classes, the same for every learner."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from episodes import EpisodeSampler, ImageBank, InputError
from fewshot.config import Evaluation
from fewshot.devices import exact
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, measure_sheet, with_seeds
from fewshot.protocols.similarity import Similarity, measuring, rounding_of, similarity_of
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import Sheet

_CHUNK = 4096  # pairs compared at once
FALSE_ACCEPTS = 0.01  # at which true accepts are counted
_HEADINGS = {"auc": "ROC AUC", "eer": "equal error rate", "accuracy": "accuracy", "tar": "true accepts at 1 %"}
_NOTE = (
    "Verification: do two images show the same class? ± is the 95 % interval for another test set of as many classes"
    " with images of their own, for this one trained model and its threshold; the threshold of the accuracy was chosen"
    " on pairs of validation classes. A pair's score is the learner's own if the learner scores each class by the"
    " support of that class alone, else the cosine of the embeddings"
)


class Pairs(NamedTuple):
    """P trials: an image with another image of its class, and the same image with an image of another class.

    same, different (P, 2): images; classes (P, 2): the two classes of each trial; all int64
    """

    same: Tensor
    different: Tensor
    classes: Tensor


@dataclasses.dataclass(frozen=True)
class Verification:
    """What the scores of the pairs say, in percent and with 95 % intervals for another test set.

    auc        area under the ROC curve: how often a pair of one class scores higher than a pair of two
    eer        equal error rate: at its threshold, the shares of false rejects and of false accepts are equal
    accuracy   of 'the same from `threshold` on', a threshold chosen on the pairs of validation classes
    tar        true accepts at 1 % false accepts: at the lowest threshold with no more false accepts than that

    Pairs with equal scores, up to rounding, count as expected under a random order: scores that say nothing improve no
    measure. The threshold of the accuracy was fixed before, so it accepts all pairs that have exactly its score.
    """

    auc: Estimate
    eer: Estimate
    accuracy: Estimate
    tar: Estimate
    threshold: float
    similarity: str


def draw_pairs(bank: ImageBank, count: int, seed: int) -> Pairs:
    """The pairs of trials 0 .. `count` - 1, each a pure function of (seed, its number) and the class sizes.

    The pairs are 2-way 2-shot episodes of the suite's sampler: classes and images are drawn uniformly. Raises
    InputError if the bank has fewer than two classes or a class has fewer than two images.
    """
    if bank.classes < 2 or int(bank.sizes.min()) < 2:
        raise InputError(
            f"verification needs two classes or more, each of two images or more, and {bank.name} has fewer:"
            " leave out verification"
        )
    drawn = EpisodeSampler(bank, way=2, shot=2, query=0, seed=seed).episodes(0, count)
    first, second = drawn.support[:, :, 0], drawn.support[:, :, 1]
    return Pairs(torch.stack([first[:, 0], second[:, 0]], 1), first, drawn.classes)


def verify(learner: Learner, test: EmbeddedBank, validation: EmbeddedBank, pairs: int, seed: int) -> Verification:
    """How well `learner` verifies `pairs` test pairs of each kind, with a threshold from validation pairs."""
    with measuring(learner, seed):
        similarity = similarity_of(learner, test.embeddings)
        drawn, chosen = draw_pairs(test.bank, pairs, seed), draw_pairs(validation.bank, pairs, seed)
        known = _scores(similarity, validation, chosen)
        threshold = best_threshold(*_without_rounding(known, rounding_of(similarity.of, validation.embeddings)))
        same, different = _without_rounding(_scores(similarity, test, drawn), similarity.rounding)
    clusters = np.arange(test.bank.classes) // test.bank.turns
    return Verification(
        **measures(same, different, threshold, drawn.classes.cpu().numpy(), clusters),
        threshold=threshold,
        similarity=similarity.name,
    )


def best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """The score from which on pairs are called the same with the fewest errors, (P,) scores of either kind."""
    false, true, thresholds = _curve(same, different)
    return float(thresholds[np.argmax(true - false)])


def measures(
    same: np.ndarray, different: np.ndarray, threshold: float, classes: np.ndarray, clusters: np.ndarray
) -> dict[str, Estimate]:
    """auc, eer, accuracy and tar of Verification, from the scores (P,) of either kind of pair, in percent.

    classes (P, 2): of each trial; clusters (C,): as in statistics.over_classes, which makes the intervals, because a
    class is in many pairs. For the intervals each measure is a mean over trials, to the first order (the delta method):
    the area under the curve by the placements of DeLong et al. (1988). An error rate whose threshold depends on the
    pairs also gets a term of the other error rate, weighted by the slope of the ROC curve there. In simulations the
    intervals cover 94 to 96 %; the intervals of tar cover only 91 % if tar comes from as few as ten false accepts.
    """
    from sklearn.metrics import roc_auc_score  # slow to import, and few commands need it

    labels = np.repeat([1, 0], [len(same), len(different)])
    auc = float(roc_auc_score(labels, np.concatenate([same, different])))
    false, true, thresholds = _curve(same, different)
    ahead = false >= 1 - true
    at = int(np.argmax(ahead))  # the first point with no more false rejects than false accepts; never point 0
    gap = (1 - true - false)[[at - 1, at]]
    way = gap[0] / (gap[0] - gap[1])  # the share of the line between the two points at which the error rates are equal
    eer = float(false[at - 1] + way * (false[at] - false[at - 1]))
    truly, falsely = _strict(same, different)
    tar = float(truly.mean())

    steep = _slope(false, true, eer)
    accepted, rejected = different >= thresholds[at], same < thresholds[at]
    trials = {
        "auc": _placements(same, different) + 1 - _placements(different, same) - auc,
        "eer": (steep * accepted + rejected) / (1 + steep),
        "accuracy": ((same >= threshold) + 1.0 * (different < threshold)) / 2,
        "tar": truly - _slope(false, true, FALSE_ACCEPTS) * (falsely - falsely.mean()),
    }
    means = {"auc": auc, "eer": eer, "accuracy": float(trials["accuracy"].mean()), "tar": tar}
    return {
        name: Estimate(100 * means[name], over_classes(100 * values, classes, clusters).ci95)
        for name, values in trials.items()
    }


def _scores(similarity: Similarity, data: EmbeddedBank, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The similarity of each pair of one class, and of each pair of two, (P,) float64 each."""

    def of(images: Tensor) -> np.ndarray:
        parts = data.embeddings[images.to(data.device)].split(_CHUNK)  # (P, 2, D) in parts
        return exact(torch.cat([similarity.of(one[:, :1], one[:, 1:]).flatten() for one in parts])).cpu().numpy()

    found = of(pairs.same), of(pairs.different)
    if not all(np.isfinite(one).all() for one in found):
        raise InputError("the similarities of the learner are not all finite numbers")
    return found


def _without_rounding(scores: tuple[np.ndarray, np.ndarray], rounding: float) -> list[np.ndarray]:
    """The scores of either kind of pair, (P,) each; scores that rounding alone may have separated become equal.

    The lowest score replaces all scores that are at most `rounding` higher, and so on from the next higher score.
    """
    values, places = np.unique(np.concatenate(scores), return_inverse=True)
    firsts = values.copy()
    start = 0
    while start < len(values):
        end = int(np.searchsorted(values, values[start] + rounding, side="right"))
        firsts[start:end] = values[start]
        start = end
    return np.split(firsts[places], [len(scores[0])])


def _curve(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve: the shares of false and of true accepts, rising, and the scores from which on that is accepted."""
    from sklearn.metrics import roc_curve

    labels = np.repeat([1, 0], [len(same), len(different)])
    return roc_curve(labels, np.concatenate([same, different]), drop_intermediate=False)


def _strict(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How probably each pair of one class, and of two, is accepted at FALSE_ACCEPTS, (P,) each.

    Accepted are the pairs before the first pair of two classes that may not be. If that one is tied with others, the
    order of all that are tied is random: of the t tied pairs of two classes a may be accepted, so that each of them is
    with probability a / t, and each tied pair of one class, which stands before the (a + 1)-th of them, with
    (a + 1) / (t + 1).
    """
    allowed = int(FALSE_ACCEPTS * len(different) * (1 + 1e-9))  # 0.01 * 700 is 7, less its rounding
    if allowed >= len(different):
        return np.ones(len(same)), np.ones(len(different))
    level = np.partition(different, len(different) - 1 - allowed)[len(different) - 1 - allowed]
    tied = np.sum(different == level)
    left = allowed - np.sum(different > level)
    return (
        (same > level) + (same == level) * (left + 1) / (tied + 1),
        (different > level) + (different == level) * left / tied,
    )


def _slope(false: np.ndarray, true: np.ndarray, at: float) -> float:
    """The slope of the ROC curve from half to one and a half of the share `at` of false accepts; 0 if `at` is 0."""
    low, high = np.interp([at / 2, 1.5 * at], false, true)
    return float((high - low) / at) if at > 0 else 0.0


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of `others` that each score is higher than, ties counting half."""
    others = np.sort(others)
    below, up_to = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


class VerificationProtocol(Protocol):
    """The same balanced pairs for every learner."""

    name = "verification"
    needs_base = True
    columns = (*FIRST, "pairs", "similarity", *with_widths(*_HEADINGS), "threshold", *LAST)

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        for split in ("test", "validation"):
            draw_pairs(banks[split], 1, wanted.seed)

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        pairs = task.wanted.verification.pairs
        found = verify(task.learner, task.data["test"], task.data["validation"], pairs, task.wanted.seed)
        measures = {name: getattr(found, name) for name in _HEADINGS}
        about = {"pairs": pairs, "similarity": found.similarity, "threshold": float(f"{found.threshold:.6g}")}
        return [{**about, **in_columns(measures)}], {}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)


PROTOCOL = VerificationProtocol()


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    text = f"{images_text(rows)}: percent, over {rows['pairs'].iloc[0]:,} pairs of one class and as many of two{seeds}"
    return [measure_sheet(rows, "Verification", text, _HEADINGS, note, lowest=("eer",))]
