"""The cosine classifier of base classes (Qi et al. 2018; Gidaris and Komodakis 2018), which others build on."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Learner


class CosineClassifier(Learner):
    """The logits of the base classes are tau * cos(f(x), w_k), with a learned tau that starts at 10.

    Embeddings have length one. A subclass decides how a support set is used.
    """

    def __init__(self, backbone: Backbone, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.weights = nn.Parameter(torch.randn(classes, backbone.embedding_size))
        self.tau = nn.Parameter(torch.tensor(10.0))

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.class_logits(self.backbone(images)), labels)

    def class_logits(self, features: Tensor) -> Tensor:
        """Logits (B, classes) for the base classes of what the backbone makes of images, (B, D)."""
        return self.logits(functional.normalize(features, dim=1), self.weights)

    def logits(self, embeddings: Tensor, weights: Tensor) -> Tensor:
        """tau * cos (..., N) of embeddings (..., D), which have length one, and weights (..., N, D) of any length."""
        return self.tau * embeddings @ functional.normalize(weights, dim=-1).mT

    def base_logits(self, query: Tensor) -> Tensor:
        """Logits (E, Q, classes) of queries (E, Q, D) for the base classes.

        The logits are on the scale of `scores`, so both together classify among base and new classes.
        """
        return self.logits(query, self.weights)
