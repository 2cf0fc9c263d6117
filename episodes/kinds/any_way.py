"""Any number of ways and shots: as Meta-Dataset draws them, and as the MetaDL competition does."""

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import below, slot_words, uniform
from episodes.errors import InputError
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import check_fits

_WAYS = 5, 50  # fewest and most, as all numbers here from Meta-Dataset
_QUERIES = 10  # of a class, at most
_SUPPORT = 500  # images of a support set, at most
_SHARE = 100  # images of a class that count for the size of the support set, at most
_METADL_WAYS = 2, 20
_METADL_SHOTS = 20


class AnySampler(ComposedSampler):
    """Ways, shots and queries as Triantafillou et al. 2020, "Meta-Dataset", appendix A.2.2, draws them without a
    hierarchy of classes.

    For C classes with |c| images in the bank:

        N      uniform in 5 .. min(50, C)
        q      min(10, min over c of floor(|c| / 2)), queries of each class
        |S|    min(500, sum over c of ceil(beta min(100, |c| - q))), with one beta uniform in (0, 1]
        R_c    exp(alpha_c) |c| / sum over c' of exp(alpha_c') |c'|, with alpha_c uniform in [log 0.5, log 2)
        K_c    min(floor(R_c (|S| - N)) + 1, |c| - q), support images of class c

    `way`, `shot` and `query` are Meta-Dataset's own: what is asked for has no meaning here.
    """

    equal_shots = False
    one_shape = False

    def __init__(self, bank: ImageBank, way: int = 0, shot: int = 0, query: int = 0, seed: int = 0) -> None:
        check_fits(bank, "episodes of any way", _WAYS[0], 2)
        most, sizes = min(_WAYS[1], bank.classes), bank.sizes
        largest, smallest = int(sizes.max()), int(sizes.min())
        shots = {ways: _most_shots(ways, largest, smallest) for ways in range(_WAYS[0], most + 1)}
        super().__init__(bank, most, max(shots.values()), most * min(_QUERIES, largest // 2), seed)
        self._places = max(ways * shot for ways, shot in shots.items())

    @property
    def places(self) -> int:
        return self._places

    def compose(self, keys: Tensor) -> Composition:
        words = slot_words(keys, -1, 2 + self.way).T
        ways = _WAYS[0] + below(words[:, :1], self.way - _WAYS[0] + 1)
        used = torch.arange(self.way) < ways
        classes = self.drawn_classes(keys, self.way)
        sizes = self.sizes[classes]
        query = torch.where(used, sizes // 2, _QUERIES).amin(1, keepdim=True).clamp_max(_QUERIES)
        counted = (uniform(words[:, 1:2]) * (sizes - query).clamp_max(_SHARE)).ceil()
        total = (counted * used).sum(1, keepdim=True).clamp_max(_SUPPORT)
        weights = torch.exp2(2 * uniform(words[:, 2:]) - 1) * sizes * used
        support = (weights / weights.sum(1, keepdim=True) * (total - ways)).long() + 1
        return composed(classes, torch.minimum(support, sizes - query) * used, query * used)


class MetaDLSampler(ComposedSampler):
    """2 to 20 ways and 1 to 20 shots, both uniform, and `query` queries of each class, as the competition Cross-Domain
    MetaDL 2022 draws them (Carrión-Ojeda et al. 2022).

    There are no more ways than the bank has classes, and no more shots than its smallest class has images beside the
    queries. All classes of an episode have the same number of shots. `way` and `shot` have no meaning here.
    """

    one_shape = False

    def __init__(self, bank: ImageBank, way: int = 0, shot: int = 0, query: int = 15, seed: int = 0) -> None:
        if query < 1:
            raise InputError(f"query must be at least 1, not {query}")
        check_fits(bank, f"episodes of any way with {query} queries", _METADL_WAYS[0], query + 1)
        most = min(_METADL_WAYS[1], bank.classes)
        super().__init__(bank, most, min(_METADL_SHOTS, int(bank.sizes.min()) - query), most * query, seed)
        self.query = query

    def compose(self, keys: Tensor) -> Composition:
        words = slot_words(keys, -1, 2).T
        ways = _METADL_WAYS[0] + below(words[:, :1], self.way - _METADL_WAYS[0] + 1)
        shots = 1 + below(words[:, 1:], self.shot)
        used = torch.arange(self.way) < ways
        return composed(self.drawn_classes(keys, self.way), shots * used, self.query * used)


def _most_shots(ways: int, largest: int, smallest: int) -> int:
    """A number of support images of a class that no episode of `ways` ways exceeds."""
    share = 2 * largest / (2 * largest + (ways - 1) * smallest / 2)
    return min(int(share * (min(_SUPPORT, ways * _SHARE) - ways)) + 1, largest - 1)
