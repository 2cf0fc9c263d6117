"""Prompts: texts of classes with words before the name that are vectors, which can be learned."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fewshot.backbones.openclip import OpenClipBackbone
from fewshot.learners.clip import CLIP


class Prompts(Protocol):
    """Embeddings of names after M context vectors of width W."""

    start: Tensor
    """The context (M, W) with which an embedding is that of the learner's own text of a class."""

    def names(self, texts: Sequence[str]) -> Tensor:
        """What stands for each of T names, (T, L)."""

    def embed(self, context: Tensor, names: Tensor) -> Tensor:
        """Embeddings (E, N, D) of names (E, N, L) after context vectors (E, N, M, W), or (E, 1, M, W) for all names."""


class BagPrompts:
    """Prompts of `clip`, whose encoder takes a text for a bag of n-grams and so knows no order.

    There, context vectors would act by their sum alone: one vector stands for them, which is added to the mean of the
    vectors of the name. It starts as nothing.
    """

    def __init__(self, learner: CLIP) -> None:
        self._learner = learner
        self.start = torch.zeros_like(learner.text_projection.weight[:1])

    def names(self, texts: Sequence[str]) -> Tensor:
        encoder = self._learner.text_encoder
        return encoder(encoder.numbers(texts))

    def embed(self, context: Tensor, names: Tensor) -> Tensor:
        return self._learner.text_projection(names + context.sum(2))


class TokenPrompts:
    """Prompts of a model of open_clip: the context stands in place of 'a photo of a', with which it starts."""

    _BEFORE = "a photo of a"
    _FIRST = 1  # the place of the context, after the token that begins a text

    def __init__(self, backbone: OpenClipBackbone) -> None:
        self._backbone = backbone
        words = backbone.tokens([self._BEFORE])[0, self._FIRST : -1]
        self.start = backbone.token_vectors(words).detach()

    def names(self, texts: Sequence[str]) -> Tensor:
        return self._backbone.tokens([f"{self._BEFORE} {text}." for text in texts])

    def embed(self, context: Tensor, names: Tensor) -> Tensor:
        vectors, end = self._backbone.token_vectors(names), self._FIRST + len(self.start)
        context = context.expand(-1, names.shape[1], -1, -1)
        vectors = torch.cat([vectors[:, :, : self._FIRST], context, vectors[:, :, end:]], 2)
        return self._backbone.embed_tokens(names.flatten(0, 1), vectors.flatten(0, 1)).unflatten(0, names.shape[:2])


def prompts_of(learner: CLIP) -> Prompts:
    """The prompts of the encoder of texts that the learner has."""
    if isinstance(learner.backbone, OpenClipBackbone):
        return TokenPrompts(learner.backbone)
    return BagPrompts(learner)
