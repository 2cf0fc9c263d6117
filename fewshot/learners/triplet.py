"""Triplet networks (Schroff et al. 2015): an image is nearer to its own class than to any other, by a margin."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches
from episodes.errors import unknown_name
from fewshot.learners.base import Learner, OpenVariants, Traits
from fewshot.learners.registry import register
from fewshot.losses import MINING, triplet, triplet_pairs


@register("triplet")
class Triplet(Learner):
    """Nearer to its own class than to another, by a margin.

    It trains on the triplets of a batch that `mining` chooses, with embeddings of length one, and the variants are

    squared  max(0, m + d+^2 - d-^2) (Schroff et al. 2015)
    pairs    max(0, m - d-)^2 + (d+)^2, the contrastive loss of the two pairs of a triplet

    either also with its mining, as in squared+hard. A query goes to the class whose support images are nearest on
    average, by the squared distance.
    """

    variants = OpenVariants(
        dict.fromkeys(["squared", "pairs"], Traits(paper="Schroff et al. 2015")), lambda variant: _check(variant)
    )
    batches = ClassBatches(classes=60, images=4)
    _margins: ClassVar[dict[str, float]] = {"squared": 0.2, "pairs": 1.0}

    def __init__(
        self, backbone: nn.Module, classes: int, variant: str = "", mining: str = "semi-hard", margin: float = 0.0
    ) -> None:
        """mining: semi-hard, hard, margin, random or all (see `fewshot.losses.mined`), where the variant names none.

        margin: m, where 0 stands for the variant's own, 0.2 of squared distances (FaceNet's) and 1.0 of distances.
        """
        super().__init__(backbone, classes, variant)
        self.form, _, named = self.variant.partition("+")
        self.mining, self.margin = named or mining, margin or self._margins[self.form]
        _check_mining(self.mining)

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = triplet if self.form == "squared" else triplet_pairs
        return loss(self.embed(images), labels, self.margin, self.mining)

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        return 2 * query @ support.mean(2).mT - 2  # minus the mean squared distance of vectors of length one


def _check(variant: str) -> None:
    form, _, mining = variant.partition("+")
    if form not in Triplet.variants:
        raise unknown_name("variant of triplet", form, Triplet.variants)
    _check_mining(mining)


def _check_mining(mining: str) -> None:
    if mining not in MINING:
        raise unknown_name("mining of triplet", mining, MINING)
