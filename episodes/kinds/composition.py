"""What an episode consists of, before its images are drawn, and the drawing of these images.

A kind of episodes says which classes an episode has, and how many support, query and unlabelled images of each. The
images are then drawn as for uniform episodes: those of the class in place c are the first ones of slot c + 1, support
images before queries before unlabelled images. So all kinds share the classes and the first images of the uniform
episode with the same seed and number, as long as they draw their classes in the same way.

Compositions are always worked out on the CPU, because logarithms and exponentials of other devices differ in their last
bit; the images are drawn on any device, in whole numbers. If a last bit still differs, as between two processors, a
number of images changes only if the number before its rounding lies as close to a border: once in about 10^12 classes.
"""

import abc
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import draw, stream
from episodes.sampler import CHUNK, Episodes, Sampler

_BLOCK = 1 << 14  # episodes composed at once, at most: those of equal shape become parts
_IMAGES = 1 << 22  # places for images in such a block, at most
_SLICES = 16  # slices of classes that are drawn at once; the classes of a slice have about equal numbers of images


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
        if not len(numbers):
            return
        block = min(_BLOCK, _IMAGES // (self.places + self.queries))
        for own in numbers.split(max(1, block // size) * size):
            keys = stream(self.seed, own)
            whole = self.compose(keys)
            rows = [part for alike in self._alike(whole) for part in alike.split(size)]
            layouts: list[_Layout] = []
            for part in rows:
                layouts.append(_Layout.of(whole[part], layouts[-1].end if layouts else 0))
            images = self._drawn([keys[part] for part in rows], layouts, torch.device(device or "cpu"))
            for part, layout in zip(rows, layouts):
                yield self._episodes(own[part], keys[part], layout, images)

    def _alike(self, whole: Composition) -> Iterator[Tensor]:
        """The positions of the episodes of each shape."""
        if self.one_shape:
            yield torch.arange(len(whole.classes))
            return
        _, kind = whole.shapes(self.equal_shots).unique(dim=0, return_inverse=True)
        yield from kind.argsort(stable=True).split(kind.bincount().tolist())

    def _episodes(self, numbers: Tensor, keys: Tensor, layout: "_Layout", images: Tensor) -> Episodes:
        """Episodes of one shape, whose images are among `images` as `layout` says."""
        part, way, device = layout.composition, layout.way, images.device
        support, query, unlabelled = layout.parts(images)
        support, mask, labels = support.view(len(keys), way, -1), None, None
        if not self.equal_shots:
            mask = (part.support[:, :way, None] > torch.arange(support.shape[2])).to(device)
            support = torch.where(mask, support, support[..., :1])
        if self.equal_queries:
            query = query.view(len(keys), way, query.shape[1] // way)
        else:
            labels = _repeated(part.query, query.shape[1]).clamp_(max=way).to(device)
        return Episodes(
            classes=part.classes[:, :way].to(device),
            support=support,
            query=query,
            keys=keys.to(device),
            mask=mask,
            labels=labels,
            unlabelled=unlabelled if unlabelled.shape[1] else None,
            numbers=numbers.to(device),
        )

    def _drawn(self, keys: list[Tensor], layouts: list["_Layout"], device: torch.device) -> Tensor:
        """The images of the episodes of `keys`, flat, in the places that the layouts say.

        Classes are drawn in the order of their numbers of images, so that few images are drawn that no episode takes;
        these go to one place behind all others.
        """
        total, ways = layouts[-1].end, layouts[0].composition.classes.shape[1]
        counts = torch.cat([layout.counts for layout in layouts], 1).flatten(1)  # (parts of a class, E * M)
        used = counts.any(1)
        ends = counts[used].cumsum(0)
        begins = torch.cat([layout.begins for layout in layouts], 1).flatten(1)[used]
        begins[1:] -= ends[:-1]
        order = ends[-1].argsort()
        order = order[int((ends[-1] == 0).sum()) :]
        most = ends[-1][order]
        classes = torch.cat([layout.composition.classes for layout in layouts]).flatten()[order]
        slots, own = order % ways + 1, torch.cat(keys)[order // ways]
        sizes, offsets = self.sizes[classes], self._offsets[classes]
        tensors = (own, slots, sizes, offsets, begins[:, order], ends[:, order])
        own, slots, sizes, offsets, begins, ends = (tensor.to(device) for tensor in tensors)
        images = torch.empty(total + 1, dtype=torch.int64, device=device)
        for part in _slices(most, CHUNK if device.type == "cpu" else 32 * CHUNK):
            steps = torch.arange(int(most[part][-1]), device=device)[:, None]
            drawn = draw(own[part], slots[part], sizes[part], self._largest, len(steps)) + offsets[part]
            places = torch.full_like(drawn, total)
            for begin, end in zip(begins[:, part].flip(0), ends[:, part].flip(0)):
                places = torch.where(steps < end, begin + steps, places)
            images.scatter_(0, places.flatten(), drawn.flatten())
        return images[:total]


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
    """Where the images of E episodes of one shape stand in a flat tensor: support, query, then unlabelled images.

    starts, widths  of these parts: the place of the first episode's first image, and the places of each episode
    begins          (parts, E, M) the place of the first image of each class
    counts          (parts, E, M) the number of images of each class
    end             the place behind the last image
    """

    composition: Composition
    way: int
    starts: list[int]
    widths: list[int]
    begins: Tensor
    counts: Tensor
    end: int

    @classmethod
    def of(cls, part: Composition, start: int) -> "_Layout":
        """The layout of episodes that are composed so, from place `start` on."""
        way, queries, unlabelled = part.shapes(False)[0].tolist()
        shot, count = int(part.support.max()), len(part.classes)
        widths = [way * shot, queries, unlabelled]
        starts = [start + count * sum(widths[:number]) for number in range(3)]
        places = torch.arange(part.classes.shape[1]) * shot
        before = [places.expand_as(part.classes), _before(part.query), _before(part.unlabelled)]
        rows = torch.arange(count)[:, None]
        begins = [first + rows * width + place for first, width, place in zip(starts, widths, before)]
        counts = [part.support, part.query, part.unlabelled]
        return cls(part, way, starts, widths, torch.stack(begins), torch.stack(counts), start + count * sum(widths))

    def parts(self, images: Tensor) -> list[Tensor]:
        """The support, query and unlabelled images, each (E, width)."""
        count = len(self.composition.classes)
        spans = zip(self.starts, self.widths)
        return [images[start : start + count * width].view(count, width) for start, width in spans]


def _slices(most: Tensor, limit: int) -> Iterator[slice]:
    """Slices of the ascending numbers `most` (B,), about _SLICES of them, none with more than `limit` draws."""
    first = 0
    length = max(1 << 10, len(most) // _SLICES)
    while first < len(most):
        last = min(first + length, len(most))
        last = first + max(1, min(last - first, limit // int(most[last - 1])))
        yield slice(first, last)
        first = last


def _before(counts: Tensor) -> Tensor:
    """The sum of the numbers (E, M) that stand before each number."""
    return counts.cumsum(1) - counts


def _repeated(counts: Tensor, total: int) -> Tensor:
    """Each place 0 .. M - 1 as often as `counts` (E, M) says, in order: (E, total)."""
    marks = torch.zeros((len(counts), total + 1), dtype=torch.int64)
    marks.scatter_add_(1, counts[:, :-1].cumsum(1), torch.ones_like(counts[:, :-1]))
    return marks[:, :total].cumsum(1)
