"""Relation networks (Sung et al. 2018): a small network learns to compare."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches
from fewshot.backbones.base import Backbone
from fewshot.backbones.conv4 import ConvBlock
from fewshot.learners.base import Traits
from fewshot.learners.episodic import EpisodicLearner, in_parts, in_query_parts
from fewshot.learners.maps import flat_maps, map_shape
from fewshot.learners.registry import register
from fewshot.masks import class_means

_WIDTH, _UNITS = 64, 8  # of the paper's relation module: channels of its convolutions, units of its linear layer


@register("relation")
class Relation(EpisodicLearner):
    """A learned network says how much a query is like a class.

    The relation module gets the mean embedding of a class and the embedding of a query side by side, and ends in a
    sigmoid: the relation score, trained by its squared error to 1 for the query's own class and 0 for the others
    (equations 1 and 2). The score here is the relation score before the sigmoid, which ranks alike and never ties.

    Support embeddings are averaged, not summed, so that one model serves all shots.

    maps  the module of the paper, which compares feature maps: see MapRelations

    The default is our own form for vectors: the module is only two fully connected layers, without batch norm. It
    starts as minus a distance of random projections, so it need not learn from the paper's many episodes that equal
    embeddings mean the same class.
    """

    variants: ClassVar = {"": Traits(paper="Sung et al. 2018"), "maps": Traits(maps=True, paper="Sung et al. 2018")}
    batches = ClassBatches(classes=20, images=11)
    search: ClassVar = {"hidden": [64, 128, 256], "turns": [False, True]}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, hidden: int = 128, turns: bool = False
    ) -> None:
        """hidden: units of the relation module of the default variant; shot, turns: as of EpisodicLearner."""
        super().__init__(backbone, classes, variant, shot, turns)
        if self.variant == "maps":
            self.module = MapRelations(*map_shape(self))
            return
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

    def embed(self, images: Tensor) -> Tensor:
        return flat_maps(self.backbone, images) if self.variant == "maps" else self.backbone(images)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query, targets = self.split(images)
        relations = self.scores(support, query).sigmoid()
        wanted = targets[:, :, None] == torch.arange(support.shape[1], device=targets.device)
        return functional.mse_loss(relations, wanted.to(relations))

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.variant == "maps":
            return self.module(class_means(support, mask), query)
        classes, queries = self.of_class(class_means(support, mask)), self.of_query(query)
        units = classes.shape[1] * queries.shape[1] * queries.shape[2]
        return in_parts(self._relations, units, classes, queries)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The relation of a and b by the network; this is too slow to compare each image with all others."""
        return self.scores(b[:, :, None], a)

    def _relations(self, classes: Tensor, queries: Tensor) -> Tensor:
        """The module's output (E, Q, N) from the halves (E, N, hidden) and (E, Q, hidden) of the first layer."""
        return self.output(functional.relu(queries[:, :, None] + classes[:, None])).squeeze(3)


class MapRelations(nn.Module):
    """The relation module for feature maps: relations (E, Q, N), before the sigmoid, of classes (E, N, D) and queries
    (E, Q, D), which are maps (channels, height, width) in rows.

    The maps of class and query are concatenated along their channels. Two blocks of a 3x3 convolution, batch norm, ReLU
    and 2x2 max-pooling follow, then two linear layers with a ReLU between them. Maps of one pixel are not pooled.
    The first convolution starts as one of the difference of the two maps: it learns to compare in fewer episodes.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = channels, height, width
        # the first convolution, in the two halves of its input: each is computed once an image, not once a pair
        self.of_class = nn.Conv2d(channels, _WIDTH, 3, padding=1)
        self.of_query = nn.Conv2d(channels, _WIDTH, 3, padding=1, bias=False)
        with torch.no_grad():
            self.of_query.weight.copy_(-self.of_class.weight)
        self.norm = nn.BatchNorm2d(_WIDTH)
        side = min(height, width)
        self.pool = nn.MaxPool2d(2 if side >= 2 else 1)
        self.block = ConvBlock(_WIDTH, _WIDTH, pool=side >= 4)
        shrunk = 4 if side >= 4 else min(side, 2)
        places = (height // shrunk) * (width // shrunk)
        self.linear = nn.Sequential(nn.Linear(_WIDTH * places, _UNITS), nn.ReLU(), nn.Linear(_UNITS, 1))

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        of_class, of_query = self._convolved(self.of_class, classes), self._convolved(self.of_query, queries)
        if self.training:  # the batch norms take the statistics of all pairs
            return self._relations(of_query, of_class)
        return in_query_parts(self._relations, of_class[0].numel(), of_query, of_class)

    def _convolved(self, convolution: nn.Module, maps: Tensor) -> Tensor:
        return convolution(maps.flatten(0, 1).unflatten(1, self.shape)).unflatten(0, maps.shape[:2])

    def _relations(self, of_query: Tensor, of_class: Tensor) -> Tensor:
        """Relations (E, Q, N) from the halves (E, Q, 64, H, W) and (E, N, 64, H, W) of the first convolution."""
        pairs = of_query[:, :, None] + of_class[:, None]  # (E, Q, N, 64, H, W)
        maps = self.pool(functional.relu(self.norm(pairs.flatten(0, 2))))
        return self.linear(self.block(maps).flatten(1)).view(pairs.shape[:3])
