"""Picture files get their answers: what `fewshot predict` reads, computes and writes as csv."""

import csv
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from episodes import ImageBank, InputError
from episodes.archives import ImageFiles, is_archive
from episodes.datasets import layouts
from episodes.datasets.folder import image_files
from episodes.datasets.splits import pooled
from episodes.pictures import Picture, cores
from fewshot.answers import NONE, scores_of_parts, support_bank
from fewshot.calibration import Calibration
from fewshot.embedding import EmbeddedBank
from fewshot.files import no_formula, replacing
from fewshot.loading import LoadedModel
from fewshot.models import ModelSpec
from fewshot.preparation import file_picture, pixels_of, try_pixels

_PART = 256  # pictures that are decoded and scored together
_COLUMNS = ("file", "answer", "error")


class Query(NamedTuple):
    """A picture to be answered, and its name in the csv file."""

    name: str
    picture: Picture


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """The scores of Q queries, in their order.

    queries  with their names; classes: N names, in the order of the scores
    scores   (Q, N) float64; nan for a query that cannot be read
    errors   why a query cannot be read, '' if it was read
    """

    queries: list[Query]
    classes: tuple[str, ...]
    scores: np.ndarray
    errors: list[str]

    @property
    def read(self) -> np.ndarray:
        """Which queries were read, (Q,) bool."""
        return np.array([not error for error in self.errors], dtype=bool)


def read_support(folder: Path, spec: ModelSpec) -> ImageBank:
    """The pictures of the class folders in `folder`, a folder or an archive, as a support set.

    The classes are those that a run on this folder has: class folders, or a csv file, and the classes of all splits if
    there are splits. Raises InputError if a picture is in no class folder or is damaged, or if there are fewer than two
    classes.
    """
    files = _image_files_in(folder, "support set")
    classes = pooled(layouts.find(files).splits)
    pictures = [picture for found in classes.values() for picture in found]
    names = [name for name, found in classes.items() for _ in found]
    if layouts.BARE in classes:
        outside = classes[layouts.BARE][0].key
        raise InputError(f"the picture {outside} in {folder} is in no class folder: move it into one, or away")
    return support_bank(pixels_of(pictures, spec), names)


def find_queries(paths: Sequence[Path]) -> list[Query]:
    """The pictures at `paths`: files, and folders or archives with all pictures in them.

    Raises InputError if one of `paths` is not there, or holds no picture.
    """
    found: dict[str, Query] = {}
    for path in paths:
        whole = path.is_dir() or not path.exists() or is_archive(path)
        for query in _pictures_in(path, "query") if whole else [Query(str(path), file_picture(path))]:
            found.setdefault(query.name, query)
    return list(found.values())


def _image_files_in(path: Path, what: str) -> ImageFiles:
    """The images at `path`, and its csv files; InputError if there are no images."""
    if not path.exists():
        raise InputError(f"there is no {path}, which was named as a {what}")
    if not (path.is_dir() or is_archive(path)):
        raise InputError(f"{path} is neither a folder nor an archive, and was named as a {what}")
    files = image_files(path)
    if all(map(layouts.is_list, files.names)):
        raise InputError(f"there are no pictures in {path}, which was named as a {what}")
    return files


def _pictures_in(path: Path, what: str) -> list[Query]:
    files = _image_files_in(path, what)
    return [Query(f"{path}/{name}", Picture(files, name)) for name in files.names if not layouts.is_list(name)]


def answer(model: LoadedModel, support: EmbeddedBank, queries: Sequence[Query], seed: int = 0) -> Answered:
    """The scores of all queries for the classes of the embedded support set, with a progress bar on a terminal.

    Pictures are decoded and scored a few hundred at a time, so memory does not grow with their number, unless the
    learner is transductive. A picture that cannot be read gets an error instead of scores.
    """
    errors: list[str] = []
    parts = scores_of_parts(model.learner, support, _decoded(queries, model.spec, errors), seed)
    found = torch.cat([torch.empty(0, support.bank.classes), *parts])
    scores = np.full((len(queries), support.bank.classes), np.nan)
    scores[[not error for error in errors]] = found.numpy()
    return Answered(list(queries), support.bank.class_names, scores, errors)


def _decoded(queries: Sequence[Query], spec: ModelSpec, errors: list[str]) -> Iterator[Tensor]:
    """Pixels (B, C, H, W) of the queries that can be read, part by part; `errors` grows by one text a query."""
    bar = tqdm(total=len(queries), desc="predict", unit="image", disable=None)
    with bar, ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(queries), _PART):
            part = queries[start : start + _PART]
            made = list(pool.map(lambda query: try_pixels(query.picture, spec), part))
            errors.extend(str(one) if isinstance(one, InputError) else "" for one in made)
            pixels = [one for one in made if isinstance(one, Tensor)]
            if pixels:
                yield torch.stack(pixels)
            bar.update(len(part))


def answers_of(answered: Answered, sure: Calibration) -> list[str]:
    """The answer of each query: a class, 'none of these' if it is refused, '' if it was not read.

    Raises InputError if pictures may be refused and a class has that name.
    """
    if sure.threshold > -math.inf and NONE in answered.classes:
        raise InputError(f"no class may be called '{NONE}' if pictures are refused: rename the folder")
    best = np.nan_to_num(answered.scores, nan=-math.inf).argmax(axis=1)
    refused = sure.refused(answered.scores)  # never true of nan
    return [
        "" if error else NONE if no else answered.classes[number]
        for number, no, error in zip(best, refused, answered.errors, strict=True)
    ]


def write_csv(path: Path, answered: Answered, answers: Sequence[str], chances: np.ndarray) -> None:
    """One row a query: file, answer, a probability of each class, error.

    answers: a text for each query, '' if it was not read; chances (Q, N): probabilities. Texts that a spreadsheet would
    take for formulas begin with ': see files.no_formula.
    """
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "answer", *map(no_formula, class_columns(answered.classes)), "error"])
        for query, text, row, error in zip(answered.queries, answers, chances, answered.errors, strict=True):
            numbers = [""] * len(row) if error else [f"{chance:.6f}" for chance in row]
            writer.writerow([no_formula(query.name), no_formula(text), *numbers, no_formula(error)])


def class_columns(classes: Iterable[str]) -> list[str]:
    """The column of each class: its name, after 'class ' if another column has that name.

    >>> class_columns(["cat", "error", "class error"])
    ['cat', 'class error', 'class class error']
    """
    columns: list[str] = []
    for name in classes:
        while name in (*_COLUMNS, *columns):
            name = f"class {name}"
        columns.append(name)
    return columns
