"""What a run keeps of a model for its report, in shown.npz: answers in the first episodes, and a map of test images.

So a report needs neither the weights of the model nor the code of its learner.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from episodes import FeatureBank, ImageBank
from fewshot.devices import exact, placed
from fewshot.embedding import EmbeddedBank
from fewshot.files import in_utf8
from fewshot.learners.base import Learner
from fewshot.record_files import Damaged
from fewshot.records import array_name, array_of, model_names

FILE = "shown.npz"
EPISODES = 1000  # the first ones of `cell_of`, among which a report chooses
MAP_CLASSES, MAP_IMAGES = 12, 20
_WIDTH = 30  # of embeddings
_SHARED = ("shown_images", "shown_classes")  # of the map, which all models share
_OWN = ("answers", "embeddings")  # of one model: NAME/5way1shot/answers


class Map(NamedTuple):
    """The images of an embedding map: their numbers (classes, images) in the test split, and the classes' names."""

    images: np.ndarray
    names: list[str]


class Kept(NamedTuple):
    """What a run kept of one model in `cell_of`.

    answers     (E, Q) the answers in episodes 0 .. E - 1: positions of classes in the episode
    embeddings  (M, P) of the images of the map, as `reduced` gives them; None if they are not finite
    map         those images
    """

    answers: np.ndarray
    embeddings: np.ndarray | None
    map: Map


def cell_of(cells: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The way and shot of the episodes that a report shows: 5-way 1-shot if the run has it, else the first ones."""
    cells = sorted(set(cells))
    return (5, 1) if (5, 1) in cells else cells[0]


def map_of(bank: ImageBank) -> Map:
    """MAP_CLASSES classes at equal distances, the first MAP_IMAGES of each, or as many as all of them have."""
    count = min(MAP_CLASSES, bank.classes)
    classes = np.arange(count) * bank.classes // count
    images = min(MAP_IMAGES, int(bank.sizes[torch.from_numpy(classes)].min()))
    numbers = bank.offsets.cpu().numpy()[classes, None] + np.arange(images)
    return Map(numbers, [in_utf8(bank.class_names[number]) for number in classes])


def reduced(embeddings: torch.Tensor) -> np.ndarray | None:
    """Embeddings (M, D) by their first 30 principal components at most, (M, P) float16, the largest number being 1.

    Van der Maaten and Hinton 2008 reduce to as many before t-SNE, which a scale of all numbers does not change. None
    if an embedding is not finite.
    """
    values = exact(embeddings).cpu().numpy()
    if not np.isfinite(values).all():
        return None
    values = values / max(np.abs(values).max(initial=0), np.finfo(float).tiny)
    left, sizes, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    found = (left * sizes)[:, :_WIDTH]
    return (found / max(np.abs(found).max(initial=0), np.finfo(float).tiny)).astype(np.float16)


def cut_out(bank: ImageBank, images: torch.Tensor) -> tuple[ImageBank, torch.Tensor, torch.Tensor]:
    """A bank of these images alone, their numbers in `bank`, ascending, and those of their classes."""
    images = images.unique()
    classes, sizes = bank.labels[images].unique_consecutive(return_counts=True)
    names, groups = (tuple(every[number] for number in classes) for every in (bank.class_names, bank.group_names))
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    part = dataclasses.replace(
        bank, images=bank.images[images], offsets=offsets, class_names=names, group_names=groups, turns=1, listed=False
    )
    return part, images, classes


def embeddings_of(learner: Learner, bank: ImageBank, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The learner's embeddings of these images (M,), ascending, (M, D): no other image is embedded."""
    part, _, _ = cut_out(bank, images)
    return EmbeddedBank(learner.to(device), placed(part, device)).embeddings


def to_arrays(
    cell: tuple[str, int, int], learner: Learner, data: EmbeddedBank, answers: np.ndarray
) -> dict[str, np.ndarray]:
    """The arrays of a model with its way and shot, `cell`, by their names in shown.npz; none for features, of which a
    report shows nothing. answers: (E, Q) in all episodes."""
    if isinstance(data.bank, FeatureBank):
        return {}
    bank = data.bank.to("cpu")
    chosen = map_of(bank)
    images = torch.from_numpy(chosen.images.ravel())
    known = data.width  # a learner that works on the images of an episode need not have embedded the whole split
    embeddings = data.rows(images.to(data.device)) if known else embeddings_of(learner, bank, images, data.device)
    flat = reduced(embeddings)
    own = {"answers": answers[:EPISODES]} | ({} if flat is None else {"embeddings": flat})
    shared = {"shown_images": chosen.images, "shown_classes": np.array(chosen.names)}
    return shared | {f"{array_name(*cell)}/{name}": array for name, array in own.items()}


def is_shown(name: str) -> bool:
    """Whether shown.npz has an array of that name."""
    return name in _SHARED or name.rpartition("/")[2] in _OWN


def kept_of(row: pd.Series, arrays: Mapping[str, np.ndarray]) -> Kept | None:
    """What the run kept of the model of a row of its results; None if it kept nothing. Damaged if that contradicts the
    row."""
    cells = [array_name(model, row["way"], row["shot"]) for model in model_names(row)]
    cell = next((one for one in cells if f"{one}/answers" in arrays), None)
    if cell is None:
        return None
    answers, embeddings = (arrays.get(f"{cell}/{name}") for name in _OWN)
    images, names = (arrays.get(name) for name in _SHARED)
    told = f"{FILE} holds {{}} of {row['learner']}, {row['way']}-way {row['shot']}-shot, seed {row['seed']}"
    if images is None or names is None or not _is_map(images, names):
        raise Damaged(told.format("no images of the map"))
    if embeddings is not None and not _are_of(embeddings, images.size):
        raise Damaged(told.format("no embeddings"))
    assert answers is not None  # by the choice of the cell
    if not _agree(answers, row, array_of(row, arrays)):
        raise Damaged(told.format("answers that contradict the accuracies"))
    return Kept(answers, embeddings, Map(images.astype(np.int64), names.tolist()))


def _is_map(images: np.ndarray, names: np.ndarray) -> bool:
    of_kinds = images.dtype.kind in "iu" and names.dtype.kind == "U" and images.ndim == 2 and names.ndim == 1
    return of_kinds and 0 < len(images) == len(names) and images.size > 0 and bool((np.diff(images.ravel()) > 0).all())


def _are_of(embeddings: np.ndarray, images: int) -> bool:
    fit = embeddings.dtype.kind == "f" and embeddings.ndim == 2 and len(embeddings) == images and embeddings.size > 0
    return fit and bool(np.isfinite(embeddings).all())


def _agree(answers: np.ndarray, row: pd.Series, accuracies: np.ndarray | None) -> bool:
    """Whether the answers of each episode have its accuracy."""
    way, query = row["way"], row["query"]
    if answers.dtype.kind != "u" or accuracies is None or answers.shape != (len(accuracies[:EPISODES]), way * query):
        return False
    right = (answers.reshape(-1, way, query) == np.arange(way)[:, None]).mean(axis=(1, 2))
    return bool((np.abs(right - accuracies[:EPISODES]) < 1e-6).all())
