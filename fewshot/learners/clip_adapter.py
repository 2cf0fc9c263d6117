"""CLIP-Adapter (Gao et al. 2021): a small network that moves the features of images, fitted to each episode."""

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.image_text_heads import ImageTextHead, cross_entropies, minimised
from fewshot.learners.registry import register

_REDUCTION = 4  # features over hidden units


@register("clip-adapter")
class CLIPAdapter(ImageTextHead):
    """The texts classify features that a network of two layers moves.

    A(f) = relu(relu(f W1) W2), f* = ratio A(f) + (1 - ratio) f, logits = tau cos(f*, t_k)  (equations 3 to 8)

    W1 (D, D / 4) and W2 (D / 4, D) are fitted to the support set by AdamW on the cross-entropy. They start in every
    episode as they were drawn when the learner was made. Only images are adapted, as in the paper's main results. The
    paper trains all of a data set for longer: the steps and the rate here are our own.
    """

    down: Tensor
    up: Tensor

    variants: ClassVar = {"": Traits(fits_episodes=True, text=True, paper="Gao et al. 2021")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        size: int = 128,
        ratio: float = 0.2,
        head_steps: int = 50,
        head_rate: float = 1e-3,
    ) -> None:
        """ratio: the weight of the moved features; head_steps, head_rate: of the fit to an episode."""
        super().__init__(backbone, classes, variant, size)
        self.ratio, self.head_steps, self.head_rate = ratio, head_steps, head_rate
        hidden = max(1, self.width // _REDUCTION)
        self.register_buffer("down", nn.Linear(self.width, hidden).weight.detach().mT.clone())
        self.register_buffer("up", nn.Linear(hidden, self.width).weight.detach().mT.clone())

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        def loss(down: Tensor, up: Tensor) -> Tensor:
            return cross_entropies(self.logits(images, down, up, texts), labels)

        start = [layer.expand(len(images), -1, -1) for layer in (self.down, self.up)]
        adam = functools.partial(torch.optim.AdamW, lr=self.head_rate)
        down, up = minimised(loss, start, adam, self.head_steps)
        return self.logits(query, down, up, texts)

    def logits(self, query: Tensor, down: Tensor, up: Tensor, texts: Tensor) -> Tensor:
        """The logits (E, Q, N) of queries (E, Q, D) by the layers (E, D, D / 4), (E, D / 4, D), texts (E, N, D)."""
        moved = functional.relu(functional.relu(query @ down) @ up)
        mixed = functional.normalize(self.ratio * moved + (1 - self.ratio) * query, dim=2)
        return self.scale() * mixed @ texts.mT
