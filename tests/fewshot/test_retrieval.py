"""Retrieval: its measures by hand and against another library, and what its intervals cover."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import refusal
from embedded import Given, Plain, clustered, learner_of
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.cluster import KMeans, kmeans_plusplus
from torch.nn import functional

from fewshot.learners.prototypical import Prototypical
from fewshot.protocols.retrieval import RANKS, mutual_information, ranked, retrieve
from fewshot.protocols.similarity import similarity_of
from fewshot.statistics import over_classes


def ranked_by(name: str, embeddings, labels):
    with torch.no_grad():
        return ranked(similarity_of(learner_of(name, embeddings.shape[1]), embeddings), embeddings, labels)


def test_measures_by_hand():
    # on a line, classes a = {0, 1, 5}, b = {2, 4}: the image at 0 sees 1 (a), 2 (b), 4 (b), 5 (a); and so on
    places = torch.tensor([0.0, 1.1, 5.0, 2.0, 4.2])[:, None]
    labels = torch.tensor([0, 0, 0, 1, 1])
    hits, precision = ranked_by("prototypical", places, labels)
    # 0: a b b a; 1.1: b a b a; 5: b b a a; 2: a a b a; 4.2: a b a a
    assert hits[:, 0].tolist() == [True, False, False, False, False]
    assert hits[:, 1].tolist() == [True, True, False, False, True]
    assert hits[:, 2].all()
    # R = 2 others of class a, 1 of class b: at most the first two, and the first one, count
    assert precision.tolist() == pytest.approx([0.5, 0.25, 0, 0, 0])


@pytest.mark.parametrize("sizes", [[6] * 8, [2, 9, 5, 3, 7]], ids=["equal classes", "unequal classes"])
@pytest.mark.parametrize("name", ["prototypical", "npair"])
def test_measures_are_those_of_pytorch_metric_learning(name, sizes):
    embeddings = torch.cat([part[:size] for part, size in zip(clustered(8, 9, 6, 0.8).split(9), sizes)])
    found = retrieve(learner_of(name, 6), Given(embeddings, sizes), seed=0)
    cosine = name == "npair"

    def k_means(x, count):
        random = np.random.RandomState(0)
        starts = [kmeans_plusplus(x.numpy(), count, random_state=random)[0] for _ in range(10)]
        found = [KMeans(count, init=start, n_init=1).fit(x.numpy()) for start in starts]
        return torch.from_numpy(min(found, key=lambda one: one.inertia_).labels_)

    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r", "NMI"),
        k="max_bin_count",
        avg_of_avgs=False,
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=cosine)),
        kmeans_func=lambda x, count: k_means(functional.normalize(x, dim=1) if cosine else x, count),
    )
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    expected = calculator.get_accuracy(embeddings, labels)
    assert found.recall[1].mean == pytest.approx(100 * expected["precision_at_1"])
    assert found.map_at_r.mean == pytest.approx(100 * expected["mean_average_precision_at_r"])
    assert found.nmi == pytest.approx(100 * expected["NMI"])
    assert 10 < found.map_at_r.mean < 95


def test_perfect_embeddings_give_one_and_random_ones_chance():
    found = retrieve(learner_of("prototypical", 10), Given(torch.eye(10).repeat_interleave(5, 0), [5] * 10), seed=0)
    assert [found.recall[k].mean for k in RANKS] == [100] * 4
    assert (found.map_at_r.mean, found.nmi) == (100, pytest.approx(100))
    noise = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    found = retrieve(learner_of("prototypical", 20), Given(noise, [100] * 20), seed=0)
    assert found.recall[1].mean == pytest.approx(5, abs=2)
    assert found.recall[8].mean == pytest.approx(100 * (1 - 0.95**8), abs=5)
    assert found.map_at_r.mean < 1
    assert found.nmi < 5


def test_the_size_of_batches_changes_nothing(monkeypatch):
    data, learner = Given(clustered(9, 7, 5, 0.7), [7] * 9), learner_of("prototypical", 5)
    whole = retrieve(learner, data, seed=0)
    monkeypatch.setattr("fewshot.protocols.retrieval._CHUNK", {"cpu": 130})
    assert retrieve(learner, data, seed=0) == whole


def test_an_image_does_not_find_itself():
    hits, _ = ranked_by("prototypical", torch.tensor([[0.0], [10.0], [1.0], [11.0]]), torch.tensor([0, 0, 1, 1]))
    assert not hits[:, 0].any()


def test_an_image_alone_in_its_class_asks_for_nothing():
    embeddings = torch.tensor([[0.0], [0.1], [5.0], [9.0], [9.1]])
    found = retrieve(learner_of("prototypical", 1), Given(embeddings, [2, 1, 2]), seed=0)
    assert found.recall[1].mean == 100
    assert "a class of two images" in refusal(
        lambda: retrieve(learner_of("prototypical", 1), Given(embeddings, [1] * 5), seed=0)
    )


def test_lengths_say_nothing_to_a_learner_of_cosines():
    embeddings = clustered(6, 5, 4, 0.4)
    lengths = torch.rand(30, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    banks = Given(embeddings, [5] * 6), Given(lengths * embeddings, [5] * 6)
    one, other = (retrieve(learner_of("npair", 4), bank, 0) for bank in banks)
    assert other.nmi == pytest.approx(one.nmi)
    assert other.map_at_r.mean == pytest.approx(one.map_at_r.mean)
    assert len({retrieve(learner_of("prototypical", 4), bank, 0).map_at_r.mean for bank in banks}) == 2


class Comparing(Prototypical):
    def similarity(self, a, b):
        return super().similarity(a, b)


def test_a_learner_with_a_network_that_compares_is_not_asked_about_all_pairs():
    learner, embeddings = Comparing(Plain(4), 4), clustered(6, 5, 4, 0.4)
    assert retrieve(learner, Given(embeddings, [5] * 6), 0).similarity == "cosine"
    assert similarity_of(learner, embeddings).name == "own"


def test_intervals_are_over_classes_and_count_turned_copies_as_one():
    embeddings = clustered(8, 6, 5, 1.0)
    learner = learner_of("prototypical", 5)
    upright, turned = (retrieve(learner, Given(embeddings, [6] * 8, turns=turns), seed=0) for turns in (1, 4))
    hits, _ = ranked_by("prototypical", embeddings, torch.arange(8).repeat_interleave(6))
    values, classes = 100.0 * hits[:, 0].numpy(), np.repeat(np.arange(8), 6)[:, None]
    assert upright.recall[1] == over_classes(values, classes, np.arange(8))
    assert turned.recall[1] == over_classes(values, classes, np.arange(8) // 4)


def test_intervals_cover_other_classes():
    random, covered, truth = np.random.default_rng(0), [], 70.0
    classes = np.repeat(np.arange(30), 10)[:, None]
    for _ in range(400):
        skill = random.normal(truth, 15, 30).repeat(10)
        mean, half = over_classes(skill + random.normal(0, 20, 300), classes, np.arange(30))
        covered.append(abs(mean - truth) <= half)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_clusters_of_embeddings_that_are_all_the_same_say_nothing():
    assert mutual_information(np.ones((20, 3), np.float32), np.repeat(np.arange(4), 5), seed=0) == (0, 0)


def test_nmi_of_few_classes_hardly_depends_on_the_seed():
    embeddings = clustered(20, 100, 16, 0.4).numpy()
    labels = np.repeat(np.arange(20), 100)
    found = [mutual_information(embeddings, labels, seed) for seed in range(8)]
    nmi, spread = np.transpose(found)
    assert nmi.min() > 0.99
    assert (spread >= 0).all()
    assert mutual_information(embeddings, labels, 3) == found[3]


def test_nmi_of_many_classes_is_that_of_one_start_which_has_no_spread():
    embeddings = clustered(600, 2, 8, 0.01).numpy()
    nmi, spread = mutual_information(embeddings, np.repeat(np.arange(600), 2), 0)
    assert nmi > 0.9
    assert np.isnan(spread)


@pytest.mark.parametrize("name", ["prototypical", "npair"])
@pytest.mark.parametrize("size", [1, 64, 1600])
def test_embeddings_that_are_all_the_same_give_chance(name, size):
    image = torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = retrieve(learner_of(name, size), Given(image.repeat(200, 1), [10] * 20), seed=0)
    for k in RANKS:  # 9 of the 199 others are of the class
        chance = 1 - math.comb(190, k) / math.comb(199, k)
        assert found.recall[k].mean == pytest.approx(100 * chance)
    at = [9 / 199 * (1 + (i - 1) * 8 / 198) / i for i in range(1, 10)]
    assert found.map_at_r.mean == pytest.approx(100 * np.mean(at))


def test_equal_similarities_get_the_mean_over_all_orders_of_the_images():
    places = torch.tensor([0.0, 1, -1, 1, 2, -2])[:, None]
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    hits, precision = ranked_by("prototypical", places, labels)
    distances = (places - places.T).abs().numpy()
    for query in range(6):
        others = [i for i in range(6) if i != query]
        count, found, precisions = int((labels == labels[query]).sum()) - 1, [], []
        for order in itertools.permutations(others):
            right = (labels[sorted(order, key=lambda i: distances[query, i])] == labels[query]).numpy()
            found.append([right[:k].any() for k in RANKS])
            at = right.cumsum() / np.arange(1, 6)
            precisions.append((right * at)[:count].mean())
        assert hits[query].tolist() == pytest.approx(np.mean(found, axis=0).tolist())
        assert float(precision[query]) == pytest.approx(np.mean(precisions))
