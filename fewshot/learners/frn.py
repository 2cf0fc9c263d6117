"""Feature map reconstruction networks, FRN (Wertheimer et al. 2021): a class that knows a query can rebuild its map."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, InputError
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import in_parts, in_query_parts
from fewshot.learners.maps import MapLearner, place_mask
from fewshot.learners.registry import register


@register("frn")
class Frn(MapLearner):
    """A query goes to the class whose support descriptors rebuild the query's feature map best, by ridge regression.

    The pool S_c (K P, C) of a class has the local descriptors of its K support images. It rebuilds the map Q (P, C) of
    a query as (section 3.2)

    Q_c = rho Q S_c^T (S_c S_c^T + lambda I)^-1 S_c    with lambda = e^alpha K P / C and rho = e^beta,

    and the score is minus the squared error of a place, times gamma: -gamma / P |Q - Q_c|^2. alpha, beta
    and gamma are learned. Descriptors are divided by the square root of C, as the authors' code divides those of its
    ResNet-12; it leaves those of its Conv-4 as they are, which is a gamma of C and a smaller lambda.

    With `pretraining` the first stage of the training is the authors' pre-training: the same scores, for all base
    classes, from a learned pool of P descriptors in the place of each class's support (section 3.6). The paper's
    auxiliary loss, which keeps the pools of an episode apart, is left out.
    """

    variants: ClassVar = {"": Traits(maps=True, fits_episodes=True, paper="Wertheimer et al. 2021")}
    batches = ClassBatches(classes=20, images=10)
    # no pretraining: each of its steps scores all base classes, so that a trial with Omniglot's 4,112 takes ten minutes
    search: ClassVar = {"scale": (1.0, 256.0, "log")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        scale: float = 1.0,
        pretraining: float = 0.0,
    ) -> None:
        """scale: the initial value of gamma, 1 in the paper; a fresh Conv-4 needs more, because its maps are so small
        that the softmax of the scores is nearly uniform.

        pretraining: the share of the pre-training in the training steps, 0 for none; shot: as of EpisodicLearner.
        """
        super().__init__(backbone, classes, variant, shot)
        if not 0 <= pretraining < 1:
            raise InputError(f"frn needs pretraining of at least 0 and less than 1, not {pretraining}")
        self.alpha, self.beta = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))
        self.gamma = nn.Parameter(torch.tensor(scale))
        if pretraining:
            self.stages = (pretraining,)
            self.pools = nn.Parameter(torch.randn(classes, self.places, self.channels) / self.channels**0.5)

    def embed(self, images: Tensor) -> Tensor:
        return super().embed(images) / self.channels**0.5

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.stage == len(self.stages):
            return super().loss(images, labels)
        return functional.cross_entropy(self._scores_of_pools(self.embed(images)[None], self.pools[None])[0], labels)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        pools = self.descriptors(support).flatten(2, 3)  # (E, N, K * P, C)
        return self._scores_of_pools(query, pools, place_mask(mask, self.places))

    def _scores_of_pools(self, query: Tensor, pools: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (E, Q, N) of query (E, Q, D) for pools (E, N, M, C); mask (E, N, M): the descriptors that count."""
        _, way, _, channels = pools.shape
        return in_parts(self._scores_of_few, way * channels**2, query, pools, mask)

    def _scores_of_few(self, query: Tensor, pools: Tensor, mask: Tensor | None) -> Tensor:
        projections = self._projections(pools, mask)
        return in_query_parts(self._scores, projections.shape[1] * query.shape[2], query, projections)

    def _projections(self, pools: Tensor, mask: Tensor | None) -> Tensor:
        """rho S^T (S S^T + lambda I)^-1 S (E, N, C, C), by which a row of a map is rebuilt."""
        _, _, number, channels = pools.shape
        if mask is None:
            counts = pools.new_full((1, 1, 1, 1), number)
        else:
            pools = pools * mask[..., None]  # a row of zeros rebuilds nothing
            counts = mask.sum(2).to(pools)[..., None, None]
        penalties = self.alpha.exp() * counts / channels
        if number < channels:
            inner = pools @ pools.mT
            rebuilt = pools.mT @ torch.linalg.solve(inner + penalties * _identity(number, pools), pools)
        else:  # S^T (S S^T + lambda I)^-1 S = (S^T S + lambda I)^-1 S^T S (Woodbury): the smaller inverse
            inner = pools.mT @ pools
            rebuilt = torch.linalg.solve(inner + penalties * _identity(channels, pools), inner)
        return self.beta.exp() * rebuilt

    def _scores(self, query: Tensor, projections: Tensor) -> Tensor:
        """Scores (E, Q, N) of query (E, Q, D) by projections (E, N, C, C)."""
        places = self.descriptors(query).flatten(1, 2)[:, None]  # (E, 1, Q * P, C)
        errors = (places - places @ projections).square().sum(3)  # (E, N, Q * P)
        return -self.gamma * errors.unflatten(2, (-1, self.places)).mean(3).mT


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
