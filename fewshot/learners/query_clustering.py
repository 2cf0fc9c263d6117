"""Clustering of the queries: the floor of methods that see all queries at once (Huang et al. 2019)."""

from typing import ClassVar

import scipy  # its submodules load when first used, so that commands that need none start faster
import torch
from torch import Tensor
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.draws import uniform
from fewshot.learners.base import Traits
from fewshot.learners.linear_classifier import CentredClassifier
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means

_STEPS = 100  # of k-means at most


@register("query-clustering")
class QueryClustering(CentredClassifier):
    """k-means of the queries without any label; the support only names the clusters. A floor for transductive methods.

    A linear classifier of the base classes is trained, and its embeddings are centred and normalised as for
    `simpleshot`. k-means (Lloyd 1982) cuts the queries of an episode into as many clusters as it has classes. Of
    `starts` starts by k-means++ (Arthur and Vassilvitskii 2007), drawn by the episode's key, the one with the least sum
    of squared distances is kept. The support then gives each cluster one class: the pairs of cluster centres and class
    means that have the least sum of squared distances (the Hungarian method). A query's score for a class is minus the
    squared distance to the centre that got this class.

    Huang et al. 2019 ask how far an episode is solved without the labels of its support. Their Centroid Networks
    cluster the support images, into clusters of equal size, and the labels of the support name the clusters by the
    Hungarian method, which needs several shots. Here the queries are clustered, which needs several queries.
    """

    variants: ClassVar = {"": Traits(transductive=True, paper="Huang et al. 2019")}

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", starts: int = 10) -> None:
        """starts: of k-means, of which the best one is kept."""
        super().__init__(backbone, classes, variant)
        self.starts = starts

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        query, means = self.directions(query), class_means(self.directions(support), mask)
        keys = torch.zeros(len(query), dtype=torch.int64, device=query.device) if keys is None else keys
        best, least = torch.zeros_like(means), query.new_full((len(query),), torch.inf)
        for start in range(self.starts):
            centres = k_means(query, _first_centres(query, means.shape[1], keys, start))
            loss = squared_distances(query, centres).amin(2).sum(1)
            better = loss < least
            best, least = torch.where(better[:, None, None], centres, best), torch.where(better, loss, least)
        return -squared_distances(query, _named(best, means))


def k_means(images: Tensor, centres: Tensor) -> Tensor:
    """Centres (E, N, D), from `centres` (E, N, D), of the clusters of images (E, M, D), once no image changes cluster.

    A cluster without images keeps its centre.
    """
    before = None
    for _ in range(_STEPS):
        nearest = squared_distances(images, centres).argmin(2)  # (E, M)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        members = functional.one_hot(nearest, centres.shape[1]).to(images)  # (E, M, N)
        counts = members.sum(1)[..., None]
        centres = torch.where(counts > 0, members.mT @ images / counts.clamp_min(1), centres)
    return centres


def _first_centres(images: Tensor, way: int, keys: Tensor, start: int) -> Tensor:
    """Centres (E, way, D) by k-means++: each next one is an image, drawn with a chance that grows as the squared
    distance to the nearest centre so far. Images are drawn in the order of their sums, whatever order they come in."""
    images = images.gather(1, images.sum(2).argsort(1)[..., None].expand_as(images))
    numbers = (uniform(keys, start, way).to(images) + 1) / 2  # (E, way) in [0, 1]
    chances = torch.ones_like(images[..., 0])
    centres: list[Tensor] = []
    for step in range(way):
        ladder = chances.cumsum(1)
        place = torch.searchsorted(ladder, numbers[:, step, None] * ladder[:, -1:]).clamp_max(images.shape[1] - 1)
        centre = images.gather(1, place[..., None].expand(-1, -1, images.shape[2]))
        distances = squared_distances(images, centre)[..., 0]
        chances = distances if step == 0 else torch.minimum(chances, distances)
        centres.append(centre)
    return torch.cat(centres, 1)


def _named(centres: Tensor, means: Tensor) -> Tensor:
    """The centres (E, N, D) in the order of the class means (E, N, D) that they are paired with."""
    costs = squared_distances(means, centres).cpu().numpy()
    pairs = [scipy.optimize.linear_sum_assignment(cost)[1].tolist() for cost in costs]
    places = torch.tensor(pairs, device=centres.device)
    return centres.gather(1, places[..., None].expand_as(centres))
