"""LaplacianShot (Ziko et al. 2020): the nearest class mean, with neighbouring queries pulled to one answer."""

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.bd_cspn import rectified
from fewshot.learners.linear_classifier import CentredClassifier
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means

_SCALE = 1.0  # of the rectification, see bd_cspn.py


@register("laplacianshot")
class LaplacianShot(CentredClassifier):
    """The nearest class mean, with queries that are neighbours of each other pulled to one answer.

    A linear classifier of the base classes is trained, and its embeddings are centred and normalised as for
    `simpleshot`. With a_q the squared distances of query q to all prototypes and w(q, p) = 1 if query p is one of the
    `neighbours` nearest queries of q, else 0, the assignments y_q minimise (Ziko et al. 2020, equation 1)

    sum_q y_q . a_q + strength / 2 * sum_qp w(q, p) |y_q - y_p|^2

    by 20 of the paper's bound updates (equation 12), from y_q = softmax(-a_q):

    y_q = softmax(-a_q + strength * sum_p w(q, p) y_p)

    and the scores are what the last softmax takes. The authors stop early when their bound has settled.

    rectified  the prototypes of `bd-cspn`, as in easyfsl. The authors' code has them by default, too, in the form that
               is told in `rectified` of bd_cspn.py, and shifts the queries
    plain      class means
    """

    variants = dict.fromkeys(["rectified", "plain"], Traits(transductive=True, paper="Ziko et al. 2020"))
    search: ClassVar = {"strength": (0.1, 3.0, "log"), "neighbours": (1, 10)}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        strength: float = 0.7,
        neighbours: int = 2,
        updates: int = 20,
    ) -> None:
        """strength: lambda, which the authors choose on validation classes: 0.7 is what they find for 1 shot.

        neighbours: of a query, besides itself; the authors' 3 counts the query. updates: of the bound.
        """
        super().__init__(backbone, classes, variant)
        self.strength, self.neighbours, self.updates = strength, neighbours, updates

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        support, query = self.directions(support), self.directions(query)
        if self.variant == "rectified":
            prototypes = rectified(support, query, mask, _SCALE)
        else:
            prototypes = class_means(support, mask)
        unary = -squared_distances(query, prototypes)  # (E, Q, N)
        pairwise = self.strength * nearest(query, self.neighbours)
        logits = unary
        for _ in range(self.updates):
            logits = unary + pairwise @ logits.softmax(2)
        return logits


def nearest(images: Tensor, neighbours: int) -> Tensor:
    """(E, M, M) with 1 in row i and column j if image j of images (E, M, D) is one of the nearest others of image i."""
    distances = squared_distances(images, images)
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    places = distances.topk(min(neighbours, images.shape[1] - 1), largest=False).indices
    return torch.zeros_like(distances).scatter_(2, places, 1.0)
