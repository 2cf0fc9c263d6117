"""A run's folder: whole, repeatable, never trained twice, and the same after a kill."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_bank

import fewshot.benchmark
import fewshot.model_runs
from baselines import published
from episodes import EpisodeSampler, ImageBank, InputError, MissingData
from fewshot import checkpoints
from fewshot.backbones import make_backbone
from fewshot.benchmark import open_data, run_benchmark, train_learner
from fewshot.comparison import compare
from fewshot.config import Training, load_config
from fewshot.evaluation import Accuracies
from fewshot.learners.prototypical import Prototypical
from fewshot.learners.registry import traits_of
from fewshot.models import ModelSpec
from fewshot.protocols.episodes import open_interval
from fewshot.statistics import over_classes, paired

COLUMNS = (
    "dataset,split,learner,variant,backbone,way,shot,query,episodes,seed,accuracy,ci95,ci95_open,train_seconds,"
    "eval_seconds"
)
LEARNER = """
from fewshot.learners.prototypical import Prototypical

class Mine(Prototypical):
    pass
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from conftest import toy_bank
import fewshot.benchmark
from fewshot import checkpoints
from fewshot.cli import main

seeds = {"train": 1, "validation": 2, "test": 3}
fewshot.benchmark.load_dataset = lambda name, split, **_: toy_bank(30, 24, seed=seeds[split], split=split)
save = checkpoints.save

