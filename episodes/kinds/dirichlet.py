"""Queries whose classes are not balanced: their shares follow a Dirichlet distribution (Veilleux 2021).

Veilleux, Boudiaf, Piantanida and Ben Ayed 2021, "Realistic evaluation of transductive few-shot learning", section 3:
the shares of the classes among the queries are drawn from Dirichlet(alpha, ..., alpha); the number of queries is fixed.
"""

import math

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import slot_words, uniform
from episodes.errors import InputError
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import EpisodeSampler

_LEAST = 1e-300  # in place of 0, which has no logarithm and divides nothing
_ATTEMPTS = 8  # of the rejection below; all fail for one number in 10^10 or fewer


class DirichletSampler(ComposedSampler):
    """`way` * `query` queries in all, shared out among the classes by Dirichlet(`alpha`); uniform classes and support.

    The queries of a class are the share times their number, rounded so that the fractions that are largest are rounded
    up, as the authors' code does. If a class has too few images, the rest goes to the other classes by their shares.
    Support and query images of an episode differ; in the authors' code they may be the same.

    balanced: whether no class has more images than the support and the mean number of queries take, so that the queries
    are uniform whatever the shares
    """

    equal_queries = False

    def __init__(
        self, bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0, *, alpha: float = 2
    ) -> None:
        EpisodeSampler(bank, way, shot, query, seed)  # raises InputError for episodes that the bank cannot fill
        if not 0.01 <= alpha <= 1000:
            raise InputError(f"alpha of a Dirichlet distribution must be between 0.01 and 1000, not {alpha:g}")
        super().__init__(bank, way, shot, way * query, seed)
        self.alpha = alpha
        self.balanced = self._largest == shot + query  # all images of the classes are needed, whatever the shares

    def compose(self, keys: Tensor) -> Composition:
        classes = self.drawn_classes(keys, self.way)
        shares = dirichlet(keys, self.way, self.alpha)
        return composed(classes, self.shot, shared_out(self.queries, shares, self.sizes[classes] - self.shot))


def dirichlet(keys: Tensor, way: int, alpha: float) -> Tensor:
    """Shares of `way` classes for each of `keys` (E,), by Dirichlet(alpha, ..., alpha): (E, way) float64."""
    logs = log_gamma(keys.repeat_interleave(way), torch.arange(way).repeat(len(keys)), alpha).view(-1, way)
    return logs.softmax(1)


def log_gamma(keys: Tensor, places: Tensor, alpha: float) -> Tensor:
    """Logarithms of numbers from Gamma(alpha, 1), for each key and place (B,): (B,) float64.

    The rejection of Marsaglia and Tsang 2000, "A simple method for generating gamma variables", and for alpha < 1 a
    number from Gamma(alpha + 1, 1) times U ** (1 / alpha). Logarithms, because the numbers may be too small for floats.
    """
    shape = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    result = torch.full(keys.shape, math.log(shape), dtype=torch.float64)
    left = torch.arange(len(keys))
    for attempt in range(_ATTEMPTS):
        own = slot_words(keys[left], -1 - attempt - _ATTEMPTS * places[left], 3)
        normal = torch.sqrt(-2 * uniform(own[0]).log()) * torch.cos(2 * math.pi * uniform(own[1]))
        cube = (1 + normal / math.sqrt(9 * shape)) ** 3
        log_cube = cube.clamp_min(_LEAST).log()
        accepted = uniform(own[2]).log() < normal**2 / 2 + shape * (1 - cube + log_cube)
        result[left[accepted]] = math.log(shape) + log_cube[accepted]
        left = left[~accepted]
        if not len(left):
            break
    if alpha < 1:
        result += uniform(slot_words(keys, -1 - _ATTEMPTS * places, 4)[3]).log() / alpha
    return result


def shared_out(total: int, shares: Tensor, room: Tensor) -> Tensor:
    """`total` as whole numbers (E, N) in proportion to `shares` (E, N), none above `room` (E, N), which is enough.

    Each number is rounded down or up: up for the largest fractions. What has no room is shared out again, in proportion
    to the shares of the others.
    """
    counts = torch.zeros_like(room)
    while bool((left := total - counts.sum(1, keepdim=True)).any()):
        weights = torch.where(counts < room, shares.clamp_min(_LEAST), 0)
        exact = weights / weights.sum(1, keepdim=True).clamp_min(_LEAST) * left  # 0 of a row that is full
        whole = exact.long()
        order = (exact - whole).argsort(dim=1, descending=True, stable=True)
        up = torch.arange(counts.shape[1]) < left - whole.sum(1, keepdim=True)
        counts = torch.minimum(counts + whole.scatter_add(1, order, up.long()), room)
    return counts
