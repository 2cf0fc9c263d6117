"""Episodes that a csv file lists image by image, with the columns episode, file, label and role."""

import dataclasses
import operator
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.datasets.listings import lines_of
from episodes.draws import stream
from episodes.errors import InputError
from episodes.sampler import Episodes, Sampler

COLUMNS = ("episode", "file", "label", "role")
ROLES = ("support", "query", "unlabelled")
_PART = 4096  # episodes drawn at once, to be written


@dataclasses.dataclass
class _Episode:
    """One episode as it is read: images of each class, queries with the places of their classes, unlabelled images."""

    line: int  # of its first image
    support: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    query: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)  # line, image, class
    unlabelled: list[int] = dataclasses.field(default_factory=list)
    images: set[int] = dataclasses.field(default_factory=set)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Ways, queries, unlabelled images, and the shots if all classes have the same, or 0."""
        shots = set(map(len, self.support.values()))
        return len(self.support), len(self.query), len(self.unlabelled), shots.pop() if len(shots) == 1 else 0


class ListedSampler(Sampler):
    """The episodes of the csv file `path`, in the order in which the file first names them.

    Each line names an episode, an image by its file as in `bank.files`, the label of the image (its class in the bank;
    unlabelled images need none) and its role: support, query or unlabelled. Classes and images of an episode are in the
    order of the lines. No file is opened but `path`. Raises InputError, with the number of the line, for anything that
    does not fit the bank; for a query whose class has no support image; for an image that an episode has twice.
    """

    count: int

    def __init__(self, bank: ImageBank, path: Path | str, seed: int = 0) -> None:
        listed = _read(Path(path), bank)
        self.seed, self.classes, self.images, self.count = seed, bank.classes, len(bank), len(listed)
        ways, queries, _, _ = zip(*(one.shape for one in listed))
        self.way, self._queries = max(ways), max(queries)
        self.shot = max(len(images) for one in listed for images in one.support.values())
        alike: dict[tuple[int, ...], list[int]] = {}
        for number, one in enumerate(listed):
            alike.setdefault(one.shape, []).append(number)
        self._alike = [
            (torch.tensor(own), _stacked([listed[number] for number in own], torch.tensor(own), seed))
            for own in alike.values()
        ]

    @property
    def queries(self) -> int:
        return self._queries

    def batches(self, count: int, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """As Sampler.batches; InputError for more episodes than are listed."""
        if not 0 <= count <= self.count:
            raise InputError(f"{self.count} episodes are listed: there are no {count}")
        for numbers, whole in self._alike:
            for rows in (numbers < count).nonzero().flatten().split(size):
                if len(rows):
                    yield whole.each(operator.itemgetter(rows)).to(device or "cpu")


def listed_lines(bank: ImageBank, sampler: Sampler, count: int) -> Iterator[tuple[int, str, str, str]]:
    """The lines of a csv file that lists episodes 0 .. `count` - 1 of `sampler`, in order, each with the cells of
    COLUMNS; ListedSampler draws the same episodes from the file.

    Unlabelled images have their label, too: a learner must not see it. Raises InputError if two images of the bank have
    the same file and label, or if the bank does not know the files of its images.
    """
    if not bank.files:
        raise InputError(f"{bank.name} does not know the files of its images, so that no list can name its images")
    names = [*_keys(bank)]
    if len(set(names)) < len(names):
        raise InputError(f"several images of {bank.name} have the same file and label: a list cannot tell them apart")
    places: dict[int, tuple[Episodes, int]] = {}
    for part in sampler.batches(count, _PART, "cpu"):
        assert part.numbers is not None  # as in every part of a sampler
        places |= {number: (part, row) for row, number in enumerate(part.numbers.tolist())}
    for number in range(count):
        for role, images in _by_role(*places[number]):
            yield from ((number, *names[image], role) for image in images.tolist())


def _by_role(part: Episodes, row: int) -> Iterator[tuple[str, Tensor]]:
    """The images (M,) of each role in one of the episodes, support images class after class."""
    support = part.support[row]
    yield "support", support.flatten() if part.mask is None else support[part.mask[row]]
    yield "query", part.query[row].flatten()
    if part.unlabelled is not None:
        yield "unlabelled", part.unlabelled[row]


def _read(path: Path, bank: ImageBank) -> list[_Episode]:
    """The episodes in `path`, checked."""
    if not bank.files:
        raise InputError(f"{bank.name} does not know the files of its images, so that {path} cannot name its images")
    images = {key: number for number, key in reversed([*enumerate(_keys(bank))])}
    files = {file: number for number, file in reversed([*enumerate(bank.files)])}
    labels = bank.labels.tolist()
    episodes: dict[str, _Episode] = {}
    for line, (name, file, label, role) in lines_of(path, COLUMNS):
        where = f"line {line} of {path}"
        if role not in ROLES:
            raise InputError(f"{where} has the role '{role}': write {', '.join(ROLES[:2])} or {ROLES[2]}")
        file = file.replace("\\", "/")
        image = images.get((file, label)) if role != "unlabelled" or label else files.get(file)
        if image is None:
            raise InputError(f"{where} names '{file}' of class '{label}', which {bank.name} does not have")
        one = episodes.setdefault(name, _Episode(line))
        if image in one.images:
            raise InputError(f"{where} names '{file}' for the second time in episode '{name}': leave one out")
        one.images.add(image)
        if role == "support":
            one.support.setdefault(labels[image], []).append(image)
        elif role == "query":
            one.query.append((line, image, labels[image]))
        else:
            one.unlabelled.append(image)
    if not episodes:
        raise InputError(f"{path} lists no episodes")
    for name, one in episodes.items():
        _check(name, one, path)
    return [*episodes.values()]


def _keys(bank: ImageBank) -> Iterator[tuple[str, str]]:
    """File and class name of each image."""
    for file, label in zip(bank.files, bank.labels.tolist()):
        yield file, bank.class_names[label]


def _check(name: str, one: _Episode, path: Path) -> None:
    """InputError if an episode cannot be answered."""
    if not one.support or not one.query:
        lacking = "query" if one.support else "support image"
        raise InputError(f"episode '{name}', from line {one.line} of {path} on, has no {lacking}: add one")
    for line, _, label in one.query:
        if label not in one.support:
            raise InputError(f"line {line} of {path} has a query of a class without support images in episode '{name}'")


def _stacked(alike: list[_Episode], numbers: Tensor, seed: int) -> Episodes:
    """Episodes of one shape, with these numbers."""
    shot = max(len(images) for one in alike for images in one.support.values())
    _, _, unlabelled, shots = alike[0].shape
    support = [[images + images[:1] * (shot - len(images)) for images in one.support.values()] for one in alike]
    counts = torch.tensor([[len(images) for images in one.support.values()] for one in alike])
    classes = [[*one.support] for one in alike]
    labels = [[own.index(label) for _, _, label in one.query] for one, own in zip(alike, classes)]
    return Episodes(
        classes=torch.tensor(classes),
        support=torch.tensor(support),
        query=torch.tensor([[image for _, image, _ in one.query] for one in alike]),
        keys=stream(seed, numbers),
        mask=None if shots else counts[..., None] > torch.arange(shot),
        labels=torch.tensor(labels),
        unlabelled=torch.tensor([one.unlabelled for one in alike]) if unlabelled else None,
        numbers=numbers,
    )
