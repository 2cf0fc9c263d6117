"""Trials of a search on the machines of a Ray cluster (https://docs.ray.io), several tasks that each run one by one.

The machine that started the search has its folder. There, an actor keeps the study; the tasks ask it for trials, and
tell it what their trainings reached. Ray's object store brings the banks to each node once, so no disk is shared.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, Trial

from episodes import ImageBank, InputError
from fewshot.provenance import suite_code
from fewshot.scheduling.cluster import check_lost, check_version, resources, share_of_a_task, with_names
from fewshot.scheduling.messages import Failed, failure
from fewshot.scheduling.packing import Apart, pack_apart, unpack_apart
from fewshot.tuning.space import Ranges
from fewshot.tuning.study import Search, SearchFolder, read_search

_POLL = 1.0  # seconds between two looks at the tasks

log = logging.getLogger("fewshot")

# what a process of a search does: it gets the study, the banks, the learners and the device
Work = Callable[["RemoteStudy", Mapping[str, ImageBank], list[str], str], None]


class Claimed(NamedTuple):
    """A trial on its way to a task: its number in the study, its values, and its attributes."""

    number: int
    params: dict[str, Any]
    user_attrs: dict[str, Any]


class Desk:
    """The actor beside the folder: what SearchFolder does, for tasks that know the numbers of their trials."""

    def __init__(self, path: Path) -> None:
        self._folder = SearchFolder(path, read_search(path))
        self._trials: dict[tuple[str, int], Trial] = {}
        self._working: dict[str, contextlib.ExitStack] = {}

    def enter(self) -> str:
        """The name of a new task, which counts as alive until `leave`."""
        stack = contextlib.ExitStack()
        name = stack.enter_context(self._folder.working())
        self._working[name] = stack
        return name

    def leave(self, worker: str) -> None:
        """The task has ended: a trial that it did not finish is lost, and another task runs it again."""
        self._working.pop(worker).close()

    def claim(self, learner: str, worker: str, ranges: Ranges) -> Claimed | None:
        """The next trial, as SearchFolder.claim."""
        trial = self._folder.claim(learner, worker, ranges)
        if trial is None:
            return None
        self._trials[learner, trial.number] = trial
        return Claimed(trial.number, trial.params, trial.user_attrs)

    def report(self, learner: str, number: int, accuracy: float, quarter: int) -> bool:
        """Tell a validation accuracy of a trial; whether the trial should stop."""
        self._trials[learner, number].report(accuracy, quarter)
        return self._trials[learner, number].should_prune()

    def finished(self, learner: str) -> list[FrozenTrial]:
        return self._folder.finished(learner)

    def tell(self, learner: str, number: int, accuracy: float | None, about: dict[str, Any]) -> None:
        self._folder.tell(learner, self._trials.pop((learner, number)), accuracy, **about)


class RemoteTrial:
    """A trial of the desk: its values and attributes, and the part of Optuna's Trial that a training uses."""

    def __init__(self, ask: Callable[..., Any], learner: str, claimed: Claimed) -> None:
        self._ask, self._learner = ask, learner
        self.number, self.params, self.user_attrs = claimed
        self._stop = False

    def report(self, accuracy: float, quarter: int) -> None:
        self._stop = self._ask("report", self._learner, self.number, accuracy, quarter)

    def should_prune(self) -> bool:
        return self._stop


class RemoteStudy:
    """What a task uses in place of SearchFolder; ask(name, ...) calls the desk."""

    def __init__(self, ask: Callable[..., Any], worker: str, search: Search) -> None:
        self._ask, self._worker, self.search = ask, worker, search

    @contextlib.contextmanager
    def working(self) -> Iterator[str]:
        yield self._worker

    def claim(self, learner: str, worker: str, ranges: Ranges) -> RemoteTrial | None:
        claimed: Claimed | None = self._ask("claim", learner, worker, ranges)
        return None if claimed is None else RemoteTrial(self._ask, learner, claimed)

    def finished(self, learner: str) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self._ask("finished", learner)
        return found

    def tell(self, learner: str, trial: Any, accuracy: float | None, **about: Any) -> None:
        self._ask("tell", learner, trial.number, accuracy, about)


def on_cluster(
    ray: Any,
    folder: SearchFolder,
    banks: Mapping[str, ImageBank],
    learners: list[str],
    device: str,
    work: Work,
    watch: Callable[[], None],
) -> None:
    """Run `work` in a task for each core of the cluster, or for each GPU, until there are trials enough.

    ray: the module, connected to the cluster (see scheduling.cluster.connected). watch: called again and again
    meanwhile. InputError if no task can run, or if a task has lost too many nodes; and what a task raised
    """
    gpus, device = share_of_a_task(ray, device)
    count = int(resources(ray, "GPU" if gpus else "CPU"))
    if not count:
        raise InputError(
            "no node of the Ray cluster has a core for trials: start one with 'ray start', or leave out --ray"
        )
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(folder.path.resolve())
    data = ray.put(pack_apart(with_names(banks)))
    remote = ray.remote(_task).options(num_cpus=1, num_gpus=gpus, max_retries=0)
    tasks: dict[Any, tuple[str, int]] = {}  # the worker of each, and how many nodes it has lost

    def start(lost: int = 0) -> None:
        name = ray.get(desk.enter.remote())
        tasks[remote.remote(data, folder.search, learners, desk, name, device, work, suite_code())] = name, lost

    for _ in range(count):
        start()
    while tasks:
        ready, _ = ray.wait(list(tasks), timeout=_POLL)
        watch()
        for one in ready:
            name, lost = tasks.pop(one)
            ray.get(desk.leave.remote(name))
            try:
                failed: Failed | None = ray.get(one)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:
                check_lost(ray, "a task of the search", lost + 1, "search")
                log.warning("a node of the cluster was lost: its trial runs again on another one")
                start(lost + 1)
            else:
                if failed is not None:
                    raise failed.error()
    watch()


def _task(
    data: Apart, search: Search, learners: list[str], desk: Any, worker: str, device: str, work: Work, code: str
) -> Failed | None:
    """What each task does on its node; what went wrong, if anything did."""
    import ray

    def ask(name: str, *arguments: Any) -> Any:
        return ray.get(getattr(desk, name).remote(*arguments))

    try:
        check_version(code)
        work(RemoteStudy(ask, worker, search), unpack_apart(data), learners, device)
    except Exception as error:
        return failure(error)
    return None
