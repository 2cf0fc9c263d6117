"""Writing files whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from episodes import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it to `path` when all went well."""
    unfinished = path.with_name(f".unfinished.{path.name}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whatever the locale; what UTF-8 cannot hold, as in names that are no text, is '?'."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system into an InputError about the output folder `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder {path} cannot be written ({error.strerror}): choose another one with --output"
        ) from error
