"""The measurements of speed: peers do the same work, ratios and slopes are right, an interrupted run goes on."""

import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import refusal, toy_bank
from torch.utils.data import DataLoader

from episodes import InputError, load_dataset
from fewshot import cli
from fewshot.backbones import make_backbone
from fewshot.config import Validation
from fewshot.performance import peers, suite, summary, targets, work
from fewshot.performance.generated import CHARACTERS, PHOTOGRAPHS, Shape, generated_bank
from fewshot.performance.suite import Measurement, measure
from fewshot.performance.work import Effort

TINY = Shape("tiny", 12, 20, 1, 16)
LITTLE = Effort(0.0, 2, 0.01)


def test_generated_banks_are_of_their_shape_and_seed():
    bank, again, other = (generated_bank(TINY, seed) for seed in (0, 0, 1))
    assert bank.images.shape == (240, 1, 16, 16)
    assert bank.sizes.tolist() == [20] * 12
    assert torch.equal(bank.images, again.images)
    assert not torch.equal(bank.images, other.images)


def test_easyfsl_samples_on_current_pytorch():
    sampler = peers.easyfsl_sampler(peers.OnlyLabels(TINY), way=5, shot=1, query=15, tasks=3)
    episodes = torch.tensor(list(sampler)).view(3, 5, 16)
    assert len(episodes.unique()) > 80
    labels = episodes // TINY.images
    assert torch.equal(labels, labels[:, :, :1].expand_as(labels))
    assert all(len(one.unique()) == 80 for one in episodes)


def test_the_loop_of_the_papers_samples_class_after_class_within_an_image():
    sampler = peers.CategoriesSampler(peers.OnlyLabels(TINY).labels, batches=2, way=5, images=16)
    for batch in sampler:
        labels = batch.view(16, 5) // TINY.images
        assert len(batch.unique()) == 80
        assert torch.equal(labels, labels[:1].expand_as(labels))


def test_learn2learn_brings_the_images_of_its_tasks():
    images, labels = peers.learn2learn_tasks(peers.Pictures.of(generated_bank(TINY)), 5, 1, 15, load=True)()
    assert images.shape == (80, 1, 16, 16)
    assert labels.unique().tolist() == list(range(5))


