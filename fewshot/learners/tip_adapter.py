"""Tip-Adapter (Zhang et al. 2022): the support images as a cache beside the texts; and Tip-Adapter-F, which fits it."""

import functools
from typing import ClassVar

import torch
from torch import Tensor

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.image_text_heads import ImageTextHead, cross_entropies, minimised
from fewshot.learners.registry import register

_EPSILON = 1e-4  # of AdamW, in the authors' code


@register("tip-adapter")
class TipAdapter(ImageTextHead):
    """Zero-shot logits plus those of a cache of support images.

    For a query f, texts T (N, D), support images F (M, D) and their labels L (M, N), all f of length one,

    logits = tau f T^T + alpha exp(-beta (1 - f F^T)) L                                    (equations 3 to 5)

    finetuned      Tip-Adapter-F: the keys F of the cache start as the support images and are fitted to the support set
                   by AdamW on the cross-entropy of the logits, 20 steps at a rate of 0.001 (section 3.2)
    training-free  the keys stay the support images (section 3.1)

    alpha and beta are those that the paper's code starts from; the paper searches them on validation images.
    """

    variants: ClassVar = {
        "finetuned": Traits(fits_episodes=True, text=True, paper="Zhang et al. 2022"),
        "training-free": Traits(text=True, paper="Zhang et al. 2022"),
    }

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        size: int = 128,
        alpha: float = 1.0,
        beta: float = 5.5,
        head_steps: int = 20,
        head_rate: float = 1e-3,
    ) -> None:
        """alpha: weight of the cache; beta: sharpness of exp; head_steps, head_rate: of the fit to an episode."""
        super().__init__(backbone, classes, variant, size)
        self.alpha, self.beta, self.head_steps, self.head_rate = alpha, beta, head_steps, head_rate

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        keys = images
        if self.variant == "finetuned":

            def loss(keys: Tensor) -> Tensor:
                return cross_entropies(self.logits(images, keys, labels, texts), labels)

            adam = functools.partial(torch.optim.AdamW, lr=self.head_rate, eps=_EPSILON)
            (keys,) = minimised(loss, [images], adam, self.head_steps)
        return self.logits(query, keys, labels, texts)

    def logits(self, query: Tensor, keys: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        """The logits (E, Q, N) of queries (E, Q, D) by the keys (E, M, D) of the cache and the texts (E, N, D)."""
        affinities = torch.exp(self.beta * (query @ keys.mT - 1))
        return self.scale() * query @ texts.mT + self.alpha * affinities @ labels
