"""EmbeddedBank: a bank whose images a learner has embedded, each once."""

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from episodes import ImageBank

if TYPE_CHECKING:
    from fewshot.learners.base import Learner

_BATCH = 1000  # images embedded at once


class EmbeddedBank:
    """`bank`, and on first use the learner's `embeddings` (N, D) of all its images, in eval mode and float32.

    precision: the arithmetic of the backbone; float32 for every number that is reported.
    """

    def __init__(self, learner: "Learner", bank: ImageBank, precision: torch.dtype = torch.float32) -> None:
        self.bank = bank
        self._learner = learner
        self._precision = precision

    @functools.cached_property
    def embeddings(self) -> Tensor:
        learner, was_training = self._learner, self._learner.training
        usual = getattr(learner.backbone, "precision", None)
        learner.eval()
        learner.backbone.precision = self._precision
        try:
            # by default PyTorch lets a GPU round the products of float32 convolutions to TF32
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                parts = torch.arange(len(self.bank), device=self.bank.device).split(_BATCH)
                return torch.cat([learner.embed(self.bank.batch(part)).float() for part in parts])
        finally:
            learner.backbone.precision = usual
            learner.train(was_training)
