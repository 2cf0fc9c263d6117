"""Soft k-means (Ren et al. 2018): class means refined by soft assignments of unlabelled images."""

from typing import ClassVar

from torch import Tensor

from fewshot.backbones.base import Backbone
from fewshot.heads import memberships
from fewshot.learners.base import Traits
from fewshot.learners.linear_classifier import CentredClassifier
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means


@register("soft-kmeans")
class SoftKMeans(CentredClassifier):
    """Class means, refined by soft assignments of unlabelled images, or of the queries.

    A linear classifier of the base classes is trained, and its embeddings are centred and normalised as for
    `simpleshot`. The prototype p_c starts as the mean of the support embeddings of class c, and each of `steps` steps
    replaces it (Ren et al. 2018, equation 4) by

    p_c = (sum_i h(x_i) z_ic + sum_j h(u_j) z_jc) / (sum_i z_ic + sum_j z_jc)

    z_ic is 1 if the support image x_i is of class c, else 0; z_jc is the softmax over c of -scale |h(u_j) - p_c|^2. The
    images u_j are

    semi-supervised  the unlabelled images of the episode, if the episode has any: then the score of a query depends on
                     no other query
    transductive     all queries of the episode otherwise, which the paper does not do

    The scale is 1 in the paper, whose network is trained through these steps; directions of length one need more. The
    paper's forms for distractors are left out: their radius and masks are learned through the steps, too.
    """

    variants: ClassVar = {"": Traits(transductive=True, paper="Ren et al. 2018")}
    search: ClassVar = {"steps": (1, 10), "scale": (1.0, 100.0, "log")}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", steps: int = 1, scale: float = 10.0
    ) -> None:
        """steps: of the refinement, 1 in the paper; scale: of the squared distances."""
        super().__init__(backbone, classes, variant)
        self.steps, self.scale = steps, scale

    def scores(
        self, support: Tensor, query: Tensor, mask: Tensor | None = None, unlabelled: Tensor | None = None
    ) -> Tensor:
        support, query = self.directions(support), self.directions(query)
        others = query if unlabelled is None else self.directions(unlabelled)  # (E, U, D)
        members = memberships(support, mask)  # z_ic, (E, N K, N)
        sums, counts = members.mT @ support.flatten(1, 2), members.sum(1)
        prototypes = class_means(support, mask)  # (E, N, D)
        for _ in range(self.steps):
            assigned = (-self.scale * squared_distances(others, prototypes)).softmax(2)  # z_jc, (E, U, N)
            prototypes = (sums + assigned.mT @ others) / (counts + assigned.sum(1))[..., None]
        return -self.scale * squared_distances(query, prototypes)
