"""The imprinted cosine classifier (Qi et al. 2018; Gidaris and Komodakis 2018)."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.backbones.base import Backbone
from fewshot.heads import cosine_gradient, descend, head_lengths, on_counted
from fewshot.learners.base import Traits
from fewshot.learners.cosine_classifier import CosineClassifier
from fewshot.learners.registry import register
from fewshot.masks import class_means

_PAPER = "Qi et al. 2018, Gidaris and Komodakis 2018"


@register("imprinted")
class Imprinted(CosineClassifier):
    """A cosine classifier; new classes get their weights imprinted.

    Training is on the base classes, with the logits tau * cos(f(x), w_k). The weights of a new class come from its
    support set:

    imprint   w = the normalised mean of the normalised support embeddings (Qi et al. 2018, section 3.2)
    finetune  then gradient descent on the imprinted weights, by the cross-entropy of the support set. Qi et al.
              also fine-tune the network, which the few images of an episode do not justify.
    """

    variants: ClassVar = {"imprint": Traits(paper=_PAPER), "finetune": Traits(fits_episodes=True, paper=_PAPER)}
    batches = ShuffledBatches(size=256)
    search: ClassVar = {"learning_rate": (5e-3, 0.5, "log")}  # the weights of thousands of classes need a high one

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", finetune_steps: int = 100, finetune_rate: float = 0.1
    ) -> None:
        """finetune_steps and finetune_rate: the gradient steps of the variant 'finetune' and their size."""
        super().__init__(backbone, classes, variant)
        self.finetune_steps, self.finetune_rate = finetune_steps, finetune_rate

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        directions = functional.normalize(support, dim=3)
        if self.variant == "finetune":
            return self.logits(query, on_counted(self._finetuned, directions, mask))
        return self.logits(query, class_means(directions, mask))

    @torch.no_grad()
    def _finetuned(self, images: Tensor, labels: Tensor) -> Tensor:
        """The weights (E, N, D) after gradient descent on the cross-entropy of the support set, episode by episode."""
        products = images @ images.mT
        imprinted = labels / head_lengths(products, labels)
        gradient = cosine_gradient(products, labels, self.tau)
        return descend(imprinted, gradient, self.finetune_steps, self.finetune_rate).mT @ images
