"""Verification: the pairs, what their scores say, and what its intervals cover."""

import itertools

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank
from embedded import Given, Plain, clustered, learner_of
from scipy.stats import norm

from fewshot.backbones import make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.npair import NPair
from fewshot.learners.prototypical import Prototypical
from fewshot.learners.registry import LEARNERS
from fewshot.protocols.similarity import scores_apart, similarity_of
from fewshot.protocols.verification import best_threshold, draw_pairs, measures, verify

CLASSES = np.array([[0, 1], [1, 2], [2, 0], [1, 0]])
CLUSTERS = np.arange(3)


def percent(same, different, threshold=0.0) -> dict[str, float]:
    trials = np.resize(CLASSES, (len(same), 2))
    found = measures(np.array(same, float), np.array(different, float), threshold, trials, CLUSTERS)
    return {name: estimate.mean for name, estimate in found.items()}


def test_pairs_are_what_they_say():
    bank = toy_bank(7, 5)
    pairs = draw_pairs(bank, 500, seed=3)
    classes = bank.labels[pairs.same], bank.labels[pairs.different]
    assert (classes[0][:, 0] == classes[0][:, 1]).all()
    assert (classes[1][:, 0] != classes[1][:, 1]).all()
    assert (pairs.same[:, 0] != pairs.same[:, 1]).all()
    assert torch.equal(pairs.classes, classes[1])
    assert torch.bincount(pairs.classes.flatten()).min() > 100  # all classes alike, 143 each


def test_a_pair_depends_on_the_seed_and_its_number_alone():
    bank = toy_bank(7, 5)
    few, many, others = draw_pairs(bank, 10, 0), draw_pairs(bank, 1000, 0), draw_pairs(bank, 10, 1)
    assert torch.equal(few.same, many.same[:10])
    assert torch.equal(few.different, many.different[:10])
    assert not torch.equal(few.same, others.same)


def test_every_learner_gets_the_same_pairs_whatever_the_size_of_batches(monkeypatch):
    data = Given(clustered(8, 6, 5, 0.5), [6] * 8)
    seen = []
    for name, chunk in (("prototypical", 4096), ("npair", 4096), ("prototypical", 7)):
        monkeypatch.setattr("fewshot.protocols.verification._CHUNK", chunk)
        learner, drawn = learner_of(name, 5), []
        monkeypatch.setattr(
            learner, "scores", lambda s, q, drawn=drawn, own=learner.scores: drawn.append((s, q)) or own(s, q)
        )
        result = verify(learner, data, data, pairs=50, seed=0)
        pairs = [torch.cat([one[i].flatten(1) for one in drawn if one[0].shape[1:3] == (1, 1)]) for i in (0, 1)]
        seen.append((pairs, result))
    for pairs, _ in seen[1:]:
        torch.testing.assert_close(pairs, seen[0][0], rtol=0, atol=0)
    assert seen[2][1] == seen[0][1]


def test_measures_by_hand():
    # of 4 x 4 comparisons one pair of one class is below one of two (3 < 4): 15 / 16
    found = percent([9, 8, 7, 3], [4, 2, 1, 0], threshold=3.5)
    assert found["auc"] == pytest.approx(100 * 15 / 16)
    assert found["accuracy"] == pytest.approx(100 * 6 / 8)  # 3 is rejected, 4 accepted
    assert found["eer"] == pytest.approx(25)  # from 4 on: one of four rejected, one of four accepted
    assert found["tar"] == pytest.approx(75)  # no false accept at all is allowed


def test_ties_count_half():
    assert percent([1, 1, 1, 1], [1, 1, 1, 1])["auc"] == pytest.approx(50)
    assert percent([1, 1, 1, 1], [1, 1, 1, 1])["eer"] == pytest.approx(50)
    assert percent([2, 1, 2, 1], [1, 0, 1, 0])["auc"] == pytest.approx(100 * 14 / 16)


def _in_order(same: np.ndarray, different: np.ndarray, allowed: int) -> tuple[float, float]:
    """True accepts and the equal error rate, percent, of scores that are all different, by counting."""
    strict = np.sort(different)[-allowed - 1]
    median = np.sort(np.concatenate([same, different]))[
        -len(same)
    ]  # the threshold that accepts as many pairs as there are of one kind
    return 100 * np.mean(same > strict), 100 * np.mean(different >= median)


