"""Embeddings trained through a solver: ridge regression (R2D2) and the support vector machine (MetaOptNet)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.devices import exact
from fewshot.heads import on_counted, ridge, settled_support_vectors, support_vectors
from fewshot.learners.base import Learner, Traits
from fewshot.learners.episodic import check_shot, cut_episodes
from fewshot.learners.registry import register


class _Solved(Learner):
    """Trains on episodes, through a head that a solver fits to the support set; the test does the same.

    The scores are a learned `scale` times the scores of the head, and the loss is the cross-entropy of their softmax
    for the queries. A batch of P classes holds P / `way` episodes; classes that do not fill another episode are left
    out.
    """

    batches = ClassBatches(classes=60, images=6)
    smoothing = 0.0  # the share of a query's label that goes to the other classes, in training

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", way: int = 20, shot: int = 1, scale: float = 10.0
    ) -> None:
        """way, shot: classes of a training episode and support images of each class; the other images are queries.

        scale: the initial value of the learned factor of the scores.
        """
        super().__init__(backbone, classes, variant)
        self.way, self.shot = way, shot
        self.scale = nn.Parameter(torch.tensor(scale))

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query = cut_episodes(self.embed(images), self.batches, self.way, self.shot)
        episodes, way, queries, _ = query.shape
        scores = self.scores(support, query.flatten(1, 2))
        targets = torch.arange(way, device=scores.device).repeat_interleave(queries)
        # PyTorch spreads the share over all classes, also the right one; the paper over the other classes
        share = self.smoothing * way / max(1, way - 1)
        return functional.cross_entropy(scores.flatten(0, 1), targets.repeat(episodes), label_smoothing=share)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return on_counted(self._fitted, support, mask, query)

    def _fitted(self, images: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        images = exact(images)
        coefficients = self.solve(images @ images.mT, labels.to(images))
        head = (coefficients.mT @ images).to(query)  # (E, N, D)
        return self.scale * query @ head.mT

    def solve(self, products: Tensor, labels: Tensor) -> Tensor:
        """The head's coefficients (E, M, N) from the inner products (E, M, M) of M images and their labels.

        labels (M, N) or (E, M, N), one-hot
        """
        raise NotImplementedError


@register("ridge")
class Ridge(_Solved):
    """Ridge regression of the labels, trained through its closed form (R2D2).

    The head of an episode is W = X^T (X X^T + lambda I)^-1 Y, Y one-hot; lambda is learned, through its
    logarithm, and so is the scale of the scores. The paper's bias, one number for all classes, is left out: it changes
    neither the softmax nor its gradient.
    """

    variants: ClassVar = {"": Traits(fits_episodes=True, paper="Bertinetto et al. 2019")}
    search: ClassVar = {"way": [5, 10, 20], "scale": (1.0, 100.0, "log"), "penalty": (0.01, 100.0, "log")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        way: int = 20,
        shot: int = 1,
        scale: float = 10.0,
        penalty: float = 1.0,
    ) -> None:
        """penalty: the initial value of lambda; the embeddings' squared length sets its scale."""
        super().__init__(backbone, classes, variant, way, shot, scale)
        self.log_penalty = nn.Parameter(torch.tensor(penalty).log())

    def solve(self, products: Tensor, labels: Tensor) -> Tensor:
        return ridge(products, labels, self.log_penalty.exp().to(products.device))


@register("svm")
class SupportVectorMachine(_Solved):
    """A support vector machine, trained through the solver of its dual (MetaOptNet).

    The head of an episode is the multi-class machine of Crammer and Singer with C = `cost`, without a bias. The paper
    differentiates the optimum of the dual problem. In training, the gradient passes through a fixed number of steps of
    the solver; at test, each episode takes as many steps as it needs.
    """

    variants: ClassVar = {"": Traits(fits_episodes=True, paper="Lee et al. 2019")}
    search: ClassVar = {
        "way": [5, 10, 20],
        "scale": (0.3, 30.0, "log"),
        "cost": (0.01, 10.0, "log"),
        "smoothing": (0.0, 0.3),
    }

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        way: int = 20,
        shot: int = 1,
        scale: float = 1.0,
        cost: float = 0.1,
        smoothing: float = 0.0,
    ) -> None:
        """cost: the price of a slack, C, 0.1 in the paper.

        smoothing: the share of a query's label that goes to all other classes together in training, 0.1 in the paper.
        """
        super().__init__(backbone, classes, variant, way, shot, scale)
        if not 0 <= smoothing <= 0.5:
            raise InputError(f"svm needs a smoothing between 0 and 0.5, not {smoothing}")
        self.cost, self.smoothing = cost, smoothing

    def solve(self, products: Tensor, labels: Tensor) -> Tensor:
        solved = support_vectors if self.training else settled_support_vectors
        return solved(products, labels, self.cost)
