"""SimpleShot (Wang et al. 2019): nearest centroids of a classifier's embeddings, centred and normalised."""

from torch import Tensor
from torch.nn import functional

from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Traits
from fewshot.learners.linear_classifier import CentredClassifier
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means


@register("simpleshot")
class SimpleShot(CentredClassifier):
    """A classifier's embeddings, centred and normalised; the nearest class mean.

    A linear classifier of the base classes is trained. A query goes to the class of the nearest centroid, the mean of
    its support embeddings, in the Euclidean distance, after a transformation of all embeddings:

    cl2n  the mean of the embeddings of base classes is subtracted, then the length made one
    l2n   the length is made one
    un    none

    The mean is over a sample of base images (the authors take all), measured before each validation, and checkpoints
    keep the mean. The mean is zero in a learner that was not trained by `train`.
    """

    variants = dict.fromkeys(["cl2n", "l2n", "un"], Traits(paper="Wang et al. 2019"))

    def begin_validation(self, base: EmbeddedBank) -> None:
        if self.variant == "cl2n":
            super().begin_validation(base)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        centroids = class_means(self._transformed(support), mask)  # (E, N, D)
        return -squared_distances(self._transformed(query), centroids)

    def _transformed(self, embeddings: Tensor) -> Tensor:
        if self.variant == "un":
            return embeddings
        return self.directions(embeddings) if self.variant == "cl2n" else functional.normalize(embeddings, dim=-1)
