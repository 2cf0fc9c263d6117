"""Random numbers for each episode, which depend on the episode's key and on their purpose alone."""

from torch import Tensor

from episodes.draws import words
from fewshot.devices import exact


def uniform(keys: Tensor, purpose: int, count: int) -> Tensor:
    """`count` numbers (E, count) for each of `keys` (E,), uniform in [-1, 1), by `exact`: see Episodes.keys."""
    return exact((words(keys, purpose, count) >> 12) & (1 << 52) - 1) / 2**51 - 1


def shuffled(keys: Tensor, purpose: int, count: int) -> Tensor:
    """A random order of 0 .. `count` - 1 for each of `keys` (E,): (E, count) int64."""
    return words(keys, purpose, count).argsort(1)
