"""The files of a search: its settings, and Optuna's journal of all trials, which several processes share."""

import contextlib
import logging
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import optuna
import pydantic
from filelock import FileLock, Timeout
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from episodes import ImageBank, InputError
from episodes.locks import locked
from fewshot.config import Config
from fewshot.files import check_regular, read_text, replace_text, writing
from fewshot.learners.registry import find_learner
from fewshot.provenance import learner_code, suite_code
from fewshot.tuning.space import Ranges

log = logging.getLogger("fewshot")

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it logs every trial otherwise

SETTINGS = "search.json"
_JOURNAL = "study.journal"
_RANDOM = 10  # trials at most before TPE learns from the earlier ones
_RUNGS = (1, 2)  # the quarters of a training after which it may be stopped


class Search(BaseModel):
    """What a search is: its learners with their untuned settings, the trials of each, and images of a trial.

    config  the run whose learners are tuned; its one seed is that of all trainings and of the search
    data    the checksum of the images of each split
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    trials: Annotated[int, Field(ge=1, le=1_000_000)]
    budget: Annotated[int, Field(ge=1, le=10**15)]
    data: dict[str, str]
    config: Config

    @classmethod
    def of(cls, config: Config, banks: dict[str, ImageBank], trials: int, budget: int) -> "Search":
        """The search on these banks of training and validation classes."""
        return cls(
            trials=trials, budget=budget, data={name: one.checksum for name, one in banks.items()}, config=config
        )

    @property
    def seed(self) -> int:
        return self.config.seeds[0]


class SearchFolder:
    """A search in the folder `path`, in which any number of processes may work at once.

    A trial is of one of four states of Optuna: COMPLETE; PRUNED if it was stopped early, or if its training failed,
    since the search should learn to avoid such settings (the attribute `failure` says why); FAIL if its process ended
    before the trial did, which then does not count; RUNNING.
    """

    def __init__(self, path: Path, search: Search) -> None:
        self.path, self.search = path, search
        with writing(path):
            self._storage = _storage(path / _JOURNAL)
        self._studies: dict[str, optuna.Study] = {}

    def trials(self, learner: str) -> list[FrozenTrial]:
        """The trials that count, in their order."""
        return [one for one in self._study(learner).get_trials(deepcopy=False) if _counts(one)]

    def finished(self, learner: str) -> list[FrozenTrial]:
        """The trials that are over."""
        return [one for one in self.trials(learner) if one.state.is_finished()]

    def claim(self, learner: str, worker: str, ranges: Ranges) -> Trial | None:
        """The next trial of a learner, for a process that is `working`; None if there are enough.

        The first trial is the untuned start. The values of a trial depend on the seed, on its place among those that
        count, and on the trials that are over: so a search of one process that was interrupted goes on as if it had not
        been.
        """
        with locked(self.path / ".claims"):
            study = self._study(learner)
            self._drop_lost(study)
            taken = {one.user_attrs["place"] for one in self.trials(learner)}
            free = [place for place in range(self.search.trials) if place not in taken]
            if not free:
                return None
            place = free[0]  # that of a lost trial, if there is one: the start is not lost with its process
            study.sampler = TPESampler(
                seed=(self.search.seed * 1_000_003 + place) % 2**32,
                multivariate=True,
                n_startup_trials=min(_RANDOM, self.search.trials // 3),
            )
            waiting = any(one.state == TrialState.WAITING for one in study.get_trials(deepcopy=False))
            if place == 0 and not waiting:
                study.enqueue_trial(ranges.start)
            trial = study.ask(ranges.distributions)
            trial.set_user_attr("place", place)
            trial.set_user_attr("worker", worker)
            return trial

    def tell(self, learner: str, trial: Trial, accuracy: float | None, **about: Any) -> None:
        """Finish a trial with its validation accuracy in percent; None if it was stopped early or failed."""
        for name, value in about.items():
            trial.set_user_attr(name, value)
        state = TrialState.PRUNED if accuracy is None else TrialState.COMPLETE
        self._study(learner).tell(trial, accuracy, state=state)

    @contextlib.contextmanager
    def working(self) -> Iterator[str]:
        """A name for this process, which counts as alive inside."""
        name = uuid.uuid4().hex
        lock = FileLock(self._lock(name))
        lock.acquire(blocking=False)
        try:
            yield name
        finally:
            lock.release()
            self._lock(name).unlink(missing_ok=True)

    def _study(self, learner: str) -> optuna.Study:
        if learner not in self._studies:
            self._studies[learner] = optuna.create_study(
                storage=self._storage, study_name=learner, direction="maximize", pruner=_Halving(), load_if_exists=True
            )
        return self._studies[learner]

    def _drop_lost(self, study: optuna.Study) -> None:
        """Mark the trials whose processes are no longer alive."""
        for one in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not self._is_alive(one.user_attrs.get("worker", "")):
                study.tell(one.number, state=TrialState.FAIL)

    def _is_alive(self, worker: str) -> bool:
        if not worker or not self._lock(worker).exists():
            return False
        lock = FileLock(self._lock(worker))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        lock.release()
        self._lock(worker).unlink(missing_ok=True)
        return False

    def _lock(self, worker: str) -> Path:
        return self.path / f".worker-{worker}"


class _Halving(BasePruner):
    """Stops a training after a quarter and after a half, unless it is in the better half of those that count so far.

    Optuna's SuccessiveHalvingPruner does the same among all trials, those too whose processes ended, which run again.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        quarter = trial.last_step
        if quarter not in _RUNGS:
            return False
        own = trial.intermediate_values[quarter]
        counting = [one.intermediate_values for one in study.get_trials(deepcopy=False) if _counts(one)]
        reached = sorted((values[quarter] for values in counting if quarter in values), reverse=True)
        return math.isnan(own) or own < reached[max(1, len(reached) // 2) - 1]


def code_of(asked: str) -> str:
    """Digests of the code that trains a learner: its own and that of the suite."""
    return f"{learner_code(find_learner(asked)[0])} {suite_code()}"


def open_search(path: Path, search: Search, resume: bool) -> SearchFolder:
    """The folder of a search, made if there is none; with `resume`, an earlier search goes on there.

    More trials and more learners may be asked for than before; every learner gets the most trials that were asked for.
    InputError for any other difference.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / ".claims"):
            if (path / SETTINGS).exists():
                search = _joined(path, search, resume)
            replace_text(path / SETTINGS, search.model_dump_json(indent=1) + "\n")
    return SearchFolder(path, search)


def check_free(path: Path, resume: bool) -> None:
    """InputError if the folder `path` holds a search and `resume` is not set."""
    if not resume and (path / SETTINGS).exists():
        raise InputError(
            f"{path} already holds a search: add --resume to go on with it, or choose another folder with --output"
        )


def read_search(path: Path) -> Search:
    """The settings of the search in `path`; InputError if they cannot be read."""
    try:
        return Search.model_validate_json(read_text(path / SETTINGS))
    except (OSError, ValueError, pydantic.ValidationError) as error:
        raise InputError(f"{path / SETTINGS} is damaged: choose another folder with --output") from error


def _joined(path: Path, search: Search, resume: bool) -> Search:
    check_free(path, resume)
    before = read_search(path)
    learners = {**before.config.learner, **search.config.learner}
    if before.trials > search.trials:
        log.warning("The search in %s has %d trials of each learner: it goes on with as many", path, before.trials)
    trials = max(before.trials, search.trials)
    config = search.config.model_copy(update={"learner": learners})
    joined = search.model_copy(update={"config": config, "trials": trials})
    shared = {name: one for name, one in learners.items() if name in before.config.learner}
    same = joined.model_copy(update={"config": joined.config.model_copy(update={"learner": shared})})
    if before != same.model_copy(update={"trials": before.trials}):
        raise InputError(
            f"{path} holds a search with other settings, data or budget: repeat its command with --resume, or choose"
            " another folder with --output"
        )
    return joined


def _counts(trial: FrozenTrial) -> bool:
    return trial.state not in (TrialState.FAIL, TrialState.WAITING)


def _storage(path: Path) -> JournalStorage:
    """The journal of all trials, without a last line that a kill or a full disk cut short. InputError if damaged."""
    check_regular(path)
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock):
        if path.exists():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                replace_text(path, content[: content.rfind(b"\n") + 1].decode(errors="replace"))
    try:
        # unlike Optuna's own locks, this one is released by the system if its process is killed
        return JournalStorage(JournalFileBackend(str(path), lock_obj=FileLock(lock)))  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # as the first broken line happens to raise
        raise InputError(f"{path} is damaged: choose another folder with --output") from error
