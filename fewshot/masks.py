"""The support images that count, for classes with different numbers of them (see Learner.scores)."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot.heads import one_hot


def class_means(support: Tensor, mask: Tensor | None) -> Tensor:
    """The mean (E, N, D) of the support rows (E, N, K, D) of each class, over those that `mask` (E, N, K) has."""
    if mask is None:
        return support.mean(2)
    return (shares(mask, support)[..., None] * support).sum(2)


def shares(mask: Tensor, like: Tensor) -> Tensor:
    """The share (E, N, K) of each support image in the mean of its class: zero if it does not count."""
    counts = mask.to(like.dtype)
    return counts / counts.sum(2, keepdim=True)


def counted(pairs: Tensor, mask: Tensor | None, otherwise: float) -> Tensor:
    """The numbers `pairs` (E, Q, N * K) of queries and support images, `otherwise` for images that do not count."""
    return pairs if mask is None else pairs.masked_fill(~mask.flatten(1)[:, None], otherwise)


def on_counted(
    function: Callable[..., Tensor], support: Tensor, mask: Tensor | None, *tensors: Tensor | None
) -> Tensor:
    """function(images, labels, *tensors) of episodes whose images all count: what it gives, (E, ...).

    support (E, N, K, ...) and tensors (E, ...) or None; the function is given the images (E, M, ...), class after
    class, and their labels one-hot, (M, N) or (E, M, N). Episodes of different M are computed in different calls.
    """
    way, shot = support.shape[1:3]
    images, labels = support.flatten(1, 2), one_hot(way, shot, support)
    if mask is None:
        return function(images, labels, *tensors)
    counts = mask.sum((1, 2))
    places, found = [], []
    for count in counts.unique().tolist():
        place = (counts == count).nonzero().squeeze(1)
        kept = mask[place].flatten(1)
        rows = images[place][kept].unflatten(0, (-1, count))
        given = (None if tensor is None else tensor[place] for tensor in tensors)
        found.append(function(rows, labels.expand(*kept.shape, -1)[kept].unflatten(0, (-1, count)), *given))
        places.append(place)
    return torch.cat(found)[torch.cat(places).argsort()]
