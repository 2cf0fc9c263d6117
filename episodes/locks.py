"""Locks between processes: of a bank that is being built, of a run's folder, of a model that is being trained."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("episodes")


class Busy(Exception):
    """Another process or thread holds the lock."""


@contextlib.contextmanager
def locked(path: Path, work: str = "", wait: bool = True) -> Iterator[None]:
    """Only one process or thread at a time runs the body with the same `path`, a file that is created and stays.

    The system releases a lock when its process ends, so a killed process blocks nobody. work: what the other process
    does, which is logged if this one has to wait. Raises Busy at once if this one does not `wait`, and OSError if the
    file cannot be created or locked.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise Busy from None
        if work:
            log.info("Another process %s: waiting for it", work)
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, "its file system has no locks", str(path)) from error
    try:
        yield
    finally:
        lock.release()
