"""N-pair networks (Sohn 2016): each class of a batch against all others at once."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import register
from fewshot.losses import n_pair
from fewshot.masks import class_means


@register("npair")
class NPair(Learner):
    """Pairs of N classes, each against all others at once.

    The loss compares inner products. Their size says little about a class outside training, so the score is the cosine
    similarity to the mean of the support embeddings.
    """

    variants: ClassVar = {"": Traits(paper="Sohn 2016")}
    batches = ClassBatches(classes=120, images=2)
    search: ClassVar = {"images": [2], "regularisation": (1e-4, 1e-1, "log"), "temperature": (1.0, 64.0, "log")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        regularisation: float = 0.002,
        temperature: float = 1.0,
    ) -> None:
        """regularisation: the weight of the mean squared length; temperature: divides all products, 1 in the paper."""
        super().__init__(backbone, classes, variant)
        self.regularisation, self.temperature = regularisation, temperature

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        if isinstance(batches, ClassBatches) and batches.images != 2:
            raise InputError(f"npair trains on batches of pairs, images = 2 a class, not {batches.images}")

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        pairs = (self.embed(images) / self.temperature**0.5).unflatten(0, (-1, 2))  # class after class
        return n_pair(pairs[:, 0], pairs[:, 1], self.regularisation)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.normalize(query, dim=2) @ functional.normalize(class_means(support, mask), dim=2).mT
