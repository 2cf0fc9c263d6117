"""What an episode consists of, before its images are drawn, and the drawing of these images.

A kind of episodes says which classes an episode has, and how many support, query and unlabelled images of each. The
images are then drawn as for uniform episodes: those of the class in place c are the first ones of slot c + 1, support
images before queries before unlabelled images. So all kinds share the classes and the first images of the uniform
episode with the same seed and number, as long as they draw their classes in the same way.

Compositions are always worked out on the CPU, because logarithms and exponentials of other devices differ in their last
bit; the images are drawn on any device, in whole numbers.
"""

import abc
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import draw, stream
from episodes.errors import InputError
from episodes.sampler import CHUNK, Episodes, Sampler

_BLOCK = 1 << 14  # episodes composed at once, at least: those of equal shape become parts
_SLICES = 16  # classes are drawn in so many slices, each with about equal numbers of images


@dataclasses.dataclass(frozen=True, eq=False)
class Composition:
    """The classes of E episodes and how many images of each they hold, all (E, M) int64.

    The classes of the support set come first; behind them are classes of which an episode has queries or unlabelled
    images alone, and places that an episode does not use, with zeros.
    """

    classes: Tensor
    support: Tensor
    query: Tensor
    unlabelled: Tensor

    def __getitem__(self, rows: Tensor) -> "Composition":
        return Composition(*(part[rows] for part in vars(self).values()))

    def shapes(self, equal_shots: bool) -> Tensor:
        """Ways, queries and unlabelled images of each episode, (E, 3), and the shots, (E, 4), if these are equal."""
        numbers = [(self.support > 0).sum(1), self.query.sum(1), self.unlabelled.sum(1)]
        return torch.stack([*numbers, self.support[:, 0]] if equal_shots else numbers, 1)


def composed(classes: Tensor, support: Tensor | int, query: Tensor | int, unlabelled: Tensor | int = 0) -> Composition:
    """The composition of these classes (E, M) and numbers of images, which may be the same for all episodes or classes:
    (M,), (E, 1) or one number."""
    return Composition(classes, *(torch.as_tensor(part).expand_as(classes) for part in (support, query, unlabelled)))


def check_fits(bank: ImageBank, what: str, classes: int, images: int) -> None:
    """InputError if `bank` has fewer than `classes` classes, or a class fewer than `images` images, which `what` needs;
    `what` names things in the plural."""
    if classes > bank.classes:
        raise InputError(
            f"{what} need {classes} classes, but {bank.name} has {bank.classes}: ask for fewer ways with --way"
        )
    smallest = int(bank.sizes.argmin())
    if images > int(bank.sizes[smallest]):
        raise InputError(
            f"{what} need {images} images a class, but class '{bank.class_names[smallest]}' of {bank.name} has"
            f" {int(bank.sizes[smallest])}: ask for fewer shots or queries with --shot or --query"
        )


