"""What a process that runs models tells the process of the run, besides the rows."""

import contextlib
import logging
import logging.handlers
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from episodes import InputError
from fewshot.learners.faults import fault_of

Send = Callable[[Any], None]


class Failed(NamedTuple):
    """A job ended with an error: `text` says so in one sentence, or is the traceback of a fault of the suite."""

    text: str
    fault: bool

    def error(self) -> Exception:
        """The exception that the process of the run raises for it."""
        return RuntimeError(f"in another process:\n{self.text}") if self.fault else InputError(self.text)


def failure(error: Exception) -> Failed:
    """An exception of a job, for the process of the run."""
    text = str(error) if isinstance(error, InputError) else fault_of(error)
    return Failed(text or traceback.format_exc(), fault=not text)


@contextlib.contextmanager
def log_to(send: Send, levels: Mapping[str, int]) -> Iterator[None]:
    """Inside, `send` gets the records of these logs from these levels on, with their texts made."""
    handler = _Sending(send)
    logs = [(logging.getLogger(name), level) for name, level in levels.items()]
    for one, level in logs:
        one.addHandler(handler)
        one.setLevel(level)
    try:
        yield
    finally:
        for one, _ in logs:
            one.removeHandler(handler)


class _Sending(logging.handlers.QueueHandler):
    def __init__(self, send: Send) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # there is no queue
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send(record)
