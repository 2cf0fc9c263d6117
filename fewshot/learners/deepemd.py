"""DeepEMD (Zhang et al. 2020) in a Sinkhorn form: the cost of moving the places of one feature map onto another's."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import ClassBatches, InputError
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import in_query_parts
from fewshot.learners.maps import MapLearner
from fewshot.learners.registry import register
from fewshot.masks import class_means

_LEAST_WEIGHT = 1e-3  # of a place, as in the authors' code: the weights of a map must not all be zero
_LEAST_EPSILON = 0.025  # exp(-2 / epsilon) must be a number of float32


@register("deepemd")
class DeepEmd(MapLearner):
    """The places of a query's feature map are matched with those of a class by optimal transport.

    Let u_i be the query's and v_j the class's local descriptors. The weight of a place is its likeness to the whole of
    the other map (cross-reference), s_i = max(u_i . mean of v_j, 0), and likewise for the class; the
    weights of a map sum to one. The score of the class is `scale` times the sum over i and j of x_ij cos(u_i, v_j),
    with x the transport plan of the costs 1 - cos(u_i, v_j) between these weights. Cosines are those
    of descriptors whose own mean is subtracted, as in the authors' code.

    The paper's plan is that of the earth mover's distance, by an interior-point solver. Here it is the plan of the
    entropic problem (Cuturi 2013): minus `epsilon` times the entropy of x is added to the cost, and `steps` Sinkhorn
    steps solve it, through which the gradient passes. With several shots a class is the mean map of its support; the
    paper's structured layer starts there, and is fitted further to each episode.
    """

    variants: ClassVar = {"": Traits(maps=True, paper="Zhang et al. 2020")}
    batches = ClassBatches(classes=20, images=10)
    search: ClassVar = {"batch": (64, 240, "log"), "scale": (3.0, 50.0, "log"), "epsilon": (0.02, 0.5, "log")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        scale: float = 12.5,
        epsilon: float = 0.05,
        steps: int = 10,
    ) -> None:
        """scale: of the scores, 12.5 in the paper; epsilon: of the entropy; steps: of the solver.

        shot: as of EpisodicLearner.
        """
        super().__init__(backbone, classes, variant, shot)
        if epsilon < _LEAST_EPSILON or steps < 1:
            raise InputError(
                f"deepemd needs epsilon of at least {_LEAST_EPSILON} and steps of at least 1, not {epsilon} and {steps}"
            )
        self.scale, self.epsilon, self.steps = scale, epsilon, steps

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        classes = class_means(support, mask)
        return in_query_parts(self._scores, classes.shape[1] * self.places**2, query, classes)

    def _scores(self, query: Tensor, classes: Tensor) -> Tensor:
        """Scores (E, Q, N) of query (E, Q, D) for class maps (E, N, D)."""
        u, v = self.descriptors(query), self.descriptors(classes)  # (E, Q, P, C), (E, N, P, C)
        rows = _weights(torch.einsum("eqpc, enc -> eqnp", u, v.mean(2)))
        columns = _weights(torch.einsum("enpc, eqc -> eqnp", v, u.mean(2)))
        cosines = _centred(u).flatten(1, 2) @ _centred(v).flatten(1, 2).mT  # (E, Q * P, N * P)
        cosines = cosines.unflatten(2, v.shape[1:3]).unflatten(1, u.shape[1:3]).transpose(2, 3)  # (E, Q, N, P, P)
        plans = transport(1 - cosines, rows, columns, self.epsilon, self.steps)
        return self.scale * (plans * cosines).sum((3, 4))


def transport(costs: Tensor, rows: Tensor, columns: Tensor, epsilon: float, steps: int) -> Tensor:
    """The entropic transport plans (..., P, R) of costs (..., P, R) by Sinkhorn's iteration (Cuturi 2013, algorithm 1).

    rows (..., P) and columns (..., R) are positive and sum to one. The plan's columns have exactly the sums `columns`;
    its rows come nearer to `rows` with each step.
    """
    kernel = torch.exp(-costs / epsilon)
    right = torch.ones_like(columns)
    for _ in range(steps):
        left = rows / (kernel @ right[..., None]).squeeze(-1)
        right = columns / (kernel.mT @ left[..., None]).squeeze(-1)
    return left[..., None] * kernel * right[..., None, :]


def _weights(likeness: Tensor) -> Tensor:
    """Positive weights (..., P) of places that sum to one."""
    positive = functional.relu(likeness) + _LEAST_WEIGHT
    return positive / positive.sum(-1, keepdim=True)


def _centred(descriptors: Tensor) -> Tensor:
    """Descriptors (..., C) less their own mean, of length one."""
    return functional.normalize(descriptors - descriptors.mean(-1, keepdim=True), dim=-1)
