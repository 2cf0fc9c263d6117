"""Measures of queries, galleries and pairs: plain loops, values of the programs of the fields, and chance.

The golden values were computed once by the original programs on the features of `features`: torchreid/metrics/rank.py
of KaiyangZhou/deep-person-reid (f8cd150), python/evaluate.py of filipradenovic/revisitop (be39832), and calculate_roc
in src/facenet.py of davidsandberg/facenet (096ed77). The features are small whole numbers, so that many distances tie;
numpy.argsort was made stable for the first two, because their order of ties depends on the processor otherwise.
"""

import math

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import roc_curve

from fewshot.matching import (
    DIFFICULTIES,
    by_difficulty,
    cmc,
    false_positive_rate,
    false_positives_over,
    fold_accuracies,
    found,
    trapezoidal_precision,
)

QUERIES, IMAGES, PAIRS = 12, 40, 97
TORCHREID = ([0.1666666716337204, 0.5833333134651184, 0.6666666865348816], 0.21480587056381653)  # CMC 1, 5, 10; mAP
REVISITOP = {"easy": 0.24699257498670105, "medium": 0.38508157133242493, "hard": 0.2543606810227666}
FACENET = [0.5, 0.3, 0.6, 0.7, 0.8, 0.7, 0.7, 0.6666666666666666, 0.7777777777777778, 0.4444444444444444]


def numbers(count: int, *, step: int, below: int) -> np.ndarray:
    """Whole numbers without a pattern that matters here: squares modulo a prime, modulo `below`."""
    return np.array([(step * (i + 3) ** 2 + 7 * i) % 1009 % below for i in range(count)])


def features(count: int, step: int) -> np.ndarray:
    return numbers(3 * count, step=step, below=5).reshape(count, 3).astype(float)


def distances() -> np.ndarray:
    return ((features(QUERIES, 11)[:, None] - features(IMAGES, 17)[None]) ** 2).sum(2)


def people() -> list[np.ndarray]:
    """The person of each query and of each gallery image, then their cameras."""
    given = ((QUERIES, 23, 6), (IMAGES, 29, 6), (QUERIES, 37, 3), (IMAGES, 47, 3))
    return [numbers(count, step=step, below=below) for count, step, below in given]


def judged() -> tuple[np.ndarray, np.ndarray]:
    """Which gallery images are of each query's person, and which of these are by its camera."""
    person, persons, camera, cameras = people()
    same = person[:, None] == persons
    return same, same & (camera[:, None] == cameras)


def relevance() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    kinds = numbers(QUERIES * IMAGES, step=31, below=7).reshape(QUERIES, IMAGES)
    return by_difficulty(kinds == 1, kinds == 2, kinds == 3)


