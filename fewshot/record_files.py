"""The files of a run that hold records, read back; a file that differs from what the suite writes is refused."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot.files import check_regular, read_text
from fewshot.records import DATA, MODEL, ROW, RUN, array_of, kind_of

_ROUNDED = 1e-4  # percent: rows hold four decimals


class Damaged(ValueError):
    """A file differs from what the suite writes; the text names the file, the place in it and the fault."""


def read_rows(path: Path, columns: Sequence[str], later: dict[str, Any] | None = None) -> pd.DataFrame:
    """The tidy rows of a csv file, at least one: `columns`, each of its kind, in this order.

    later: columns that older files lack, and their values there. Raises Damaged if a cell is not of its column's kind,
    a row is cut off, two rows are of one model, data set and cell (records.ROW), or the rows are not of one data set
    and split. This holds for the rows of each kind of episodes, and of each data set in a file with the column
    `source`, which says what the models were trained on.
    """
    table = read_cells(path)
    missing = {name: value for name, value in (later or {}).items() if name not in table}
    if table.keys() | missing.keys() != set(columns):
        raise Damaged(f"{path.name} has other columns: {', '.join(table)}")
    rows = _of_kinds(path.name, table).assign(**missing)[list(columns)]
    if rows.empty:
        raise Damaged(f"{path.name} holds no rows")
    repeated = rows.duplicated([name for name in [*MODEL, *DATA, *ROW] if name in rows])
    if repeated.any():
        raise Damaged(f"line {2 + int(repeated.argmax())} of {path.name} is of the same model as one before")
    apart = [*(DATA if "source" in rows else []), *(["kind"] if "kind" in rows else [])]
    for part in [one for _, one in rows.groupby(apart, sort=False)] if apart else [rows]:
        for name in [name for name in RUN if name in part and part[name].nunique() > 1]:
            raise Damaged(f"the rows of {path.name} are not of one {name}: {', '.join(map(str, part[name].unique()))}")
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a csv file, each cell of its column's kind (records.kind_of); Damaged or OSError if it is no table of
    such columns."""
    return _of_kinds(path.name, read_cells(path))


def read_history(path: Path) -> pd.DataFrame:
    """The validations of one training, as training.csv holds them; Damaged or OSError if it holds none."""
    rows = read_table(path)
    if rows.empty or not {"step", "loss", "accuracy", "ci95", "seconds"} <= set(rows):
        raise Damaged(f"{path.name} holds no validations")
    return rows


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of episodes.npz or confusion.npz by name; Damaged if the file holds none."""
    check_regular(path)
    try:
        # NumPy leaves a file open that it opens itself and cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # bytes that are no archive of arrays can fail anywhere in zip, zlib and numpy
        raise Damaged(f"{path.name} cannot be read as arrays ({type(error).__name__})") from error


def unlike_episodes(
    rows: pd.DataFrame, accuracies: dict[str, np.ndarray], files: tuple[str, str] = ("results.csv", "episodes.npz")
) -> list[str]:
    """Why each of the `rows` is not the mean of its episodes, '' if it is; files: of the rows and of the accuracies."""
    return [_unlike(row, array_of(row, accuracies), *files) for _, row in rows.iterrows()]


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file of ours holds; Damaged if it holds none."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} holds no object")
    return found


def read_environment(path: Path) -> dict[str, Any]:
    """What a run depends on besides its configuration, as environment.json holds it; Damaged if the file is invalid."""
    found = read_object(path)
    data = found.get("data")
    if not (isinstance(data, dict) and all(isinstance(split, dict) for split in data.values())):
        raise Damaged(f"{path.name} does not say what data the run is on")
    return found


def _unlike(row: pd.Series, values: np.ndarray | None, table: str, archive: str) -> str:
    kind = f"{row['kind']} " if "kind" in row else ""
    cell = f"{row['learner']}, {kind}{row['way']}-way {row['shot']}-shot, seed {row['seed']}"
    if values is None:
        return f"{archive} lacks the episodes of {cell}"
    if values.shape != (row["episodes"],) or values.dtype.kind != "f":
        return f"{archive} holds {values.shape} of {values.dtype}, not {row['episodes']:,} accuracies, of {cell}"
    if not ((values >= 0) & (values <= 1)).all():  # false for nan, too
        return f"{archive} holds accuracies of {cell} that are not between 0 and 1"
    mean = 100 * float(values.mean())
    if abs(mean - row["accuracy"]) > _ROUNDED:
        return f"{table} says {row['accuracy']} % of {cell}, but the mean of its episodes is {mean:.4f} %"
    return ""


def read_cells(path: Path) -> dict[str, list[str]]:
    """The texts of a csv file by column; Damaged if the file is no table."""
    try:
        found = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise Damaged(f"{path.name} cannot be read as a table: {error}") from error
    if not found:
        raise Damaged(f"{path.name} is empty: its first line names the columns")
    head, *lines = found
    if len(set(head)) < len(head):
        raise Damaged(f"{path.name} names a column twice")
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise Damaged(f"line {number} of {path.name} has {len(line)} cells, and its head {len(head)}")
    return {name: [line[place] for line in lines] for place, name in enumerate(head)}


def _of_kinds(file: str, table: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame({name: _column(file, name, cells) for name, cells in table.items()})


def _column(file: str, name: str, cells: list[str]) -> pd.Series:
    """The values of one column of a file; Damaged for a cell that is not of its kind."""
    try:
        kind = kind_of(name)
    except KeyError:
        raise Damaged(f"{file} has a column that there is not: {name}") from None
    values = []
    for number, cell in enumerate(cells, 2):
        try:
            values.append(kind.read(cell))
        except (ValueError, KeyError):
            raise Damaged(f"line {number} of {file} has {name} = {cell[:80]!r}, which is not {kind.about}") from None
    return pd.Series(values, dtype=None if values and not isinstance(values[0], str) else object)
