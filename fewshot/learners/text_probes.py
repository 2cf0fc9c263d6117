"""Linear probes that start from texts: LP++ (Huang et al. 2024) and CLAP (Silva-Rodriguez et al. 2024)."""

import functools
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.devices import exact
from fewshot.learners.base import Traits
from fewshot.learners.image_text_heads import ImageTextHead, cross_entropies, minimised
from fewshot.learners.registry import register

_MOMENTUM = 0.9
_EVERY = 10  # steps on the weights between two steps on the blending factors, in the code of LP++
_START = 250.0  # of the blending factors, times the mean cosine of images and texts, in the code of LP++


@register("lp++")
class LinearProbePlusPlus(ImageTextHead):
    """A linear probe that learns, for each class, how much its text counts.

    logits = f . (w_k + alpha_k t_k)                                                         (equation 3)

    w_k starts as the sum of the support images of its class, and all alpha_k as 250 times the mean cosine of images
    and their texts. Both descend the cross-entropy of the support set with steps that the data give, since the loss is
    convex: 4 M / lambda_max(F F^T) for w, with momentum 0.9, and M / (4 max over k of sum over i of (f_i . t_k)^2) for
    alpha, at every tenth step (section 3.3 and the authors' code, without its bias). Nothing is searched. The authors
    keep the best of 300 steps on validation images, which an episode does not have: here the last step counts.
    """

    variants: ClassVar = {"": Traits(fits_episodes=True, text=True, paper="Huang et al. 2024")}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", size: int = 128, head_steps: int = 300
    ) -> None:
        """head_steps: of the fit to an episode."""
        super().__init__(backbone, classes, variant, size)
        self.head_steps = head_steps

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        count = images.shape[1]
        labels = labels.expand(len(images), -1, -1)
        inner, cosines = images @ images.mT, images @ texts.mT  # (E, M, M), (E, M, N)
        rate_w = 4 * count / torch.linalg.eigvalsh(exact(inner))[:, -1:, None].to(inner)
        rate_alpha = count / (4 * cosines.square().sum(1).amax(1)[:, None, None])
        own = ((labels * cosines).sum(1) / labels.sum(1)).mean(1)  # (E,)
        alpha = (_START * own)[:, None, None].expand(-1, 1, labels.shape[2])
        weights, speed = labels, torch.zeros_like(labels)  # w = F^T A, by the coefficients A (E, M, N)
        for step in range(1, self.head_steps + 1):
            residuals = ((inner @ weights + alpha * cosines).softmax(2) - labels) / count
            speed = _MOMENTUM * speed + residuals
            weights = weights - rate_w * speed
            if step % _EVERY == 0:
                alpha = alpha - rate_alpha * (residuals * cosines).sum(1, keepdim=True)
        return query @ (weights.mT @ images + alpha.mT * texts).mT


@register("clap")
class CLAP(ImageTextHead):
    """A linear probe that starts as the texts and, class by class, stays near them if they are right.

    logits = tau cos(f, w_k), and w_k starts as t_k. The loss is the cross-entropy of the support set plus the mean over
    classes of lambda_k |w_k - t_k|^2; lambda_k is the mean probability that the texts alone give to the class for
    its own support images (equations 8 and 9). Descent by SGD, 300 steps with momentum 0.9 at a rate of 0.1 that falls
    as a cosine, as in the authors' code. Nothing is searched.

    constrained    CLAP
    unconstrained  ZS-LP of the same paper: all lambda_k are 0
    """

    variants: ClassVar = dict.fromkeys(
        ["constrained", "unconstrained"], Traits(fits_episodes=True, text=True, paper="Silva-Rodriguez et al. 2024")
    )

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        size: int = 128,
        head_steps: int = 300,
        head_rate: float = 0.1,
    ) -> None:
        """head_steps, head_rate: of the fit to an episode."""
        super().__init__(backbone, classes, variant, size)
        self.head_steps, self.head_rate = head_steps, head_rate

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        images, texts = exact(images), exact(texts)  # large steps would let errors of rounding grow
        multipliers = self.multipliers(self.logits(images, texts), labels)

        def loss(weights: Tensor) -> Tensor:
            away = (weights - texts).square().sum(2)  # (E, N)
            return cross_entropies(self.logits(images, weights), labels) + (multipliers * away).mean(1)

        descent = functools.partial(torch.optim.SGD, lr=self.head_rate, momentum=_MOMENTUM)
        (weights,) = minimised(loss, [texts], descent, self.head_steps)
        return self.logits(query, weights.to(query))

    def multipliers(self, zero_shot: Tensor, labels: Tensor) -> Tensor:
        """lambda_k (E, N) from the logits (E, M, N) of the support images by the texts, and their classes."""
        if self.variant == "unconstrained":
            return torch.zeros_like(zero_shot[:, 0])
        return (labels * zero_shot.softmax(2)).sum(1) / labels.sum(-2)

    def logits(self, query: Tensor, weights: Tensor) -> Tensor:
        """The logits (E, Q, N) of queries (E, Q, D) of length one by the weights (E, N, D)."""
        return self.scale() * query @ functional.normalize(weights, dim=2).mT
