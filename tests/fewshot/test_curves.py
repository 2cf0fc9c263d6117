"""Curves of a training: appended while it goes on, and without a gap or a repeat after an interruption."""

import sys

import pandas as pd
import pytest

from episodes import InputError
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.curves import CsvCurves, Curves, TensorBoardCurves, curves_of


def test_each_validation_and_the_last_loss_are_in_the_csv_file(preset, toy_banks, tmp_path):
    config = load_config(preset, ["npair"])
    run_benchmark(config, toy_banks, tmp_path, device="cpu", progress=False, curves="csv")
    home = tmp_path / "checkpoints" / "npair-seed0"
    curves = pd.read_csv(home / "curves.csv")
    history = pd.read_csv(home / "training.csv")
    accuracy = curves[curves["measure"] == "accuracy"]
    assert accuracy["step"].tolist() == history["step"].tolist() == [2, 4]
    assert accuracy["value"].tolist() == pytest.approx(history["accuracy"].tolist(), abs=1e-3)
    assert curves[curves["measure"] == "loss"]["step"].tolist() == [4]
    assert set(curves["measure"]) == {"accuracy", "ci95", "loss", "learning_rate"}


def test_a_training_that_goes_on_replaces_the_lines_after_its_checkpoint(tmp_path):
    with CsvCurves(tmp_path, 0) as curves:
        for step in (20, 40, 60):
            curves.add(step, step / 10, {"loss": 1 / step})
    with (tmp_path / "curves.csv").open("a") as file:
        file.write("80,8.")  # a killed process ends in the middle of a line
    with CsvCurves(tmp_path, 40) as curves:
        curves.add(60, 6.5, {"loss": 0.5})
        assert pd.read_csv(tmp_path / "curves.csv")["step"].tolist() == [20, 40, 60]  # before the file is closed
    found = pd.read_csv(tmp_path / "curves.csv")
    assert found.columns.tolist() == ["step", "seconds", "measure", "value"]
    assert found["value"].tolist() == [0.05, 0.025, 0.5]
    with CsvCurves(tmp_path, 0):
        assert pd.read_csv(tmp_path / "curves.csv").empty  # a training that begins anew


def test_tensorboard_shows_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardCurves(tmp_path, 0) as curves:
        curves.add(20, 1.0, {"loss": 0.5, "accuracy": 90.0})
        curves.add(40, 2.0, {"loss": 0.25})
    with TensorBoardCurves(tmp_path, 20) as curves:
        curves.add(40, 2.0, {"loss": 0.125})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(20, 0.5), (40, 0.125)]
    assert [event.value for event in events.Scalars("accuracy")] == [90.0]


def test_tensorboard_that_is_missing_is_told_before_any_training(preset, toy_banks, tmp_path, monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"needs the package tensorboard: pip install 'fewshot\[log\]'"):
        run_benchmark(load_config(preset), toy_banks, tmp_path / "run", device="cpu", curves="tensorboard")
    assert not trained
    assert not (tmp_path / "run").exists()


def test_without_curves_nothing_is_written(tmp_path):
    for curves in (curves_of("", tmp_path, 0), curves_of("csv", None, 0)):
        assert type(curves) is Curves
        with curves:
            curves.add(1, 1.0, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