def save_and_die(path, content):
    save(path, content)
    if path.parent.name.startswith("npair") and path.name == "last.pt" and content["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save = save_and_die
main(sys.argv[1:])
"""


def bench(preset, banks, folder, learners=None, seeds=None, **more) -> pd.DataFrame:
    return run_benchmark(
        load_config(preset, learners, seeds=seeds), banks, folder, device="cpu", progress=False, **more
    )


def comparable(folder) -> pd.DataFrame:
    """The rows of results.csv without the clock."""
    results = pd.read_csv(folder / "results.csv", keep_default_na=False, dtype=str)
    return results.drop(columns=["train_seconds", "eval_seconds"])


@pytest.fixture(scope="module")
def finished(preset, toy_banks, tmp_path_factory):
    """The folder of one run; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    bench(preset, toy_banks, folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_writes_the_files_it_promises(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    promised = {
        "results.csv",
        "results.md",
        "results.tex",
        "references.bib",
        "differences.csv",
        "comparison.md",
        "episodes.npz",
        "classes.csv",
        "confusion.npz",
        "shown.npz",
        "config.toml",
        "environment.json",
        "keys.json",
        "run.log",
        ".lock",
    }
    for learner in ("prototypical-euclidean-seed0", "npair-seed0"):
        promised |= {f"checkpoints/{learner}/{name}" for name in ("best.pt", "last.pt", "training.csv", ".lock")}
    assert names == promised


def test_results_are_tidy_rows(finished, toy_banks):
    results = pd.read_csv(finished / "results.csv", keep_default_na=False)
    assert (finished / "results.csv").read_text().startswith(COLUMNS + ",")
    assert results[["learner", "way"]].values.tolist() == [
        ["prototypical", 3],
        ["prototypical", 5],
        ["npair", 3],
        ["npair", 5],
    ]
    assert set(results["variant"]) == {"euclidean", ""}
    assert (results[["dataset", "split", "backbone"]] == ["toy", "test", "conv4"]).all(axis=None)
    assert (results[["shot", "query", "episodes", "seed"]] == [1, 3, 40, 0]).all(axis=None)
    assert results["accuracy"].between(0, 100).all()


def test_episodes_are_those_of_the_results(finished):
    with np.load(finished / "episodes.npz") as episodes:
        arrays = dict(episodes)
    results = pd.read_csv(finished / "results.csv", keep_default_na=False)
    assert len(arrays) == len(results)
    for row in results.itertuples():
        cell = "-".join(filter(None, [row.learner, row.variant, f"seed{row.seed}"]))
        values = 100 * arrays[f"{cell}/{row.way}way{row.shot}shot"]
        assert len(values) == row.episodes
        assert row.accuracy == pytest.approx(values.mean(), abs=1e-4)
        assert row.ci95 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(len(values)), abs=1e-4)


def test_open_intervals_stand_beside_those_of_the_papers(finished):
    results = pd.read_csv(finished / "results.csv", keep_default_na=False)
    assert (results["ci95_open"] >= 0).all()
    assert "## Other classes" in (finished / "results.md").read_text()


def test_differences_are_those_of_the_episodes(finished):
    with np.load(finished / "episodes.npz") as episodes:
        first, second = (100 * episodes[f"{name}-seed0/5way1shot"] for name in ("prototypical-euclidean", "npair"))
    pairs = pd.read_csv(finished / "differences.csv").set_index(["way", "shot", "first", "second"])
    assert len(pairs) == 2
    row = pairs.loc[(5, 1, "prototypical (euclidean)", "npair")]
    expected = paired(first, second)
    assert row[["difference", "ci95", "p"]].tolist() == pytest.approx(list(expected), rel=1e-5)  # tiny p-values too


def test_one_learner_has_its_files_too(preset, toy_banks, tmp_path):
    bench(preset, toy_banks, tmp_path, ["npair"])
    assert pd.read_csv(tmp_path / "differences.csv").empty
    assert "Which can be told apart" not in (tmp_path / "results.md").read_text()


def test_a_data_set_without_published_numbers_is_compared_with_nothing(finished):
    assert (finished / "comparison.md").read_text().startswith("There are no published numbers of this data set")


def test_a_run_stands_beside_the_published_numbers_of_its_data_set(preset, toy_banks, tmp_path):
    banks = {split: dataclasses.replace(bank, dataset="omniglot", protocol="lake") for split, bank in toy_banks.items()}
    results = bench(preset, banks, tmp_path / "mine", ["npair"])
    page = (tmp_path / "mine" / "comparison.md").read_text()
    row = results[results["way"] == 5].iloc[0]
    assert page.startswith("mine: omniglot (lake), 5-way 1-shot, ")
    assert f"| {row.accuracy:.2f} ± {row.ci95:.2f} |" in page
    assert "3-way" not in page


def test_environment_says_what_the_run_depends_on(finished, toy_banks):
    environment = json.loads((finished / "environment.json").read_text())
    assert {"packages", "python", "device", "threads", "data"} <= environment.keys()
    assert environment["data"]["test"] == {"classes": 30, "images": 720, "checksum": toy_banks["test"].checksum}


def test_two_runs_give_the_same_results(finished, preset, toy_banks, tmp_path):
    bench(preset, toy_banks, tmp_path)
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(finished))


def test_the_configuration_of_a_run_is_a_preset_that_repeats_it(finished, toy_banks, tmp_path):
    bench(str(finished / "config.toml"), toy_banks, tmp_path)
    again, before = (comparable(folder).drop(columns="preset") for folder in (tmp_path, finished))
    pd.testing.assert_frame_equal(again, before)
    text = (finished / "config.toml").read_text()
    assert (tmp_path / "config.toml").read_text() == text.replace('preset = "tiny"', 'preset = "config"')


def test_a_folder_that_holds_a_run_is_refused_without_resume(run, preset, toy_banks, trained):
    with pytest.raises(InputError, match="already holds a run: add --resume"):
        bench(preset, toy_banks, run)
    assert not trained


def test_finished_learners_are_not_trained_again(run, finished, preset, toy_banks, trained):
    results = bench(preset, toy_banks, run, resume=True)
    assert not trained
    assert (run / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert len(results) == 4


def test_another_learner_comes_beside_those_there(run, finished, preset, toy_banks, trained):
    bench(preset, toy_banks, run, ["siamese"], resume=True)
    assert trained == ["siamese"]
    assert comparable(run)["learner"].tolist() == ["prototypical"] * 2 + ["npair"] * 2 + ["siamese"] * 2
    pd.testing.assert_frame_equal(comparable(run)[:4], comparable(finished))
    assert list(tomllib.loads((run / "config.toml").read_text())["learner"]) == ["prototypical", "npair", "siamese"]
    with np.load(run / "episodes.npz") as episodes:
        assert len(episodes) == 6
    assert "siamese (contrastive)" in (run / "results.md").read_text()


def test_another_seed_comes_beside_the_one_there(run, preset, toy_banks, trained):
    results = bench(preset, toy_banks, run, ["npair"], seeds=[0, 1], resume=True)
    assert trained == ["npair"]
    assert results.query("learner == 'npair'")["seed"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("episodes = 40", "episodes = 41", r"with episodes = 40 in \[evaluation\], not 41"),
        ("episodes = 20", "episodes = 21", r"with episodes = 20 in \[validation\], not 21"),
        ("{classes = 10, images = 2}", "{classes = 9, images = 2}", "a run of npair with other settings"),
    ],
)
def test_changed_settings_are_refused(run, preset, toy_banks, tmp_path, trained, before, after, message):
    text = Path(preset).read_text(encoding="utf-8")
    assert before in text
    changed = tmp_path / "changed.toml"
    changed.write_text(text.replace(before, after))
    with pytest.raises(InputError, match=message):
        bench(str(changed), toy_banks, run, resume=True)
    assert not trained


def test_other_images_are_not_taken_for_those_of_the_run(run, preset, toy_banks, trained):
    others = {split: dataclasses.replace(bank, checksum="another") for split, bank in toy_banks.items()}
    with pytest.raises(InputError, match="other images"):
        bench(preset, others, run, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "episodes.npz").unlink(),
        lambda run: (run / "episodes.npz").write_bytes(b"half"),
        lambda run: (run / "results.csv").write_text(""),
        lambda run: (run / "config.toml").write_text("steps = = 3"),
        lambda run: (run / "config.toml").write_text("[evaluation]\nway = 3\n"),
    ],
    ids=["no episodes", "half the episodes", "empty results", "no TOML", "unknown key"],
)
def test_a_damaged_folder_is_an_input_error(run, preset, toy_banks, damage):
    damage(run)
    with pytest.raises(InputError, match="run"):
        bench(preset, toy_banks, run, resume=True)


