"""Open-set recognition: its measures against scikit-learn and plain loops, with ties and without, and its runs."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal, toy_bank
from embedded import Given, clustered, learner_of
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from episodes.kinds.open_set import OpenSampler
from fewshot.config import Training, evaluation_from
from fewshot.models import ModelSpec
from fewshot.protocols.base import Task
from fewshot.protocols.open_set import measures, recognise
from fewshot.protocols.registry import PROTOCOLS, check_protocols, measure, protocol_sheets
from fewshot.statistics import over_classes

NAMES = ("auroc", "aupr", "fpr95", "oscr")
COLUMNS = {"learner": "mine", "variant": "", "backbone": "pixels", "seed": 0, "model": "mine-seed0", "image_size": 16}
COLUMNS |= {"transductive": False, "text": False, "external": False}


def measured(scores: np.ndarray, labels: np.ndarray, rounding: float = 0.0) -> dict[str, float]:
    """The measures of one episode, scores (Q, N) and labels (Q,)."""
    found = measures(torch.tensor(scores)[None].double(), torch.tensor(labels)[None], torch.tensor([rounding]).double())
    return {name: float(value) for name, value in zip(NAMES, found)}


def plain(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The measures by scikit-learn, and OSCR by a loop over the thresholds, of scores that all differ."""
    known, best = labels < scores.shape[1], scores.max(1)
    right = scores.argmax(1) == labels
    false, true, _ = roc_curve(known, best, drop_intermediate=False)
    area = 0.0
    for threshold in best[~known]:  # one step of the false positives at each unknown query
        passing = sum(best[i] > threshold and right[i] for i in np.flatnonzero(known))
        area += passing / known.sum() / (~known).sum()
    return {
        "auroc": roc_auc_score(known, best),
        "aupr": average_precision_score(known, best),
        "fpr95": false[np.argmax(true >= 0.95)],
        "oscr": area,
    }


@pytest.mark.parametrize(("way", "query"), [(2, 3), (5, 15), (20, 1), (4, 5)])
def test_measures_are_those_of_scikit_learn_and_a_plain_loop(way, query):
    random = np.random.default_rng(way)
    labels = np.concatenate([np.repeat(np.arange(way), query), np.full(way * query, way)])
    labels = random.permutation(labels)
    scores = random.normal(size=(10, len(labels), way))
    scores[:, labels < way] += 1.5 * np.eye(way)[labels[labels < way]]
    every = torch.tensor(labels).expand(10, -1)
    found = measures(torch.tensor(scores), every, torch.zeros(10, dtype=torch.float64))
    for number, one in enumerate(scores):
        expected = plain(one, labels)
        for name, values in zip(NAMES, found):
            assert float(values[number]) == pytest.approx(expected[name], abs=1e-12), name


