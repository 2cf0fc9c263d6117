"""What learners that compare feature maps share: a map in a row is an embedding, and its places have descriptors."""

import torch
from torch import Tensor

from episodes import InputError
from fewshot.backbones.base import NO_MAPS, Backbone
from fewshot.learners.base import Learner
from fewshot.learners.episodic import EpisodicLearner


class MapLearner(EpisodicLearner):
    """Trains by episodes on feature maps (C, H, W) in place of vectors.

    An embedding is the map in a row, D = C * H * W numbers, so that embeddings are stored as those of all learners.
    A map has P = H * W places, each with a local descriptor of C numbers.
    """

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1) -> None:
        super().__init__(backbone, classes, variant, shot)
        self.channels, height, width = map_shape(self)
        self.places = height * width

    def embed(self, images: Tensor) -> Tensor:
        return flat_maps(self.backbone, images)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The score of a for a class of the one image b; this is too slow to compare each image with all others."""
        return self.scores(b[:, :, None], a)

    def descriptors(self, embeddings: Tensor) -> Tensor:
        """The local descriptors (..., P, C) of embeddings (..., D)."""
        return embeddings.unflatten(-1, (self.channels, self.places)).mT


def map_shape(learner: Learner) -> tuple[int, int, int]:
    """(C, H, W) of the feature maps of the learner's backbone; InputError if the backbone gives none."""
    shape = getattr(learner.backbone, "map_shape", None)
    if shape is None:
        raise InputError(f"{learner.name} compares feature maps, and {NO_MAPS}")
    return shape


def flat_maps(backbone: Backbone, images: Tensor) -> Tensor:
    """The feature maps of images (B, ...) in rows, (B, C * H * W)."""
    return backbone.maps(images).flatten(1)


def place_mask(mask: Tensor | None, places: int) -> Tensor | None:
    """The mask (E, N, K) of images as one (E, N, K * places) of their local descriptors, image after image."""
    return None if mask is None else torch.repeat_interleave(mask, places, dim=2)
