"""Meta-Baseline (Chen et al. 2021): a classifier of the base classes, then episodes of the nearest centroid."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.pretrained_episodes import PretrainedEpisodes
from fewshot.learners.registry import register
from fewshot.masks import class_means


@register("meta-baseline")
class MetaBaseline(PretrainedEpisodes):
    """A query goes to the class of the nearest centroid by the cosine, after two stages of training.

    First a linear classifier of the base classes is trained (what the paper calls Classifier-Baseline); then episodes
    go on with its network, whose logits are tau * cos(f(x), mean of f over the class's support), with a learned tau
    that starts at 10.
    """

    variants: ClassVar = {"": Traits(paper="Chen et al. 2021")}
    search: ClassVar = {"first_stage": (0.0, 0.9)}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, first_stage: float = 0.5
    ) -> None:
        """shot, first_stage: as of PretrainedEpisodes."""
        super().__init__(backbone, classes, variant, shot, first_stage)
        self.tau = nn.Parameter(torch.tensor(10.0))

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        centroids = functional.normalize(class_means(support, mask), dim=2)
        return self.tau * functional.normalize(query, dim=2) @ centroids.mT
