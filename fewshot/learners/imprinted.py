"""The imprinted cosine classifier (Qi et al. 2018; Gidaris and Komodakis 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.learners.cosine_classifier import CosineClassifier
from fewshot.learners.registry import register


@register("imprinted")
class Imprinted(CosineClassifier):
    """A cosine classifier; new classes get their weights imprinted.

    It is trained on the base classes with the logits tau * cos(f(x), w_k). The weights of a new class come from its
    support set:

    imprint   w = the normalised mean of the normalised support embeddings (Qi et al. 2018, section 3.2)
    finetune  then gradient descent on the imprinted weights, by the cross-entropy of the support set. Qi et al.
              also fine-tune the network, which an episode of a few images does not pay for.
    """

    paper = "Qi et al. 2018, Gidaris and Komodakis 2018"
    variants = ("imprint", "finetune")
    adapts = True
    batches = ShuffledBatches(size=256)

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        variant: str = "",
        finetune_steps: int = 100,
        finetune_rate: float = 0.1,
    ) -> None:
        """finetune_steps and finetune_rate: the gradient steps of the variant 'finetune' and their size."""
        super().__init__(backbone, classes, variant)
        self.finetune_steps, self.finetune_rate = finetune_steps, finetune_rate

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        weights = functional.normalize(functional.normalize(support, dim=3).mean(2), dim=2)  # (E, N, D)
        if self.variant == "finetune":
            weights = self._finetuned(weights, support)
        return self.logits(query, weights)

    @torch.enable_grad()
    def _finetuned(self, weights: Tensor, support: Tensor) -> Tensor:
        """The weights (E, N, D) after gradient descent on the cross-entropy of the support set, episode by episode."""
        episodes, way, shot, _ = support.shape
        images = support.detach().flatten(1, 2)
        labels = torch.arange(way, device=support.device).repeat_interleave(shot).repeat(episodes)
        weights = weights.detach()
        for _ in range(self.finetune_steps):
            weights.requires_grad_()
            logits = self.logits(images, weights)
            # a sum over episodes of their own means: each episode's gradient is its own
            loss = functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum") / (way * shot)
            (gradient,) = torch.autograd.grad(loss, weights)
            weights = (weights - self.finetune_rate * gradient).detach()
        return weights
