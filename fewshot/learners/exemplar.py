"""Exemplar networks: each training image is a class of its own, and no label is read."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.directions import DirectionLearner
from fewshot.learners.registry import register
from fewshot.losses import instance


@register("exemplar")
class Exemplar(DirectionLearner):
    """Each training image is a class of its own, seen again through augmentation.

    The network learns to tell an image from `others`, which are drawn anew for each batch. A vector stands for the
    class of each image:

    memory      the embedding that the image had when it was last seen (Wu et al. 2018, the non-parametric softmax with
                a memory bank; the old embedding keeps the weight `momentum`)
    parametric  a learned vector of weights (Dosovitskiy et al. 2014)

    A softmax over a sample replaces Wu et al.'s noise-contrastive estimate of the softmax over all images. A query
    goes to the class with the most similar mean direction. Neither source has episodes: Dosovitskiy et al. fit a linear
    support vector machine to the features of all labelled images, Wu et al. vote among the 200 nearest.
    """

    variants: ClassVar = {
        "memory": Traits(uses_labels=False, paper="Wu et al. 2018"),
        "parametric": Traits(uses_labels=False, paper="Dosovitskiy et al. 2014"),
    }
    batches = ShuffledBatches(size=256)
    search: ClassVar = {"others": (256, 8192, "log"), "temperature": (0.03, 0.5, "log"), "momentum": (0.0, 0.9)}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        others: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        """others: images that a batch is compared with; temperature: of the softmax; momentum: of the memory."""
        super().__init__(backbone, classes, variant)
        self.others, self.temperature, self.momentum = others, temperature, momentum
        vectors = functional.normalize(torch.randn(classes, backbone.embedding_size), dim=1)
        if self.variant == "memory":
            self.register_buffer("vectors", vectors)
        else:
            self.vectors = nn.Parameter(vectors)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embed(images)
        drawn = torch.randint(len(self.vectors), (self.others,), device=labels.device)
        own, others = (functional.normalize(self.vectors[numbers], dim=1) for numbers in (labels, drawn))
        if self.variant == "memory":
            kept = self.momentum * own + (1 - self.momentum) * embeddings.detach()
            self.vectors[labels] = functional.normalize(kept, dim=1)
        return instance(embeddings, own, others, self.temperature)
