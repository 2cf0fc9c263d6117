"""Histogram loss (Ustinova and Lempitsky 2016): the similarities of same and different pairs hardly overlap."""

from typing import ClassVar

from torch import Tensor

from episodes import ClassBatches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.directions import DirectionLearner
from fewshot.learners.registry import register
from fewshot.losses import histogram


@register("histogram")
class Histogram(DirectionLearner):
    """Same and different pairs apart as distributions, without a margin.

    It trains on all pairs of a batch with the histogram loss, and a query goes to the class with the most similar mean
    direction.
    """

    variants: ClassVar = {"": Traits(paper="Ustinova and Lempitsky 2016")}
    batches = ClassBatches(classes=64, images=4)
    search: ClassVar = {"bins": [25, 50, 100, 200]}

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", bins: int = 100) -> None:
        """bins: of the histograms on [-1, 1]; each histogram has one node more than bins."""
        super().__init__(backbone, classes, variant)
        self.bins = bins

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return histogram(self.embed(images), labels, self.bins)
