"""Soft nearest neighbours (Goldberger et al. 2004; Frosst et al. 2019), as an installed package brings it."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from episodes import ClassBatches
from fewshot import Learner, Traits, register
from fewshot.losses import squared_distances
from fewshot.masks import counted


@register("soft-neighbours")
class SoftNeighbours(Learner):
    """Each support image votes for its class, near ones louder.

    The score of a class is the log of the sum over its support images of exp(-|q - s|^2 / temperature), and the loss is
    that of the other images of a batch: minus the log of the share that the votes of an image's own class have.
    """

    variants: ClassVar = {"": Traits(paper="Frosst et al. 2019")}
    batches = ClassBatches(classes=60, images=4)

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "", temperature: float = 10.0) -> None:
        """temperature: of the squared distances; the lower, the more the nearest images alone decide."""
        super().__init__(backbone, classes, variant)
        self.temperature = temperature

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embed(images)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        votes = self._votes(embeddings, embeddings).masked_fill(itself, -torch.inf)
        own = votes.masked_fill(labels[:, None] != labels, -torch.inf)
        return (votes.logsumexp(1) - own.logsumexp(1)).mean()

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        votes = counted(self._votes(query, support.flatten(1, 2)), mask, -torch.inf)  # (E, Q, N * K)
        return votes.unflatten(2, support.shape[1:3]).logsumexp(3)

    def _votes(self, a: Tensor, b: Tensor) -> Tensor:
        return -squared_distances(a, b) / self.temperature