@pytest.mark.parametrize(("name", "channels"), [("conv4", 1), ("conv4", 3), ("resnet12", 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_plain_network_computes_the_same(name, channels, training):
    torch.manual_seed(0)
    backbone = make_backbone(name, channels, 16)
    if name == "resnet12":
        training = False  # dropout
    plain = peers.plain_network(backbone, channels).train(training)
    backbone.train(training)
    images = torch.rand(6, channels, 16, 16)
    torch.testing.assert_close(plain(images), backbone(images), rtol=1e-3, atol=1e-4)
    assert all(weight.is_contiguous() for weight in plain.parameters())


@pytest.mark.parametrize("contender", ["easyfsl", "plain loop"])
@pytest.mark.parametrize("shape", [TINY, Shape("tiny", 8, 16, 3, 16)])
def test_peers_find_our_accuracies_on_the_same_episodes(contender, shape):
    found = work.evaluate_images(contender, "conv4", shape, 100, 20, 30, LITTLE)
    assert found["agreement"] < 1e-6
    assert all(seconds > 0 for seconds in found["samples"])


def test_disagreement_is_seen(monkeypatch):
    monkeypatch.setitem(work._ACCURACIES, "plain loop", lambda *arguments: iter([0.123] * 5))
    learner = work._learner("conv4", TINY)
    assert work._agreement("plain loop", learner, TINY, 5) > 0.01


def test_accuracies_are_neither_chance_nor_perfect():
    bank = generated_bank(TINY)
    accuracies = work.evaluate(work._learner("conv4", TINY), bank, 5, 1, 15, 50, device="cpu")
    assert 25 < accuracies.percent.mean < 99


@pytest.mark.parametrize("embedded", [20, 16])
def test_our_evaluation_is_measured_with_all_images_or_the_rate_of_some(embedded):
    found = work.evaluate_images("fewshot", "conv4", TINY, 10, embedded, 0, LITTLE)
    assert min(found["samples"]) > 0
    assert ("rate" in found["counted"]) == (embedded < 20)


def test_a_plain_loop_trains_to_the_same_losses(monkeypatch):
    monkeypatch.setattr("fewshot.devices._cpu_has_bfloat16", lambda: False)  # in float32 both round alike
    ours, plain = (
        work.train_steps(who, "prototypical", "conv4", TINY, "cpu", LITTLE)["losses"]
        for who in ("fewshot", "plain loop")
    )
    assert ours[0] != ours[1]
    assert ours[:2] == pytest.approx(plain[:2], rel=1e-3)


@pytest.mark.parametrize("contender", ["easyfsl", "learn2learn"])
def test_other_packages_train_on_the_same_batches(contender):
    found = work.train_steps(contender, "prototypical", "conv4", TINY, "cpu", LITTLE)
    assert all(loss > 0 for loss in found["losses"])
    assert found["samples"][0] > 0


@pytest.mark.parametrize("contender", ["fewshot", "easyfsl", "learn2learn", "plain loop"])
@pytest.mark.parametrize("function", [work.sample_indices, work.sample_images])
def test_every_contender_samples(contender, function):
    assert min(function(contender, TINY, 5, 1, LITTLE)["samples"]) > 0


@pytest.mark.parametrize("what", ["training", "embedding", "scoring"])
def test_a_profile_says_what_the_machine_could_do(what):
    found = work.profile_work(what, TINY, LITTLE)
    assert found["flop_rate"] > 0
    assert found["traffic_rate"] > 0
    assert 0 < sum(found["shares"].values()) <= 1.001
    if what == "embedding":  # multiplications and additions of four convolutions on 16, 8, 4 and 2 pixels
        assert found["flop"] == 2 * 9 * (16**2 * 64 + (8**2 + 4**2 + 2**2) * 64**2)


def test_loaders_go_round():
    pictures = peers.Pictures.of(generated_bank(TINY))
    loader = DataLoader(pictures, batch_sampler=peers.CategoriesSampler(pictures.labels, 2, 5, 2))
    assert work._iterated(loader, 5)() == 5


def rows(**columns) -> pd.DataFrame:
    usual = {"part": "sampling", "task": "t", "contender": "fewshot", "unit": "s", "faster": True, "repeats": 3}
    count = max(len(values) for values in columns.values())
    table = pd.DataFrame({**{name: [value] * count for name, value in usual.items()}, **columns})
    table = table.assign(low=table["median"], high=table["median"], peak_mb=500.0, details="")
    return table.assign(**{"added_mb": columns.get("added_mb", [1.0] * count)}).reindex(columns=summary.COLUMNS)


@pytest.mark.parametrize(("faster", "expected"), [(True, 5.0), (False, 0.2)])
def test_ratios_say_how_many_times_as_fast_we_are(faster, expected):
    table = rows(contender=["fewshot", "easyfsl"], median=[100.0, 20.0], faster=[faster] * 2)
    assert summary.ratios(table)["ratio"].tolist() == [expected]


def test_slopes_are_those_of_the_upper_end():
    amounts = [10, 100, 1000, 10_000]
    table = rows(part=["growth"] * 4, task=[f"episodes: {n}" for n in amounts], median=[1.0, 1.0, 10.0, 100.0])
    found = summary.growth(table)
    assert found["slope"].tolist() == [1.0] * 4
    assert found["amount"].tolist() == amounts


def few(*_) -> list[Measurement]:
    sampling = [
        Measurement("sampling", "indices", who, "episodes/s", work.sample_indices, (who, TINY, 5, 1))
        for who in ("fewshot", "easyfsl")
    ]
    impossible = Shape("too few", 3, 20, 1, 16)
    wrong = Measurement(
        "sampling", "indices of 3", "fewshot", "episodes/s", work.sample_indices, ("fewshot", impossible, 5, 1)
    )
    growing = [
        Measurement("growth", f"episodes: {n}", "fewshot", "s", work.grow, ("episodes", n), False) for n in (10, 20)
    ]
    return [*sampling, wrong, *growing]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "_measurements", few)
        measure(folder, quick=True, progress=False)
    return folder


def test_a_run_writes_its_table_page_and_figures(run):
    table = pd.read_csv(run / "perf.csv")
    assert list(table.columns) == summary.COLUMNS
    assert table["contender"].tolist() == ["fewshot", "easyfsl", "fewshot", "fewshot", "fewshot"]
    measured = table[table["hindered"].isna()]
    assert len(measured) == 4
    assert (measured["low"] <= measured["median"]).all()
    assert (measured["peak_mb"] > measured["added_mb"]).all()
    assert (measured["repeats"] >= 1).all()
    page = (run / "perf.md").read_text()
    assert "## Sampling" in page
    assert "slope" in page
    assert "not measured: 5-way episodes need 5 classes, but the data set has 3" in page
    assert {path.name for path in run.iterdir()} == {
        "perf.csv",
        "perf.md",
        "environment.json",
        "ratios.png",
        "growth.png",
    }
    packages = json.loads((run / "environment.json").read_text())["packages"]
    assert {"torch", "easyfsl", "learn2learn"} <= packages.keys()


def test_finished_measurements_are_kept(run, monkeypatch):
    before = (run / "perf.csv").read_text()
    monkeypatch.setattr(suite, "_measurements", few)
    monkeypatch.setattr(suite, "_row", lambda *_: pytest.fail("measured again"))
    measure(run, quick=True, resume=True, progress=False)
    assert (run / "perf.csv").read_text() == before


def test_measurements_of_another_kind_are_not_mixed(run):
    assert "holds measurements already: add --resume" in refusal(lambda: measure(run, quick=True, progress=False))
    assert "with another quick" in refusal(lambda: measure(run, resume=True, progress=False))


def test_unknown_parts_are_told(tmp_path, capsys):
    assert cli.main(["perf", "--only", "sampling,evaluatoin", "--output", str(tmp_path)]) == 2
    assert "unknown part 'evaluatoin': did you mean 'evaluation'" in capsys.readouterr().err


def test_a_process_that_dies_is_told():
    row = suite._row(Measurement("sampling", "t", "fewshot", "s", os._exit, ()), 1)
    assert "its process died" in row["hindered"]


def test_a_peer_that_is_not_installed_is_told():
    with pytest.raises(InputError, match=r"needs the package easyfsl.nothing: pip install 'fewshot\[peers\]'"):
        peers.imported("easyfsl.nothing")


@pytest.mark.training
def test_time_to_an_accuracy_of_every_contender(real_data, monkeypatch):
    monkeypatch.setattr(targets, "_VALIDATION", Validation(way=5, shot=1, query=5, episodes=40))
    few = "omniglot:lake-oneshot-minimal-1"  # 2,200 drawings of 110 characters
    monkeypatch.setattr(targets, "load_dataset", lambda _, split, data: load_dataset(few, split, data=data))
    for contender in targets.contenders("prototypical"):
        found = targets.time_to(contender, "prototypical", str(real_data), 1, LITTLE)
        ((images, seconds, accuracy),) = found["history"]
        assert found["counted"] == f"1 steps of {images:,} images"
        assert 0 < seconds <= found["samples"][0]
        assert 20 < accuracy < 100  # above guessing after one step already


def test_the_contender_of_before_has_nothing_of_the_settings_of_now():
    bank = toy_bank(130, 4)
    found = {name: targets._settings(name, bank, 10**6, before=True) for name in targets.LEARNERS}
    assert {name: (one.steps, one.batches) for name, one in found.items()} == {
        "siamese": (1200, {"classes": 60, "images": 4}),
        "prototypical": (850, {"classes": 60, "images": 4}),  # the bank has four images of a class, not six
        "imprinted": (600, {"size": 512}),
        "npair": (1200, {"classes": 120, "images": 2}),
    }
    assert {one.optimizer for one in found.values()} == {"adamw"}
    assert {one.weight_decay for one in found.values()} == {0.0}
    assert found["npair"].options == {"regularisation": 0.002}


def test_a_target_is_told_by_the_first_validation_that_reaches_it():
    history = [[100, 1.0, 96.0], [200, 2.0, 98.2], [300, 3.4, 97.9], [400, 4.0, 98.6]]
    rows = [
        {
            "part": "target",
            "task": "npair",
            "contender": "fewshot",
            "median": 4.0,
            "counted": "4 steps",
            "details": history,
        },
        {"part": "target", "task": "npair", "contender": "other", "median": math.nan, "hindered": "no data"},
    ]
    for row in rows:
        row["details"] = json.dumps({"history": row.get("details", [])})
    told = summary._target(pd.DataFrame(rows, columns=summary.COLUMNS))
    ours, other = (line.split("|")[3:9] for line in told.splitlines()[-2:])
    assert [one.strip() for one in ours[:4]] == ["2 (200)", "2 (200)", "4 (400)", "–"]
    assert ours[4].strip() == "98.60"
    assert {one.strip() for one in other[:5]} == {"–"}
    assert "not measured: no data" in told


def test_trainings_to_an_accuracy_alone_have_a_page_and_no_figure_of_ratios(tmp_path):
    rows = [
        {"part": "target", "task": "npair", "contender": contender, "unit": "s", "median": seconds, "faster": False}
        | {"counted": "4 steps", "details": json.dumps({"history": [[100, seconds, 98.2]]})}
        for contender, seconds in {"fewshot": 4.0, "fewshot, AdamW": 9.0, "plain loop": 20.0}.items()
    ]
    committed = Path(__file__).parents[2] / "results" / "reference" / "perf" / "environment.json"
    environment = json.loads(committed.read_text())
    summary.write(pd.DataFrame(rows, columns=summary.COLUMNS), environment, tmp_path)
    assert "fewshot, AdamW" in (tmp_path / "perf.md").read_text()
    assert not list(tmp_path.glob("*.png"))


def test_everything_that_the_suite_measures_has_a_name_of_its_own():
    for quick in (True, False):
        keys = [one.key for one in suite._measurements(suite.PARTS, quick, None)]
        assert len(set(keys)) == len(keys)
        assert {part for part, _, _ in keys} == set(suite.PARTS)
    assert CHARACTERS.total == 33_840
    assert PHOTOGRAPHS.total == 12_000
