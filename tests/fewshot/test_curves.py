"""Curves of a training: appended while it goes on, and without a gap or a repeat after an interruption."""

import contextlib
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from episodes import InputError
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.curves import Curves, curves_of
from fewshot.curves.files import CsvCurves, TensorBoardCurves
from fewshot.curves.mlflow import MlflowCurves, connected

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow, with SQLAlchemy 2.1


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


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory) -> Path:
    """A database of MLflow without runs, which takes seconds to make."""
    pytest.importorskip("mlflow")
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        connected()
    return database


@pytest.fixture
def tracking(monkeypatch, tmp_path, empty_database):
    """A client of an empty database of MLflow."""
    return tracked_in(tmp_path / "mlflow.db", empty_database, monkeypatch)


def tracked_in(database: Path, empty: Path, monkeypatch):
    shutil.copy(empty, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return connected()


def runs_of(client, experiment: str = "fewshot") -> list:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_mlflow_has_a_run_for_each_model_with_its_settings_and_curves(preset, toy_banks, tmp_path, tracking):
    run = tmp_path / "run"
    run_benchmark(load_config(preset), toy_banks, run, device="cpu", progress=False, curves="mlflow", workers=2)
    found = {one.info.run_name: one for one in runs_of(tracking)}
    assert found.keys() == {"npair-seed0", "prototypical-euclidean-seed0"}
    for name, one in found.items():
        history = pd.read_csv(run / "checkpoints" / name / "training.csv")
        accuracy = tracking.get_metric_history(one.info.run_id, "accuracy")
        assert [point.step for point in accuracy] == history["step"].tolist()
        assert [point.value for point in accuracy] == pytest.approx(history["accuracy"].tolist(), abs=1e-3)
        assert one.data.metrics.keys() == {"accuracy", "ci95", "loss", "learning_rate"}
        assert one.info.status == "FINISHED"
        about = one.data.params
        assert (about["steps"], about["seed"], about["learner"]) == ("4", "0", name.split("-")[0])


def test_mlflow_goes_on_with_the_run_of_an_interrupted_training(tmp_path, tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with contextlib.suppress(KeyboardInterrupt), MlflowCurves(tmp_path, 0, None) as curves:
        curves.add(20, 1.0, {"loss": 0.5, "accuracy": 90.0})
        curves.add(40, 2.0, {"loss": 0.25})
        raise KeyboardInterrupt
    assert [run.info.status for run in runs_of(tracking, "mine")] == ["KILLED"]
    with MlflowCurves(tmp_path, 20, None) as curves:  # the checkpoint is of step 20
        curves.add(40, 2.5, {"loss": 0.25, "accuracy": 92.0})
        curves.add(60, 3.5, {"loss": 0.125})
        (run,) = runs_of(tracking, "mine")
        assert run.info.status == "RUNNING"
    loss = tracking.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in loss] == [(20, 0.5), (40, 0.25), (60, 0.125)]
    assert [one.step for one in tracking.get_metric_history(run.info.run_id, "accuracy")] == [20, 40]
    (run,) = runs_of(tracking, "mine")
    assert run.info.status == "FINISHED"


def test_a_training_goes_on_if_mlflow_fails_meanwhile(tmp_path, tracking, caplog, monkeypatch):
    with MlflowCurves(tmp_path, 0, None) as curves:
        curves.add(20, 1.0, {"loss": 0.5})
        monkeypatch.setattr(type(tracking), "log_batch", lambda *_, **__: 1 / 0)
        for step in (40, 60):
            curves.add(step, 2.0, {"loss": 0.25})
    assert caplog.text.count("MLflow takes no more curves of a training") == 1
    (run,) = runs_of(tracking)
    assert [one.step for one in tracking.get_metric_history(run.info.run_id, "loss")] == [20]


def test_two_workers_may_make_the_experiment_at_the_same_time(tmp_path, tracking, monkeypatch):
    look, looks = type(tracking).get_experiment_by_name, []

    def late(self, name):
        """The first look comes before another worker has made the experiment, which it does meanwhile."""
        looks.append(name)
        return look(self, name) if len(looks) > 1 else None

    tracking.create_experiment("fewshot")
    monkeypatch.setattr(type(tracking), "get_experiment_by_name", late)
    with MlflowCurves(tmp_path, 0, None) as curves:
        curves.add(20, 1.0, {"loss": 0.5})
    assert len(runs_of(tracking)) == 1


def test_mlflow_begins_a_new_run_if_the_training_begins_anew_or_the_old_run_is_gone(
    tmp_path, tracking, monkeypatch, empty_database
):
    for step in (0, 0):
        with MlflowCurves(tmp_path, step, None) as curves:
            curves.add(20, 1.0, {"loss": 0.5})
    assert len(runs_of(tracking)) == 2
    with contextlib.suppress(KeyboardInterrupt), MlflowCurves(tmp_path, 0, None):
        killed = (tmp_path / "mlflow.txt").read_text().strip()
        tracking.update_run(killed, "RUNNING")  # as a signal that ends the process at once would leave it
    with MlflowCurves(tmp_path, 0, None):
        assert tracking.get_run(killed).info.status == "KILLED"
    other = tracked_in(tmp_path / "other.db", empty_database, monkeypatch)
    with MlflowCurves(tmp_path, 20, None) as curves:
        curves.add(40, 1.0, {"loss": 0.5})
    assert len(runs_of(other)) == 1


def test_mlflow_that_is_missing_or_does_not_answer_is_told_before_any_training(
    preset, toy_banks, tmp_path, monkeypatch, trained
):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = r"MLflow at http://127.0.0.1:9 refuses the curves of a training"
    with pytest.raises(InputError, match=said):
        run_benchmark(load_config(preset), toy_banks, tmp_path / "run", device="cpu", curves="mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"needs the package mlflow: pip install 'fewshot\[mlflow\]'"):
        run_benchmark(load_config(preset), toy_banks, tmp_path / "run", device="cpu", curves="mlflow")
    assert not trained
    assert not (tmp_path / "run").exists()


def test_without_curves_nothing_is_written(tmp_path):
    for curves in (curves_of("", tmp_path, 0), curves_of("csv", None, 0)):
        assert type(curves) is Curves
        with curves:
            curves.add(1, 1.0, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
