"""EpisodeSampler: N-way K-shot episodes, each a pure function of (seed, episode number) and the class sizes.

Random words come from a counter, not from a state: SplitMix64's output function (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators") of a key and a counter, in wrapping 64-bit integer arithmetic. So the same
episodes come out on every device, in any batch size, in any order, on any shard. The algorithm is pinned by golden
vectors in the tests: a change to it would change every published number.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.errors import InputError

VERSION = 1  # of the algorithm, in every row; only a change of the golden vectors raises it


def _signed(word: int) -> int:
    """A 64-bit word as the int64 of the same bits."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_SLOT = 1 << 16  # counters a slot may use; each gives two draws
_CHUNK = 1 << 19  # draws worked on at once on the CPU: the temporaries stay in its cache


def mix(words: Tensor) -> Tensor:
    """SplitMix64's output function, elementwise on int64 tensors; a bijection of 64-bit words."""
    words = words ^ ((words >> 30) & (1 << 34) - 1)  # the mask makes the arithmetic shift a logical one
    words *= _MIX_1
    words ^= (words >> 27) & (1 << 37) - 1
    words *= _MIX_2
    words ^= (words >> 31) & (1 << 33) - 1
    return words


def stream(seed: int, numbers: Tensor) -> Tensor:
    """One key for each of `numbers` (int64, any shape): the start of that number's own stream of random words."""
    key = mix(torch.tensor(_signed(seed), device=numbers.device))
    return mix(key + numbers * _GOLDEN)


def words(keys: Tensor, purpose: int, count: int) -> Tensor:
    """`count` random 64-bit words (E, count) for each of `keys` (E,), others for each purpose.

    Learners use these words to draw numbers in an episode (see Episodes.keys). No episode is drawn from these words.
    """
    own = stream(purpose, keys)
    return mix(own[:, None] + torch.arange(1, count + 1, device=keys.device) * _GOLDEN)


