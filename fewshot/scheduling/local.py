"""Models side by side on one machine, each in a worker process."""

import contextlib
import dataclasses
import logging
import multiprocessing
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

from tqdm import tqdm

from episodes import InputError
from fewshot.devices import choose_device
from fewshot.model_runs import Conditions, Measured, Runner
from fewshot.scheduling.base import Finished, Job
from fewshot.scheduling.children import deaf_children, end_with_parent
from fewshot.scheduling.messages import Failed, Send, failure, log_to
from fewshot.scheduling.packing import pack, unpack
from fewshot.scheduling.share import Share, devices_of, threads_of

_PAUSE = 10.0  # seconds after which a worker that waits looks again for models that other processes have given up
_LOGS = ("fewshot", "episodes")


class _Line(NamedTuple):
    """What a progress bar shows now."""

    text: str


@dataclasses.dataclass
class _Worker:
    """A worker process, the connection to it, the line of its progress on the terminal, and the job that it runs."""

    process: BaseProcess
    connection: Connection
    line: tqdm | None
    job: Job | None = None


class LocalWorkers:
    """Worker processes that run models side by side.

    A worker ends with the process that started it, however that one ends. Whatever a worker logs, this process logs.
    """

    def __init__(self, conditions: Conditions, share: Share) -> None:
        self._conditions, self._share = conditions, share
        self._devices = devices_of(choose_device(conditions.device), share.workers)
        self._shown = conditions.progress and sys.stderr is not None and sys.stderr.isatty()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            with deaf_children():
                for number in range(len(self._devices)):
                    self._workers.append(self._started(number))
            for worker, device in zip(self._workers, self._devices):  # all have begun to load their libraries
                _send(worker.connection, pack(dataclasses.replace(self._conditions, device=device)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
            if worker.line is not None:
                worker.line.close()

    @property
    def sharing(self) -> int:
        return len(self._devices)

    @property
    def free(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def start(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        _send(worker.connection, job)

    def results(self) -> Iterator[Measured | Finished]:
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy), _PAUSE):
            assert isinstance(connection, Connection)
            yield from self._received(busy[connection])

    def _received(self, worker: _Worker) -> Iterator[Measured | Finished]:
        assert worker.job is not None
        label = worker.job.model.spec.label
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            raise _ended(worker.process, label) from None
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, _Line):
            if worker.line is not None:
                worker.line.set_description_str(f"{label}: {message.text}")
        elif isinstance(message, Failed):
            raise message.error()
        else:
            if isinstance(message, Finished):
                worker.job = None
                if worker.line is not None:
                    worker.line.set_description_str("")
            yield message

    def _started(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of threads, and no GPU survives it
        ours, theirs = context.Pipe()
        level = {name: logging.getLogger(name).getEffectiveLevel() for name in _LOGS}
        arguments = theirs, self._share, self._shown, level
        process = context.Process(target=_serve, args=arguments, daemon=True, name=f"fewshot worker {number}")
        process.start()
        theirs.close()  # so that the end of the worker ends the connection
        line = tqdm(position=number, bar_format="{desc}", leave=False) if self._shown else None
        return _Worker(process, ours, line)


def _send(connection: Connection, message: object) -> None:
    with contextlib.suppress(ConnectionError):  # `results` tells of a worker that has ended
        connection.send(message)


def _ended(process: BaseProcess, label: str) -> InputError:
    code = process.exitcode or 0
    how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return InputError(
        f"the worker process of {label} was {how}, as the system does if memory runs out: the same command with"
        " --resume continues the run, and fewer --workers take less memory"
    )


def _serve(connection: Connection, share: Share, shown: bool, levels: Mapping[str, int]) -> None:
    """What a worker process does: run the jobs that come, and send what they give, until the connection ends.

    The first message is the conditions of all jobs, packed.
    """
    end_with_parent()
    tqdm.set_lock(threading.RLock())  # its lock for several processes would be left behind by one that is ended
    send = _locked(connection.send)
    if shown:
        sys.stderr = _ProgressLine(send)
    with threads_of(share), log_to(send, levels), contextlib.suppress(EOFError, ConnectionError):
        packed, runner = connection.recv(), None
        for job in iter(connection.recv, None):
            try:
                runner = runner or Runner(unpack(packed))
                for found in runner.run(*job):
                    send(found)
                send(Finished(job.model.spec.name))
            except Exception as error:
                send(failure(error))


def _locked(send: Send) -> Send:
    """`send` for several threads: tqdm has one of its own."""
    lock = threading.Lock()

    def safely(message: object) -> None:
        with lock:
            send(message)

    return safely


def _without_bar(text: str) -> str:
    """What a progress bar says, without its name and its bar: '20% 1/5 [00:10<00:40, loss=1]'."""
    said = text.partition(": ")[2].split("|")
    return " ".join(dict.fromkeys(part.strip() for part in (said[0], said[-1])))


class _ProgressLine:
    """A stream in the place of stderr: what a progress bar writes is sent, and everything else is written."""

    def __init__(self, send: Send) -> None:
        self._send, self._stream = send, sys.__stderr__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text.startswith("\r"):
            if text.strip():
                self._send(_Line(_without_bar(text.strip())))
        elif text != "\n" and self._stream is not None:
            self._stream.write(text)
        return len(text)
