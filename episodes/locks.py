"""Locks between processes: of a bank that is being built, of a run's folder, of a model that is being trained."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("episodes")


@contextlib.contextmanager
def locked(path: Path, work: str = "") -> Iterator[None]:
    """Inside, no other process or thread is inside with the same `path`, a file that is made and stays there.

    The system gives up a lock with its process, so that a killed one holds nobody up. work: what the other one does,
    said where this one has to wait. OSError where the file cannot be made or locked.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if work:
            log.info("Another process %s: waiting for it", work)
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, "its file system has no locks", str(path)) from error
    try:
        yield
    finally:
        lock.release()
