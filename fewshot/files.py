"""Reading regular files alone, and writing files whole or not at all."""

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from episodes import InputError

_MOST = 1 << 28  # bytes of a file of text: those of a run have a few thousand
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STALE = 86_400  # seconds after which an unfinished file counts as abandoned


def check_regular(path: Path) -> None:
    """OSError if `path` exists and is no regular file: reading a pipe or a device might never end."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no regular file")


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the mark that some programs begin it with; OSError if it is no regular file or is
    far too large, ValueError if it is not UTF-8."""
    check_regular(path)
    if path.stat().st_size > _MOST:
        raise OSError(f"{path.name} is larger than {_MOST >> 20} MiB")
    return path.read_bytes().decode("utf-8-sig")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it to `path` when all went well.

    No two processes are given the same name; the unfinished file of a killed process is removed a day later.
    """
    for stale in path.parent.glob(f".unfinished.*.{glob.escape(path.name)}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _STALE:
                stale.unlink()
    unfinished = path.with_name(f".unfinished.{uuid.uuid4().hex}.{path.name}")
    try:
        yield unfinished
        with unfinished.open("rb+") as file:  # Windows writes out only files open for writing
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whatever the locale; what UTF-8 cannot hold, as in names that are no text, is '?'."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")


def in_utf8(name: str) -> str:
    """The name, with '?' for what UTF-8 cannot hold: names of files may be in another encoding."""
    return name.encode(errors="replace").decode()


def no_formula(text: str) -> str:
    """A text for a cell of a table that people open: with a leading ' if a spreadsheet would take it for a formula.

    That is a text which begins with = + - @, a tab or a carriage return. Files that the suite reads back, such as
    results.csv, the csv files of test protocols and the lists of episodes, must hold names exactly: they do not use it.

    >>> no_formula("=cat"), no_formula("cat"), no_formula("'=cat")
    ("'=cat", 'cat', "'=cat")
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz archive."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system into an InputError about the output folder `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder {path} cannot be written ({error.strerror}): choose another one with --output"
        ) from error
