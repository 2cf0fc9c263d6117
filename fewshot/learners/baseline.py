"""The two baselines of Chen et al. 2019: a classifier of the base classes, and a new head for each episode."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.heads import cosine_gradient, descend, head_lengths, one_hot, softmax_gradient
from fewshot.learners.cosine_classifier import CosineClassifier
from fewshot.learners.linear_classifier import LinearClassifier
from fewshot.learners.registry import register

# how they fit a head: their SGD has momentum and as much dampening, a running mean of gradients
_SGD = {"momentum": 0.9, "dampening": 0.9, "decay": 1e-3}
_BATCH = 4
_STEPS = 8  # an epoch, at most


@register("baseline")
class Baseline(LinearClassifier):
    """A linear classifier of base classes; a new linear one is fitted to each episode.

    The new head is fitted by gradient descent on the cross-entropy of the support set, with the settings of the paper's
    code (rate 0.01, momentum and dampening 0.9, weight decay 0.001, 100 epochs of batches of 4), but for two things. It
    takes as many steps, ceil(N K / 4) an epoch, each on the whole support set, whose gradient is the mean of those of
    the batches (from 32 images on it takes 8 longer steps instead, as far together); and it starts from zero. So it
    does not depend on the order of images and classes, nor on chance.
    """

    paper = "Chen et al. 2019"
    recordable = True
    adapts = True

    def __init__(
        self, backbone: nn.Module, classes: int, variant: str = "", head_epochs: int = 100, head_rate: float = 0.01
    ) -> None:
        """head_epochs and head_rate: of the gradient descent that fits an episode's head."""
        super().__init__(backbone, classes, variant)
        self.head_epochs, self.head_rate = head_epochs, head_rate

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        _, way, shot, _ = support.shape
        images = functional.pad(support.flatten(1, 2), (0, 1), value=1.0)  # the weight of that 1 is the bias
        labels = one_hot(way, shot, images)
        gradient = softmax_gradient(images @ images.mT, labels)
        coefficients = _fitted(torch.zeros_like(labels), gradient, self.head_epochs, self.head_rate)
        head = coefficients.mT @ images  # (E, N, D + 1)
        return query @ head[..., :-1].mT + head[..., None, :, -1]

    def base_logits(self, query: Tensor) -> Tensor:
        return self.head(query)


@register("baseline++")
class BaselinePlusPlus(CosineClassifier):
    """A cosine classifier of base classes; a new cosine one is fitted to each episode.

    The new head tau * cos(f(x), w_k), with the tau that was learned on base classes where the paper's code has a fixed
    scale and learned lengths of the w_k, is fitted as that of `baseline` is. All its w_k start as one vector, the
    mean direction of the support set: a random start of their own would prefer some classes.
    """

    paper = "Chen et al. 2019"
    recordable = True
    adapts = True
    batches = ShuffledBatches(size=256)

    def __init__(
        self, backbone: nn.Module, classes: int, variant: str = "", head_epochs: int = 100, head_rate: float = 0.01
    ) -> None:
        """head_epochs and head_rate: of the gradient descent that fits an episode's head."""
        super().__init__(backbone, classes, variant)
        self.head_epochs, self.head_rate = head_epochs, head_rate

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        _, way, shot, _ = support.shape
        images = functional.normalize(support.flatten(1, 2), dim=2)
        products, labels = images @ images.mT, one_hot(way, shot, images)
        start = torch.ones_like(labels) / head_lengths(products, torch.ones_like(labels))
        gradient = cosine_gradient(products, labels, self.tau)
        coefficients = _fitted(start, gradient, self.head_epochs, self.head_rate)
        return self.logits(query, coefficients.mT @ images)


def _fitted(start: Tensor, gradient: Callable[[Tensor], Tensor], epochs: int, rate: float) -> Tensor:
    """Coefficients (E, M, N) after so many epochs of M images in batches of 4, from `start` (..., M, N)."""
    batches = -(-start.shape[-2] // _BATCH)
    steps = min(batches, _STEPS)
    return descend(start, gradient, epochs * steps, rate * batches / steps, **_SGD)
