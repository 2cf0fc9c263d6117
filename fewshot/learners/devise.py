"""DeViSE (Frome et al. 2013): a linear map of images into a space of word vectors that stays as it is."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import InputError
from fewshot.backbones.base import Backbone
from fewshot.learners.clip import CLIP
from fewshot.learners.clip_words import WIDTH, StaticEncoder, WordCLIP
from fewshot.learners.registry import register
from fewshot.losses import ranking_hinge


@register("devise")
class DeViSE(CLIP):
    """Images mapped to the word vectors of their classes' names; knows unseen classes by name.

    M v(image) is a linear projection of the backbone's embedding, and t_j the vector of the name of base class j, of
    length one: the static embedding of the package wordllama, in place of the paper's skip-gram model. Each image's own
    name has to be nearer than every other name, by a margin (section 3.3, equation 1; see losses.ranking_hinge). The
    paper trains M alone at first, on the features of a classifier: so does this learner on a file of features.

    The variants are those of `clip`: zero-shot is the paper's, few-shot and mixed use the support images in the space
    of the words. Rows are marked, because nobody says which names the texts behind the vectors held.
    """

    variants: ClassVar = {
        name: dataclasses.replace(traits, paper="Frome et al. 2013") for name, traits in WordCLIP.variants.items()
    }
    search: ClassVar = {"margin": (0.05, 1.0, "log")}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", margin: float = 0.1, text_weight: float = 0.1
    ) -> None:
        """margin: of the loss, above 0; text_weight: the weight of a name in the variant 'mixed', from 0 to 1."""
        if margin <= 0:
            raise InputError(f"devise needs a margin above 0, not {margin}")
        super().__init__(backbone, classes, variant, WIDTH, text_weight)
        self.margin = margin
        self.text_encoder = StaticEncoder()
        del self.text_projection, self.log_scale  # the words stay where they are, and no factor is learned

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        texts = self._embed_numbers(self.text_encoder.kept_numbers(self.class_names))
        return ranking_hinge(self.image_projection(self.backbone(images)), texts, labels, self.margin)

    def tau(self) -> Tensor:
        """The factor of cosines if a softmax needs one: the margin is the scale on which they differ."""
        return torch.tensor(1 / self.margin)

    def _embed_numbers(self, numbers: Tensor) -> Tensor:
        return functional.normalize(self.text_encoder(numbers), dim=1)
