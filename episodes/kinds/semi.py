"""Unlabelled images beside the support set, with or without classes that are not in the episode (Ren 2018)."""

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import EpisodeSampler, check_fits

UNLABELLED = 5  # images of each class, as in the source


class SemiSampler(ComposedSampler):
    """Uniform episodes, with 5 unlabelled images of each class beside the support set.

    distractors  whether as many other classes have 5 unlabelled images each as well

    As Ren et al. 2018, "Meta-learning for semi-supervised few-shot classification", section 3, with one difference:
    there each data set says once for all which images may be labelled; here any image may. The unlabelled images come
    class after class, distractors last: a learner that heeds their order cheats.
    """

    def __init__(
        self, bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0, *, distractors: bool = False
    ) -> None:
        EpisodeSampler(bank, way, shot, query, seed)
        what = f"{shot} shots, {query} queries and {UNLABELLED} unlabelled images"
        what = f"{what}, with distractor classes," if distractors else what
        self._drawn_ways = 2 * way if distractors else way
        check_fits(bank, what, self._drawn_ways, shot + query + UNLABELLED)
        super().__init__(bank, way, shot, way * query, seed)
        self.query = query

    def compose(self, keys: Tensor) -> Composition:
        own = torch.arange(self._drawn_ways) < self.way
        classes = self.drawn_classes(keys, self._drawn_ways)
        return composed(classes, self.shot * own, self.query * own, UNLABELLED)
