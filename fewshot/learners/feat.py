"""FEAT (Ye et al. 2020): the prototypes of an episode see each other before they are compared with queries."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.pretrained_episodes import PretrainedEpisodes
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means


@register("feat")
class Feat(PretrainedEpisodes):
    """Self-attention adapts the prototypes of an episode to each other; a query goes to the nearest adapted one.

    First a linear classifier of the base classes is trained, then episodes go on with its network. An episode's
    prototypes are the class means; SetAttention adapts them as a set, and the scores are minus the squared distances
    of a query to them, divided by `temperature`.

    The loss of an episode adds `balance` times a contrastive term: the images of each class, support and queries, are
    adapted as a set of their own; each image should then be nearer to the mean of its own set than to those of others,
    by the same distance. In the authors' training the network has a tenth of the rate of the attention; here they have
    one rate.
    """

    variants: ClassVar = {"": Traits(paper="Ye et al. 2020")}
    search: ClassVar = {"temperature": (1.0, 256.0, "log"), "balance": (0.0, 0.5), "first_stage": (0.0, 0.9)}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        first_stage: float = 0.5,
        temperature: float = 64.0,
        balance: float = 0.1,
    ) -> None:
        """temperature: of squared distances, 64 in the authors' scripts; balance: the weight of the contrastive term.

        shot, first_stage: as of PretrainedEpisodes.
        """
        super().__init__(backbone, classes, variant, shot, first_stage)
        self.temperature, self.balance = temperature, balance
        self.attention = SetAttention(backbone.embedding_size)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._logits(query, self.attention(class_means(support, mask)))

    def episode_loss(self, support: Tensor, query: Tensor, targets: Tensor) -> Tensor:
        loss = super().episode_loss(support, query, targets)
        if not self.balance:
            return loss
        way = support.shape[1]
        images = torch.cat([support, query.unflatten(1, (way, -1))], 2)  # (E, N, images, D)
        adapted = self.attention(images.flatten(0, 1)).view_as(images)
        logits = self._logits(adapted.flatten(1, 2), adapted.mean(2)).flatten(0, 1)
        own = torch.arange(way, device=logits.device).repeat_interleave(images.shape[2]).repeat(len(images))
        return loss + self.balance * functional.cross_entropy(logits, own)

    def _logits(self, embeddings: Tensor, centres: Tensor) -> Tensor:
        return -squared_distances(embeddings, centres) / self.temperature


class SetAttention(nn.Module):
    """Self-attention with one head over a set (E, M, D) of vectors, in the same shape and in any order:

    LayerNorm(x + W_o softmax((W_q x) (W_k x)^T / sqrt(D)) (W_v x)), with dropout of the attention and of its output.
    """

    def __init__(self, size: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.output = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)
        self.drop_attention, self.drop_output = nn.Dropout(0.1), nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=size**-0.5)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        similarities = self.query(vectors) @ self.key(vectors).mT / vectors.shape[2] ** 0.5
        attended = self.drop_attention(similarities.softmax(2)) @ self.value(vectors)
        return self.norm(vectors + self.drop_output(self.output(attended)))