def test_a_learner_whose_file_has_changed_is_run_again(preset, toy_banks, tmp_path, trained):
    file = tmp_path / "mine.py"
    file.write_text(LEARNER)
    specs = ["npair", f"{file}:Mine"]
    bench(preset, toy_banks, tmp_path / "run", specs)
    bench(preset, toy_banks, tmp_path / "run", specs, resume=True)
    assert trained == ["npair", "Mine"]
    file.write_text(LEARNER.replace("pass", "scale = 2"))
    results = bench(preset, toy_banks, tmp_path / "run", specs, resume=True)
    assert trained == ["npair", "Mine", "Mine"]
    assert results["learner"].tolist() == ["npair", "npair", "Mine", "Mine"]


def test_two_learners_of_one_name_do_not_share_rows(preset, toy_banks, tmp_path):
    specs = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(LEARNER)
        specs.append(f"{tmp_path / name}.py:Mine")
    with contextlib.suppress(InputError):  # either is right: refusing the second, or rows for both
        assert len(bench(preset, toy_banks, tmp_path / "run", specs)) == 4


@pytest.mark.parametrize("wish", ["ways = [31]", "ways = [5, 31]", "shots = [22]"])
def test_a_protocol_that_cannot_be_met_is_told_before_any_training(preset, toy_banks, tmp_path, trained, wish):
    changed = tmp_path / "changed.toml"
    changed.write_text(f"learners = ['npair']\n[evaluation]\n{wish}\nquery = 3\n")
    with pytest.raises(InputError):
        bench(str(changed), toy_banks, tmp_path / "run")
    assert not trained
    assert not (tmp_path / "run").exists()


PER_SHOT = """
learners = ["prototypical", "prototypical@conv4-32"]
[evaluation]
ways = [3]
shots = [1, 2, 5]
query = 3
episodes = 20
[validation]
way = 3
shot = 1
query = 3
episodes = 10
[training]
steps = 1
precision = "float32"
[learner.prototypical]
batches = {classes = 8, images = 4}
[learner.prototypical.per_shot.5]
batches = {classes = 5, images = 8}
options = {shot = 5}
[learner."prototypical@conv4-32"]
per_shot = {}
"""


