"""How sure an answer is: temperature, calibration error, the threshold for refusals, and the support set's quality."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank

from episodes import ImageBank
from fewshot.answers import numbered_support, support_bank
from fewshot.backbones import make_backbone
from fewshot.calibration import (
    calibrated,
    calibration_error,
    chosen_temperature,
    chosen_threshold,
    probabilities,
    validation_scores,
)
from fewshot.embedding import embedded
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.support_quality import leave_one_out


@pytest.fixture(scope="module")
def learner() -> NearestPixel:
    return NearestPixel(make_backbone("pixels", 1, 16), classes=2).eval()


@pytest.mark.parametrize("temperature", [0.2, 1.0, 30.0])
def test_the_temperature_of_synthetic_scores_is_found(temperature):
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(20_000, 5))
    targets = (logits + random.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    assert chosen_temperature(temperature * logits, targets) == pytest.approx(temperature, rel=0.05)


def test_scores_that_are_always_right_have_a_small_temperature():
    scores = np.eye(3)[[0, 1, 2, 0]]
    found = chosen_temperature(scores, np.array([0, 1, 2, 0]))
    assert 0 < found < 0.01
    assert np.isfinite(probabilities(scores, found)).all()


def test_the_calibration_error_of_three_points_by_hand():
    chances = np.array([[0.95, 0.05], [0.95, 0.05], [0.3, 0.7]])
    # one bin has the first two, of which half are right; the other bin has the third, which is right
    expected = 2 / 3 * abs(0.5 - 0.95) + 1 / 3 * abs(1 - 0.7)
    assert calibration_error(chances, np.array([0, 1, 1])) == pytest.approx(expected)


def test_a_new_score_lies_below_the_threshold_as_often_as_was_asked_for():
    random = np.random.default_rng(1)
    shares = [random.normal() < chosen_threshold(random.normal(size=39), 0.05, units=39) for _ in range(4000)]
    # one of 39 may lie below, as (0.05 * 40 - 1) / 39 says: the new one lies below the second smallest at 2 in 40
    assert np.mean(shares) == pytest.approx(0.05, abs=0.015)
    assert chosen_threshold(np.arange(18.0), 0.05, units=18) == -math.inf
    assert chosen_threshold(np.arange(19.0), 0.05, units=19) == 0


def test_refusals_of_known_and_unknown_pictures(learner):
    made = calibrated(learner, toy_bank(60, 12, seed=2, split="validation"), [2] * 5, reject=0.1)
    found = validation_scores(learner, toy_bank(60, 12, seed=3, split="test"), [2] * 5)
    assert made.refused(found.known).mean() == pytest.approx(0.1, abs=0.04)
    assert made.refused(found.unknown).mean() > 0.95
    assert made.unknown_refused > 0.95
    assert made.known_refused == pytest.approx(0.1, abs=0.02)
    # of 60 classes: neither as if all 10,000 pictures were independent, nor as if a class were refused as a whole
    assert 1.96 * math.sqrt(0.09 / 10_000) < made.known_ci95 < 1.96 * math.sqrt(0.09 / 60)
    assert made.shots == (2,) * 5
    assert made.error_after <= made.error_before + 1e-9


def test_shots_that_differ_and_shots_that_the_validation_classes_cannot_fill(learner):
    bank = toy_bank(12, 6, seed=2, split="validation")
    assert calibrated(learner, bank, [1, 3, 2]).shots == (1, 3, 2)
    made = calibrated(learner, bank, [1, 9, 2])
    assert made.shots == (1, 5, 2)  # one of the six images is the query
    assert "too few classes or images" in made.remark


def test_too_few_validation_classes_refuse_nothing_and_say_so(learner):
    made = calibrated(learner, toy_bank(6, 8, seed=2), [1, 1], reject=0.05)
    assert made.threshold == -math.inf
    assert "needs 19 classes" in made.remark


def test_turned_copies_of_a_class_count_once(learner):
    bank = toy_bank(24, 8, seed=2)
    assert calibrated(learner, bank, [1, 1], reject=0.05).threshold > -math.inf
    assert calibrated(learner, dataclasses.replace(bank, turns=4), [1, 1], reject=0.05).threshold == -math.inf


def support_of(sizes: list[int], seed: int = 0) -> ImageBank:
    bank = toy_bank(len(sizes), max(sizes), seed=seed)
    kept = [int(bank.offsets[number]) + image for number, size in enumerate(sizes) for image in range(size)]
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return numbered_support(bank.images[kept], labels, [f"class {number}" for number in range(len(sizes))])


def test_each_picture_is_left_out_once_and_answered_by_the_others(learner):
    support = support_of([4, 4, 4])
    found = leave_one_out(learner, embedded(learner, support))
    pixels = support.images.flatten(1).double() / 255
    distances = torch.cdist(pixels, pixels).square()
    order = [4 * number + fold for fold in range(4) for number in range(3)]
    for row, image in zip(found.scores, order, strict=True):
        others = [[i for i in range(4 * n, 4 * n + 4) if i % 4 != image % 4] for n in range(3)]
        assert row == pytest.approx([-float(distances[image, one].min()) for one in others], rel=1e-3)
    assert found.targets.tolist() == [0, 1, 2] * 4
    assert found.accuracy.estimate == 1
    assert found.confused is None


def test_more_pictures_than_folds_and_classes_of_one_picture(learner):
    found = leave_one_out(learner, embedded(learner, support_of([25, 1, 3])))
    assert np.bincount(found.targets, minlength=3).tolist() == [25, 0, 3]
    assert list(found.by_class) == ["class 0", "class 2"]
    assert "2 pictures of a class" in refusal(lambda: leave_one_out(learner, embedded(learner, support_of([1, 1]))))


def test_the_classes_that_are_confused_are_named(learner):
    bank = toy_bank(3, 8, seed=5)
    names = ["a"] * 8 + ["b"] * 8 + ["c"] * 8
    names[0:4] = ["b"] * 4  # half of the pictures of one class stand under another name
    found = leave_one_out(learner, embedded(learner, support_bank(bank.images, names)))
    assert found.confused is not None
    assert found.confused[:2] == ("a", "b")
    assert found.by_class["c"].estimate == 1
    assert found.accuracy.low < found.accuracy.estimate < found.accuracy.high