def _draw(keys: Tensor, slots: Tensor | int, sizes: Tensor | int, largest: int, count: int) -> Tensor:
    """`count` different positions below `sizes`, of which none is above `largest`, for each key: (count, B) from keys,
    slots and sizes of shape (B,).

    A Fisher-Yates shuffle cut after `count` steps: step j swaps position j with position r_j, uniform in
    [j, size). Instead of a table of all positions it keeps the r_j, and finds what stands at r_j by following the
    earlier swaps backwards.
    """
    words = torch.arange((count + 1) // 2, device=keys.device)[:, None] + (slots * _SLOT + 1)
    words = mix(keys + words * _GOLDEN)
    steps = torch.arange(count, device=keys.device)[:, None]
    targets = torch.empty((count, *keys.shape), dtype=torch.int64, device=keys.device)
    targets[0::2] = (words >> 32) & 0xFFFFFFFF
    targets[1::2] = words[: count // 2] & 0xFFFFFFFF
    targets *= sizes - steps
    targets >>= 32
    targets += steps
    # as narrow as positions can be: the loop below is bound by memory traffic
    swapped = targets.to(torch.int16 if largest <= 2**15 else torch.int32)
    moves = steps.to(swapped.dtype) - swapped
    positions, hits = swapped.clone(), torch.empty_like(swapped)
    for j in range(count - 2, -1, -1):  # later[later == swapped[j]] = j, in arithmetic that the CPU does in vectors
        later = positions[j + 1 :]
        hit = torch.eq(later, swapped[j], out=hits[j + 1 :])
        later += hit.mul_(moves[j])
    return positions


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Index tensors of E episodes; images are numbered as in the bank.

    classes (E, way)   support (E, way, shot)   query (E, way, query)   all int64
    keys (E,) int64: the key of the random words that a learner may draw for each episode, a function of the sampler's
    seed and the episode's number alone; None if no sampler drew the episodes
    """

    classes: Tensor
    support: Tensor
    query: Tensor
    keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def targets(self) -> Tensor:
        """The right answers for the queries in order, (way * query,): the position of the class in the episode."""
        _, way, query = self.query.shape
        return torch.arange(way, device=self.query.device).repeat_interleave(query)


class EpisodeSampler:
    """Draws `way` classes, and from each class `shot` support and `query` query images, uniformly without replacement.

    bank_or_sizes: an ImageBank, or the number of images of each class. Raises InputError if an episode needs more
    classes than there are, or more images than a class has. Episodes are nested: with the same seed, the
    support set of a 1-shot episode is the first image a class of the 5-shot episode of that number, and the classes
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
        source = "the data set" if bank is None else bank.name
        for word, number, least in (("way", way, 1), ("shot", shot, 1), ("query", query, 0)):
            if number < least:
                raise InputError(f"{word} must be at least {least}, not {number}")
        if way > len(sizes):
            raise InputError(
                f"{way}-way episodes need {way} classes, but {source} has {len(sizes)}: ask for fewer ways with --way"
            )
        smallest = int(sizes.argmin())
        if shot + query > int(sizes[smallest]):
            name = str(smallest) if bank is None else f"'{bank.class_names[smallest]}'"
            raise InputError(
                f"{shot} shots and {query} queries need {shot + query} images a class, but class {name} of"
                f" {source} has {int(sizes[smallest])}: ask for fewer shots or queries with --shot or --query"
            )
        self.way, self.shot, self.query, self.seed = way, shot, query, seed
        self._sizes = sizes
        self._offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.classes, self.images = len(sizes), int(self._offsets[-1])
        self._largest = int(sizes.max())
        # one size for all classes spares a look-up an image
        self._size = self._largest if bool((sizes == self._largest).all()) else None

    def episodes(self, start: int, count: int, device: torch.device | str | None = None) -> Episodes:
        """The episodes numbered start .. start + count - 1, on `device` (by default the device of the class sizes)."""
        if start < 0 or count < 0:
            raise InputError(f"episodes are numbered from 0: there are no {count} episodes from number {start} on")
        device = torch.device(device or self._sizes.device)
        sizes, offsets = self._sizes.to(device), self._offsets.to(device)
        images = self.shot + self.query
        every = stream(self.seed, torch.arange(start, start + count, device=device))
        result = Episodes(
            classes=torch.empty((count, self.way), dtype=torch.int64, device=device),
            support=torch.empty((count, self.way, self.shot), dtype=torch.int64, device=device),
            query=torch.empty((count, self.way, self.query), dtype=torch.int64, device=device),
            keys=every,
        )
        chunk = max(1, (_CHUNK if device.type == "cpu" else 32 * _CHUNK) // (self.way * images))
        slots = torch.arange(1, self.way + 1, device=device)[:, None]
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            keys = every[part]
            classes = _draw(keys, 0, len(sizes), len(sizes), self.way).long()  # (way, E)
            size = self._size if self._size is not None else sizes[classes].flatten()
            drawn = _draw(keys.repeat(self.way), slots.expand(-1, len(keys)).flatten(), size, self._largest, images)
            drawn = drawn.view(images, self.way, -1).permute(2, 1, 0).contiguous()  # (E, way, images)
            result.classes[part] = classes.T
            firsts = offsets[result.classes[part]][..., None]
            torch.add(drawn[..., : self.shot], firsts, out=result.support[part])
            torch.add(drawn[..., self.shot :], firsts, out=result.query[part])
        return result

    def batches(self, count: int, size: int, device: torch.device | str | None = None) -> Iterator[Episodes]:
        """Episodes 0 .. count - 1 in parts of at most `size`."""
        for start in range(0, count, size):
            yield self.episodes(start, min(size, count - start), device)


class ListedEpisodes(EpisodeSampler):
    """The episodes that the split protocol of `bank` lists (see ImageBank.listed): one a group, `count` in all.

    The first image of each class is its support, the others are queries. Raises InputError if there are fewer than
    two groups, the groups differ in size, or a class has a single image.
    """

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
        keys = stream(self.seed, torch.arange(self.count))
        self._listed = classes, images[:, :, :1].contiguous(), images[:, :, 1:].contiguous(), keys

    def episodes(self, start: int, count: int, device: torch.device | str | None = None) -> Episodes:
        """As EpisodeSampler.episodes; InputError beyond the last one listed."""
        if start < 0 or count < 0 or start + count > self.count:
            raise InputError(f"{self.count} episodes are listed: there are no {count} from number {start} on")
        # copies, so that no caller can change the listed episodes
        return Episodes(*(one[start : start + count].to(device, copy=True) for one in self._listed))


def sampler_of(bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0) -> EpisodeSampler:
    """The sampler that draws such episodes from `bank`; the sampler of the listed episodes if `bank` lists episodes."""
    return ListedEpisodes(bank) if bank.listed else EpisodeSampler(bank, way, shot, query, seed)
