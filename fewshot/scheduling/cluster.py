"""Models on the machines of a Ray cluster (https://docs.ray.io), a task for each.

The process of the run keeps the only folder of the run. Ray's object store brings the banks to each node once, and
checkpoints and rows back, so that no disk is shared.
"""

import contextlib
import dataclasses
import logging
import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from episodes import ImageBank, InputError
from fewshot import provenance
from fewshot.devices import choose_device
from fewshot.files import replacing, writing
from fewshot.model_runs import Conditions, Measured, Runner
from fewshot.run_folder import describe_environment
from fewshot.scheduling.base import Finished, Job
from fewshot.scheduling.messages import Failed, failure, log_to
from fewshot.scheduling.packing import Apart, pack_apart, unpack_apart
from fewshot.scheduling.share import Share, threads_of

_PAUSE = 10.0  # seconds after which `results` comes back without a message
_LOOK = 1.0  # seconds between two looks of a task at its checkpoints
_TRIES = 3  # nodes that a task may lose
_TRAIL = "trail"  # the folder of a trail, in the folder of a task

log = logging.getLogger("fewshot")


class Files(NamedTuple):
    """Files that have changed in the folder of a model's checkpoints, by name."""

    contents: dict[str, bytes]


@dataclasses.dataclass
class _Task:
    """A model on the cluster; lost: how many nodes it has lost."""

    job: Job
    lost: int = 0


class RayWorkers:
    """Runs models as tasks of a Ray cluster, each with one core, and with one GPU if the cluster has GPUs.

    A model whose node is lost runs again on another node, from the last checkpoint that came back.
    """

    sharing = 1  # nodes share no folder

    def __init__(self, conditions: Conditions, ray: Any) -> None:
        """ray: the module of Ray, connected to the cluster."""
        banks = with_names(conditions.banks)
        self._conditions, self._ray = dataclasses.replace(conditions, banks=banks, progress=False), ray
        self._tasks: dict[Any, _Task] = {}

    def __enter__(self) -> Self:
        gpus, device = share_of_a_task(self._ray, self._conditions.device)
        self._data = self._ray.put(pack_apart(dataclasses.replace(self._conditions, device=device)))
        remote = self._ray.remote(_run)
        self._remote = remote.options(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")
        return self

    def __exit__(self, *_: object) -> None:
        pass  # the end of the connection ends the tasks

    @property
    def free(self) -> bool:
        # one task more than there are cores tells a cluster that can grow to do so
        return len(self._tasks) <= resources(self._ray, "CPU")

    def start(self, job: Job) -> None:
        self._submit(_Task(job))

    def results(self) -> Iterator[Measured | Finished]:
        ready, _ = self._ray.wait(list(self._tasks), timeout=_PAUSE, fetch_local=False)
        for messages in ready:
            yield from self._received(messages)

    def _submit(self, task: _Task) -> None:
        home, resume = task.job.home, self._conditions.resume or task.lost > 0
        files = _contents(home) if resume else {}
        if task.job.trail is not None and task.job.trail.following:
            files |= {f"{_TRAIL}/{name}": content for name, content in _contents(task.job.trail.path).items()}
        self._tasks[self._remote.remote(self._data, task.job, files, resume, log.getEffectiveLevel())] = task

    def _received(self, messages: Any) -> Iterator[Measured | Finished]:
        task = self._tasks[messages]
        try:
            message = self._ray.get(next(messages))
        except self._ray.exceptions.RayTaskError:
            raise
        except (self._ray.exceptions.RayError, StopIteration):
            del self._tasks[messages]
            self._run_again(task)
            return
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, Files):
            _write(task.job.home, message)
        elif isinstance(message, Failed):
            raise message.error()
        else:
            if isinstance(message, Finished):
                del self._tasks[messages]
            yield message

    def _run_again(self, task: _Task) -> None:
        """Run the model of a lost node on another one; InputError if there is none, or if too many were lost."""
        label, task.lost = task.job.model.spec.label, task.lost + 1
        check_lost(self._ray, label, task.lost, "run")
        log.warning("%s: its node was lost, it goes on from its last checkpoint on another one", label)
        self._submit(task)


def connect(address: str) -> Any:
    """The module of Ray, connected to the cluster at HOST:PORT or, for 'auto', to that of this machine.

    InputError if Ray is not installed, or if nothing answers.
    """
    ray = _ray()
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"no Ray cluster was found at {address} ({said:.200}): start one with 'ray start --head', or leave out"
            " --ray"
        ) from error
    return ray