class ComposedSampler(Sampler):
    """A kind of episodes that says what its episodes consist of (`compose`); this class draws their images.

    equal_shots    whether all classes of an episode have the same number of support images: then no part has a mask
    equal_queries  whether all classes of an episode have the same number of queries: then these come class after class,
                   and no part has labels
    one_shape      whether all episodes have the same numbers of ways, queries and shots
    """

    equal_shots = True
    equal_queries = True
    one_shape = True

    def __init__(self, bank: ImageBank, way: int, shot: int, queries: int, seed: int) -> None:
        self.way, self.shot, self._queries = way, shot, queries
        self.seed, self.classes, self.images = seed, bank.classes, len(bank)
        self.sizes = bank.sizes.cpu()
        self._offsets, self._largest = bank.offsets.cpu(), int(self.sizes.max())

    @property
    def queries(self) -> int:
        return self._queries

    @abc.abstractmethod
    def compose(self, keys: Tensor) -> Composition:
        """The composition of the episodes of these keys, (E,) on the CPU; a function of each key alone."""

    def drawn_classes(self, keys: Tensor, count: int) -> Tensor:
        """`count` classes (E, count) of the episodes of `keys` (E,); the first ones are those of uniform episodes."""
        return draw(keys, 0, self.classes, self.classes, count).long().T

    def batches(self, count: int, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """As Sampler.batches; in order if all episodes have one shape."""
        yield from self.numbered(torch.arange(count), size, device)

    def numbered(self, numbers: Tensor, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """The episodes with these numbers (E,), in parts as those of `batches`."""
        for block in numbers.split(max(1, _BLOCK // size) * size):
            keys = stream(self.seed, block)
            whole = self.compose(keys)
            for rows in self._alike(whole):
                for part in rows.split(size):
                    yield self._filled(block[part], keys[part], whole[part], torch.device(device or "cpu"))

    def _alike(self, whole: Composition) -> Iterator[Tensor]:
        """The positions of the episodes of each shape."""
        if self.one_shape:
            yield torch.arange(len(whole.classes))
            return
        _, kind = whole.shapes(self.equal_shots).unique(dim=0, return_inverse=True)
        yield from kind.argsort(stable=True).split(kind.bincount().tolist())

    def _filled(self, numbers: Tensor, keys: Tensor, part: Composition, device: torch.device) -> Episodes:
        """Episodes of one shape with images; E, N, K, Q, U as in Episodes."""
        way, queries, unlabelled = part.shapes(False)[0].tolist()
        count, shot = len(numbers), int(part.support.max())
        widths = [way * shot, queries, unlabelled]
        begins = torch.tensor([0, *widths]).cumsum(0).mul(count).tolist()
        rows = torch.arange(count)[:, None]
        before = [torch.arange(part.classes.shape[1]) * shot, _before(part.query), _before(part.unlabelled)]
        counts = [part.support, part.query, part.unlabelled]
        wanted = [
            (number, begin + rows * width + place)
            for number, begin, width, place in zip(counts, begins, widths, before)
            if width
        ]
        images = self._drawn(keys, part.classes, wanted, begins[-1], device)
        support, query, beside = (
            images[begin : begin + count * width].view(count, width) for begin, width in zip(begins, widths)
        )
        support, mask, labels = support.view(count, way, shot), None, None
        if not self.equal_shots:
            mask = (part.support[:, :way, None] > torch.arange(shot)).to(device)
            support = torch.where(mask, support, support[..., :1])
        if self.equal_queries:
            query = query.view(count, way, -1)
        else:
            labels = _places(part.query, queries).clamp_(max=way).to(device)
        return Episodes(
            classes=part.classes[:, :way].to(device),
            support=support,
            query=query,
            keys=keys.to(device),
            mask=mask,
            labels=labels,
            unlabelled=beside if unlabelled else None,
            numbers=numbers.to(device),
        )

    def _drawn(
        self, keys: Tensor, classes: Tensor, wanted: list[tuple[Tensor, Tensor]], total: int, device: torch.device
    ) -> Tensor:
        """`total` images of the classes (E, M) of each episode, flat.

        wanted: for each part of the episodes the number of images and the place of the first one, (E, M) both; the
        first images that are drawn of a class belong to the first part

        Classes are drawn in the order of their numbers of images, so that few images are drawn that no episode takes;
        these go to one place behind all others.
        """
        ends = torch.stack([number for number, _ in wanted]).flatten(1).cumsum(0)  # (parts, E * M)
        begins = torch.stack([place for _, place in wanted]).flatten(1)
        begins[1:] -= ends[:-1]
        order = ends[-1].argsort()
        order = order[int((ends[-1] == 0).sum()) :]
        most = ends[-1][order]
        limit = (CHUNK if device.type == "cpu" else 32 * CHUNK) // int(most[-1])
        length = max(1, min(limit, max(1 << 10, len(order) // _SLICES)))
        episodes = order // classes.shape[1]
        slots, classes = order - episodes * classes.shape[1] + 1, classes.flatten()[order]
        keys, slots = keys[episodes].to(device), slots.to(device)
        sizes, offsets = self.sizes[classes].to(device), self._offsets[classes].to(device)
        begins, ends = begins[:, order].to(device), ends[:, order].to(device)
        images = torch.empty(total + 1, dtype=torch.int64, device=device)
        for first in range(0, len(order), length):
            part = slice(first, first + length)
            steps = torch.arange(int(most[part][-1]), device=device)[:, None]
            drawn = draw(keys[part], slots[part], sizes[part], self._largest, len(steps)) + offsets[part]
            places = torch.full_like(drawn, total)
            for begin, end in zip(begins[:, part].flip(0), ends[:, part].flip(0)):
                places = torch.where(steps < end, begin + steps, places)
            images.scatter_(0, places.flatten(), drawn.flatten())
        return images[:total]


def _before(counts: Tensor) -> Tensor:
    """The sum of the numbers (E, M) that stand before each number."""
    return counts.cumsum(1) - counts


def _places(counts: Tensor, total: int) -> Tensor:
    """Each place 0 .. M - 1 as often as `counts` (E, M) says, in order: (E, total)."""
    marks = torch.zeros((len(counts), total + 1), dtype=torch.int64)
    marks.scatter_add_(1, counts[:, :-1].cumsum(1), torch.ones_like(counts[:, :-1]))
    return marks[:, :total].cumsum(1)
