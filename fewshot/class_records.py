"""What a model answers to each class and image, as confusion.npz holds it, and the table of it, classes.csv."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodes import ImageBank
from fewshot.confusion import Counts
from fewshot.files import in_utf8, no_formula
from fewshot.record_files import Damaged, read_cells
from fewshot.records import CELL, MODEL, array_name, model_names
from fewshot.statistics import proportions

FILE = "confusion.npz"
_SHARED = ("class_names", "class_sizes", "turns")  # arrays of the test images, which all models share
_OWN = ("asked", "wrong", "pairs", "hardest")  # arrays of one model, way and shot: NAME/5way1shot/asked
_NUMBERS = ("number", "queries", "accuracy", "low", "high", "times")  # columns of class_table
_NAMES = ("class", "taken_for", "hardest")


@dataclasses.dataclass(frozen=True, eq=False)
class ClassAnswers:
    """The answers of one model with one way and shot, and their classes.

    names    (C,) of the classes
    sizes    (C,) images in each class; images are numbered class by class
    turns    how many classes in a row show the same images, each turned
    hardest  (C,) the hardest image of each class: its file, or which image of its class it is
    counts   the answers, counted by image and by pair of classes
    """

    names: np.ndarray
    sizes: np.ndarray
    turns: int
    hardest: np.ndarray
    counts: Counts

    @property
    def asked(self) -> np.ndarray:
        """Queries of each class, (C,)."""
        return np.add.reduceat(self.counts.asked, self._starts)

    @property
    def wrong(self) -> np.ndarray:
        """Queries of each class that were answered with another class, (C,)."""
        return np.add.reduceat(self.counts.wrong, self._starts)

    def name(self, number: int) -> str:
        """The class of that number; of a turned copy, which copy it is."""
        turn = f" (turned copy {number % self.turns + 1} of {self.turns})" if self.turns > 1 else ""
        return f"{self.names[number]}{turn}"

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]])


def hardness(counts: Counts) -> np.ndarray:
    """How hard each image is, (N,), in [0, 1]: 1 - the upper end of the exact 95 % interval of its right answers.

    So an image that was asked once and answered wrongly is not harder than one that was wrong 20 times of 21. An image
    that was never asked has 0.
    """
    return 1 - proportions(counts.asked - counts.wrong, counts.asked)[1]


def image_name(bank: ImageBank, image: int) -> str:
    """The file of an image of the bank if the bank knows it, else 'image N of class C', counted from 1."""
    if bank.files:
        return bank.files[image]
    label = int(np.searchsorted(bank.offsets.numpy(), image, side="right")) - 1
    return f"image {image - int(bank.offsets[label]) + 1} of {bank.class_names[label]}"


def to_arrays(model: str, way: int, shot: int, counts: Counts, bank: ImageBank) -> dict[str, np.ndarray]:
    """The arrays of a model, way and shot, and those of the test images, by their names in confusion.npz."""
    bank = dataclasses.replace(bank, offsets=bank.offsets.cpu())
    hard = hardness(counts)
    ends = bank.offsets.tolist()
    hardest = [low + int(hard[low:high].argmax()) for low, high in itertools.pairwise(ends)]
    own = {
        "asked": _narrow(counts.asked),
        "wrong": _narrow(counts.wrong),
        "pairs": _narrow(counts.pairs.T),  # numbers of one kind side by side take less room
        "hardest": np.array([in_utf8(image_name(bank, image)) for image in hardest]),
    }
    shared = {
        "class_names": np.array([in_utf8(name) for name in bank.class_names]),
        "class_sizes": _narrow(bank.sizes.numpy()),
        "turns": np.array([bank.turns], dtype=np.uint8),
    }
    return shared | {f"{array_name(model, way, shot)}/{name}": array for name, array in own.items()}


def is_count(name: str) -> bool:
    """Whether confusion.npz has an array of that name."""
    return name in _SHARED or name.rpartition("/")[2] in _OWN


def answers_of(row: pd.Series, arrays: Mapping[str, np.ndarray]) -> ClassAnswers | None:
    """The answers behind a row of the results; None if they were not kept. Damaged if they contradict the row."""
    cells = [array_name(model, row["way"], row["shot"]) for model in model_names(row)]
    cell = next((one for one in cells if any(f"{one}/{name}" in arrays for name in _OWN)), None)
    if cell is None:
        return None
    told = f"{FILE} holds counts of {row['learner']}, {row['way']}-way {row['shot']}-shot, seed {row['seed']}, that"
    try:
        names, sizes, turns = (arrays[name] for name in _SHARED)
        asked, wrong, pairs, hardest = (arrays[f"{cell}/{name}"] for name in _OWN)
    except KeyError as error:
        raise Damaged(f"{told} lack {error}") from error
    if not (names.dtype.kind == hardest.dtype.kind == "U" and names.ndim == 1 and names.shape == hardest.shape):
        raise Damaged(f"{told} lack names")
    if any(one.dtype.kind != "u" for one in (sizes, turns, asked, wrong, pairs)):
        raise Damaged(f"{told} are no counts")
    sizes, asked, wrong, pairs = (one.astype(np.int64) for one in (sizes, asked, wrong, pairs))
    if not (
        sizes.shape == names.shape
        and sizes.min(initial=1) > 0
        and asked.shape == wrong.shape == (sizes.sum(),)
        and turns.shape == (1,)
        and turns[0] > 0
        and pairs.ndim == 2
        and len(pairs) == 3
        and ((pairs >= 0).all() and (pairs[:2] < len(names)).all())
    ):
        raise Damaged(f"{told} do not fit the classes")
    found = ClassAnswers(names, sizes, int(turns[0]), hardest, Counts(asked, wrong, pairs.T))
    said = np.bincount(pairs[0], weights=pairs[2], minlength=len(names))
    right = row["accuracy"] / 100 * asked.sum()
    if (
        (wrong > asked).any()
        or asked.sum() != row["episodes"] * row["way"] * row["query"]
        or (said != found.wrong).any()
        or abs(asked.sum() - wrong.sum() - right) > 1e-6 * asked.sum()  # rows hold four decimals of a percentage
    ):
        raise Damaged(f"{told} contradict its accuracy")
    return found


def class_table(found: ClassAnswers) -> pd.DataFrame:
    """A row for each class that was asked, the worst first.

    number       of the class in the data set
    class        its name; of a turned copy, which copy it is
    queries      how many were asked
    accuracy     percent, and low and high: its exact 95 % interval, as if all queries were independent
    taken_for    the class that was answered most often instead, '' if none was, and how often (times)
    hardest      the hardest image of the class, '' if all its answers were right
    """
    asked, wrong = found.asked, found.wrong
    low, high = proportions(asked - wrong, asked)
    answered, times = np.zeros((2, len(asked)), dtype=np.int64)
    pairs = found.counts.pairs[np.argsort(found.counts.pairs[:, 2], kind="stable")]
    answered[pairs[:, 0]], times[pairs[:, 0]] = pairs[:, 1], pairs[:, 2]  # of several pairs of a class, the last stays
    names = np.array([found.name(number) for number in range(len(asked))], dtype=object)
    there = np.flatnonzero(asked)
    table = pd.DataFrame(
        {
            "number": there,
            "class": names[there],
            "queries": asked[there],
            "accuracy": (100 * (1 - wrong[there] / asked[there])).round(4),
            "low": (100 * low[there]).round(4),
            "high": (100 * high[there]).round(4),
            "taken_for": np.where(times[there] > 0, names[answered[there]], ""),
            "times": times[there],
            "hardest": np.where(wrong[there] > 0, found.hardest[there], ""),
        }
    )
    return table.sort_values("accuracy", kind="stable").reset_index(drop=True)


def read_class_tables(path: Path) -> pd.DataFrame:
    """The rows of classes.csv, as class_tables wrote them; Damaged or OSError if the file holds others."""
    table = pd.DataFrame(read_cells(path))
    if set(table) != {*MODEL, *CELL, *_NUMBERS, *_NAMES}:
        raise Damaged(f"{path.name} has other columns: {', '.join(map(str, table))}")
    numbers = table[["seed", *CELL, *_NUMBERS]].apply(pd.to_numeric, errors="coerce")
    if table.empty or not np.isfinite(numbers).all(axis=None):
        raise Damaged(f"{path.name} holds no numbers where they belong")
    return table.assign(**numbers)


def class_tables(
    rows: pd.DataFrame, arrays: Mapping[str, np.ndarray], made: dict[tuple[Any, ...], str] | None = None
) -> str:
    """The text of classes.csv: class_table of each row of the results whose answers were kept; '' if none were.

    made: the texts of earlier calls by the key and the cell of their row; they are used again, and new ones are added.
    Names that a spreadsheet would take for formulas begin with ': see files.no_formula.
    """
    made = {} if made is None else made
    texts = []
    for _, row in rows.iterrows():
        own = row.get("key", ""), *row[[*MODEL, *CELL]]
        if own not in made and (found := answers_of(row, arrays)) is not None:
            table = class_table(found)
            for place, name in enumerate([*MODEL, *CELL]):
                table.insert(place, name, row[name])
            names = table.select_dtypes(exclude="number").map(no_formula)
            made[own] = table.assign(**names).to_csv(index=False)
        texts += [made[own]] if own in made else []
    return "".join([*texts[:1], *(text.partition("\n")[2] for text in texts[1:])])  # one head for all


def confused(found: ClassAnswers, most: int) -> list[tuple[int, int, int, int]]:
    """The `most` pairs of classes that were confused most often, in both directions together.

    Each as (one, other, times that one was taken for other, times that other was taken for one), the first number
    of times being the larger.
    """
    times = {(true, answered): count for true, answered, count in found.counts.pairs.tolist()}
    both = {tuple(sorted(pair)): times[pair] + times.get(pair[::-1], 0) for pair in times}
    worst = sorted(both, key=lambda pair: (-both[pair], pair))[:most]
    oriented = [max((pair, pair[::-1]), key=lambda one: times.get(one, 0)) for pair in worst]
    return [(*pair, times[pair], times.get(pair[::-1], 0)) for pair in oriented]


def hardest_images(found: ClassAnswers, most: int) -> list[int]:
    """The `most` hardest images, the hardest first; images that were always answered rightly are left out."""
    hard = hardness(found.counts)
    order = np.argsort(-hard, kind="stable")[:most]
    return [image for image in order.tolist() if found.counts.wrong[image]]


def _narrow(counts: np.ndarray) -> np.ndarray:
    """The same numbers, from 0 on, in as few bytes as their largest needs."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
