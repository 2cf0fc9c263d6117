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

    def __init__(self, bank: ImageBank, seed: int) -> None:
        self.seed, self.classes, self.images = seed, bank.classes, len(bank)
        self.sizes = bank.sizes.cpu()
        self._offsets, self._largest = bank.offsets.cpu(), int(self.sizes.max())

    @abc.abstractmethod
    def compose(self, keys: Tensor) -> Composition:
        """The composition of the episodes of these keys, (E,) on the CPU; a function of each key alone."""

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
        ends = torch.tensor([way * shot, queries, unlabelled]).mul(count).cumsum(0).tolist()
        rows, columns = torch.arange(count)[:, None], torch.arange(part.classes.shape[1])
        starts = [
            (rows * way + columns) * shot,
            ends[0] + rows * queries + part.query.cumsum(1) - part.query,
            ends[1] + rows * unlabelled + part.unlabelled.cumsum(1) - part.unlabelled,
        ]
        counts = [part.support, part.query, part.unlabelled]
        images = self._drawn(keys, part.classes, counts, starts, device)
        support, query = images[: ends[0]].view(count, way, shot), images[ends[0] : ends[1]].view(count, queries)
        mask = labels = None
        if not self.equal_shots:
            mask = (part.support[:, :way, None] > torch.arange(shot)).to(device)
            support = torch.where(mask, support, support[..., :1])
        if self.equal_queries:
            query = query.view(count, way, -1)
        else:
            places = columns.clamp(max=way).repeat(count)
            labels = places.repeat_interleave(part.query.flatten()).view(count, queries).to(device)
        return Episodes(
            classes=part.classes[:, :way].to(device),
            support=support,
            query=query,
            keys=keys.to(device),
            mask=mask,
            labels=labels,
            unlabelled=images[ends[1] : ends[2]].view(count, unlabelled) if unlabelled else None,
            numbers=numbers.to(device),
        )

    def _drawn(
        self, keys: Tensor, classes: Tensor, counts: list[Tensor], starts: list[Tensor], device: torch.device
    ) -> Tensor:
        """The images of the classes (E, M) of each episode, flat: `counts` (E, M) of each part from `starts` (E, M) on.

        Classes are drawn in the order of their numbers of images, so that few images are drawn that no episode takes;
        these go to one place behind all others.
        """
        ends = torch.stack(counts).flatten(1).cumsum(0)  # (parts, E * M)
        order = ends[-1].argsort()
        order = order[len(order) - int((ends[-1] > 0).sum()) :]
        most = ends[-1][order]
        last = int(most.sum())
        limit = (CHUNK if device.type == "cpu" else 32 * CHUNK) // int(most[-1])
        length = max(1, min(limit, max(1 << 10, len(order) // _SLICES)))
        wide = classes.shape[1]
        pairs = [order, keys[order // wide], order % wide + 1, classes.flatten()[order]]
        order, keys, slots, classes = (part.to(device) for part in pairs)
        sizes, offsets = self.sizes.to(device)[classes], self._offsets.to(device)[classes]
        begins = torch.stack(starts).flatten(1).to(device)
        ends = ends.to(device)
        begins[1:] -= ends[:-1]
        begins, ends = begins[:, order], ends[:, order]
        images = torch.empty(last + 1, dtype=torch.int64, device=device)
        for first in range(0, len(order), length):
            part = slice(first, first + length)
            deepest = int(most[part][-1])
            drawn = draw(keys[part], slots[part], sizes[part], self._largest, deepest) + offsets[part]
            steps = torch.arange(deepest, device=device)[:, None]
            places = torch.full_like(drawn, last)
            for begin, end in zip(begins[:, part].flip(0), ends[:, part].flip(0)):
                places = torch.where(steps < end, begin + steps, places)
            images.scatter_(0, places.flatten(), drawn.flatten())
        return images[:last]