@contextlib.contextmanager
def connected(address: str, device: str) -> Iterator[Any]:
    """The module of Ray, connected inside as by `connect`; the end of the connection ends its tasks and actors.

    None for the address '', which stands for no cluster. InputError if the cluster lacks what `device` asks for.
    """
    if not address:
        yield None
        return
    ray = connect(address)
    try:
        share_of_a_task(ray, device)
        yield ray
    finally:
        ray.shutdown()


def share_of_a_task(ray: Any, device: str) -> tuple[int, str]:
    """How many GPUs a task gets, one if the cluster has any and `device` allows it, and the device that computes.

    InputError if `device` is a GPU and the cluster has none.
    """
    kind, has_gpus = device.partition(":")[0], resources(ray, "GPU") > 0
    if kind == "cuda" and not has_gpus:
        raise InputError(f"{device} was asked for, but the cluster has no GPU: take --device cpu or auto")
    gpus = int(has_gpus and kind in ("auto", "cuda"))
    return gpus, "cuda" if gpus else "cpu"


def resources(ray: Any, kind: str) -> float:
    """How many of 'CPU' or 'GPU' the cluster has now."""
    return float(ray.cluster_resources().get(kind, 0))


def check_lost(ray: Any, task: str, lost: int, work: str) -> None:
    """InputError if a task that has lost `lost` nodes cannot run again; work: what --resume continues."""
    again = f"the same command with --resume continues the {work}"
    if lost == _TRIES:
        raise InputError(f"{task} has lost its node {_TRIES} times, as happens if memory runs out: {again}")
    if not resources(ray, "CPU"):
        raise InputError(f"{task} has lost its node, and no node of the cluster is left: {again}")


def with_names(banks: Mapping[str, ImageBank]) -> dict[str, ImageBank]:
    """The banks with the names of their files in memory, for machines that lack the files of the names."""
    return {split: dataclasses.replace(bank, files=tuple(bank.files)) for split, bank in banks.items()}


def check_version(code: str) -> None:
    """InputError on a node whose suite is not that of the machine that started the work, whose digest is `code`."""
    if provenance.suite_code() != code:
        raise InputError("a node of the cluster has another version of the suite than this machine: update it")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs the package ray: pip install 'fewshot[ray]'") from error
    return ray


def _reach(address: str) -> None:
    """OSError if nothing answers at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _write(home: Path, files: Files) -> None:
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        for name, content in files.contents.items():
            path = home / name
            if not path.resolve().is_relative_to(home.resolve()):
                raise InputError(f"a node of the cluster sent a file out of its folder: {name}")
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as unfinished:
                unfinished.write_bytes(content)


def _run(data: Apart, job: Job, files: dict[str, bytes], resume: bool, level: int) -> Iterator[Any]:
    """A task on a node: what the job gives, in the order in which it comes, each after the files it is about."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="fewshot-") as folder:
        home = Path(folder)
        _write(home, Files(files))
        sent = _stamps(home)
        trail = job.trail and dataclasses.replace(job.trail, path=home / _TRAIL)
        work = threading.Thread(
            target=_work, args=(data, job._replace(home=home, trail=trail), resume, level, messages.put)
        )
        work.start()
        message: Any = None
        while not isinstance(message, Finished | Failed):
            message = None
            with contextlib.suppress(queue.Empty):
                message = messages.get(timeout=_LOOK)
            stamps = _stamps(home)
            if changed := [name for name, stamp in stamps.items() if sent.get(name) != stamp]:
                yield Files({name: (home / name).read_bytes() for name in changed})
                sent = stamps
            if message is not None:
                yield message
        work.join()


def _work(data: Apart, job: Job, resume: bool, level: int, send: Callable[[Any], None]) -> None:
    """Run a job in this thread."""
    with log_to(send, {"fewshot": level, "episodes": level}):
        try:
            check_version(job.model.spec.code)
            conditions: Conditions = dataclasses.replace(unpack_apart(data), resume=resume)
            with threads_of(Share(1, conditions.device == "cpu")):
                device: torch.device = choose_device(conditions.device)
                environment = describe_environment(conditions.banks, device)
                for found in Runner(conditions).run(*job):
                    send(found._replace(environment=environment))
            send(Finished(job.model.spec.name))
        except Exception as error:
            send(failure(error))


def _contents(home: Path) -> dict[str, bytes]:
    return {name: (home / name).read_bytes() for name in _stamps(home)}


def _stamps(home: Path) -> dict[str, tuple[int, int]]:
    """The time of change and the size of each file of a training, by name; unfinished ones and locks do not count."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(home).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}
