"""How far a run has come: in progress, interrupted and finished."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from episodes import InputError
from episodes.locks import locked
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.status import status_of

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
NAMES = [f"{learner}-seed{seed}" for learner in ("prototypical-euclidean", "npair") for seed in (0, 1)]


@pytest.fixture(scope="module")
def finished(preset, toy_banks, tmp_path_factory):
    """The folder of a run of four models; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run_benchmark(load_config(preset, seeds=[0, 1]), toy_banks, folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def interrupted(finished, tmp_path):
    """A run that was killed in the training of npair with seed 0, after two of four steps."""
    folder = shutil.copytree(finished, tmp_path / "run")
    lines = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(line for line in lines if line.split(",")[2] != "npair"))
    shutil.rmtree(folder / "checkpoints" / "npair-seed1")
    home = folder / "checkpoints" / "npair-seed0"
    (home / "best.pt").unlink()
    content = torch.load(home / "last.pt", weights_only=True)
    content |= {"step": 2, "seconds": 10.0, "history": content["history"][:1]}
    torch.save(content, home / "last.pt")
    return folder


def test_all_models_of_a_finished_run_are_finished(finished):
    found = status_of(finished)
    assert [(model.name, model.state) for model in found.models] == [(name, "finished") for name in NAMES]
    assert found.left == 0
    assert all(model.seconds > 0 and model.step == model.steps == 4 for model in found.models)


# two have tests or learners in their settings whose rows are in no folder, or in another one
WHOLE = [path.parent for path in sorted(REFERENCE.glob("*/config.toml"))]
WHOLE = [path for path in WHOLE if path.name not in ("gallery-omniglot", "quick-icons-clip")]


@pytest.mark.parametrize("run", WHOLE, ids=lambda path: path.name)
def test_committed_runs_of_all_versions_are_finished(run):
    found = status_of(run)
    assert found.count("finished") == len(found.models)


def test_a_finished_model_says_its_last_validation(finished):
    (accuracy,) = {
        round(float(line.split(",")[2]), 4)
        for line in (finished / "checkpoints" / "npair-seed0" / "training.csv").read_text().splitlines()[-1:]
    }
    assert {model.name: model.accuracy for model in status_of(finished).models}["npair-seed0"] == accuracy


def test_a_model_that_is_trained_and_never_tested_has_an_unknown_time(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "results.csv").unlink()
    found = status_of(folder)
    assert [model.left for model in found.models] == [None] * 4
    assert found.left is None


def test_an_interrupted_run_has_models_that_wait(interrupted):
    models = {model.name: model for model in status_of(interrupted).models}
    assert [models[name].state for name in NAMES] == ["finished", "finished", "waiting", "waiting"]
    half, fresh = models["npair-seed0"], models["npair-seed1"]
    assert (half.step, half.steps, half.seconds, fresh.step) == (2, 4, 10.0, 0)
    assert half.accuracy is not None
    assert half.left == pytest.approx(2 * 5, abs=2)  # two more steps at its own pace, and its test
    assert fresh.left == pytest.approx(4 * 5, abs=2)  # at the pace of the learner's other seed
    assert status_of(interrupted).left == pytest.approx(half.left + fresh.left, abs=0.1)


def test_a_model_at_work_is_running_and_shares_the_time(interrupted):
    alone = status_of(interrupted)
    with locked(interrupted / "checkpoints" / "npair-seed0" / ".lock"):
        found = status_of(interrupted)
    assert found.count("running") == 1
    assert found.models[2].state == "running"
    assert found.left <= alone.left  # the time since its last checkpoint counts


def test_a_model_whose_training_is_over_and_whose_test_is_not_is_trained(finished, tmp_path, call_plain):
    folder = shutil.copytree(finished, tmp_path / "run")
    rows = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(row for row in rows if "npair-seed1" not in row))
    assert status_of(folder).models[3].state == "waiting"
    with locked(folder / "checkpoints" / "npair-seed1" / ".lock"):
        found = status_of(folder)
        last = call_plain("status", folder).out.splitlines()[-1]
    assert [model.state for model in found.models] == ["finished"] * 3 + ["trained"]
    assert found.left == found.models[3].left
    assert "3 of 4 models finished, 1 trained; about" in last


def test_without_any_pace_the_time_is_unknown(interrupted):
    (interrupted / "results.csv").unlink()
    shutil.rmtree(interrupted / "checkpoints")
    found = status_of(interrupted)
    assert found.count("waiting") == 4
    assert found.left is None


def test_the_command_prints_a_line_a_model_and_one_about_all(call_plain, interrupted, finished):
    said = call_plain("status", interrupted)
    assert said.code == 0
    assert all(name in said.out for name in NAMES)
    assert "2 of 4 models finished, 2 waiting; about" in said.out.splitlines()[-1]
    assert call_plain("status", finished).out.splitlines()[-1] == "4 of 4 models finished"


def test_a_name_too_long_for_its_column_goes_on_below_it(call_plain, finished, monkeypatch):
    monkeypatch.setattr("fewshot.cli.Console", lambda **_: Console(width=72, force_terminal=False))
    lines = call_plain("status", finished).out.splitlines()
    said = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert said == "".join(NAMES)


def test_json_has_the_same_in_numbers(call_plain, interrupted):
    found = json.loads(call_plain("status", interrupted, "--json").out)
    assert [model["state"] for model in found["models"]] == ["finished", "finished", "waiting", "waiting"]
    assert math.isclose(found["left"], status_of(interrupted).left, abs_tol=0.1)


def test_a_folder_without_a_run_is_refused(tmp_path, interrupted):
    with pytest.raises(InputError, match="holds no run"):
        status_of(tmp_path)
    last = interrupted / "checkpoints" / "npair-seed0" / "last.pt"
    content = torch.load(last, weights_only=True)
    torch.save({**content, "step": -3}, last)
    with pytest.raises(InputError, match="does not say how far"):
        status_of(interrupted)
