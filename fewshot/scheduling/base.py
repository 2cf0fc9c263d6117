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
    """A model, trained and measured.

    protocols  the test protocols that must measure it; none if another job will
    home       the folder of its checkpoints
    trail      of the training that it shares with others
    trained    whether another job has trained it
    """

    model: Planned
    protocols: list[str]
    home: Path
    trail: Trail | None = None
    trained: bool = False


class Finished(NamedTuple):
    """A job is done: it gives no more rows of its model, which stands here by name."""

    model: str


class Workers(Protocol):
    """What runs models. As a context it ends, and what it started ends with it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def sharing(self) -> int:
        """How many workers share the run's folder, so that one can measure what another has trained."""

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

    sharing = 1

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
    comes after the one that trains. If workers share the folder, the trainings that are left come before all tests as
    soon as there are no more of them than workers, so that no worker ends long before the others.
    """
    # workers end before the claims on their models do
    with _Queue(models, folder, wanted, keep, leaders, workers.sharing) as queue, workers:
        while queue.left or queue.at_work:
            while workers.free and (job := queue.next()):
                workers.start(job)
            for result in workers.results() if queue.at_work else ():
                if isinstance(result, Finished):
                    queue.done(result.model)
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
        sharing: int,
    ) -> None:
        self.left = list(models)
        self.at_work: dict[str, contextlib.ExitStack] = {}
        self._training: set[str] = set()  # the models whose training may not be over
        self._later: dict[str, Job] = {}  # the tests of models that train alone now
        self._tests: list[Job] = []  # that may begin
        self._folder, self._wanted, self._keep, self._leaders = folder, wanted, keep, leaders
        self._sharing = sharing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self.at_work.values():
            claim.close()

    def done(self, name: str) -> None:
        """A job of the model called `name` is done: the job of its test may begin, or the claim on it is given up."""
        self._training.discard(name)
        if name in self._later:
            self._tests.append(self._later.pop(name))
        else:
            self.at_work.pop(name).close()

    def next(self) -> Job | None:
        """The next job of a model that can be claimed or is trained; None if there is none. If other processes have
        claimed all that are left, and nothing is at work here, it waits until one can be claimed or none is left."""
        told = False
        while not (job := self._next()) and self.left and not self.at_work:
            if not told:
                log.info("Other processes are at work on what is left of %s: waiting for them", self._folder.path)
                told = True
            time.sleep(_PAUSE)
        return job

    def _next(self) -> Job | None:
        trainings_first = len(self.left) <= self._sharing
        job = self._claimed() if trainings_first or not self._tests else None
        return job or (self._tests.pop(0) if self._tests else None)

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
                self._training.add(name)
                job = Job(model, protocols, self._folder.checkpoints(name), self._trail(model))
                if self._sharing == 1 or not model.spec.settings.steps:
                    return job
                self._later[name] = job._replace(trail=None, trained=True)
                return job._replace(protocols=[])
            claim.close()
        return None

    def _is_ahead(self, name: str) -> bool:
        """Whether the model whose training this one shares is still to be trained."""
        leader = self._leaders.get(name)
        return leader in self._training or any(model.spec.name == leader for model in self.left)

    def _trail(self, model: Planned) -> Trail | None:
        name = model.spec.name
        leader = self._leaders.get(name, name)
        if leader == name and name not in self._leaders.values():
            return None
        key = training_key(model.cls, model.spec)
        return trail_of(self._folder.checkpoints(leader), leader, key, following=leader != name)
