"""Support sets whose classes have different numbers of images (Ochal 2021)."""

from collections.abc import Callable

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.errors import InputError, counted
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import EpisodeSampler, check_fits


def linear(way: int, most: int) -> list[int]:
    """From 1 to `most` in equal steps, which are rounded; the ends have as large a part as the numbers between them."""
    return [round(0.51 + place * (most - 0.02) / (way - 1)) for place in range(way)]


def step(way: int, most: int) -> list[int]:
    """1 for a fifth of the classes, and one class at least; `most` for the others."""
    few = max(1, way // 5)
    return [1] * few + [most] * (way - few)


def long_tail(way: int, most: int) -> list[int]:
    """From 1 to `most` as the square of the place, rounded down: a power law, whose exponent the source leaves open."""
    return [1 + (most - 1) * place**2 // (way - 1) ** 2 for place in range(way)]


SHAPES: dict[str, Callable[[int, int], list[int]]] = {"linear": linear, "step": step, "long-tail": long_tail}


class ImbalanceSampler(ComposedSampler):
    """Uniform episodes whose classes have from 1 to 2 * `shot` - 1 support images; `query` queries of each class.

    shape  one of SHAPES, as Ochal et al. 2021, "Few-shot learning with class imbalance", section 3 and its code have
           them. 5 shots become 1 to 9, as in the paper. The first class of an episode has the fewest images
    """

    equal_shots = False

    def __init__(
        self, bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0, *, shape: str = "linear"
    ) -> None:
        if way < 2 or shot < 2:
            raise InputError(
                f"{counted(way, 'way')} of {counted(shot, 'shot')} cannot be imbalanced: that takes two ways and two"
                " shots or more"
            )
        EpisodeSampler(bank, way, shot, query, seed)
        most = 2 * shot - 1
        check_fits(bank, f"{shape} shots of 1 to {most} and {query} queries", way, most + query)
        super().__init__(bank, way, most, way * query, seed)
        self.query, self._shots = query, torch.tensor(SHAPES[shape](way, most))

    def compose(self, keys: Tensor) -> Composition:
        return composed(self.drawn_classes(keys, self.way), self._shots, self.query)
