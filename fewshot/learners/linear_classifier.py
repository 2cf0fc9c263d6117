"""The linear classifier of base classes, of which other learners keep the network."""

from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.learners.base import Learner


class LinearClassifier(Learner):
    """Trains by the cross-entropy of a linear classifier of the base classes.

    What it makes of a support set is left to those who derive from it.
    """

    batches = ShuffledBatches(size=256)

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.head = nn.Linear(backbone.embedding_size, classes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(self.backbone(images)), labels)
