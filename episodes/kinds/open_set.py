"""Queries of classes that are not in the support set, beside queries of classes that are."""

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import EpisodeSampler, check_fits


class OpenSampler(ComposedSampler):
    """Uniform episodes of `way` classes, with `query` queries of each and as many of each of `way` unknown classes.

    The labels of queries of unknown classes are `way`; these queries come last. (Liu et al. 2020, "Few-shot open-set
    recognition using meta-learning", section 5, has as many unknown classes as known ones.)
    """

    equal_queries = False

    def __init__(self, bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0) -> None:
        EpisodeSampler(bank, way, shot, query, seed)
        check_fits(bank, f"{way} known and {way} unknown classes", 2 * way, shot + query)
        super().__init__(bank, way, shot, 2 * way * query, seed)
        self.query = query

    def compose(self, keys: Tensor) -> Composition:
        known = torch.arange(2 * self.way) < self.way
        return composed(self.drawn_classes(keys, 2 * self.way), self.shot * known, self.query)
