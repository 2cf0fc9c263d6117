"""Files that a command writes to a place of the user's choice: nothing that is there is replaced unless asked for."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from episodes import InputError


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that writes single files."""
    parser.add_argument("--overwrite", action="store_true", help="replace the files that are there")


def check_new(path: Path, overwrite: bool) -> None:
    """InputError, before any work, if the file `path` cannot be written, or is there and may not be replaced."""
    _check_replaceable(path, overwrite)
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written, since there is no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written, since you may not write to {path.parent}: choose another folder")


def check_new_in(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """InputError if one of the files `names` is in `folder` already and may not be replaced; the folder may be new."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is there already and is no folder: choose another one with --output")
    for name in names:
        _check_replaceable(folder / name, overwrite)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is there already and is no regular file: choose another name with --output")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace the file with --overwrite")
