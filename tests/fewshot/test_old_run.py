"""old_run/ is a run of toy_banks by the version of 2026-11-27, before ModelSpec, keys and versions: it still opens."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from fewshot import checkpoints, model_runs
from fewshot.benchmark import run_benchmark
from fewshot.config import read_config
from fewshot.evaluation import evaluate
from fewshot.learners import find_learner
from fewshot.models import ModelSpec
from fewshot.run_folder import read_protocols, read_results, read_sheets

OLD = Path(__file__).with_name("old_run")
HOME = OLD / "checkpoints" / "prototypical-euclidean-seed0"


@pytest.fixture
def run(tmp_path):
    """A copy of the old run, to be changed."""
    return shutil.copytree(OLD, tmp_path / "run")


@pytest.fixture
def trained(monkeypatch):
    """The steps that each training had left, in the order of the trainings."""
    left = []
    train = model_runs.train

    def watched(*arguments, **more):
        result = train(*arguments, **more)
        left.append(result.history["step"].tolist())
        return result

    monkeypatch.setattr(model_runs, "train", watched)
    return left


def test_an_old_run_gives_its_rows_and_tables():
    rows, accuracies = read_results(OLD)
    assert rows["accuracy"].tolist() == pd.read_csv(OLD / "results.csv")["accuracy"].tolist()
    assert set(accuracies) == {f"prototypical-euclidean-seed0/5way{shot}shot" for shot in (1, 5)}
    assert rows[["preset", "data_version", "episodes_version"]].drop_duplicates().values.tolist() == [["", 0, 0]]
    assert set(read_protocols(OLD)) == {"retrieval"}
    assert len(read_sheets(OLD)) >= 2


def test_an_old_checkpoint_scores_as_its_rows_say(toy_banks):
    content = checkpoints.load(HOME / "best.pt")
    learner = ModelSpec.from_checkpoint(content, HOME / "best.pt").build(find_learner("prototypical")[0])
    checkpoints.restore(learner, content, HOME / "best.pt")
    for row in read_results(OLD)[0].itertuples():
        found = evaluate(learner, toy_banks["test"], row.way, row.shot, row.query, row.episodes, 0, "cpu")
        assert found.percent.mean == pytest.approx(row.accuracy, abs=0.2)  # arithmetic differs between processors


def test_an_old_run_is_kept_and_marked_if_that_is_asked_for(run, toy_banks, trained):
    before = read_results(run)[0]
    rows = run_benchmark(read_config(run / "config.toml"), toy_banks, run, device="cpu", resume=True, keep=True)
    assert not trained
    assert rows["accuracy"].tolist() == before["accuracy"].tolist()
    assert set(rows["kept"]) == {"unknown code"}


def test_an_old_run_is_otherwise_run_again(run, toy_banks, trained):
    rows = run_benchmark(read_config(run / "config.toml"), toy_banks, run, device="cpu", resume=True)
    assert trained == [[3, 6]]
    assert set(rows["kept"]) == {""}
    assert set(rows["episodes_version"]) == {1}
    assert set(rows["torch"]) == {torch.__version__}


def test_the_log_of_an_old_training_is_read():
    assert pd.read_csv(HOME / "training.csv")["step"].tolist() == [3, 6]