def test_a_shot_with_settings_of_its_own_has_a_model_of_its_own(toy_banks, tmp_path, trained):
    path = tmp_path / "own.toml"
    path.write_text(PER_SHOT)
    results = bench(str(path), toy_banks, tmp_path / "run")
    assert len(trained) == 3
    assert results.groupby("backbone")["shot"].apply(list).to_dict() == {"conv4": [1, 2, 5], "conv4-32": [1, 2, 5]}
    homes = {home.name: home for home in (tmp_path / "run" / "checkpoints").iterdir()}
    names = {"": 1, "-5shot": 5, "-conv4-32": 1}  # with the shot of their validation
    assert homes.keys() == {f"prototypical-euclidean{name}-seed0" for name in names}
    for name, shot in names.items():
        about = checkpoints.load(homes[f"prototypical-euclidean{name}-seed0"] / "best.pt")["about"]
        assert about["validation"]["shot"] == shot
    assert "prototypical (euclidean), conv4-32" in (tmp_path / "run" / "results.md").read_text()
    bench(str(path), toy_banks, tmp_path / "run", resume=True)
    assert len(trained) == 3


def test_a_backbone_starts_from_the_weights_of_a_file(preset, toy_banks, tmp_path, finished):
    path = tmp_path / "own.toml"
    weights = finished / "checkpoints" / "npair-seed0" / "best.pt"
    path.write_text(f"learners = ['prototypical']\n[training]\nsteps = 0\nweights = '{weights}'\n")
    config, _ = load_config(str(path)), shutil.copytree(finished, tmp_path / "finished")
    train_learner(config, {split: toy_banks[split] for split in ("train", "validation")}, tmp_path / "run")
    taken = checkpoints.load(tmp_path / "run" / "prototypical-euclidean-seed0" / "best.pt")["learner"]
    given = checkpoints.load(weights)["learner"]
    assert all(torch.equal(value, given[name]) for name, value in taken.items())


@pytest.fixture
def named_banks(toy_banks):
    """The toy data set with checksums, as data sets of the suite have them."""
    return {split: dataclasses.replace(bank, checksum=f"toy {split}") for split, bank in toy_banks.items()}


def starting_from(weights: Path, preset: str, folder: Path) -> str:
    """The path of a preset whose prototypical networks start from these weights."""
    path = folder / f"from-{weights.parent.name}-{weights.stem}.toml"
    whole = Path(preset).read_text(encoding="utf-8")
    path.write_text(whole.replace("[learner.prototypical]", f"[learner.prototypical]\nweights = '{weights}'"))
    return str(path)


def external(preset: str, banks, folder: Path) -> bool:
    """Whether prototypical networks of `preset` are marked as of external data, in rows, tables and comparison."""
    rows = bench(preset, banks, folder, ["prototypical"])
    (mark,) = set(rows["external"])
    assert ("prototypical (euclidean) [external data" in (folder / "results.md").read_text()) == mark
    theirs = published("omniglot", "vinyals", league="inductive", way=5, shot=1, backbone="conv4")
    compared = compare(rows.assign(dataset="omniglot", protocol="vinyals", image_size=28), theirs)
    assert all(one == (["ours trained on more data"] if mark else []) for one in compared["reasons"])
    return bool(mark)


