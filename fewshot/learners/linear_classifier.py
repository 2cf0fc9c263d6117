"""The linear classifier of base classes, whose network other learners use."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner


class LinearClassifier(Learner):
    """Trains by the cross-entropy of a linear classifier of the base classes.

    A subclass decides how a support set is used.
    """

    batches: Batches = ShuffledBatches(size=256)

    def __init__(self, backbone: Backbone, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.head = nn.Linear(backbone.embedding_size, classes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.class_logits(self.backbone(images)), labels)

    def class_logits(self, features: Tensor) -> Tensor:
        """Logits (B, classes) for the base classes of what the backbone makes of images, (B, D)."""
        return self.head(features)


class CentredClassifier(LinearClassifier):
    """A linear classifier of base classes that keeps the mean of their embeddings.

    The mean is over a sample of base images, measured before each validation, and checkpoints keep the mean. The mean
    is zero in a learner that was not trained by `train`.
    """

    mean: Tensor

    def __init__(self, backbone: Backbone, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.register_buffer("mean", torch.zeros(backbone.embedding_size))

    def begin_validation(self, base: EmbeddedBank) -> None:
        self.mean.copy_(base.embeddings.mean(0))

    def directions(self, embeddings: Tensor) -> Tensor:
        """The embeddings (..., D) less the mean of base classes, then of length one: CL2N of Wang et al. 2019."""
        return functional.normalize(embeddings - self.mean, dim=-1)
