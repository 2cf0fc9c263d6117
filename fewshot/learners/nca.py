"""Neighbourhood components analysis (Goldberger et al. 2004; for few shots Laenen and Bertinetto 2021)."""

from typing import ClassVar

import torch
from torch import Tensor

from episodes import ClassBatches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import register
from fewshot.losses import nca, squared_distances
from fewshot.masks import counted


@register("nca")
class NCA(Learner):
    """Each image votes for its class, near images louder: no episodes, no prototypes.

    It trains with the non-parametric softmax over all images of a batch. A class's score is the logarithm of the
    summed votes of its support images in the same softmax, so that training and test agree. Laenen and Bertinetto
    report the nearest class mean; with one shot both rules predict the same class.
    """

    variants: ClassVar = {"": Traits(paper="Goldberger et al. 2004, Laenen and Bertinetto 2021")}
    batches = ClassBatches(classes=60, images=6)
    search: ClassVar = {"temperature": (0.3, 100.0, "log")}

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", temperature: float = 1.0) -> None:
        """temperature: divides the squared distances; long embeddings need a higher one."""
        super().__init__(backbone, classes, variant)
        self.temperature = temperature

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return nca(self.embed(images), labels, self.temperature)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        near = -squared_distances(query, support.flatten(1, 2)) / self.temperature
        near = counted(near, mask, -torch.inf)
        return near.unflatten(2, support.shape[1:3]).logsumexp(3)
