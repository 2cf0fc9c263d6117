"""Relation networks (Sung et al. 2018): a small network learns to compare."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import EpisodicLearner, in_parts
from fewshot.learners.registry import register
from fewshot.masks import class_means


@register("relation")
class Relation(EpisodicLearner):
    """A learned network says how much a query is like a class.

    The relation module gets the mean embedding of a class and the embedding of a query side by side, and ends in a
    sigmoid: the relation score, trained by its squared error to 1 for the query's own class and 0 for the others
    (equations 1 and 2). The score here is the relation score before the sigmoid, which ranks alike and never ties.

    In the paper the module is two convolutions of feature maps and two fully connected layers, with batch norm. Here
    an embedding is a vector (on Omniglot a 1x1 feature map), so the module is only the two fully connected layers,
    without batch norm, which could see other queries. Support embeddings are averaged, not summed, so that one model
    serves all shots. The module starts as minus a distance of random projections, so it need not learn from the
    paper's many episodes that equal embeddings mean the same class.
    """

    variants: ClassVar = {"": Traits(paper="Sung et al. 2018")}
    batches = ClassBatches(classes=20, images=11)

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, hidden: int = 128, turns: bool = False
    ) -> None:
        """hidden: units of the relation module; shot, turns: as of EpisodicLearner."""
        super().__init__(backbone, classes, variant, shot, turns)
        size = backbone.embedding_size
        # the first layer, in the two halves of its input: each is computed once an image, not once a pair
        self.of_class, self.of_query = nn.Linear(size, hidden), nn.Linear(size, hidden, bias=False)
        self.output = nn.Linear(hidden, 1)
        directions = torch.randn((hidden + 1) // 2, size) / size**0.5
        with torch.no_grad():  # 4 - 8 * the mean |projection of class - query|: a unit for either sign
            self.of_class.weight.copy_(torch.cat([directions, -directions])[:hidden])
            self.of_query.weight.copy_(-self.of_class.weight)
            self.of_class.bias.zero_()
            self.output.weight.fill_(-16 / hidden)
            self.output.bias.fill_(4.0)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query, targets = self.split(images)
        relations = self.scores(support, query).sigmoid()
        wanted = targets[:, :, None] == torch.arange(support.shape[1], device=targets.device)
        return functional.mse_loss(relations, wanted.to(relations))

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        classes, queries = self.of_class(class_means(support, mask)), self.of_query(query)
        units = classes.shape[1] * queries.shape[1] * queries.shape[2]
        return in_parts(self._relations, units, classes, queries)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The relation of a and b by the network; this is too slow to compare each image with all others."""
        return self.scores(b[:, :, None], a)

    def _relations(self, classes: Tensor, queries: Tensor) -> Tensor:
        """The module's output (E, Q, N) from the halves (E, N, hidden) and (E, Q, hidden) of the first layer."""
        return self.output(functional.relu(queries[:, :, None] + classes[:, None])).squeeze(3)
