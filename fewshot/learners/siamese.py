"""Siamese networks: learn from pairs whether two images show the same class."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import register
from fewshot.losses import contrastive, pair_cross_entropy
from fewshot.masks import class_means


@register("siamese")
class Siamese(Learner):
    """Pairs of one class are near, of two classes a margin apart.

    A query goes to the class whose support images are nearest on average. Hadsell et al. do not classify, and Koch et
    al. have one support image per class.

    contrastive  contrastive loss (Hadsell et al. 2006) on embeddings of length one; the pairs are all positive pairs
                 of a batch, and either as many negative pairs, the nearest, or all negative pairs
    koch         a verification head, sigmoid(sum over d of alpha_d |a_d - b_d| + bias), trained with cross-entropy
                 (Koch et al. 2015, section 3.1) on all pairs of a batch; positive and negative pairs have equal weight

    The score of a class is a mean over its support images: of minus the squared distance (contrastive), or of the
    probability of 'same' (koch).
    """

    variants: ClassVar = {"contrastive": Traits(paper="Hadsell et al. 2006"), "koch": Traits(paper="Koch et al. 2015")}
    batches = ClassBatches(classes=60, images=4)
    search: ClassVar = {"margin": (0.3, 1.8), "nearest": [True, False]}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", margin: float = 1.2, nearest: bool = True
    ) -> None:
        """margin: the distance from which on two classes are far enough apart, between 0 and 2.

        nearest: train on only the nearest negative pairs; if classes overlap much, the nearest pairs alone make all
        embeddings collapse.
        """
        super().__init__(backbone, classes, variant)
        self.margin, self.nearest = margin, nearest
        if self.variant == "koch":
            # near images show the same class, so the score starts as minus the distance
            self.alpha = nn.Parameter(torch.full((backbone.embedding_size,), -1.0))
            self.bias = nn.Parameter(torch.zeros(()))

    def embed(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return functional.normalize(features, dim=1) if self.variant == "contrastive" else features.sigmoid()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embed(images)
        if self.variant == "contrastive":
            return contrastive(embeddings, labels, self.margin, self.nearest)
        return pair_cross_entropy(self._logits(embeddings, embeddings), labels)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.variant == "contrastive":
            # mean over k of |q - s_k|^2 = |q|^2 - 2 q . mean s_k + mean |s_k|^2, with lengths of one: 2 - 2 q . mean
            return 2 * query @ class_means(support, mask).mT - 2
        same = self._logits(query, support.flatten(1, 2)).sigmoid()
        return class_means(same.mT.unflatten(1, support.shape[1:3]), mask).mT

    def _logits(self, a: Tensor, b: Tensor) -> Tensor:
        """alpha . |a_i - b_j| + bias for all pairs: (..., A, B) from a (..., A, D) and b (..., B, D).

        The sum is two L1 distances, one over the dimensions with positive alpha and one over those with negative
        alpha, so no tensor of all differences is made.
        """
        far, near = self.alpha.clamp_min(0), (-self.alpha).clamp_min(0)
        return torch.cdist(a * far, b * far, p=1) - torch.cdist(a * near, b * near, p=1) + self.bias
