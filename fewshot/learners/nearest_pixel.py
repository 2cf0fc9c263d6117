"""Nearest neighbours of pixels: nothing is learned, so every trained learner must do better."""

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import counted


@register("nearest-pixel")
class NearestPixel(Learner):
    """The class of the support image with the nearest pixels; untrained, the floor.

    The score of a class is minus the smallest squared Euclidean distance to one of its support images. The presets run
    it on the backbone `pixels`; on another backbone it measures an untrained network.
    """

    variants: ClassVar = {"": Traits(trains=False, paper="Vinyals et al. 2016, 'pixels'")}

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        distances = counted(squared_distances(query, support.flatten(1, 2)), mask, torch.inf)
        return -distances.unflatten(2, support.shape[1:3]).amin(3)