def test_equal_scores_get_the_mean_over_all_orders_of_the_pairs(monkeypatch):
    monkeypatch.setattr("fewshot.protocols.verification.FALSE_ACCEPTS", 0.25)
    same, different = np.array([3.0, 2, 1, 1]), np.array([2.0, 1, 1, 0])
    found = []
    for order in itertools.permutations(range(8)):
        noise = 0.01 * np.array(order)
        found.append(_in_order(same + noise[:4], different + noise[4:], allowed=1))
    tar, eer = np.mean(found, axis=0)
    measured = percent(same, different)
    assert measured["tar"] == pytest.approx(tar)
    assert measured["eer"] == pytest.approx(eer)


@pytest.mark.parametrize("name", ["prototypical", "npair"])
def test_pairs_that_all_score_the_same_give_chance_whatever_rounding_makes_of_them(name):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(64, generator=generator)
    copies = image.repeat(60, 1) * (1 + 2**-23 * torch.randint(-1, 2, (60, 1), generator=generator))
    data = Given(copies, [6] * 10)
    found = verify(learner_of(name, 64), data, data, 1000, seed=0)
    assert (found.auc.mean, found.eer.mean, found.accuracy.mean) == (50, 50, 50)
    assert found.tar.mean == pytest.approx(100 * 11 / 1001)  # before the 11th of 1,000 pairs of two classes


def test_true_accepts_are_counted_at_one_false_accept_in_a_hundred():
    different = np.arange(1000.0)
    same = np.where(np.arange(1000) < 700, 991.5, 985.0)  # 991.5 is above all but 8 of 1000, 985 above all but 15
    assert percent(same, different)["tar"] == pytest.approx(70)


def test_perfect_and_random_embeddings_give_one_and_chance():
    perfect = Given(torch.eye(10).repeat_interleave(6, 0), [6] * 10)
    found = verify(learner_of("prototypical", 10), perfect, perfect, 500, seed=0)
    means = found.auc.mean, found.eer.mean, found.accuracy.mean, found.tar.mean
    assert means == (100, 0, 100, 100)
    noise = torch.randn(6000, 3, generator=torch.Generator().manual_seed(0))
    random = Given(noise, [100] * 60)
    found = verify(learner_of("prototypical", 3), random, random, 10_000, seed=0)
    for measure, chance in (("auc", 50), ("eer", 50), ("accuracy", 50), ("tar", 1)):
        estimate = getattr(found, measure)
        assert abs(estimate.mean - chance) < 1.5
        assert estimate.mean - 2 * estimate.ci95 < chance < estimate.mean + 2 * estimate.ci95


def test_the_threshold_is_the_one_with_the_fewest_errors():
    assert best_threshold(np.array([5.0, 4.0, 1.0]), np.array([3.0, 2.0, 0.0])) == 4.0
    assert best_threshold(np.array([5.0, 4.0, 3.5]), np.array([3.6, 2.0, 0.0])) in (3.5, 4.0)


def test_the_threshold_is_that_of_the_validation_pairs_whatever_the_test_pairs_are():
    validation = Given(clustered(10, 6, 4, 0.4, seed=1), [6] * 10, "validation")
    learner, thresholds, accuracies = learner_of("prototypical", 4), set(), []
    for factor in (1.0, 1000.0):  # far away, every pair is called different
        test = Given(factor * clustered(10, 6, 4, 0.4, seed=2), [6] * 10)
        found = verify(learner, test, validation, 400, seed=0)
        thresholds.add(found.threshold)
        accuracies.append(found.accuracy.mean)
    assert len(thresholds) == 1
    assert accuracies[0] > 80
    assert accuracies[1] == 50


def test_a_class_of_one_image_has_no_pairs():
    learner, good = learner_of("prototypical", 4), Given(clustered(4, 3, 4, 0.1), [3] * 4)
    bad = Given(clustered(4, 3, 4, 0.1)[:10], [3, 3, 3, 1])
    assert "each of two images or more, and" in refusal(lambda: verify(learner, bad, good, 10, 0))


def test_scores_that_are_no_numbers_are_refused():
    nothing, good = Given(torch.full((12, 4), torch.nan), [3] * 4), Given(clustered(4, 3, 4, 0.1), [3] * 4)
    learner = learner_of("npair", 4)
    assert "embeddings of npair are not all finite numbers" in refusal(lambda: verify(learner, nothing, good, 10, 0))
    assert "not all finite numbers" in refusal(lambda: verify(Endless(Plain(4), 4), good, good, 10, 0))


