"""What learners that train by episodes share: batches of classes as support sets and queries."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Learner

_NUMBERS = 1 << 22  # of the largest tensor that `in_parts` lets a function make


class EpisodicLearner(Learner):
    """Trains on episodes like those of the test: each batch is one episode, and the loss is a cross-entropy."""

    batches = ClassBatches(classes=60, images=6)

    def __init__(self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, turns: bool = False) -> None:
        """shot: support images of each class in a training batch; the other images are queries.

        turns: the support begins with each image of a class in turn, not only with the first one, and the loss is the
        mean over these episodes: one batch of embeddings gives more episodes.
        """
        super().__init__(backbone, classes, variant)
        self.shot, self.turns = shot, turns

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query, targets = self.split(images)
        return functional.cross_entropy(self.scores(support, query).flatten(0, 1), targets.flatten())

    def split(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Support (E, N, K, D), query (E, Q, D) and targets (E, Q) from the images (B, C, H, W) of a batch."""
        return split_episodes(self.embed(images), self.batches, self.shot, self.turns)


def by_class(rows: Tensor, batches: ClassBatches) -> Tensor:
    """The rows (B, ...) of one of these batches, which bring class after class, as (N, images, ...)."""
    return rows.unflatten(0, (-1, batches.images))


def split_episodes(
    embeddings: Tensor, batches: ClassBatches, shot: int, turns: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Support (E, N, K, D), query (E, Q, D) and targets (E, Q) from the embeddings (B, D) of one of these batches.

    The classes of the batch make one episode: the first `shot` images of each are its support, the others are queries.
    turns: the support begins with each image of a class in turn, and E is the number of images a class.
    """
    classes = by_class(embeddings, batches)
    way, images, _ = classes.shape
    places = torch.arange(images, device=embeddings.device)
    begins = places if turns else places[:1]
    order = (begins[:, None] + places) % images
    episodes = classes[:, order].transpose(0, 1)  # (E, N, images, D)
    targets = torch.arange(way, device=embeddings.device).repeat_interleave(images - shot)
    return episodes[:, :, :shot], episodes[:, :, shot:].flatten(1, 2), targets.expand(len(begins), -1)


def cut_episodes(rows: Tensor, batches: ClassBatches, way: int, shot: int) -> tuple[Tensor, Tensor]:
    """Support (E, N, K, ...) and queries (E, N, images - K, ...) from the rows (B, ...) of one of these batches.

    Every `way` classes of the batch make an episode, or all classes if there are fewer; classes that do not fill
    another episode are left out. The first `shot` images of a class are its support.
    """
    classes = by_class(rows, batches)
    way = min(way, len(classes))
    episodes = classes[: len(classes) // way * way].unflatten(0, (-1, way))
    return episodes[:, :, :shot], episodes[:, :, shot:]


def check_shot(name: str, shot: int, batches: Batches) -> None:
    """Raise InputError if the classes of ClassBatches have no images left for queries."""
    if isinstance(batches, ClassBatches) and batches.images <= shot:
        raise InputError(
            f"{name} with shot = {shot} needs batches of more images a class, not {batches.images}: some must be left"
            " for queries"
        )


def in_parts(function: Callable[..., Tensor], numbers: int, *tensors: Tensor | None) -> Tensor:
    """function(*tensors) of tensors (E, ...) or None, for a few episodes at a time: memory does not grow with E.

    numbers: how many numbers the function's largest tensor has for one episode
    """
    few = max(1, _NUMBERS // numbers)
    parts = [itertools.repeat(None) if tensor is None else tensor.split(few) for tensor in tensors]
    return torch.cat([function(*part) for part in zip(*parts)])


def in_query_parts(function: Callable[..., Tensor], numbers: int, query: Tensor, *tensors: Tensor | None) -> Tensor:
    """function(query, *tensors) of query (E, Q, ...) and tensors (E, ...) or None, for a few episodes, and a few of
    their queries, at a time: memory grows with neither E nor Q.

    numbers: how many numbers the function's largest tensor has for one query. Each query must be scored by itself.
    """
    few = max(1, _NUMBERS // numbers)

    def of_episodes(query: Tensor, *tensors: Tensor | None) -> Tensor:
        return torch.cat([function(part, *tensors) for part in query.split(few, 1)], 1)

    return in_parts(of_episodes, numbers * min(few, query.shape[1]), query, *tensors)
