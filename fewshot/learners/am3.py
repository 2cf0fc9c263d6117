"""AM3 (Xing et al. 2019): prototypes mixed with the names of their classes, by a gate that the names decide."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from episodes import Episodes
from fewshot.backbones.base import Backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Traits, rows_of
from fewshot.learners.clip_words import WIDTH, StaticEncoder
from fewshot.learners.episodic import by_class
from fewshot.learners.prototypical import Prototypical
from fewshot.learners.registry import register
from fewshot.losses import squared_distances
from fewshot.masks import class_means


@register("am3")
class AM3(Prototypical):
    """Prototypical networks whose prototypes lie between the mean of the support images and the class's name.

    p'_c = lambda_c p_c + (1 - lambda_c) w_c, with w_c = g(e_c) and lambda_c = sigmoid(h(w_c))   (equations 5 to 7)

    e_c is the static embedding of the name by the package wordllama (the paper takes GloVe's); the networks g and h
    have one hidden layer each and learn with the backbone, by the loss of prototypical networks. So the names alone
    decide how much an image of their class counts. Rows are marked, because nobody says which names the texts behind
    the vectors held. Verification and retrieval compare images alone, as prototypical networks do.
    """

    variants: ClassVar = {"": Traits(text=True, needs=("wordllama",), trained_on="wordllama", paper="Xing et al. 2019")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        temperature: float = 1.0,
        turns: bool = False,
        hidden: int = 300,
        dropout: float = 0.7,
    ) -> None:
        """hidden, dropout: of g and h, by default those of the paper on miniImageNet; shot, temperature, turns: see
        Prototypical."""
        super().__init__(backbone, classes, variant, shot, temperature, turns=turns)
        self.text_encoder = StaticEncoder()
        self.of_name = _network(WIDTH, hidden, backbone.embedding_size, dropout)  # g
        self.gate = _network(backbone.embedding_size, hidden, 1, dropout)  # h

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        return self.of_name(self.text_encoder.numbers(texts))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query, targets = self.split(images)
        present = by_class(labels, self.batches)[:, 0]
        names = self.of_name(self.text_encoder.kept_numbers(self.class_names)[present])
        scores = self.named_scores(support, names.expand(len(support), -1, -1), query)
        return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    def episode_scores(self, data: EmbeddedBank, episodes: Episodes, mask: Tensor | None = None) -> Tensor:
        support, query = (rows_of(data, images) for images in (episodes.support, episodes.query.flatten(1)))
        return self.named_scores(support, data.text_embeddings[episodes.classes], query, mask)

    def named_scores(self, support: Tensor, names: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (E, Q, N) from support (E, N, K, D), the names' w_c (E, N, D) and query (E, Q, D)."""
        prototypes = torch.lerp(names, class_means(support, mask), self.gate(names).sigmoid())
        return -squared_distances(query, prototypes) / self.temperature


def _network(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
