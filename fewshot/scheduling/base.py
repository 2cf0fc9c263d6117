"""run_models: gives the models of a run to workers, and their rows to the run's folder.

`Workers` is the interface of whatever runs models; InThisProcess is its simplest form.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from episodes.locks import Busy
from fewshot.freshness import waiting
from fewshot.model_runs import Conditions, Measured, Runner
from fewshot.plan import Planned
from fewshot.run_folder import RunFolder


class Job(NamedTuple):
    """A model, the test protocols that must measure it, and the folder of its checkpoints."""

    model: Planned
    protocols: list[str]
    home: Path


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
    models: Sequence[Planned], folder: RunFolder, wanted: Sequence[str], keep: bool, workers: Workers
) -> None:
    """Have `workers` run the models until each has all its rows in `folder`.

    wanted, keep: see freshness.waiting. A model that another process has claimed is left to that process, and waited
    for when nothing else is left to do.
    """
    with _Queue(models, folder, wanted, keep) as queue:
        while queue.left or queue.at_work:
            while workers.free and (job := queue.next()):
                workers.start(job)
            for result in workers.results() if queue.at_work else ():
                if isinstance(result, Finished):
                    queue.release(result.model)
                else:
                    folder.add(**result._asdict())


class _Queue:
    """The models that are left to run, and the claims on those at work."""

    def __init__(self, models: Sequence[Planned], folder: RunFolder, wanted: Sequence[str], keep: bool) -> None:
        self.left = list(models)
        self.at_work: dict[str, contextlib.ExitStack] = {}
        self._folder, self._wanted, self._keep = folder, wanted, keep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.at_work):
            self.release(name)

    def release(self, name: str) -> None:
        """Give up the claim on the model called `name`."""
        self.at_work.pop(name).close()

    def next(self) -> Job | None:
        """The job of the first model that can be claimed; None if there is none."""
        return self._claimed(wait=False) or (None if self.at_work else self._claimed(wait=True))

    def _claimed(self, wait: bool) -> Job | None:
        for model in list(self.left):
            name, claim = model.spec.name, contextlib.ExitStack()
            try:
                claim.enter_context(self._folder.claimed(name, wait))
            except Busy:
                continue
            self.left.remove(model)
            # another process may have finished the model
            if protocols := waiting(model, self._folder, self._wanted, self._keep):
                self.at_work[name] = claim
                return Job(model, protocols, self._folder.checkpoints(name))
            claim.close()
        return None
