"""Training batches: image indices of batch number `step`, each a pure function of (seed, step) like the episodes."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import stream
from episodes.errors import InputError
from episodes.sampler import EpisodeSampler

_AHEAD = 64  # batches drawn at once: one batch takes as many operations, and a GPU would wait for them at each step


@dataclasses.dataclass(frozen=True)
class ClassBatches:
    """P `classes` x K `images`: every class of a batch brings the same number of images, class after class."""

    classes: int = 60
    images: int = 2

    def __len__(self) -> int:
        return self.classes * self.images

    def indices(self, bank: ImageBank, seed: int, step: int) -> Tensor:
        """(classes * images,) int64 on the bank's device."""
        return self._sampler(bank, seed).episodes(step, 1).support.flatten()

    def following(self, bank: ImageBank, seed: int, step: int) -> Iterator[Tensor]:
        """`indices` of batch number `step` and of all that follow, without end."""
        sampler = self._sampler(bank, seed)
        for start in itertools.count(step, _AHEAD):
            yield from sampler.episodes(start, _AHEAD).support.flatten(1)

    def _sampler(self, bank: ImageBank, seed: int) -> EpisodeSampler:
        return EpisodeSampler(bank, self.classes, self.images, query=0, seed=seed)

    def fitted(self, bank: ImageBank) -> "ClassBatches":
        """The nearest batches that `bank` can fill, for data sets of few classes."""
        return ClassBatches(min(self.classes, bank.classes), min(self.images, int(bank.sizes.min())))


@dataclasses.dataclass(frozen=True)
class ShuffledBatches:
    """Batches of `size` images; each epoch has every image at most once, in an order of its own."""

    size: int = 256

    def __len__(self) -> int:
        return self.size

    def indices(self, bank: ImageBank, seed: int, step: int) -> Tensor:
        """(size,) int64 on the bank's device. The images that do not fill a last batch wait for the next epoch."""
        if self.size > len(bank):
            raise InputError(
                f"batches of {self.size} images cannot be drawn from the {len(bank)} images of {bank.name}"
            )
        epoch, position = divmod(step, len(bank) // self.size)
        return _order(len(bank), seed, epoch, bank.device)[position * self.size : (position + 1) * self.size]

    def following(self, bank: ImageBank, seed: int, step: int) -> Iterator[Tensor]:
        """`indices` of batch number `step` and of all that follow, without end."""
        return (self.indices(bank, seed, number) for number in itertools.count(step))

    def fitted(self, bank: ImageBank) -> "ShuffledBatches":
        """The nearest batches that `bank` can fill, for data sets of few images."""
        return ShuffledBatches(min(self.size, len(bank)))


Batches = ClassBatches | ShuffledBatches


def batches_from(settings: dict[str, int]) -> Batches:
    """ClassBatches from {classes, images}, ShuffledBatches from {size}."""
    for kind in (ClassBatches, ShuffledBatches):
        names = {field.name for field in dataclasses.fields(kind)}
        if set(settings) == names and all(type(number) is int and number >= 1 for number in settings.values()):
            return kind(**settings)
    raise InputError(f"batches = {settings} is neither {{classes = P, images = K}} nor {{size = B}} of whole numbers")


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """A permutation of `count` images: the argsort of a random word for each."""
    (key,) = stream(seed, torch.tensor([epoch], device=device)).tolist()
    return stream(key, torch.arange(count, device=device)).argsort(stable=True)
