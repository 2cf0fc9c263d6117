"""How processes that another one has started end: with that process, and never by Ctrl-C alone."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C, from their first moment on: the process of the run ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """From now on this process ends at once when the process that started it has ended, however that one ends.

    For processes that write files whole or not at all.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
