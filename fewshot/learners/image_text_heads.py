"""What heads for image-text features share: the features, the texts of an episode's classes, and the fit to support."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from episodes import Episodes, FeatureBank, InputError
from fewshot.backbones.base import Backbone
from fewshot.backbones.features import FeaturesBackbone
from fewshot.backbones.openclip import OpenClipBackbone
from fewshot.embedding import EmbeddedBank
from fewshot.heads import on_counted
from fewshot.learners.base import rows_of
from fewshot.learners.clip import CLIP
from fewshot.learners.episodic import in_parts

Loss = Callable[..., Tensor]  # of parameters (E, ...): the loss of each episode, (E,)


class ImageTextHead(CLIP):
    """A head that is fitted to the support images and the texts of each episode; a subclass defines `fitted`.

    The features are those of `clip`, which trains on the base classes. On a file of features with `texts`, and on a
    model of open_clip, the features are ready: nothing of `clip` is there to be trained. All features have length one,
    and tau is the factor of cosines that their training learned, 100 for a file of features.
    """

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", size: int = 128) -> None:
        """size: of the common space of images and texts, unless the features are ready."""
        super().__init__(backbone, classes, variant, size)
        self.ready = isinstance(backbone, FeaturesBackbone | OpenClipBackbone)
        if self.ready:  # without parameters, so that the suite makes no step of training
            del self.text_encoder, self.text_projection, self.log_scale, self.image_projection

    @property
    def width(self) -> int:
        """The size D of the features."""
        return self.backbone.embedding_size if self.ready else self.image_projection.out_features

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1) if self.ready else super().embed(images)

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        if not isinstance(self.backbone, OpenClipBackbone):
            return super().embed_texts(texts)
        return functional.normalize(self.backbone.embed_texts([f"a photo of a {text}." for text in texts]), dim=1)

    def scale(self) -> Tensor | float:
        """tau, the factor of cosines."""
        backbone = self.backbone
        return backbone.scale if isinstance(backbone, FeaturesBackbone | OpenClipBackbone) else self.tau()

    @torch.no_grad()
    def episode_scores(self, data: EmbeddedBank, episodes: Episodes, mask: Tensor | None = None) -> Tensor:
        support, query = (rows_of(data, images) for images in (episodes.support, episodes.query.flatten(1)))
        texts = self.of_classes(data)[episodes.classes]
        numbers = max(support.shape[1] * (support.shape[2] + 1), self.width) * self.width  # of the largest tensors

        def few(*tensors: Tensor) -> Tensor:
            support, texts, query, mask = tensors
            return on_counted(self.fitted, support, mask, texts, query)

        return in_parts(few, numbers, support, texts, query, mask)

    def of_classes(self, data: EmbeddedBank) -> Tensor:
        """What `fitted` gets of the text of each class of a split, (classes, ...): its features (classes, D)."""
        return texts_of(data)

    def fitted(self, images: Tensor, labels: Tensor, texts: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) of queries (E, Q, D) by the head fitted to support images (E, M, D) and texts (E, N, D).

        labels: the classes of the support images, (M, N) or (E, M, N) one-hot.
        """
        raise NotImplementedError


def texts_of(data: EmbeddedBank) -> Tensor:
    """The features of the text of each class, (classes, D) of length one: those of a file of features, if it is one."""
    if not isinstance(data.bank, FeatureBank):
        return data.text_embeddings
    if data.bank.texts is None:
        raise InputError(
            f"{data.bank.source} holds no features of texts: add an array texts, one row a class, or take a learner"
            " that reads no names"
        )
    return functional.normalize(data.bank.texts.to(data.device), dim=1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of each episode, (E,), from logits (E, M, N) and labels (M, N) or (E, M, N) one-hot."""
    return -(labels * logits.log_softmax(2)).sum(2).mean(1)


def minimised(
    loss: Loss, start: Sequence[Tensor], make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int
) -> list[Tensor]:
    """The parameters after `steps` steps on `loss`, from `start`, (E, ...) each, at a rate that falls as a cosine to 0.

    The optimizer that `make` gives works number by number, so that episodes do not change each other.
    """
    parameters = [parameter.detach().clone().requires_grad_() for parameter in start]
    optimizer = make(parameters)
    rate = optimizer.param_groups[0]["lr"]
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            for parameter, slope in zip(parameters, torch.autograd.grad(loss(*parameters).sum(), parameters)):
                parameter.grad = slope
            optimizer.step()
    return [parameter.detach() for parameter in parameters]