def test_whoever_starts_from_weights_is_external_though_its_learner_is_not(preset, named_banks, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    torch.save(make_backbone("conv4", 1, 16).body.state_dict(), path := tmp_path / "elsewhere" / "body.pt")
    assert external(starting_from(path, preset, tmp_path), named_banks, tmp_path / "run")


def test_weights_of_the_same_base_classes_are_not_external_and_others_are(preset, named_banks, tmp_path):
    other = {**named_banks, "train": dataclasses.replace(named_banks["test"], split="train")}  # saw the test classes
    found = {}
    for name, banks in (("same", named_banks), ("other", other)):
        assert not external(preset, banks, tmp_path / name)
        path = tmp_path / name / "checkpoints" / "prototypical-euclidean-seed0" / "best.pt"
        (tmp_path / f"{name}.toml").mkdir()
        found[name] = external(
            starting_from(path, preset, tmp_path / f"{name}.toml"), named_banks, tmp_path / f"2{name}"
        )
    assert found == {"same": False, "other": True}
    passed_on = tmp_path / "2other" / "checkpoints" / "prototypical-euclidean-seed0" / "best.pt"
    assert external(starting_from(passed_on, preset, tmp_path), named_banks, tmp_path / "third")
    spec = ModelSpec.from_checkpoint(checkpoints.load(passed_on), passed_on)
    assert spec.build(Prototypical).traits.external  # as evaluate and resumed runs make it


def test_training_from_python_marks_the_learner_by_its_weights(named_banks, tmp_path):
    torch.save(make_backbone("conv4", 1, 16).body.state_dict(), tmp_path / "body.pt")
    learner = Prototypical(make_backbone("conv4", 1, 16), named_banks["train"].classes)
    settings = Training(steps=0, weights=str(tmp_path / "body.pt"), batches={"classes": 10, "images": 4})
    fewshot.model_runs.train(learner, named_banks["train"], named_banks["validation"], settings)
    assert learner.traits.external
    assert not traits_of(Prototypical).external


def test_weights_that_do_not_fit_are_told_before_any_training(toy_banks, tmp_path, trained):
    path = tmp_path / "own.toml"
    path.write_text(
        "learners = ['npair', 'prototypical']\n[training]\nsteps = 1\n[learner.prototypical]\nweights = 'gone.pt'\n"
    )
    with pytest.raises(InputError, match=r"there is no file of weights gone\.pt"):
        bench(str(path), toy_banks, tmp_path / "run")
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pt")
    path.write_text(path.read_text().replace("gone.pt", str(tmp_path / "other.pt")))
    with pytest.raises(InputError, match=r"lacks 24 of the 28 weights of conv4: 0\.convolution\.weight"):
        bench(str(path), toy_banks, tmp_path / "run")
    assert not trained
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_older_version_goes_on(finished, preset, toy_banks, tmp_path, trained):
    """Settings that an older version did not have count as their defaults."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for path in folder.glob("checkpoints/*/*.pt"):
        content = torch.load(path, weights_only=True)
        content["about"].pop("weights")
        for name in ("weights", "epochs", "augmentation", "milestones"):
            content["about"]["settings"].pop(name)
        torch.save(content, path)
    bench(preset, toy_banks, folder, resume=True)
    assert not trained


def test_a_run_from_before_leagues_goes_on(run, finished, preset, toy_banks, trained):
    old = pd.read_csv(run / "results.csv", keep_default_na=False, dtype=str).drop(columns=["text", "external"])
    old.to_csv(run / "results.csv", index=False)
    bench(preset, toy_banks, run, ["siamese"], resume=True)
    assert trained == ["siamese"]
    pd.testing.assert_frame_equal(comparable(run)[:4], comparable(finished))


def test_a_run_from_before_open_intervals_goes_on(run, finished, preset, toy_banks, trained):
    old = pd.read_csv(run / "results.csv", keep_default_na=False, dtype=str).drop(columns="ci95_open")
    old.to_csv(run / "results.csv", index=False)
    for name in ("differences.csv", "comparison.md"):
        (run / name).unlink()
    bench(preset, toy_banks, run, ["siamese"], resume=True)
    assert trained == ["siamese"]
    new = comparable(run)
    assert (new["ci95_open"] == "").tolist() == [True] * 4 + [False] * 2
    pd.testing.assert_frame_equal(new[:4].drop(columns="ci95_open"), comparable(finished).drop(columns="ci95_open"))
    assert (run / "differences.csv").exists()


def test_learners_with_one_seed_each_are_one_run_though_the_seeds_differ(preset, toy_banks, tmp_path):
    bench(preset, toy_banks, tmp_path, ["npair"], seeds=[0])
    results = bench(preset, toy_banks, tmp_path, ["siamese"], seeds=[1], resume=True)
    assert results.query("way == 5")[["learner", "seed"]].to_numpy().tolist() == [["npair", 0], ["siamese", 1]]


def test_several_seeds_stand_first_in_the_tables_of_a_run(preset, toy_banks, tmp_path):
    bench(preset, toy_banks, tmp_path, ["npair"], seeds=[0, 1])
    headings = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("#")]
    assert headings == ["## Over training seeds", "## Each training", "## Other classes"]


def test_few_images_are_not_passed_through_more_often_than_epochs(monkeypatch, tmp_path, toy_banks):
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: toy_banks[split])
    path = tmp_path / "own.toml"
    path.write_text(
        "[training]\nsteps = 100\nepochs = 3\n[learner.npair]\nbatches = {classes = 30, images = 2}\n"
        "[learner.imprinted]\nbatches = {size = 7}\n"
    )
    learners = open_data(load_config(str(path)))[0].learner  # on 720 images
    assert {spec: one.steps for spec, one in learners.items()} == {"npair": 36, "imprinted": 100}


def test_what_a_small_data_set_cannot_fill_is_fitted_and_told(monkeypatch, preset, caplog):
    banks = {"train": toy_bank(6, 7), "validation": toy_bank(4, 7), "test": toy_bank(7, 7)}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])
    with caplog.at_level("INFO", "fewshot"):
        config, _ = open_data(load_config("quick"))
    assert (config.evaluation.ways, config.evaluation.shots, config.evaluation.query) == ([5], [1, 5], 2)
    assert (config.validation.way, config.validation.query) == (4, 5)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "test: ways = [5], not [5, 20]" in said
    assert "; query = 2, not 15: " in said


@pytest.fixture
def with_listed_test(monkeypatch, toy_banks) -> None:
    """Every data set is the toy one, but its test split lists four episodes of three classes, one shot, two queries."""
    test = dataclasses.replace(toy_bank(12, 3, seed=3, split="test"), group_names=tuple("aaabbbcccddd"), listed=True)
    banks = {**toy_banks, "test": test}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])


def test_listed_episodes_are_the_test_protocol_whatever_the_preset_asks_for(with_listed_test, preset):
    wanted = open_data(load_config(preset))[0].evaluation
    assert (wanted.ways, wanted.shots, wanted.query, wanted.episodes) == ([3], [1], 2, 4)


def test_listed_episodes_leave_training_and_validation_as_they_are(with_listed_test, preset):
    config = load_config(preset)
    opened = open_data(config)[0]
    assert (opened.validation, opened.learner) == (config.validation, config.learner)


def test_a_run_on_listed_episodes_has_one_row_a_learner(with_listed_test, preset, tmp_path):
    results = run_benchmark(*open_data(load_config(preset)), tmp_path, device="cpu", progress=False)
    assert results["learner"].tolist() == ["prototypical", "npair"]
    assert (results[["way", "shot", "query", "episodes"]] == [3, 1, 2, 4]).all(axis=None)
    assert np.isnan(results["ci95_open"].astype(float)).all()
    with np.load(tmp_path / "episodes.npz") as episodes:
        assert {name: len(values) for name, values in episodes.items()} == {
            "prototypical-euclidean-seed0/3way1shot": 4,
            "npair-seed0/3way1shot": 4,
        }


def test_a_run_on_listed_episodes_goes_on(with_listed_test, preset, tmp_path, trained):
    for resume in (False, True):
        config, banks = open_data(load_config(preset))
        run_benchmark(config, banks, tmp_path, device="cpu", progress=False, resume=resume)
    assert trained == ["prototypical", "npair"]


def test_models_for_shots_that_are_not_listed_are_not_trained(with_listed_test, tmp_path, trained):
    path = tmp_path / "own.toml"
    path.write_text(PER_SHOT)
    config, banks = open_data(load_config(str(path), ["prototypical"]))
    results = run_benchmark(config, banks, tmp_path / "run", device="cpu", progress=False)
    assert trained == ["prototypical"]
    assert results["shot"].tolist() == [1]


def drawn_from_characters(turns: int) -> tuple[Accuracies, ImageBank]:
    """500 episodes on ten characters of different difficulty, each of which is several classes in a row."""
    bank = dataclasses.replace(toy_bank(10 * turns, 2), turns=turns)
    classes = EpisodeSampler(bank, 5, 1, 1).episodes(0, 500).classes.numpy()
    difficulty = np.repeat(np.linspace(0.2, 0.9, 10), turns)
    return Accuracies(difficulty[classes].mean(axis=1), classes, 0.0), bank


def test_the_open_interval_counts_turned_copies_of_a_class_as_one():
    result, bank = drawn_from_characters(turns=4)
    expected = over_classes(100 * result.values, result.classes, np.repeat(np.arange(10), 4))
    assert open_interval(result, bank) == expected
    independent = open_interval(result, dataclasses.replace(bank, turns=1))
    assert independent.mean == expected.mean
    assert independent.ci95 < 0.7 * expected.ci95


def test_the_open_interval_counts_upright_classes_each_for_itself():
    result, bank = drawn_from_characters(turns=1)
    assert open_interval(result, bank) == over_classes(100 * result.values, result.classes, np.arange(10))


def test_listed_episodes_have_no_open_interval():
    result, bank = drawn_from_characters(turns=1)
    interval = open_interval(result, dataclasses.replace(bank, listed=True))
    assert interval.mean == pytest.approx(100 * result.values.mean())
    assert np.isnan(interval.ci95)


def test_a_killed_run_goes_on_to_the_same_results(preset, toy_banks, finished, tmp_path, trained):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(fewshot.benchmark.__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    command = [sys.executable, script, "bench", "--preset", preset, "--output", tmp_path / "run", "--device", "cpu"]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert set(comparable(tmp_path / "run")["learner"]) == {"prototypical"}  # the second was still training
    bench(preset, toy_banks, tmp_path / "run", resume=True)
    assert trained == ["npair"]
    pd.testing.assert_frame_equal(comparable(tmp_path / "run"), comparable(finished))
    ours, theirs = (
        checkpoints.load(folder / "checkpoints/npair-seed0/last.pt")["history"]
        for folder in (tmp_path / "run", finished)
    )
    assert [row["loss"] for row in ours] == [row["loss"] for row in theirs]


def test_the_fallback_says_why_in_one_sentence(monkeypatch, toy_banks, caplog):
    def load(name, split, **_):
        if name.startswith("omniglot"):
            raise MissingData("Omniglot is not in /data and cannot be downloaded")
        return toy_banks[split]

    monkeypatch.setattr(fewshot.benchmark, "load_dataset", load)
    with caplog.at_level("INFO", "fewshot"):
        config, banks = open_data(load_config("quick"))
    assert (config.data.dataset, config.data.fallback) == ("glyphs:scripts", "")
    assert banks["train"] is toy_banks["train"]
    (record,) = (one for one in caplog.records if "glyphs" in one.getMessage())
    assert "Omniglot is not in /data and cannot be downloaded" in record.getMessage()
    assert "'glyphs'" in record.getMessage()
    with pytest.raises(MissingData):
        open_data(load_config("quick", dataset="omniglot"))


@pytest.mark.parametrize(
    ("classes", "images", "ways", "shots", "query"), [(4, 12, [4], [1, 5], 7), (6, 4, [5], [3], 1)]
)
def test_where_no_way_or_no_shot_fits_the_most_there_are_is_taken(
    monkeypatch, preset, caplog, classes, images, ways, shots, query
):
    banks = {"train": toy_bank(6, 7), "validation": toy_bank(4, 7), "test": toy_bank(classes, images)}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])
    wanted = {"ways": [5, 20], "shots": shots if images > 5 else [5, 10], "query": 15}
    found = open_data(load_config("quick", **wanted))[0].evaluation
    assert (found.ways, found.shots, found.query) == (ways, shots, query)
    said = " ".join(text for record in caplog.records if (text := record.getMessage()).startswith("test: "))
    for name, value in (("ways", ways), ("shots", shots), ("query", query)):
        assert (f"{name} = {value}, not {wanted[name]}" in said) == (value != wanted[name])