def test_measures_by_hand():
    # known queries 4, 3 and 1 of classes 0, 0 and 1; the second is answered with class 1; unknown ones 2 and 0
    scores = np.array([[4.0, -9], [-9, 3], [-9, 1], [2, -9], [0, -9]])
    found = measured(scores, np.array([0, 0, 1, 2, 2]))
    assert found["auroc"] == pytest.approx(5 / 6)
    assert found["aupr"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["fpr95"] == pytest.approx(1 / 2)
    assert found["oscr"] == pytest.approx((2 + 1) / 6)  # 4 beats both, 1 beats 0


def test_equal_scores_get_the_mean_over_all_orders_of_the_queries(monkeypatch):
    monkeypatch.setattr("fewshot.protocols.open_set.RECALL", 0.6)
    best, labels = np.array([3.0, 2, 2, 1, 3, 2, 2]), np.array([0, 0, 1, 1, 2, 2, 2])
    answers = np.array([0, 1, 1, 0, 0, 0, 1])

    orders = np.array(list(itertools.permutations(range(7))))

    def means(noise: np.ndarray, rounding: float = 0.0) -> list[float]:
        """The mean of each measure over episodes whose scores differ by noise (E, 7)."""
        scores = np.full((*noise.shape, 2), -9.0)
        scores[:, np.arange(7), answers] = best + noise
        roundings = torch.full((len(noise),), rounding, dtype=torch.float64)
        found = measures(torch.tensor(scores), torch.tensor(labels).expand(len(noise), -1), roundings)
        return [float(values.mean()) for values in found]

    expected = means(0.01 * orders)
    assert means(np.zeros((1, 7))) == pytest.approx(expected)
    assert means(1e-9 * np.arange(7.0)[None], rounding=1e-6) == pytest.approx(expected)


def test_classes_that_score_the_same_are_a_random_choice():
    scores = np.array([[2.0, 2], [2, 2], [1, 0]])
    assert measured(scores, np.array([0, 1, 2]))["oscr"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["prototypical", "npair"])
def test_images_that_are_all_the_same_give_chance_whatever_rounding_makes_of_them(name):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(64, generator=generator)
    copies = image.repeat(60, 1) * (1 + 2**-23 * torch.randint(-1, 2, (60, 1), generator=generator))
    data = Given(copies, [6] * 10)
    found, _ = recognise(learner_of(name, 64), data, OpenSampler(data.bank, 2, 1, 3), 20)
    assert found.auroc == pytest.approx(np.full(20, 0.5))
    assert found.oscr == pytest.approx(np.full(20, 0.25))  # half pass before, half of these are right
    assert found.fpr95 == pytest.approx(np.full(20, 6 / 7))  # 6 unknown ones, and the last of 6 known ones


def test_perfect_and_random_embeddings_give_one_and_chance():
    data = Given(torch.eye(10).repeat_interleave(6, 0), [6] * 10)
    found, _ = recognise(learner_of("prototypical", 10), data, OpenSampler(data.bank, 3, 1, 5), 10)
    assert [float(values.mean()) for values in vars(found).values()] == [1, 1, 0, 1]
    noise = Given(torch.randn(1200, 3, generator=torch.Generator().manual_seed(0)), [20] * 60)
    found, _ = recognise(learner_of("prototypical", 3), noise, OpenSampler(noise.bank, 5, 1, 15), 300)
    assert found.auroc.mean() == pytest.approx(0.5, abs=0.02)
    assert found.oscr.mean() == pytest.approx(0.1, abs=0.01)


def test_episodes_count_the_same_in_any_size_of_batches(monkeypatch):
    data = Given(clustered(12, 8, 4, 0.6), [8] * 12)
    sampler = OpenSampler(data.bank, 4, 2, 3)
    whole, classes = recognise(learner_of("prototypical", 4), data, sampler, 30)
    monkeypatch.setattr("fewshot.protocols.open_set._CHUNK", {"cpu": 100})
    monkeypatch.setattr("fewshot.protocols.open_set._PAIRS", 300)
    parts, same = recognise(learner_of("prototypical", 4), data, sampler, 30)
    assert (classes == same).all()
    for name in NAMES:
        assert (getattr(whole, name) == getattr(parts, name)).all()


def task_of(data: Given, **wanted) -> Task:
    evaluation = evaluation_from({"protocols": ["open_set"], "open_set": wanted})
    learner = learner_of("prototypical", 4)
    spec = ModelSpec.of(type(learner), data.bank, Training(backbone="pixels"))
    return Task(learner, spec, {"test": data}, evaluation, (), COLUMNS)


def test_each_measure_has_the_open_interval_over_known_and_unknown_classes():
    data = Given(clustered(12, 8, 4, 0.8), [8] * 12)
    rows, arrays = measure("open_set", task_of(data, way=3, shots=[1, 2], query=2, episodes=50))
    assert not arrays
    assert [row["shot"] for row in rows] == [1, 2]
    found, classes = recognise(learner_of("prototypical", 4), data, OpenSampler(data.bank, 3, 2, 2), 50)
    assert classes.shape == (50, 6)
    known = next(OpenSampler(data.bank, 3, 2, 2).batches(1, 1)).classes[0].tolist()
    assert set(known) < set(classes[0].tolist())
    for name, values in vars(found).items():
        expected = over_classes(100 * values, classes, np.arange(12))
        assert (rows[1][name], rows[1][f"{name}_ci95"]) == pytest.approx(tuple(expected), abs=1e-4)
    tables = protocol_sheets("open_set", _frame(rows))
    assert [one.title for one in tables] == ["Open set, 1-shot", "Open set, 2-shot"]
    assert "not its softmax" in tables[0].note


def _frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(PROTOCOLS["open_set"].columns)).assign(collapsed=False, kept="", seen="")


def test_a_bank_with_too_few_classes_is_refused():
    wanted = evaluation_from({"protocols": ["open_set"], "open_set": {"way": 5, "shots": [1], "query": 2}})
    said = refusal(lambda: check_protocols(wanted, {"test": toy_bank(9, 8, split="test")}))
    assert said.startswith("5 known and 5 unknown classes need 10 classes")


def test_a_run_and_its_checkpoint_give_the_same_row(call, preset, tmp_path):
    run = tmp_path / "run"
    options = "--way", 3, "--shot", 2, "--query", 4, "--episodes", 30, "--device", "cpu"
    said = call(
        *("bench", "--preset", preset, "--learner", "npair", "--protocol", "open_set", "--output", run), *options
    )
    assert said.code == 0, said.err
    row = (run / "open_set.csv").read_text().splitlines()[1]
    mean = row.split(",")[PROTOCOLS["open_set"].columns.index("auroc")]
    said = call("evaluate", run / "checkpoints" / "npair-seed0" / "best.pt", "--protocol", "open_set", *options)
    assert said.code == 0, said.err
    assert f"{float(mean):.2f}" in said.out
    assert not math.isnan(float(mean))
