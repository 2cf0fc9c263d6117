"""Pretrained CLIP: networks that others trained on pictures of the web, used here without training."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import Episodes, InputError
from fewshot.backbones.base import Backbone
from fewshot.backbones.features import FeaturesBackbone
from fewshot.backbones.openclip import OpenClipBackbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, Traits, rows_of
from fewshot.learners.image_text_heads import texts_of
from fewshot.learners.registry import register
from fewshot.masks import class_means, counted

_NEED = (
    "a model of open_clip and its weights: in a preset, give [learner.openclip] the lines backbone = 'openclip:MODEL'"
    " and weights = 'FILE'"
)


@register("openclip")
class OpenCLIP(Learner):
    """Pretrained CLIP from a file, by name and by cached images.

    The backbone is a model of open_clip, `openclip:MODEL`, and the setting `weights` names the file of its weights. The
    text of a class is `prompt` with the name of the class. All embeddings have length one; tau is the model's learned
    factor of cosines.

    tip-adapter  zero-shot logits plus alpha times the sum of exp(-beta (1 - cos)) over the support images of a class
                 (Zhang et al. 2022, section 3.1, without training)
    few-shot     cosine to the normalised mean of the support embeddings; no name is read
    zero-shot    tau times the cosine to the text's embedding (Radford et al. 2021, section 3.1)

    On a file of features, its `texts` are the texts' embeddings, and tau is 100.
    """

    variants: ClassVar = {
        "tip-adapter": Traits(trains=False, text=True, external=True, paper="Zhang et al. 2022"),
        "few-shot": Traits(trains=False, external=True, paper="Radford et al. 2021"),
        "zero-shot": Traits(trains=False, sees_support=False, text=True, external=True, paper="Radford et al. 2021"),
    }

    backbone: OpenClipBackbone

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        prompt: str = "a photo of a {}.",
        alpha: float = 1.0,
        beta: float = 5.5,
    ) -> None:
        """prompt: the text of a class, {} is the name; alpha: weight of the support; beta: sharpness of exp."""
        super().__init__(backbone, classes, variant)
        if not isinstance(backbone, OpenClipBackbone | FeaturesBackbone):
            raise InputError(f"openclip needs {_NEED}")
        if "{}" not in prompt:
            raise InputError(f"the prompt '{prompt}' of openclip has no {{}} where the name of a class goes")
        self.prompt, self.alpha, self.beta = prompt, alpha, beta

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        prompts = [self.prompt.replace("{}", text) for text in texts]
        return functional.normalize(self.backbone.embed_texts(prompts), dim=1)

    def episode_scores(self, data: EmbeddedBank, episodes: Episodes, mask: Tensor | None = None) -> Tensor:
        query, support = rows_of(data, episodes.query.flatten(1)), rows_of(data, episodes.support)
        if not self.traits.text:
            return query @ functional.normalize(class_means(support, mask), dim=2).mT
        scores = self.backbone.scale * query @ texts_of(data)[episodes.classes].mT
        if self.traits.sees_support:
            affinities = torch.exp(self.beta * (query @ support.flatten(1, 2).mT - 1))  # (E, Q, N * K)
            affinities = counted(affinities, mask, 0.0)
            scores = scores + self.alpha * affinities.unflatten(2, support.shape[1:3]).sum(3)
        return scores
