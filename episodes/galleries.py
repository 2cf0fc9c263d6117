"""Query, gallery and pairs of a bank: those that lists beside its images give, or others that are drawn from it."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from episodes.bank import ImageBank
from episodes.cameras import cameras_of
from episodes.datasets import folder, layouts
from episodes.datasets.galleries import Answers, Lists, Mark
from episodes.draws import stream
from episodes.errors import InputError
from episodes.sampler import EpisodeSampler


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Queries and the gallery in which each looks for the images of its class.

    queries (Q,), gallery (G,)  images, numbered as in the bank; an image may be both
    cameras (Q,), (G,)          the number of each one's camera, -1 if unknown
    junk (G,)                   whether a gallery image is neither right nor wrong for the queries of its class
    answers                     for each query its easy, hard and junk images (G,), if lists give them in place of
                                classes; () if they do not
    """

    queries: np.ndarray
    gallery: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    junk: np.ndarray
    answers: tuple[dict[str, np.ndarray], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class FoldedPairs:
    """Pairs of images (P, 2), numbered as in the bank, and the fold of each pair (P,), a number from 0.

    trials: of pairs that were drawn, the two classes (P / 2, 2) of each pair of one class and the pair of two after it;
    None for pairs of a list, whose folds are independent
    """

    images: np.ndarray
    folds: np.ndarray
    trials: np.ndarray | None = None

    def same(self, bank: ImageBank) -> np.ndarray:
        """Whether the images of each pair are of one class of `bank`, (P,)."""
        return np.equal(*bank.labels.cpu().numpy()[self.images].T)


def gallery_of(bank: ImageBank, shown: int, seed: int) -> Gallery | None:
    """The queries and the gallery of the images in `bank`; None if lists beside the images give pairs alone.

    If there are no lists, `shown` images of each class, drawn with `seed`, are its gallery and all others are queries;
    the cameras are those of `cameras_of`.
    Images that a list names and the bank does not have count for nothing. InputError if the lists cannot be read, or
    if no query or no gallery image is there.
    """
    lists = _lists_of(bank)
    if lists is None:
        return _drawn_gallery(bank, shown, seed)
    if not lists.marks:
        return None
    marks = [lists.marks.get(name, Mark()) for name in bank.files]
    queries = np.flatnonzero([mark.role == "query" for mark in marks])
    gallery = np.flatnonzero([mark.role in ("gallery", "junk") for mark in marks])
    if not (len(queries) and len(gallery)):
        raise InputError(f"the lists of {bank.name} give {len(queries)} queries and {len(gallery)} gallery images")
    cameras = _numbered([mark.camera for mark in marks])
    junk = np.array([marks[image].role == "junk" for image in gallery])
    places = {bank.files[image]: place for place, image in enumerate(gallery.tolist())}
    answers = (
        tuple(_answers(lists.answers[bank.files[query]], places) for query in queries.tolist()) if lists.answers else ()
    )
    return Gallery(queries, gallery, cameras[queries], cameras[gallery], junk, answers)


def pairs_of(bank: ImageBank, folds: int, count: int, seed: int) -> FoldedPairs | None:
    """The pairs of images of `bank` and their folds; None if lists beside the images give no pairs, but roles.

    Pairs of a list without folds are dealt out to `folds` folds in turn. If there are no lists, each fold has `count`
    pairs of one class and `count` of two, of classes and images that are drawn uniformly with `seed`. InputError if the
    lists cannot be read or lack one kind of pairs, or if there are too few classes or images.
    """
    lists = _lists_of(bank)
    if lists is None:
        return _drawn_pairs(bank, folds, count, seed)
    if not lists.pairs:
        return None
    places = {name: image for image, name in enumerate(bank.files)}
    kept = [pair for pair in lists.pairs if pair.first in places and pair.second in places]
    images = np.array([[places[pair.first], places[pair.second]] for pair in kept], dtype=np.int64).reshape(-1, 2)
    names, own = np.unique([pair.fold for pair in kept], return_inverse=True)
    pairs = FoldedPairs(images, own if len(names) > 1 else np.arange(len(kept)) % folds)
    for kind, word in ((True, "one class"), (False, "two classes")):
        if not (pairs.same(bank) == kind).any():
            raise InputError(f"the lists of {bank.name} have no pair of {word}: accuracy needs both kinds")
    return pairs


def _lists_of(bank: ImageBank) -> Lists | None:
    """The lists beside the images of a bank; None if there are none."""
    return layouts.find(folder.image_files(Path(bank.source))).lists if bank.lists else None


def _answers(given: Answers, places: dict[str, int]) -> dict[str, np.ndarray]:
    found = {}
    for part, names in given._asdict().items():
        found[part] = np.zeros(len(places), dtype=bool)
        found[part][[places[name] for name in names if name in places]] = True
    return found


def _drawn_gallery(bank: ImageBank, shown: int, seed: int) -> Gallery:
    smallest = int(bank.sizes.min())
    if smallest <= shown:
        raise InputError(
            f"a gallery of {shown} images a class leaves no query of the class of {smallest} images in {bank.name}:"
            " set fewer for [evaluation.query_gallery] gallery"
        )
    order = stream(seed, torch.arange(len(bank))).argsort(stable=True)
    order = order[bank.labels.cpu()[order].argsort(stable=True)]  # class after class, in each in a random order
    is_shown = torch.arange(len(bank)) - bank.offsets[:-1].cpu()[bank.labels.cpu()] < shown
    queries, gallery = (order[chosen].sort().values.numpy() for chosen in (~is_shown, is_shown))
    cameras = _numbered(cameras_of(bank) or [""] * len(bank))
    return Gallery(queries, gallery, cameras[queries], cameras[gallery], np.zeros(len(gallery), dtype=bool))


def _numbered(cameras: list[str]) -> np.ndarray:
    """A number from 0 for each camera, -1 for '', which is unknown."""
    known = {name: number for number, name in enumerate(sorted({*cameras} - {""}))}
    return np.array([known.get(camera, -1) for camera in cameras])


def _drawn_pairs(bank: ImageBank, folds: int, count: int, seed: int) -> FoldedPairs:
    if bank.classes < 2 or int(bank.sizes.min()) < 2:
        raise InputError(f"pairs need two classes or more, each of two images or more, and {bank.name} has fewer")
    drawn = EpisodeSampler(bank, way=2, shot=2, query=0, seed=seed).episodes(0, folds * count, "cpu")
    images = torch.stack(
        [drawn.support[:, 0], drawn.support[:, :, 0]], 1
    )  # an image with one of its class, and another
    trials = np.arange(folds * count)
    return FoldedPairs(images.flatten(0, 1).numpy(), (trials % folds).repeat(2), drawn.classes.numpy())
