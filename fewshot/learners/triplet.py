"""Triplet networks (Schroff et al. 2015): an image is nearer to its own class than to any other, by a margin."""

from typing import ClassVar

from torch import Tensor

from episodes.errors import unknown_name
from fewshot.backbones.base import Backbone
from fewshot.learners.base import OpenVariants, Traits
from fewshot.learners.directions import DirectionLearner
from fewshot.learners.registry import register
from fewshot.losses import MINING, triplet, triplet_pairs
from fewshot.masks import class_means

_FORMS = {"squared": (triplet, 0.2), "pairs": (triplet_pairs, 1.0)}  # the loss, and the margin that suits its distances


def _check(variant: str) -> None:
    form, _, mining = variant.partition("+")
    for what, name, known in [("variant", form, _FORMS), ("mining", mining, MINING)]:
        if name not in known:
            raise unknown_name(f"{what} of triplet", name, known)


@register("triplet")
class Triplet(DirectionLearner):
    """Nearer to its own class than to another, by a margin.

    squared  max(0, m + d+^2 - d-^2) (Schroff et al. 2015)
    pairs    max(0, m - d-)^2 + (d+)^2, the contrastive loss of the two pairs of a triplet
    """

    variants = OpenVariants(dict.fromkeys(_FORMS, Traits(paper="Schroff et al. 2015")), _check)
    search: ClassVar = {"margin": (0.05, 1.5, "log"), "mining": list(MINING)}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", mining: str = "semi-hard", margin: float = 0.0
    ) -> None:
        """mining: see losses.mined; squared+hard names its own. margin: m, 0 for 0.2 (squared) or 1.0 (pairs)."""
        super().__init__(backbone, classes, variant)
        form, _, named = self.variant.partition("+")
        _check(f"{form}+{named or mining}")
        self.triplets, self.mining, self.margin = _FORMS[form][0], named or mining, margin or _FORMS[form][1]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.triplets(self.embed(images), labels, self.margin, self.mining)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return 2 * query @ class_means(support, mask).mT - 2  # minus the mean squared distance of vectors of length one
