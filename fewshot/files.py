"""Writing files whole or not at all."""

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from episodes import InputError

_STALE = 86_400  # seconds after which an unfinished file is nobody's


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it to `path` when all went well.

    No two processes are given the same name; what a killed one has left is removed a day later.
    """
    for stale in path.parent.glob(f".unfinished.*.{glob.escape(path.name)}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _STALE:
                stale.unlink()
    unfinished = path.with_name(f".unfinished.{uuid.uuid4().hex}.{path.name}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system into an InputError about the output folder `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder {path} cannot be written ({error.strerror}): choose another one with --output"
        ) from error
