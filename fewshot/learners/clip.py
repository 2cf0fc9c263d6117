"""CLIP in small (Radford et al. 2021): images and the names of their classes in one space, learned from scratch."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, Episodes
from fewshot.backbones.base import Backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, Traits, rows_of
from fewshot.learners.registry import register
from fewshot.learners.text_encoder import NGramEncoder, TextEncoder
from fewshot.losses import image_text
from fewshot.masks import class_means

_TRAITS = Traits(text=True, paper="Radford et al. 2021")
_MOST = 100.0  # the upper bound of the learned scale, as in the paper


@register("clip")
class CLIP(Learner):
    """Images near their classes' names; knows unseen classes by name.

    A network for images and one for texts (`text_encoder.py`) end in a linear projection and a length of one; the
    contrastive loss is symmetric (section 2.3, figure 3). A batch has each name once and may have several images
    of a name; for the loss all of them are right answers (see losses.image_text).

    few-shot   cosine to the normalised mean of the support embeddings
    mixed      cosine to the mean of that mean and the text's embedding, in which the text has the weight `text_weight`
    zero-shot  cosine to the text's embedding; the support images are not used
    """

    variants: ClassVar = {
        "few-shot": _TRAITS,
        "mixed": _TRAITS,
        "zero-shot": dataclasses.replace(_TRAITS, sees_support=False),
    }
    batches = ClassBatches(classes=180, images=2)
    one_training = True  # the loss reads neither variant nor options: see fewshot/shared_training.py
    search: ClassVar = {"size": [64, 128, 256]}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", size: int = 128, text_weight: float = 0.1
    ) -> None:
        """size: of the common space; text_weight: the weight of a name in the variant 'mixed', from 0 to 1."""
        super().__init__(backbone, classes, variant)
        self.text_weight = text_weight
        self.image_projection = nn.Linear(backbone.embedding_size, size, bias=False)
        self.text_encoder: TextEncoder = NGramEncoder(size)
        # with a bias, because a text without known words must have a direction too
        self.text_projection = nn.Linear(size, size)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def embed(self, images: Tensor) -> Tensor:
        return self._embed_images(images)

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        return self._embed_numbers(self.text_encoder.numbers(texts))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        present, numbers = labels.unique(return_inverse=True)
        texts = self._embed_numbers(self.text_encoder.kept_numbers(self.class_names)[present])
        return image_text(self._embed_images(images), texts, numbers, self.tau())

    def episode_scores(self, data: EmbeddedBank, episodes: Episodes, mask: Tensor | None = None) -> Tensor:
        query = rows_of(data, episodes.query.flatten(1))
        if not self.traits.sees_support:
            return query @ data.text_embeddings[episodes.classes].mT
        prototypes = functional.normalize(class_means(rows_of(data, episodes.support), mask), dim=2)  # (E, N, D)
        if self.variant == "mixed":
            texts = data.text_embeddings[episodes.classes]
            prototypes = functional.normalize(torch.lerp(prototypes, texts, self.text_weight), dim=2)
        return query @ prototypes.mT

    def tau(self) -> Tensor:
        """The learned factor of cosines."""
        return self.log_scale.exp().clamp(max=_MOST)

    def _embed_images(self, images: Tensor) -> Tensor:
        return functional.normalize(self.image_projection(self.backbone(images)), dim=1)

    def _embed_numbers(self, numbers: Tensor) -> Tensor:
        return functional.normalize(self.text_projection(self.text_encoder(numbers)), dim=1)
