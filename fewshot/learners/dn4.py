"""Deep nearest neighbour neural network, DN4 (Li et al. 2019): local descriptors find their like in each class."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from episodes import ClassBatches, InputError
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import in_query_parts
from fewshot.learners.maps import MapLearner, place_mask
from fewshot.learners.registry import register


@register("dn4")
class Dn4(MapLearner):
    """Each local descriptor of a query looks for its nearest ones among all local descriptors of a class.

    The score of a class (the paper's image-to-class measure, section 3) is

    sum over i, sum over j of cos(x_i, x_i^j)

    over the P descriptors x_i of the query and the k = `neighbours` nearest to x_i among those of the class's support.

    Training takes the scores as logits of the query's class. A class that has fewer descriptors than `neighbours`
    counts the mean of those it has `neighbours` times, so that classes of unequal shots stay comparable.
    """

    variants: ClassVar = {"": Traits(maps=True, paper="Li et al. 2019")}
    batches = ClassBatches(classes=20, images=10)
    search: ClassVar = {"neighbours": (1, 5)}

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, neighbours: int = 3) -> None:
        """neighbours: k, 3 in the paper; shot: as of EpisodicLearner."""
        super().__init__(backbone, classes, variant, shot)
        if neighbours < 1:
            raise InputError(f"dn4 needs neighbours of at least 1, not {neighbours}")
        self.neighbours = neighbours

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        pools = functional.normalize(self.descriptors(support), dim=4).flatten(2, 3)  # (E, N, K * P, C)
        pairs = self.places * pools.shape[1] * pools.shape[2]
        return in_query_parts(self._scores, pairs, query, pools, place_mask(mask, self.places))

    def _scores(self, query: Tensor, pools: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (E, Q, N) of query (E, Q, D) for pools (E, N, M, C); mask (E, N, M): the descriptors that count."""
        places = functional.normalize(self.descriptors(query), dim=3).flatten(1, 2)  # (E, Q * P, C)
        cosines = (places @ pools.flatten(1, 2).mT).unflatten(2, pools.shape[1:3])  # (E, Q * P, N, M)
        return self.neighbours * self._nearest(cosines, mask).unflatten(1, (-1, self.places)).sum(2)

    def _nearest(self, cosines: Tensor, mask: Tensor | None) -> Tensor:
        """The mean (E, Q * P, N) of the k largest of cosines (E, Q * P, N, M), or of all if fewer count."""
        most = min(self.neighbours, cosines.shape[3])
        if mask is None:
            return _largest(cosines, most).mean(3)
        largest = _largest(cosines.masked_fill(~mask[:, None], -torch.inf), most)
        found = largest.isfinite()
        return largest.where(found, 0).sum(3) / found.sum(3)


def _largest(cosines: Tensor, count: int) -> Tensor:
    """The `count` largest (..., count) of cosines (..., M), in descending order.

    Without gradients, NumPy finds them on a CPU: with its vector instructions in a fifth of the time of topk, which
    takes most of the test of a model.
    """
    if cosines.device.type != "cpu" or (torch.is_grad_enabled() and cosines.requires_grad):
        return cosines.topk(count).values
    found = np.partition(cosines.detach().numpy(), -count, axis=-1)[..., -count:]
    return torch.from_numpy(np.sort(found, axis=-1)[..., ::-1].copy())
