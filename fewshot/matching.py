"""Measures of queries against a gallery and of given pairs, as the fields that use them define them.

The functions take orders and scores of any origin and keep no state: fewshot/protocols/query_gallery.py gives them
those of a learner. Letters of shapes: Q queries, G gallery images, P pairs, F folds.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its submodules load when first used

from fewshot.statistics import Estimate

RECALL = 0.95  # false accepts are counted at the threshold that accepts this share of the pairs of one class
DIFFICULTIES = ("easy", "medium", "hard")


class Found(NamedTuple):
    """Where each query finds the right gallery images, (Q,) each.

    first      the rank of the first right image, from 1; 0 if the gallery has no right image: such a query does not
               count in any mean
    precision  the average precision in [0, 1]: the mean over the right images of the precision up to each of them;
               nan if the gallery has no right image
    """

    first: np.ndarray
    precision: np.ndarray


def found(order: np.ndarray, right: np.ndarray, left_out: np.ndarray) -> Found:
    """What person re-identification measures, from which CMC and mAP follow (Zheng et al. 2015, section 3.3).

    order (Q, G)     the gallery images from the most to the least similar, as numpy.argsort gives them
    right (Q, G)     whether a gallery image, numbered as in the gallery, is of the query's class
    left_out (Q, G)  whether it is taken out of the gallery of this query, right or not: images of the query's class by
                     the query's camera, and junk
    """
    first = np.zeros(len(order), dtype=np.int64)
    precision = np.full(len(order), np.nan)
    for query, ranked in enumerate(order):
        hits = right[query, ranked[~left_out[query, ranked]]]
        if hits.any():
            first[query] = hits.argmax() + 1
            precision[query] = (hits.cumsum() / np.arange(1, len(hits) + 1) * hits).sum() / hits.sum()
    return Found(first, precision)


def cmc(first: np.ndarray, rank: int) -> np.ndarray:
    """Whether each query has a right image among the `rank` most similar ones, (Q,): 1, 0, or nan if it does not count.

    first (Q,): that of `found`. The mean over the queries that count is the cumulative matching characteristic at
    `rank`.
    """
    return np.where(first > 0, first <= rank, np.nan)


def trapezoidal_precision(order: np.ndarray, right: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The average precision of landmark retrieval (Philbin et al. 2007; Radenovic et al. 2018), (Q,) in [0, 1].

    The arguments are those of `found`. It is the area under the curve of precision against recall by the trapezoidal
    rule: at the right image number j (from 0) of R, which stands at rank r (from 0), recall grows by 1 / R while the
    precision goes from j / r (1 if r = 0) to (j + 1) / (r + 1). nan for a query without right images.
    """
    precision = np.full(len(order), np.nan)
    for query, ranked in enumerate(order):
        ranks = right[query, ranked[~left_out[query, ranked]]].nonzero()[0]
        if len(ranks):
            number = np.arange(len(ranks))
            before = np.where(ranks > 0, number / np.maximum(ranks, 1), 1.0)
            areas = (before + (number + 1) / (ranks + 1)) * (1 / len(ranks)) / 2
            precision[query] = areas.cumsum()[-1]  # one after another, as others add them up
    return precision


def by_difficulty(easy: np.ndarray, hard: np.ndarray, junk: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`right` and `left_out` (Q, G) of each of DIFFICULTIES, from what is easy, hard and junk (Q, G) for each query.

    Radenovic et al. 2018, section 3.3: easy images alone are right, or easy and hard ones, or hard ones alone; of easy
    and hard, those that are not right are left out, and junk always is.
    """
    return {"easy": (easy, junk | hard), "medium": (easy | hard, junk), "hard": (hard, junk | easy)}


def fold_accuracies(
    scores: np.ndarray, same: np.ndarray, folds: np.ndarray, thresholds: np.ndarray | None = None
) -> np.ndarray:
    """The accuracy in each fold at the threshold that is best on all other folds, (F,) in [0, 1] (Huang et al. 2007).

    The arguments are those of `fold_answers`; the result is in the order of the sorted names of the folds.
    """
    right = fold_answers(scores, same, folds, thresholds)
    return np.array([right[folds == fold].sum() / (folds == fold).sum() for fold in np.unique(folds)])


def fold_answers(
    scores: np.ndarray, same: np.ndarray, folds: np.ndarray, thresholds: np.ndarray | None = None
) -> np.ndarray:
    """Whether each pair is called rightly at the threshold that is best on all folds but its own, (P,) bool.

    scores (P,)      higher for pairs that are more likely of one class: pairs above the threshold are called the same
    same (P,)        whether a pair is of one class
    folds (P,)       the fold of each pair, two or more
    thresholds (T,)  those to choose from, the first of equally good ones; None for those in the middle between
                     neighbouring scores of the other folds, from the strictest on
    """
    right = np.zeros(len(scores), dtype=bool)
    for fold in np.unique(folds):
        own = folds == fold
        candidates = _midpoints(scores[~own]) if thresholds is None else thresholds
        best = candidates[np.argmax(_right_above(candidates, scores[~own], same[~own]))]
        right[own] = (scores[own] > best) == same[own]
    return right


def false_positive_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """The share of pairs of two classes at or above the highest score that RECALL of the pairs of one class reach, in
    [0, 1]: FPR95, the error of patch matching (Brown et al. 2011, section 3.2).

    scores (P,), same (P,) as in `fold_accuracies`; pairs of both kinds are needed
    """
    accepted = np.sort(scores[same])[::-1]
    shares = np.arange(1, len(accepted) + 1) / len(accepted)
    return float(np.mean(scores[~same] >= accepted[np.argmax(shares >= RECALL)]))


def false_positives_over(scores: np.ndarray, same: np.ndarray, units: np.ndarray) -> Estimate:
    """`false_positive_rate` of all pairs, with the 95 % interval of the jackknife over independent units.

    units (P, k): those that each pair is of, such as its fold or its two classes. The rate is computed again without
    the pairs of each of U units; the variance is (U - 1) / U times the sum of squared deviations of these rates from
    their mean (Tukey 1958), and Student's t has U - 1 degrees of freedom. nan for a single unit, or if the pairs
    without a unit are all of one kind.
    """
    rate, names = false_positive_rate(scores, same), np.unique(units)
    rests = [(units != name).all(1) for name in names]
    if len(names) < 2 or any(len(np.unique(same[rest])) < 2 for rest in rests):
        return Estimate(rate, float("nan"))
    rates = np.array([false_positive_rate(scores[rest], same[rest]) for rest in rests])
    error = np.sqrt((len(names) - 1) * rates.var())
    return Estimate(rate, float(scipy.special.stdtrit(len(names) - 1, 0.975) * error))


def _midpoints(scores: np.ndarray) -> np.ndarray:
    """The thresholds that separate `scores` (P,) in all ways, from above the highest to below the lowest."""
    values = np.unique(scores)[::-1]
    return np.concatenate([[np.inf], (values[:-1] + values[1:]) / 2, [-np.inf]])


def _right_above(thresholds: np.ndarray, scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How many pairs are called rightly if those above each of `thresholds` (T,) are called the same, (T,)."""
    positive, negative = np.sort(scores[same]), np.sort(scores[~same])
    rejected = np.searchsorted(positive, thresholds, side="right")
    return len(positive) - rejected + np.searchsorted(negative, thresholds, side="right")