class Endless(NPair):
    def similarity(self, a, b):
        return torch.full((len(a), a.shape[1], b.shape[1]), torch.inf)


@pytest.mark.parametrize(
    ("name", "variant", "kind"),
    [
        ("prototypical", "", "own"),
        ("siamese", "koch", "own"),
        ("npair", "", "own"),
        ("imprinted", "", "own"),
        ("imprinted", "finetune", "cosine"),
    ],
)
def test_a_pair_has_the_learners_own_score_where_classes_are_scored_apart(name, variant, kind):
    embeddings = clustered(6, 4, 5, 0.3)
    learner = learner_of(name, 5, variant, **({"finetune_steps": 3} if variant == "finetune" else {}))
    with torch.no_grad():
        found = similarity_of(learner, embeddings)
        assert found.name == kind
        assert scores_apart(learner, embeddings) == (kind == "own")
        a, b = embeddings[None, :3], embeddings[None, 3:8]
        expected = learner.scores(b[:, :, None], a)
        cosine = torch.nn.functional.cosine_similarity(a[0, :, None], b[0, None], dim=2)[None]
        torch.testing.assert_close(found.of(a, b), expected if kind == "own" else cosine)


class FirstNumber(Prototypical):
    def similarity(self, a, b):
        return a[:, :, None, 0] * b[:, None, :, 0]


def test_a_similarity_of_the_learners_own_is_taken():
    embeddings = clustered(6, 4, 5, 0.3)
    found = similarity_of(FirstNumber(Plain(5), 4), embeddings)
    torch.testing.assert_close(found.of(embeddings[None], embeddings[None])[0], embeddings[:, :1] @ embeddings[:, :1].T)


class Transposed(Prototypical):
    def similarity(self, a, b):
        return super().similarity(a, b)[:, :, :1]


def test_a_similarity_of_another_shape_is_refused():
    assert "must have the shape" in refusal(lambda: similarity_of(Transposed(Plain(5), 4), clustered(6, 4, 5, 0.3)))


def test_verification_works_on_images(toy_banks):
    learner = LEARNERS["nearest-pixel"](make_backbone("pixels", 1, 16), 30)
    data = [EmbeddedBank(learner, toy_banks[split]) for split in ("test", "validation")]
    assert verify(learner, *data, 300, 0).auc.mean > 90


TRIALS, SETS, SIMULATED = 2000, 100, toy_bank(100, 10, size=1)
SPREAD = {"same": np.hypot(0.5, 0.8), "different": np.sqrt(2 * 0.4**2 + 0.8**2)}  # of the normal scores below


def _simulated(random: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Mean and half-width of each measure for one simulated test set: classes and pairs have their shares."""
    pairs = draw_pairs(SIMULATED, TRIALS, int(random.integers(2**31)))
    tight, near = random.normal(0, 0.5, 100), random.normal(0, 0.4, 100)
    first, second = pairs.classes.numpy().T
    same = 2 + tight[first] + random.normal(0, 0.8, TRIALS)
    different = near[first] + near[second] + random.normal(0, 0.8, TRIALS)
    found = measures(same, different, 1.0, pairs.classes.numpy(), np.arange(100))
    return {name: tuple(estimate) for name, estimate in found.items()}


def test_intervals_cover_what_other_classes_would_give():
    random, (same, different) = np.random.default_rng(0), SPREAD.values()
    truth = {
        "auc": norm.cdf(2 / np.hypot(same, different)),
        "eer": norm.sf(2 / (same + different)),
        "accuracy": (norm.cdf(1 / same) + norm.cdf(1 / different)) / 2,
        "tar": norm.sf((norm.isf(0.01) * different - 2) / same),
    }
    sets = [_simulated(random) for _ in range(SETS)]
    for measure, true in truth.items():
        means, widths = np.transpose([one[measure] for one in sets])
        covered = np.mean(abs(means - 100 * true) <= widths)
        # 20 false accepts locate one in a hundred less exactly
        assert (0.88 if measure == "tar" else 0.91) <= covered <= 0.985, (measure, covered)
        assert widths.mean() == pytest.approx(1.96 * means.std(), rel=0.25)
