"""Curves of a training in MLflow (https://mlflow.org): a run of MLflow for each model.

MLflow's own variables of the environment say where: MLFLOW_TRACKING_URI, else mlflow.db in the current folder, and
MLFLOW_EXPERIMENT_NAME, else the experiment `fewshot`.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from episodes import InputError
from fewshot.curves.base import Curves
from fewshot.files import read_text, replace_text, writing
from fewshot.models import ModelSpec

_RUN = "mlflow.txt"  # beside the checkpoints: which run of MLflow has the curves
_MOST_PARAMETERS = 100  # of one request
_LONGEST = 500  # characters of a parameter that every version of MLflow takes


class MlflowCurves(Curves):
    """A run of MLflow with the settings of the training as parameters and the curves as metrics. A training that goes
    on after `step` steps goes on with its run."""

    def __init__(self, folder: Path, step: int, spec: ModelSpec | None) -> None:
        self._client = connected()
        with _told():
            self._run = (_earlier(self._client, folder / _RUN) if step else "") or _begun(self._client, folder, spec)
            self._last = {
                name: max(one.step for one in self._client.get_metric_history(self._run, name))
                for name in self._client.get_run(self._run).data.metrics
            }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _told() if error is None else contextlib.suppress(Exception):  # what ended the training is told
            self._client.set_terminated(self._run, _state(error))

    def add(self, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        """Add measures; those of steps that the run has already stay, since the same training gives the same ones."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: value for name, value in measures.items() if step > self._last.get(name, -1)}
        with _told():
            self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in new.items()])


def _state(error: BaseException | None) -> str:
    """How a training has ended, in MLflow's words."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def connected() -> Any:
    """A client of MLflow; InputError if the package is not installed or if its server or database does not answer."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # with 7, MLflow tries for minutes
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise InputError("--log mlflow needs the package mlflow: pip install 'fewshot[mlflow]'") from error
    for name in ("mlflow", "alembic"):  # they tell how a new database is set up
        logging.getLogger(name).setLevel(logging.WARNING)
    with _told():
        client = MlflowClient()
        client.search_experiments(max_results=1)
        return client


def _begun(client: Any, folder: Path, spec: ModelSpec | None) -> str:
    """The id of a new run, which the file in `folder` tells a training that goes on."""
    from mlflow.entities import Param

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fewshot")
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    run: str = client.create_run(number, run_name=spec.name if spec else folder.name).info.run_id
    parameters = [Param(name, str(value)[:_LONGEST]) for name, value in _parameters(spec).items()] if spec else []
    for first in range(0, len(parameters), _MOST_PARAMETERS):
        client.log_batch(run, params=parameters[first : first + _MOST_PARAMETERS])
    with writing(folder):
        replace_text(folder / _RUN, run + "\n")
    return run


def _earlier(client: Any, path: Path) -> str:
    """The id of the run that an interrupted training has begun; '' if there is none."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(OSError, ValueError, MlflowException):
        run: str = client.get_run(read_text(path).strip()).info.run_id
        client.update_run(run, "RUNNING")
        return run
    return ""


def _parameters(spec: ModelSpec) -> dict[str, Any]:
    """What MLflow lists and filters models by."""
    about = spec.model_dump(include={"asked", "learner", "variant", "seed", "dataset", "size"})
    return about | dict(_flat(spec.settings.model_dump()))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what MLflow raises into an InputError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        where = os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db"
        said = " ".join(str(error).split())
        raise InputError(f"MLflow at {where} refuses the curves of a training ({said:.200})") from error
