"""Ensembles: networks of one kind beside each other in one backbone, such as '4xconv4'."""

import re

import torch
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, Recipe, before_pooling

_NAME = re.compile(r"([2-9]|1[0-6])x([a-z].*)")


class Ensemble(Backbone):
    """Members of one shape: their embeddings, and the channels of their maps, are laid end to end, member by member."""

    def __init__(self, members: list[Backbone]) -> None:
        first = members[0]
        super().__init__(nn.ModuleList(member.body for member in members), len(members) * first.embedding_size)
        self.members = len(members)
        if first.map_shape is not None:
            self.map_shape = (len(members) * first.map_shape[0], *first.map_shape[1:])

    def _embeddings(self, images: Tensor) -> Tensor:
        return torch.cat([body(images).flatten(1) for body in self._bodies], 1)

    def _before_pooling(self, images: Tensor) -> Tensor:
        return torch.cat([before_pooling(body, images) for body in self._bodies], 1)

    @property
    def _bodies(self) -> list[nn.Module]:
        return list(self.body.children())


def split_members(name: str) -> tuple[int, str]:
    """How many members the backbone called `name` has, and the name of a member: '4xconv4' is (4, 'conv4').

    The number is 0 for a single network.
    """
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found else (0, name)


def ensemble(count: int, name: str, member: Recipe) -> Recipe:
    """The recipe of `count` networks beside each other, each with random weights of its own, of the recipe `member`."""

    def make(channels: int, size: int) -> Backbone:
        return Ensemble([member(channels, size) for _ in range(count)])

    return Recipe(make, f"an ensemble of {count} networks {name}", member.paper, member.trained_on)