def pairs(step: int = 41) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of both images of each pair (P, 4), and whether the pair is of one class: their squared distances are
    quarters, so that many are equal and some are exactly a threshold."""
    first, second = (numbers(4 * PAIRS, step=one, below=3).reshape(PAIRS, 4) / 2 for one in (step, step + 2))
    return first, second, numbers(PAIRS, step=43, below=8) > 2 * ((first - second) ** 2).sum(1)


def scored(step: int = 41) -> tuple[np.ndarray, np.ndarray]:
    first, second, same = pairs(step)
    return -((first - second) ** 2).sum(1), same


def folds_of(count: int, folds: int = 10) -> np.ndarray:
    """Neighbours in one fold, the first folds one larger, as scikit-learn's KFold has them."""
    return np.repeat(np.arange(folds), [count // folds + (fold < count % folds) for fold in range(folds)])


def test_cmc_and_map_are_those_of_torchreid():
    ranks, precision = TORCHREID
    matched = found(np.argsort(distances(), axis=1, kind="stable"), *judged())
    assert (matched.first > 0).all()
    assert [float(np.float32(cmc(matched.first, rank).mean())) for rank in (1, 5, 10)] == ranks
    assert matched.precision.mean() == precision


def test_map_by_difficulty_is_that_of_revisitop():
    for name in DIFFICULTIES:
        precision = trapezoidal_precision(np.argsort(distances(), axis=1, kind="stable"), *relevance()[name])
        known = precision[~np.isnan(precision)]
        assert known.cumsum()[-1] / len(known) == REVISITOP[name]  # added up one after another


def test_accuracies_of_ten_folds_are_those_of_facenet():
    scores, same = scored()
    assert fold_accuracies(scores, same, folds_of(PAIRS), -np.arange(0, 4, 0.01)).tolist() == FACENET


@pytest.mark.parametrize("step", range(41, 61))
def test_false_positives_are_those_of_scikit_learn(step):
    scores, same = scored(step)
    false, true, _ = roc_curve(same, scores, drop_intermediate=False)
    assert false_positive_rate(scores, same) == false[np.argmax(true >= 0.95)]


def test_a_plain_loop_finds_the_same_ranks_and_precisions():
    order = np.argsort(distances(), axis=1, kind="stable")
    right, left_out = judged()
    matched = found(order, right, left_out)
    for query in range(QUERIES):
        rank, hits, total, first = 0, 0, 0.0, 0
        for image in order[query]:
            if left_out[query, image]:
                continue
            rank += 1
            if right[query, image]:
                hits += 1
                total += hits / rank
                first = first or rank
        assert matched.first[query] == first
        assert math.isclose(matched.precision[query], total / hits, rel_tol=1e-15)


def test_a_plain_loop_finds_the_same_trapezoids():
    order = np.argsort(distances(), axis=1, kind="stable")
    for right, left_out in relevance().values():
        for query, precision in enumerate(trapezoidal_precision(order, right, left_out)):
            kept = [image for image in order[query] if not left_out[query, image]]
            ranks = [rank for rank, image in enumerate(kept) if right[query, image]]
            area = 0.0
            for number, rank in enumerate(ranks):
                before = number / rank if rank else 1.0
                area += (before + (number + 1) / (rank + 1)) / 2 / len(ranks)
            assert math.isclose(precision, area, rel_tol=1e-14)


def test_a_query_without_right_images_counts_nowhere():
    order, nothing = np.array([[0, 1]]), np.zeros((1, 2), dtype=bool)
    matched = found(order, nothing, nothing)
    assert matched.first == 0
    assert np.isnan([matched.precision, cmc(matched.first, 1), trapezoidal_precision(order, nothing, nothing)]).all()


def test_images_that_are_left_out_change_nothing_wherever_they_stand():
    random = np.random.default_rng(0)
    right = random.random((5, 30)) < 0.3
    order = np.stack([random.permutation(30) for _ in range(5)])
    junk = np.zeros((5, 30), dtype=bool)
    junk[:, ::4] = True
    kept = np.array([[image for image in row if image % 4] for row in order])
    for measure in (lambda *given: found(*given).precision, trapezoidal_precision):
        without = measure(kept, right, np.zeros_like(junk))
        # the right images that are left out count in neither
        assert np.array_equal(measure(order, right & ~junk, junk), without)
        assert np.array_equal(measure(order, right, junk), without)


def test_the_threshold_of_a_fold_does_not_see_the_fold():
    scores, same, folds = np.array([1.0, 2, 3, 4, 9, 8]), np.array([0, 0, 1, 1, 0, 1]) > 0, np.repeat([0, 1, 2], 2)
    usual = fold_accuracies(scores, same, folds)
    changed = np.where(folds == 2, -scores, scores)
    assert fold_accuracies(changed, same, folds)[2] == 0.5  # below every other pair of two classes
    assert usual.shape == (3,)
    # thresholds in the middle: pairs beyond the scores of the other folds are told apart
    assert fold_accuracies(np.array([0, 10, 4, 6.0]), np.array([0, 1, 0, 1]) > 0, np.array([0, 0, 1, 1])).all()


def test_scores_that_separate_all_pairs_have_no_errors_and_scores_that_say_nothing_have_half():
    same = np.tile([True, False], 50)
    folds = folds_of(100)
    assert (fold_accuracies(same * 1.0, same, folds) == 1).all()
    assert (fold_accuracies(np.zeros(100), same, folds) == 0.5).all()
    assert false_positive_rate(same * 1.0, same) == 0
    assert false_positive_rate(np.zeros(100), same) == 1


def test_the_interval_of_false_positives_covers_the_true_rate():
    """Scores of one class N(2, 1), of two N(0, 1): the true rate is that above 2 - 1.645."""
    truth, covered = norm.sf(2 - norm.ppf(0.95)), 0
    random = np.random.default_rng(0)
    same = np.tile([True, False], 500)
    for _ in range(200):
        rate, half = false_positives_over(random.normal(2.0 * same, 1), same, folds_of(1000)[:, None])
        covered += abs(rate - truth) <= half
    assert 180 <= covered <= 200


def test_a_pair_is_of_both_of_its_units():
    scores, same = scored()
    units = np.stack([numbers(PAIRS, step=5, below=4), numbers(PAIRS, step=9, below=4)], 1)
    rest = [
        false_positive_rate(scores[kept], same[kept]) for unit in range(4) if (kept := (units != unit).all(1)).any()
    ]
    expected = t.ppf(0.975, 3) * math.sqrt(3 * np.var(rest))
    assert math.isclose(false_positives_over(scores, same, units).ci95, expected)


def test_one_fold_gives_no_interval():
    assert np.isnan(false_positives_over(*scored(), np.zeros((PAIRS, 1))).ci95)
