"""Generalised few-shot learning: the joint label space by hand, its means, and who is refused."""

import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import refusal
from embedded import Given, Plain, clustered, learner_of

from fewshot import Traits
from fewshot.config import Generalised
from fewshot.learners.npair import NPair
from fewshot.learners.prototypical import Prototypical
from fewshot.protocols.base import NotComparable
from fewshot.protocols.generalised import Joint, generalise
from fewshot.statistics import over_episodes

USUAL = {"way": 2, "shots": [1], "query": 2, "episodes": 50}


def measured(learner, novel, train, held_out, **wanted):
    return generalise(learner, novel, train, held_out, Generalised(**{**USUAL, **wanted}), seed=0)


def on_a_line(points: list[float], sizes: list[int], split: str = "test") -> Given:
    return Given(torch.tensor(points, dtype=torch.float32)[:, None], sizes, split)


def test_the_joint_label_space_by_hand():
    # base classes stand at 0 and 10, novel ones at 4 and 7
    train = on_a_line([0, 0, 10, 10], [2, 2], "train")
    novel = on_a_line([4, 4, 4, 7, 7, 7], [3, 3])
    held_out = on_a_line([0.5, 5.8, 9.0, 9.0], [2, 2], "train")  # 5.8 is nearest to the novel class at 7
    learner = learner_of("prototypical", 1)
    (joint,), known = measured(learner, novel, train, held_out)
    assert known == "2 images"
    assert (joint.novel == 1).all()
    missed = 1 - joint.base  # a quarter of the base queries is at 5.8
    assert set(missed) <= {0, 0.25, 0.5, 0.75, 1}
    assert 0.1 < missed.mean() < 0.4
    near = on_a_line([4, 1.9, 1.9, 7, 7, 7], [3, 3])
    (joint,), _ = measured(learner, near, train, held_out, shots=[1], query=2)
    # support at 4: both queries at 1.9 go to base class 0; support at 1.9: one query at 1.9, one at 4 are its own
    assert set(joint.novel) == {0.5, 1.0}


@pytest.mark.parametrize("name", ["prototypical", "npair", "simpleshot"])
def test_embeddings_that_are_all_the_same_give_chance(name):
    image = torch.randn(64, generator=torch.Generator().manual_seed(0))
    data = Given(image.repeat(20 * 20, 1), [20] * 20)  # 20 base classes, by the means of 20 images, and 5 novel ones
    found, _ = measured(learner_of(name, 64), data, data, data, way=5, shots=[1, 5], episodes=10)
    for joint in found:
        assert joint.novel == pytest.approx(np.full(10, 0.04))
        assert joint.base == pytest.approx(np.full(10, 0.04))


def test_equal_scores_get_the_mean_over_all_orders_of_the_classes():
    # base classes at 0, 0 and 9; novel ones at 0 and 9, so that 0 is shared by three classes and 9 by two
    train = on_a_line([0, 0, 0, 0, 9, 9], [2, 2, 2], "train")
    novel = on_a_line([0, 0, 0, 9, 9, 9], [3, 3])
    (joint,), _ = measured(learner_of("prototypical", 1), novel, train, on_a_line([0, 0, 9], [1, 1, 1]))
    places = np.array([0, 0, 9, 0, 9])  # of all five classes
    firsts = np.zeros(5)
    orders = list(itertools.permutations(range(5)))
    for order in orders:  # who comes first in the order wins a tie
        for place in (0, 9):
            firsts[next(i for i in order if places[i] == place)] += 1 / len(orders)
    assert joint.novel == pytest.approx(np.full(50, firsts[3:].mean()))
    assert set(joint.base.round(6)) <= {round((k * firsts[0] + (4 - k) * firsts[2]) / 4, 6) for k in range(5)}


class Weighted(NPair):
    """A learner with its own weights of base classes: the axes."""

    def base_logits(self, query):
        return query @ torch.eye(query.shape[2])


def test_a_learner_that_keeps_its_base_classes_is_asked_for_them():
    novel = Given(torch.cat([torch.eye(4)[:2].repeat_interleave(4, 0)]) * -1, [4, 4])
    held_out = Given(torch.eye(4).repeat_interleave(2, 0), [2] * 4)
    nothing = Given(torch.zeros(8, 4), [2] * 4)  # the training images are not needed
    (joint,), known = measured(Weighted(Plain(4), 4), novel, nothing, held_out, query=3)
    assert known == "weights"
    assert (joint.novel == 1).all()
    assert (joint.base == 1).all()


