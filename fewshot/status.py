"""How far a run has come: which of its models are finished, trained, running and waiting, and how long the rest will
take."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from episodes import InputError
from episodes.locks import Busy, locked
from fewshot import checkpoints
from fewshot.config import Config, read_config
from fewshot.learners.base import resolved
from fewshot.learners.registry import find_learner
from fewshot.models import ModelSpec, model_name
from fewshot.plan import shots_by_model
from fewshot.protocols.registry import PROTOCOLS
from fewshot.record_files import Damaged, read_history
from fewshot.records import model_names
from fewshot.run_folder import read_rows_of

State = Literal["finished", "trained", "running", "waiting"]


@dataclasses.dataclass(frozen=True)
class ModelStatus:
    """How far one model has come.

    name      of the folder of its checkpoints; learner: as the run's config.toml names it
    state     a model at work is running until the end of its training, and trained from then on: its test runs, or
              waits for a process that is free
    step      of its last checkpoint, `steps` if it is trained
    accuracy  in percent on validation classes at that step; None before the first validation, and if no file tells
    seconds   of training up to that step, and of testing
    left      the seconds that it still needs, by its own pace, that of its learner's other seeds, or that of the other
              models; None if no model has a pace yet
    """

    name: str
    learner: str
    seed: int
    state: State
    step: int
    steps: int
    accuracy: float | None
    seconds: float
    left: float | None


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """How far a run has come; left: the seconds until its end, if as many models run side by side as now, one at least;
    None if that is unknown."""

    models: list[ModelStatus]
    left: float | None

    def count(self, state: State) -> int:
        return sum(model.state == state for model in self.models)


def status_of(run: Path) -> RunStatus:
    """How far the run in the folder `run` has come; InputError if it is no run or is damaged."""
    if not (run / "config.toml").is_file():
        raise InputError(f"{run} holds no run: name a folder that 'fewshot bench' has written")
    found = _found(run, read_config(run / "config.toml"))
    models = [_with_time_left(one, found) for one in found]
    times = [model.left for model in models]
    running, trained = (sum(model.state == state for model in models) for state in ("running", "trained"))
    known = [one for one in times if one is not None]
    return RunStatus(models, sum(known) / max(1, running or trained) if len(known) == len(times) else None)


class _Last(BaseModel):
    """What last.pt says of the progress of a training."""

    model_config = ConfigDict(strict=True, extra="ignore")

    step: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    history: list[dict[str, float]] = []


@dataclasses.dataclass(frozen=True)
class _Found:
    """A model as its files show it; since: the seconds since its last checkpoint if it runs; testing: of its rows."""

    name: str
    learner: str
    seed: int
    state: State
    steps: int
    last: _Last
    since: float
    testing: float


def _found(run: Path, config: Config) -> list[_Found]:
    tables, wanted = read_rows_of(run), config.evaluation
    # the names that the model of each row may have: rows of older versions do not say it
    named = {one: [model_names(row) for _, row in table.iterrows()] for one, table in tables.items()}
    listed = []
    for asked, settings in config.learner.items():
        for seed in config.seeds:
            for single, shots in shots_by_model(settings, wanted.shots):
                first = min(wanted.shots) in shots
                protocols = [one for one in wanted.protocols if first or PROTOCOLS[one].by_shot]
                steps = (settings.per_shot[str(single)] if single else settings).steps
                name = _name(run, asked, seed, single)
                rows = [tables[one][[name in names for names in named[one]]] for one in protocols if one in tables]
                done = len(rows) == len(protocols) and all(len(one) for one in rows)
                listed.append(_found_model(run / "checkpoints" / name, asked, seed, steps, rows, done))
    return listed


def _found_model(home: Path, asked: str, seed: int, steps: int, rows: Sequence[pd.DataFrame], done: bool) -> _Found:
    testing = sum(float(one["eval_seconds"].sum()) for one in rows)
    if done:
        told = [float(one["train_seconds"].max()) for one in rows if "train_seconds" in one]
        last = _Last(step=steps, seconds=max(told, default=0.0), history=_history(home / "training.csv"))
        return _Found(home.name, asked, seed, "finished", steps, last, 0.0, testing)
    path = home / "last.pt"
    held = is_held(home / ".lock")
    since = 0.0
    last = _Last()
    if path.is_file():
        since = max(0.0, time.time() - path.stat().st_mtime) if held else 0.0
        last = _last(path)
    at_work: State = "trained" if steps and last.step == steps else "running"
    return _Found(home.name, asked, seed, at_work if held else "waiting", steps, last, since, testing)


def _last(path: Path) -> _Last:
    try:
        return _Last.model_validate(checkpoints.load(path))
    except pydantic.ValidationError as error:
        raise InputError(f"{path} does not say how far its training had come: it has been altered") from error


def _history(path: Path) -> list[dict[str, float]]:
    """The validations of a training that is over; none if its file is gone or holds none."""
    with contextlib.suppress(Damaged, OSError):
        return [{str(name): float(value) for name, value in row.items()} for _, row in read_history(path).iterrows()]
    return []


def _name(run: Path, asked: str, seed: int, shot: int) -> str:
    """The name of a model; a learner in a file is known by its checkpoints, so that no file's code runs."""
    if ".py:" not in asked:
        learner, variant = find_learner(asked)
        return model_name(asked, learner.name, resolved(learner, variant)[0], shot, seed)
    for path in sorted(run.glob("checkpoints/*/last.pt")):
        spec = ModelSpec.from_checkpoint(checkpoints.load(path), path)
        if (spec.asked, spec.seed, spec.shot) == (asked, seed, shot):
            return path.parent.name
    return model_name(asked, asked.rpartition(":")[2].partition("@")[0], "", shot, seed)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock; a lock that cannot be tried, as in a folder of another user, counts as free."""
    try:
        if path.exists():
            with locked(path, wait=False):
                pass
    except Busy:
        return True
    except OSError:
        return False
    return False


def _with_time_left(model: _Found, every: Sequence[_Found]) -> ModelStatus:
    accuracy = model.last.history[-1].get("accuracy") if model.last.history else None
    own = [one for one in every if one.learner == model.learner]
    pace = _mean(_paces([model])) or _mean(_paces(own)) or _mean(_paces(every))
    testing = _mean(one.testing for one in own if one.testing) or _mean(one.testing for one in every if one.testing)
    left: float | None = 0.0
    if model.state != "finished":
        steps = model.steps - model.last.step
        unknown = pace is None if steps else testing is None
        left = None if unknown else max(0.0, (pace or 0.0) * steps - model.since) + (testing or 0.0)
    return ModelStatus(
        name=model.name,
        learner=model.learner,
        seed=model.seed,
        state=model.state,
        step=model.last.step,
        steps=model.steps,
        accuracy=accuracy,
        seconds=round(model.last.seconds + model.testing, 2),
        left=None if left is None else round(left, 2),
    )


def _paces(models: Iterable[_Found]) -> list[float]:
    """The seconds a step of the models that have made steps."""
    return [one.last.seconds / one.last.step for one in models if one.last.step and one.last.seconds]


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None
