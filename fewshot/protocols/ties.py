"""Ranks with ties: what is expected if images that are equally similar to a query stand in random order."""

from typing import NamedTuple

import torch
from torch import Tensor


class TiedRanks(NamedTuple):
    """The images that stand at each of the first ranks of some queries, (queries, depth) each, float64.

    An image stands at its rank among `size` images that are equally similar to the query, `right` of them of its class;
    it is the `place`-th of them, from 1, and `before` images of the query's class are more similar. If no images are
    equally similar, size and place are 1.
    """

    size: Tensor
    right: Tensor
    place: Tensor
    before: Tensor


def tied_ranks(near: Tensor, alike: Tensor, depth: int, rounding: float) -> TiedRanks:
    """The first `depth` ranks, of similarities (queries, N) to images that are of the query's class or not (likewise).

    The gap of an image to the most similar image, in whole multiples of `rounding`, decides ties: images with the same
    multiple are tied, so copies of the most similar image are always tied.
    """
    values, found = near.topk(depth)
    step = max(rounding, torch.finfo(near.dtype).tiny)
    levels, right = ((values[:, :1] - values) / step).floor(), alike.gather(1, found)
    first = torch.ones_like(right)
    first[:, 1:] = levels[:, 1:] != levels[:, :-1]
    group = first.cumsum(1) - 1
    size, hits = (torch.zeros_like(values, dtype=torch.float64) for _ in range(2))
    size.scatter_add_(1, group, torch.ones_like(size))
    hits.scatter_add_(1, group, right.double())
    last = ((values[:, :1] - near) / step).floor() == levels[:, -1:]  # may go on beyond the first ranks
    size.scatter_(1, group[:, -1:], last.sum(1, keepdim=True).double())
    hits.scatter_(1, group[:, -1:], (last & alike).sum(1, keepdim=True).double())
    ranks = torch.arange(depth, device=near.device).expand_as(group)
    start = torch.where(first, ranks, 0).cummax(1).values
    before = (right.cumsum(1) - right.long()).gather(1, start)
    return TiedRanks(size.gather(1, group), hits.gather(1, group), (ranks - start + 1).double(), before.double())


def tie_levels(scores: Tensor, rounding: Tensor) -> Tensor:
    """Whole numbers (queries, N) in place of scores (queries, N), in their order, the same for scores that are tied.

    The highest score is tied with all that are at most `rounding` (queries,) lower, and so on from the next lower one.
    So scores that are further apart than `rounding` never share a level.
    """
    values, found = scores.sort(1, descending=True)
    levels, level, highest = torch.zeros_like(values), torch.zeros_like(values[:, 0]), values[:, 0]
    for place in range(1, values.shape[1]):
        lower = highest - values[:, place] > rounding
        highest = torch.where(lower, values[:, place], highest)
        level = level - lower.to(level.dtype)
        levels[:, place] = level
    return torch.empty_like(levels).scatter_(1, found, levels)


def expected_precisions(ranks: TiedRanks) -> Tensor:
    """For each rank, the expected precision of the images up to it if the image there is of the query's class, else 0:
    (queries, depth).

    The image at rank i is of the class with probability right / size, and each of the place - 1 tied ones before it is
    one of the right - 1 others with probability (right - 1) / (size - 1).
    """
    places = torch.arange(1, ranks.size.shape[1] + 1, device=ranks.size.device)
    ahead = ranks.before + 1 + (ranks.place - 1) * (ranks.right - 1) / (ranks.size - 1).clamp_min(1)
    return ranks.right / ranks.size * ahead / places
