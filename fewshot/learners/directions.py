"""Learners that compare directions: embeddings have the length one."""

from torch import Tensor
from torch.nn import functional

from fewshot.learners.base import Learner
from fewshot.masks import class_means


class DirectionLearner(Learner):
    """Embeddings have the length one, and a query goes to the class with the most similar mean direction."""

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return query @ functional.normalize(class_means(support, mask), dim=2).mT
