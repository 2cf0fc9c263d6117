"""Curves of a training in MLflow (https://mlflow.org): a run of MLflow for each model.

MLflow's own variables of the environment say where: MLFLOW_TRACKING_URI, else mlflow.db in the current folder, and
MLFLOW_EXPERIMENT_NAME, else the experiment `fewshot`.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from episodes import InputError
from fewshot.curves.base import Curves
from fewshot.files import read_text, replace_text, writing
from fewshot.models import ModelSpec

log = logging.getLogger("fewshot")
_RUN = "mlflow.txt"  # beside the checkpoints: which run of MLflow has the curves
_MOST_PARAMETERS = 100  # of one request
_LONGEST = 500  # characters of a parameter that every version of MLflow takes


class MlflowCurves(Curves):
    """A run of MLflow with the settings of the training as parameters and the curves as metrics. A training that goes
    on after `step` steps goes on with its run.

    If MLflow fails meanwhile, one warning tells so, and the training goes on without curves.
    """

    def __init__(self, folder: Path, step: int, spec: ModelSpec | None) -> None:
        self._client, self._sends = connected(), True
        with _told():
            before = _earlier(self._client, folder / _RUN, goes_on=step > 0)
            self._last = _last_steps(self._client, before) if before else {}
            self._run = before or _begun(self._client, folder, spec)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._send(lambda: self._client.set_terminated(self._run, _state(error)))

    def add(self, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        """Add measures; those of steps that the run has already stay, since the same training gives the same ones."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: value for name, value in measures.items() if step > self._last.get(name, -1)}
        metrics = [Metric(name, value, now, step) for name, value in new.items()]
        self._send(lambda: self._client.log_batch(self._run, metrics))

    def _send(self, request: Callable[[], None]) -> None:
        if not self._sends:
            return
        try:
            request()
        except Exception as error:  # of MLflow, of its database or of the network
            self._sends = False
            log.warning("MLflow takes no more curves of a training, which goes on without them: %s", _short(error))


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

    run: str = client.create_run(_experiment(client), run_name=spec.name if spec else folder.name).info.run_id
    parameters = [Param(name, str(value)[:_LONGEST]) for name, value in _parameters(spec).items()] if spec else []
    for first in range(0, len(parameters), _MOST_PARAMETERS):
        client.log_batch(run, params=parameters[first : first + _MOST_PARAMETERS])
    with writing(folder):
        replace_text(folder / _RUN, run + "\n")
    return run


def _experiment(client: Any) -> str:
    """The id of the experiment, which is made if there is none; another worker may make it at the same time."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fewshot")
    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


def _earlier(client: Any, path: Path, goes_on: bool) -> str:
    """The id of the run that an interrupted training has begun, if the training goes on; '' if it does not, or if there
    is no such run."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(OSError, ValueError, MlflowException):
        run: str = client.get_run(read_text(path).strip()).info.run_id
        client.update_run(run, "RUNNING" if goes_on else "KILLED")
        return run if goes_on else ""
    return ""


def _last_steps(client: Any, run: str) -> dict[str, int]:
    """The last step of each measure that a run has."""
    return {
        name: max(one.step for one in client.get_metric_history(run, name)) for name in client.get_run(run).data.metrics
    }


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
        raise InputError(f"MLflow at {where} refuses the curves of a training ({_short(error)})") from error


def _short(error: Exception) -> str:
    """The text of an error on one line, as far as a reader wants it."""
    return f"{' '.join(str(error).split()):.200}"
