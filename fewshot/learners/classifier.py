"""Classifiers of the base classes: the training that learners share which keep only the network of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.learners.base import Learner


class LinearClassifier(Learner):
    """Trains by the cross-entropy of a linear classifier of the base classes."""

    batches = ShuffledBatches(size=256)

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.head = nn.Linear(backbone.embedding_size, classes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(self.backbone(images)), labels)


class CosineClassifier(Learner):
    """Trains by the cross-entropy of the logits tau * cos(f(x), w_k), tau learned; embeddings have length one."""

    batches = ShuffledBatches(size=256)

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.weights = nn.Parameter(torch.randn(classes, backbone.embedding_size))
        self.tau = nn.Parameter(torch.tensor(10.0))

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.tau * self.embed(images) @ functional.normalize(self.weights, dim=1).T
        return functional.cross_entropy(logits, labels)
