"""PT-MAP (Hu et al. 2021): power transform, and class centres by optimal transport of the queries."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.heads import memberships
from fewshot.learners.base import Traits
from fewshot.learners.linear_classifier import LinearClassifier
from fewshot.learners.registry import register

_LEAST = 1e-6  # added before the power
_SETTLED, _ROUNDS = 1e-6, 1000  # of Sinkhorn: the largest change of a query's sum when it ends, and rounds at most


@register("pt-map")
class PowerTransformMAP(LinearClassifier):
    """Class centres and a balanced assignment of the queries to them, in turns, after a power transform.

    A linear classifier of the base classes is trained. Its embeddings (Hu et al. 2021, section 3.2)

    1. become (max(0, v) + 1e-6)^power: embeddings after a ReLU are not negative
    2. get the length one, lose the mean of their set, support or queries, and get the length one again

    and the class centres c_k start as the support means. Each of `epochs` epochs (section 3.3) finds the transport plan
    P of the queries to the classes, with P ~ u_i exp(-strength |x_i - c_k|^2) v_k, one unit from each query and the
    same number Q / N to each class (Sinkhorn), and moves each centre by `rate` of the way to the mean of the support of
    its class and all queries, weighted by P. The scores are log P of the last centres.

    The method takes for granted that all classes have the same number of queries.
    """

    variants: ClassVar = {"": Traits(fits_episodes=True, transductive=True, paper="Hu et al. 2021")}
    search: ClassVar = {"rate": (0.05, 0.5), "strength": (3.0, 30.0, "log"), "power": (0.25, 1.0)}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        epochs: int = 20,
        rate: float = 0.2,
        strength: float = 10.0,
        power: float = 0.5,
    ) -> None:
        """epochs; rate: alpha in the paper; strength: lambda; power: beta."""
        super().__init__(backbone, classes, variant)
        self.epochs, self.rate, self.strength, self.power = epochs, rate, strength, power

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        labels = memberships(support, mask)  # (E, S, N)
        support = self._transformed(support.flatten(1, 2), labels.sum(2, keepdim=True))
        query = self._transformed(query, torch.ones_like(query[..., :1]))
        images = torch.cat([support, query], 1)  # (E, M, D), of length one
        products = images @ images.mT  # centres are sums of images: their inner products are all that the epochs need
        known = functional.pad(labels, (0, 0, 0, query.shape[1]))
        centres = (known / known.sum(1, keepdim=True)).mT  # as coefficients of images, (E, N, M)
        for _ in range(self.epochs):
            plan = self._plan(centres, products, support.shape[1]).exp()
            weights = torch.cat([labels, plan], 1)
            centres = torch.lerp(centres, (weights / weights.sum(1, keepdim=True)).mT, self.rate)
        return self._plan(centres, products, support.shape[1])

    def _transformed(self, rows: Tensor, counted: Tensor) -> Tensor:
        """Rows (E, M, D) by the steps 1 and 2, with the mean over those rows that have 1 in `counted` (E, M, 1)."""
        rows = functional.normalize((functional.relu(rows) + _LEAST) ** self.power, dim=2)
        return functional.normalize(rows - (counted * rows).sum(1, keepdim=True) / counted.sum(1, keepdim=True), dim=2)

    def _plan(self, centres: Tensor, products: Tensor, support: int) -> Tensor:
        """The logarithm of the queries' transport plan (E, Q, N)."""
        inner = centres @ products  # c_k . x_i, (E, N, M)
        squares = (centres * inner).sum(2, keepdim=True) - 2 * inner[..., support:]  # |c_k - x_i|^2 - |x_i|^2
        return sinkhorn(-self.strength * squares.mT)


def sinkhorn(logits: Tensor) -> Tensor:
    """log P (E, Q, N), P = diag(u) exp(logits) diag(v) with row sums of 1 and column sums of Q / N (Cuturi 2013).

    logits (E, Q, N). Rows and columns are scaled in turns, the columns last, until no row sum of the episode changes by
    more than 1e-6, as in the code of Hu et al. 2021. `deepemd.transport` is another function: gradients pass through
    its steps, whose number is fixed, and its sums are given.
    """
    kernel = logits.mT.softmax(1)  # (E, N, Q): sums over the last, long dimension are quick
    way, queries = kernel.shape[1:]
    rows, columns = torch.ones_like(kernel[:, :1]), torch.ones_like(kernel[..., :1])  # u and v
    sums, moving = torch.zeros_like(rows), torch.ones_like(kernel[:, :1, :1], dtype=torch.bool)
    for _ in range(_ROUNDS):
        taken = (columns * kernel).sum(1, keepdim=True)
        moving = moving & ((rows * taken - sums).abs().amax(2, keepdim=True) > _SETTLED)
        if not moving.any():
            break
        sums = rows * taken
        rows = torch.where(moving, 1 / taken, rows)
        columns = torch.where(moving, queries / way / (kernel * rows).sum(2, keepdim=True), columns)
    return (columns * kernel * rows).clamp_min(torch.finfo(kernel.dtype).tiny).log().mT
