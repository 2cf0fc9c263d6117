"""CoOp (Zhou et al. 2022): words before the names of classes, learned as vectors from each episode's support set."""

import functools
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import InputError, class_texts
from fewshot.backbones.base import Backbone
from fewshot.backbones.features import FeaturesBackbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Traits
from fewshot.learners.image_text_heads import ImageTextHead, cross_entropies, minimised
from fewshot.learners.prompts import prompts_of
from fewshot.learners.registry import register

_MOMENTUM, _DECAY = 0.9, 5e-4  # in the authors' code


@register("coop")
class CoOp(ImageTextHead):
    """Zero-shot classification after context vectors that are fitted to the support set.

    logits = tau cos(f, g([v_1] ... [v_M] [class k]))                                          (equations 1 to 3)

    The vectors v descend the cross-entropy of the support set through the encoder of texts g, by SGD with momentum at a
    rate that falls as a cosine. Without a step the scores are those of zero-shot classification.

    unified         one context for all classes of an episode
    class-specific  a context for each class

    On a model of open_clip M is 4 and the vectors start as 'a photo of a'; in the encoder of `clip`, a bag of n-grams,
    one vector stands for all. The paper's rate is 0.002, for 50 to 200 epochs in batches of 32, after one epoch of a
    smaller rate; here each step sees the whole support set.
    """

    variants: ClassVar = dict.fromkeys(
        ["unified", "class-specific"], Traits(fits_episodes=True, text=True, paper="Zhou et al. 2022")
    )

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        size: int = 128,
        head_steps: int = 50,
        head_rate: float = 2e-3,
    ) -> None:
        """head_steps, head_rate: of the fit to an episode."""
        super().__init__(backbone, classes, variant, size)
        if isinstance(backbone, FeaturesBackbone):
            raise InputError(
                "coop learns words in front of the names, which needs the encoder of texts, and a file of features has"
                " none: take images, or another head, such as clap"
            )
        self.head_steps, self.head_rate = head_steps, head_rate

    def of_classes(self, data: EmbeddedBank) -> Tensor:
        return prompts_of(self).names(class_texts(data.bank))

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        """See ImageTextHead; texts (E, N, L) are the names as the encoder has them."""
        start = prompts_of(self).start
        contexts = texts.shape[1] if self.variant == "class-specific" else 1

        def loss(context: Tensor) -> Tensor:
            return cross_entropies(self.logits(images, context, texts), labels)

        sgd = functools.partial(torch.optim.SGD, lr=self.head_rate, momentum=_MOMENTUM, weight_decay=_DECAY)
        (context,) = minimised(loss, [start.expand(len(images), contexts, -1, -1)], sgd, self.head_steps)
        return self.logits(query, context, texts)

    def logits(self, query: Tensor, context: Tensor, names: Tensor) -> Tensor:
        """The logits (E, Q, N) of queries (E, Q, D) by names (E, N, L) after contexts (E, 1 or N, M, W)."""
        texts = functional.normalize(prompts_of(self).embed(context, names), dim=2)
        return self.scale() * query @ texts.mT
