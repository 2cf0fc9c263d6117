"""Published numbers of a user's own, read from a csv file of the schema of baselines/published.csv."""

from pathlib import Path

import numpy as np
import pandas as pd

from baselines.published import FAMILIES, LEAGUES, NUMBERS, published, read_table
from episodes import InputError
from episodes.errors import unknown_name
from fewshot.record_files import Damaged, read_cells
from fewshot.records import CELL, UNIFORM, kind_of

_REQUIRED = ("dataset", "protocol", "method", "way", "shot", "accuracy", "league", "paper")
_DEFAULTS = {"kind": UNIFORM, "family": "other"}
_OWN_SHAPE = "any"  # the kind of episodes that have ways and shots of their own
_CLOSED = {"league": LEAGUES, "family": FAMILIES}
# what tells published numbers apart; the columns left out describe the source
IDENTITY = [
    *("dataset", "protocol", "kind", "method", "variant", "backbone", "image_size", "way", "shot", "episodes"),
    *("accuracy", "ci95", "league", "paper", "note"),
]


def with_own(path: Path) -> pd.DataFrame:
    """The rows of baselines.published() and those of the csv file `path`, which has the same columns.

    A column may be missing, except _REQUIRED; `kind` is then uniform, `family` other, and other columns are empty. A
    row that the suite has too stays once. Raises InputError if the file cannot be read, lacks a column, has one that
    there is not, or has a cell that its column does not allow.
    """
    known = published()
    try:
        cells = read_cells(path)
        _check(path.name, cells, known.columns)
    except (OSError, Damaged) as error:
        raise InputError(f"the published numbers cannot be read: {_told(path, error)}") from error
    own = read_table(path)
    for column in known.columns.difference(own.columns):
        own[column] = np.nan if column in NUMBERS else _DEFAULTS.get(column, "")
    own = own[known.columns].astype(known.dtypes.to_dict())
    if (repeated := own.duplicated(IDENTITY)).any():
        raise InputError(f"line {2 + int(repeated.argmax())} of {path.name} repeats a line before: leave one out")
    return pd.concat([known, own], ignore_index=True).drop_duplicates(IDENTITY, ignore_index=True)


def _told(path: Path, error: Exception) -> str:
    return f"{path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


def _check(name: str, cells: dict[str, list[str]], columns: pd.Index) -> None:
    """InputError or Damaged if the cells of the file `name` are no published numbers."""
    for column in cells:
        if column not in columns:
            raise unknown_name(f"column of {name}", column, columns)
    for column in _REQUIRED:
        if column not in cells:
            raise InputError(f"{name} lacks the column {column}: published numbers need {', '.join(_REQUIRED)}")
    if not cells["dataset"]:
        raise InputError(f"{name} holds no rows: write a line for each published number")
    kinds = cells.get("kind", [UNIFORM] * len(cells["dataset"]))
    for column, values in cells.items():
        for line, (value, kind) in enumerate(zip(values, kinds), 2):
            needed = column in _REQUIRED and not (column in CELL and kind == _OWN_SHAPE)
            if needed and not value:
                raise Damaged(f"line {line} of {name} has no {column}, which every published number needs")
            if value and (why := _fault(column, value)):
                raise Damaged(f"line {line} of {name} has {column} = {value[:80]!r}, which is not {why}")


def _fault(column: str, value: str) -> str:
    """What a cell of this column must be, if `value` is not that; else ''."""
    if column in _CLOSED:
        return "" if value in _CLOSED[column] else f"one of {', '.join(_CLOSED[column])}"
    if column not in NUMBERS:
        return ""
    kind = kind_of(column)
    try:
        kind.read(value)
    except ValueError:
        return kind.about
    return ""
