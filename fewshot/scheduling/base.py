"""run_models: gives the models of a run to workers, and their rows to the run's folder.

`Workers` is the interface of whatever runs models; InThisProcess is its simplest form.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from episodes.locks import Busy
from fewshot.freshness import waiting
from fewshot.model_runs import Conditions, Measured, Runner
from fewshot.plan import Planned
from fewshot.run_folder import RunFolder
from fewshot.shared_training import training_key
from fewshot.trail import Trail, remove_trail, trail_of

log = logging.getLogger("fewshot")
_PAUSE = 1.0  # seconds between two looks at models that other processes have claimed


class Job(NamedTuple):
    """A model, the test protocols that must measure it, the folder of its checkpoints, and the trail of the training
    that it shares with others."""

    model: Planned
    protocols: list[str]
    home: Path
    trail: Trail | None = None


class Finished(NamedTuple):
    """A job is done: its model, by name, has no more rows to come."""

    model: str


class Workers(Protocol):
    """What runs models. As a context it ends, and what it started ends with it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def free(self) -> bool:
        """Whether `start` may be called."""

    def start(self, job: Job) -> None:
        """Run a job, now or in `results`."""

    def results(self) -> Iterator[Measured | Finished]:
        """What the jobs have given since the last call; waits a while if there is nothing yet. InputError if a job
        failed."""


class InThisProcess:
    """Runs one model after the other, in this process."""

    def __init__(self, conditions: Conditions) -> None:
        self._runner = Runner(conditions)
        self._jobs: list[Job] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def free(self) -> bool:
        return not self._jobs

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def results(self) -> Iterator[Measured | Finished]:
        while self._jobs:
            job = self._jobs.pop()
            yield from self._runner.run(*job)
            yield Finished(job.model.spec.name)


def run_models(
    models: Sequence[Planned],
    folder: RunFolder,
    wanted: Sequence[str],
    keep: bool,
    workers: Workers,
    leaders: Mapping[str, str],
) -> None:
    """Have `workers` run the models until each has all its rows in `folder`.

    wanted, keep: see freshness.waiting; leaders: see shared_training.leaders_of. A model that another process has
    claimed is left to that process, and waited for when nothing else is left to do. A model that shares a training
    comes after the one that trains.
    """
    with _Queue(models, folder, wanted, keep, leaders) as queue:
        while queue.left or queue.at_work:
            while workers.free and (job := queue.next()):
                workers.start(job)
            for result in workers.results() if queue.at_work else ():
                if isinstance(result, Finished):
                    queue.release(result.model)
                else:
                    folder.add(**result._asdict())
    for leader in set(leaders.values()):
        remove_trail(folder.checkpoints(leader))


class _Queue:
    """The models that are left to run, and the claims on those at work."""

    def __init__(
        self,
        models: Sequence[Planned],
        folder: RunFolder,
        wanted: Sequence[str],
        keep: bool,
        leaders: Mapping[str, str],
    ) -> None:
        self.left = list(models)
        self.at_work: dict[str, contextlib.ExitStack] = {}
        self._folder, self._wanted, self._keep, self._leaders = folder, wanted, keep, leaders

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.at_work):
            self.release(name)

    def release(self, name: str) -> None:
        """Give up the claim on the model called `name`."""
        self.at_work.pop(name).close()

    def next(self) -> Job | None:
        """The job of the first model that can be claimed; None if there is none. If other processes have claimed all
        that are left, and nothing is at work here, it waits until one can be claimed or none is left."""
        told = False
        while not (job := self._claimed()) and self.left and not self.at_work:
            if not told:
                log.info("Other processes are at work on what is left of %s: waiting for them", self._folder.path)
                told = True
            time.sleep(_PAUSE)
        return job

    def _claimed(self) -> Job | None:
        for model in list(self.left):
            name, claim = model.spec.name, contextlib.ExitStack()
            if self._is_ahead(name):
                continue
            try:
                claim.enter_context(self._folder.claimed(name))
            except Busy:
                continue
            self.left.remove(model)
            # another process may have finished the model
            if protocols := waiting(model, self._folder, self._wanted, self._keep):
                self.at_work[name] = claim
                return Job(model, protocols, self._folder.checkpoints(name), self._trail(model))
            claim.close()
        return None

    def _is_ahead(self, name: str) -> bool:
        """Whether the model whose training this one shares is still to come or at work."""
        leader = self._leaders.get(name)
        return leader in self.at_work or any(model.spec.name == leader for model in self.left)

    def _trail(self, model: Planned) -> Trail | None:
        name = model.spec.name
        leader = self._leaders.get(name, name)
        if leader == name and name not in self._leaders.values():
            return None
        key = training_key(model.cls, model.spec)
        return trail_of(self._folder.checkpoints(leader), leader, key, following=leader != name)
