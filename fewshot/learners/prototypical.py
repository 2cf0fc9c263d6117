"""Prototypical networks (Snell et al. 2017): the nearest class mean."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import EpisodicLearner
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means


@register("prototypical")
class Prototypical(EpisodicLearner):
    """A query goes to the class of the nearest mean embedding.

    euclidean  softmax over minus the squared Euclidean distance (equations 1 and 2), divided by `temperature`: 1 in the
               paper; long embeddings need more, because their distances saturate the softmax of a fresh network
    cosine     softmax over `scale` times the cosine similarity, which the paper finds worse
    """

    variants = dict.fromkeys(["euclidean", "cosine"], Traits(paper="Snell et al. 2017"))
    search: ClassVar = {"temperature": (0.3, 100.0, "log"), "turns": [False, True]}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        temperature: float = 1.0,
        scale: float = 10.0,
        turns: bool = False,
    ) -> None:
        """temperature: of the squared distances; scale: of the cosine; shot, turns: see EpisodicLearner."""
        super().__init__(backbone, classes, variant, shot, turns)
        self.temperature, self.scale = temperature, scale

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        prototypes = class_means(support, mask)  # (E, N, D)
        if self.variant == "cosine":
            return self.scale * functional.normalize(query, dim=2) @ functional.normalize(prototypes, dim=2).mT
        return -squared_distances(query, prototypes) / self.temperature
