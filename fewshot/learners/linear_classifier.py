"""The linear classifier of base classes, whose network other learners use."""

from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
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
        return functional.cross_entropy(self.head(self.backbone(images)), labels)
