"""Samplers of episodes: each episode is a pure function of (seed, episode number) and the class sizes.

The algorithm of the draws is in draws.py. Golden vectors in the tests pin it: a change to it would change every
published number.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import draw, stream
from episodes.errors import InputError, counted

VERSION = 1  # of the algorithm, in every row; only a change of the golden vectors raises it

CHUNK = 1 << 19  # draws worked on at once on the CPU: the temporaries stay in its cache


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Index tensors of E episodes of N ways, all int64 but the mask; images are numbered as in the bank.

    classes     (E, N)
    support     (E, N, K)
    query       (E, N, query) images of each class; or (E, Q) in any order, with `labels`
    keys        (E,) a seed for the random numbers that a learner may draw in each episode (see draws.words), a function
                of the sampler's seed and the episode's number alone; None if no sampler drew the episodes
    mask        (E, N, K) bool, False for padding of `support`: an image of the same class that does not count. Each
                class has at least one image that counts. None if all images count
    labels      (E, Q) the position of the class of each query in `classes`, N for a query of another class; None if
                `query` is (E, N, query), which gives the labels
    unlabelled  (E, U) unlabelled images; None if there are none
    numbers     (E,) the numbers of the episodes, None if no sampler drew the episodes
    """

    classes: Tensor
    support: Tensor
    query: Tensor
    keys: Tensor | None = None
    mask: Tensor | None = None
    labels: Tensor | None = None
    unlabelled: Tensor | None = None
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def targets(self) -> Tensor:
        """The position in its episode of the class of each query: `labels` (E, Q), or (Q,), the same for all episodes,
        if `labels` is None."""
        if self.labels is not None:
            return self.labels
        _, way, query = self.query.shape
        return torch.arange(way, device=self.query.device).repeat_interleave(query)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Episodes":
        """The episodes with `function` applied to each of their tensors, such as `lambda part: part[:10]`."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return dataclasses.replace(self, **{name: function(part) for name, part in parts.items()})

    def to(self, device: torch.device | str) -> "Episodes":
        """Copies on `device`, so that no caller can change the original."""
        return self.each(lambda part: part.to(device, copy=True))


class Sampler(abc.ABC):
    """What draws episodes of one kind, each by its number. Each kind of episodes is a subclass.

    way, shot        the largest numbers of classes in an episode and of support images in a class
    queries          the largest number of queries in an episode, of all classes together
    seed             the seed of the draws
    classes, images  the numbers of classes and of images in the bank
    count            the number of episodes, if they are listed; None if the sampler can draw any number of them
    """

    way: int
    shot: int
    seed: int
    classes: int
    images: int
    count: int | None = None

    @property
    @abc.abstractmethod
    def queries(self) -> int: ...

    @property
    def places(self) -> int:
        """The largest number of support images in an episode, padding included."""
        return self.way * self.shot

    @abc.abstractmethod
    def batches(self, count: int, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """Episodes 0 .. count - 1, each once, in parts of at most `size` episodes. All episodes of a part have the same
        number of classes and of queries. `Episodes.numbers` says which they are: parts need not be in order."""


def check_fits(bank_or_sizes: ImageBank | Tensor, what: str, classes: int = 0, images: int = 0) -> None:
    """InputError if there are fewer than `classes` classes, or a class has fewer than `images` images, which `what`
    needs; `what` names things in the plural."""
    bank = bank_or_sizes if isinstance(bank_or_sizes, ImageBank) else None
    sizes = bank_or_sizes if isinstance(bank_or_sizes, Tensor) else bank_or_sizes.sizes
    source = "the data set" if bank is None else bank.name
    if classes > len(sizes):
        raise InputError(f"{what} need {classes} classes, but {source} has {len(sizes)}: ask for fewer ways with --way")
    smallest = int(sizes.argmin())
    if images > int(sizes[smallest]):
        name = str(smallest) if bank is None else f"'{bank.class_names[smallest]}'"
        raise InputError(
            f"{what} need {images} images a class, but class {name} of {source} has {int(sizes[smallest])}: ask for"
            " fewer shots or queries with --shot or --query"
        )


class EpisodeSampler(Sampler):
    """Draws `way` classes, and from each class `shot` support and `query` query images, uniformly without replacement.

    bank_or_sizes: an ImageBank, or the number of images of each class. Raises InputError if an episode needs more
    classes than there are, or more images than a class has. Episodes of the same seed and number are nested: the
    support set of the 1-shot episode has the first support image of each class of the 5-shot episode, and the classes
    of the 5-way episode are the first five of the 20-way episode.

    >>> episodes = EpisodeSampler([20] * 100, way=5, shot=1, query=15, seed=0).episodes(start=0, count=10)
    >>> episodes.support.shape, episodes.query.shape
    (torch.Size([10, 5, 1]), torch.Size([10, 5, 15]))
    """

    def __init__(
        self, bank_or_sizes: ImageBank | Sequence[int] | Tensor, way: int, shot: int, query: int = 15, seed: int = 0
    ) -> None:
        bank = bank_or_sizes if isinstance(bank_or_sizes, ImageBank) else None
        sizes = torch.as_tensor(bank_or_sizes, dtype=torch.int64) if bank is None else bank.sizes
        for word, number, least in (("way", way, 1), ("shot", shot, 1), ("query", query, 0)):
            if number < least:
                raise InputError(f"{word} must be at least {least}, not {number}")
        check_fits(sizes if bank is None else bank, f"{way}-way episodes", classes=way)
        check_fits(
            sizes if bank is None else bank,
            f"{counted(shot, 'shot')} and {counted(query, 'query')}",
            images=shot + query,
        )
        self.way, self.shot, self.query, self.seed = way, shot, query, seed
        self._sizes = sizes
        self._offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.classes, self.images = len(sizes), int(self._offsets[-1])
        self._largest = int(sizes.max())
        # if all classes have one size, no image needs a look-up of the size of its class
        self._size = self._largest if bool((sizes == self._largest).all()) else None

    @property
    def queries(self) -> int:
        return self.way * self.query

    def episodes(self, start: int, count: int, device: torch.device | str | None = None) -> Episodes:
        """The episodes numbered start .. start + count - 1, on `device` (by default the device of the class sizes)."""
        if start < 0 or count < 0:
            raise InputError(f"episodes are numbered from 0: there are no {count} episodes from number {start} on")
        device = torch.device(device or self._sizes.device)
        sizes, offsets = self._sizes.to(device), self._offsets.to(device)
        images = self.shot + self.query
        numbers = torch.arange(start, start + count, device=device)
        every = stream(self.seed, numbers)
        result = Episodes(
            classes=torch.empty((count, self.way), dtype=torch.int64, device=device),
            support=torch.empty((count, self.way, self.shot), dtype=torch.int64, device=device),
            query=torch.empty((count, self.way, self.query), dtype=torch.int64, device=device),
            keys=every,
            numbers=numbers,
        )
        chunk = max(1, (CHUNK if device.type == "cpu" else 32 * CHUNK) // (self.way * images))
        slots = torch.arange(1, self.way + 1, device=device)[:, None]
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            keys = every[part]
            classes = draw(keys, 0, len(sizes), len(sizes), self.way).long()  # (way, E)
            size = self._size if self._size is not None else sizes[classes].flatten()
            drawn = draw(keys.repeat(self.way), slots.expand(-1, len(keys)).flatten(), size, self._largest, images)
            drawn = drawn.view(images, self.way, -1).permute(2, 1, 0).contiguous()  # (E, way, images)
            result.classes[part] = classes.T
            firsts = offsets[result.classes[part]][..., None]
            torch.add(drawn[..., : self.shot], firsts, out=result.support[part])
            torch.add(drawn[..., self.shot :], firsts, out=result.query[part])
        return result

    def batches(self, count: int, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """Episodes 0 .. count - 1 in order, in parts of at most `size`."""
        for start in range(0, count, size):
            yield self.episodes(start, min(size, count - start), device)


class ListedEpisodes(EpisodeSampler):
    """The episodes that the split protocol of `bank` lists (see ImageBank.listed): one per group, `count` in all.

    The first image of each class is its support, the others are queries. Raises InputError if there are fewer than
    two groups, the groups differ in size, or a class has a single image.
    """

    count: int

    def __init__(self, bank: ImageBank) -> None:
        groups = list(dict.fromkeys(bank.group_names))
        self.count, self.way = len(groups), bank.classes // max(1, len(groups))
        self.shot, self.query, self.seed = 1, int(bank.sizes[0]) - 1, 0
        self.classes, self.images = bank.classes, len(bank)
        regular = [group for group in groups for _ in range(self.way)] == list(bank.group_names)
        if not regular or self.count < 2 or self.query < 1 or bool((bank.sizes != bank.sizes[0]).any()):
            raise InputError(f"the groups of {bank.name} are no episodes: they differ in their classes or images")
        images = torch.arange(len(bank)).view(self.count, self.way, 1 + self.query)
        classes = torch.arange(bank.classes).view(self.count, self.way)
        numbers = torch.arange(self.count)
        self._listed = Episodes(
            classes,
            images[:, :, :1].contiguous(),
            images[:, :, 1:].contiguous(),
            keys=stream(self.seed, numbers),
            numbers=numbers,
        )

    def episodes(self, start: int, count: int, device: torch.device | str | None = None) -> Episodes:
        """As EpisodeSampler.episodes; InputError beyond the last one listed."""
        if start < 0 or count < 0 or start + count > self.count:
            raise InputError(f"{self.count} episodes are listed: there are no {count} from number {start} on")
        return self._listed.each(lambda part: part[start : start + count]).to(device or "cpu")


def sampler_of(bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0) -> EpisodeSampler:
    """The sampler that draws such episodes from `bank`; the sampler of the listed episodes if `bank` lists episodes."""
    return ListedEpisodes(bank) if bank.listed else EpisodeSampler(bank, way, shot, query, seed)
