"""Random damage from a seed, to the files of a run, to checkpoints and to presets; and random arguments."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from fewshot import checkpoints

NUMBERS = [-1, 0, 1, 2, 7, 10**5, 10**12, 10**23, 2**63, 0.5, -0.5, 1e-300, 1e38, 1e308, float("inf"), float("nan")]
TEXTS = ["", "x", "007", "1e5", "../..", "conv5", "npair:none", "é", "a\nb", "🦜" * 300, "nan", "{", "%s", "[1]"]
VALUES = [*NUMBERS, *TEXTS, True, False, [], {}, [1], [1, 1], ["x"], {"x": 1}, [[]], {"1": {"steps": 2}}]
CELLS = ["", "x", "nan", "inf", "-1", "1e400", "1_0", "007", "9" * 30, '"', "a,b", "True", "\u202e", "0x1"]


def drawn(kind: str, number: int) -> random.Random:
    """The random numbers of case `number`, always the same."""
    return random.Random(f"{kind} {number}")


def spoil_bytes(path: Path, chance: random.Random) -> None:
    """Cut a file off, empty it, change bytes, add some, or put a folder in its place."""
    data = bytearray(path.read_bytes() or b"x")
    how = chance.randrange(6)
    if how == 0:
        data = data[: chance.randrange(len(data))]
    elif how == 1:
        data = bytearray()
    elif how == 2:
        for _ in range(chance.choice([1, 3, 50])):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif how == 3:
        data += bytes(chance.randrange(256) for _ in range(chance.choice([1, 100])))
    elif how == 4:
        place = chance.randrange(len(data))
        data[place:place] = data[place // 2 : place]
    path.unlink()
    if how == 5:
        path.mkdir()
    else:
        path.write_bytes(data)


def spoil_table(path: Path, chance: random.Random) -> None:
    """Edit a csv file as a person or a spreadsheet would: a cell, a line, a column."""
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    line, column = chance.randrange(len(lines)), chance.randrange(len(lines[0]))
    how = chance.randrange(7)
    if how < 3:
        lines[line][column] = chance.choice(CELLS)
    elif how == 3:
        lines.insert(line, lines[line])
    elif how == 4:
        del lines[line]
    elif how == 5:
        for one in lines:
            del one[column]
    else:
        del lines[line][column]
    path.write_text("\n".join(",".join(one) for one in lines) + "\n", encoding="utf-8")


def spoil_arrays(path: Path, chance: random.Random) -> None:
    """Change one array of an archive: its length, shape, type, values or name."""
    with np.load(path) as archive:
        arrays = dict(archive)
    name = chance.choice(sorted(arrays))
    values = arrays.pop(name)
    changes: list[Callable[[], np.ndarray]] = [
        lambda: values[:-1],
        lambda: values[:0],
        lambda: values[None],
        lambda: values.astype(str),
        lambda: values.astype(complex),
        lambda: np.array(0.5),
    ]
    if values.dtype.kind == "U":
        changes[-2] = lambda: values.astype(bytes)
    else:
        changes += [lambda: values * np.nan, lambda: values + 1, lambda: 1 - values]
    if chance.random() < 0.9:
        arrays[name] = chance.choice(changes)()
    np.savez(path, **arrays)


def spoil_values(value: Any, chance: random.Random, values: list[Any]) -> Any:
    """A copy of nested dictionaries and lists with one value at any depth changed, taken out or added."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value, key=str))
        changed = dict(value)
        if chance.random() < 0.12:
            del changed[key]
        elif chance.random() < 0.1:
            changed[chance.choice(["x", "", "1", "0" * 5000, "step"])] = chance.choice(values)
        else:
            changed[key] = spoil_values(value[key], chance, values)
        return changed
    return chance.choice(values)


def spoil_checkpoint(path: Path, chance: random.Random) -> None:
    """Change what a checkpoint says of its model, its weights, or what its training needs to go on."""
    content = {name: value for name, value in checkpoints.load(path).items() if name != "format"}
    values = [*VALUES, None, torch.zeros(2), b"x", (1, 2), {1: 2}]
    part = chance.choice(["about"] * 6 + ["learner", "learner", *sorted(content)])
    content[part] = spoil_values(content[part], chance, values)
    if chance.random() < 0.1:
        del content[part]
    checkpoints.save(path, content)


def spoil_preset(path: Path, table: dict[str, Any], chance: random.Random) -> None:
    """Write a preset with one value changed, or with bytes that are no TOML or no UTF-8."""
    changed = spoil_values(table, chance, VALUES)
    path.write_text(tomli_w.dumps(changed if isinstance(changed, dict) else {"x": changed}), encoding="utf-8")
    how = chance.randrange(12)
    if how < 3:
        spoil_bytes(path, chance)
    elif how == 3:
        path.write_text("x = " + "[" * 10**5, encoding="utf-8")
    elif how == 4:
        path.write_text(f"seeds = [{'9' * 5000}]\n", encoding="utf-8")