def test_base_classes_are_known_by_the_first_images_of_each():
    points = [0.0] * 20 + [99.0] * 5 + [10.0] * 20 + [99.0] * 5
    learner, novel, held_out = learner_of("prototypical", 1), on_a_line([4.0] * 3 + [7.0] * 3, [3, 3]), [0.1, 9.9]
    train = Given(torch.tensor(points)[:, None], [25, 25])
    seen = []
    learner.embed = lambda images: seen.append(len(images)) or torch.tensor([0.0] * 20 + [10.0] * 20)[:, None]
    (joint,), known = measured(learner, novel, train, on_a_line(held_out, [1, 1]))
    assert (known, seen) == ("20 images", [40])
    assert (joint.base == 1).all()


def test_base_queries_are_the_same_for_every_learner_and_any_size_of_batches(monkeypatch):
    novel, train, held_out = (Given(clustered(6, 8, 3, 0.6, seed), [8] * 6) for seed in range(3))
    for name in ("prototypical", "npair"):
        whole, _ = measured(learner_of(name, 3), novel, train, held_out, shots=[1, 5], episodes=40)
        for chunks in ("joint._CHUNK", "generalised._IMAGES"):
            monkeypatch.setattr(f"fewshot.protocols.{chunks}", {"cpu": 60})
        parts, _ = measured(learner_of(name, 3), novel, train, held_out, shots=[1, 5], episodes=40)
        monkeypatch.undo()
        for one, other in zip(whole, parts):
            assert (one.novel == other.novel).all()
            assert (one.base == other.base).all()
        fewer, _ = measured(learner_of(name, 3), novel, train, held_out, episodes=10)
        assert (fewer[0].base == whole[0].base[:10]).all()


def test_more_shots_help_novel_classes():
    novel, train, held_out = (Given(clustered(20, 12, 8, 0.7, seed), [12] * 20) for seed in (0, 1, 1))
    found, _ = measured(learner_of("prototypical", 8), novel, train, held_out, shots=[1, 2, 5, 10], episodes=100)
    means = [joint.percent["novel"].mean for joint in found]
    assert means == sorted(means)
    assert [joint.shot for joint in found] == [1, 2, 5, 10]


def test_all_novel_classes_can_be_asked_at_once():
    novel, train, held_out = (Given(clustered(20, 6, 8, 0.3, seed), [6] * 20) for seed in (0, 1, 1))
    (joint,), _ = measured(learner_of("prototypical", 8), novel, train, held_out, way=20, episodes=5)
    assert joint.novel.shape == (5,)
    assert joint.novel.mean() > 0.5


def test_harmonic_mean_by_hand():
    joint = Joint(1, np.array([0.5, 0.7]), np.array([0.8, 1.0]))
    percent = joint.percent
    assert percent["novel"].mean == pytest.approx(60)
    assert percent["base"].mean == pytest.approx(90)
    assert percent["all"].mean == pytest.approx(75)
    assert percent["harmonic"].mean == pytest.approx(2 * 60 * 90 / 150)
    assert Joint(1, np.zeros(2), np.zeros(2)).percent["harmonic"] == (0, 0)
    assert Joint(1, np.zeros(2), np.array([0.5, 1.0])).percent["harmonic"].mean == 0


def test_the_interval_of_the_harmonic_mean_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    novel = random.binomial(75, 0.5, 600) / 75
    base = np.clip(0.3 + 0.8 * novel + random.normal(0, 0.1, 600), 0, 1)
    estimate = Joint(1, novel, base).percent["harmonic"]
    draws = random.integers(0, 600, (2000, 600))
    n, b = 100 * novel[draws].mean(1), 100 * base[draws].mean(1)
    assert estimate.ci95 == pytest.approx(1.96 * (2 * n * b / (n + b)).std(), rel=0.08)


def test_intervals_are_those_over_episodes():
    joint = Joint(1, np.array([0.5, 0.7, 0.1]), np.array([0.8, 1.0, 0.9]))
    assert joint.percent["novel"] == over_episodes(100 * joint.novel)
    assert joint.percent["all"] == over_episodes(50 * (joint.novel + joint.base))


class Whole(Prototypical):
    def episode_scores(self, data, episodes):
        return super().episode_scores(data, episodes)


class Together(Prototypical):
    variants: ClassVar = {"": Traits(transductive=True)}


class Softmax(Prototypical):
    def scores(self, support, query):
        return super().scores(support, query).log_softmax(2)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Softmax, "by the other classes of an episode, and keeps nothing of its base classes"),
        (Whole, "scores whole episodes"),
        (Together, "scores the queries of an episode together"),
    ],
)
def test_scores_that_do_not_compare_are_refused(cls, reason):
    data = Given(clustered(4, 6, 3, 0.5), [6] * 4)
    assert reason in refusal(lambda: measured(cls(Plain(3), 4), data, data, data), NotComparable)


def test_episodes_that_cannot_be_filled_are_refused():
    data = Given(clustered(4, 6, 3, 0.5), [6] * 4)
    assert "5 shots and 2 queries need 7 images a class" in refusal(
        lambda: measured(learner_of("prototypical", 3), data, data, data, shots=[5])
    )
