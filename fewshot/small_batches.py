"""Heads fitted to the support sets of E episodes at once by descent on small batches (Chen et al. 2019)."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot.draws import shuffled, uniform

# images (E, B, D), labels (E, B, N) and parameters to the gradients of the mean cross-entropy over the B images
Gradients = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]

_BATCH = 4
_MOMENTUM, _DAMPENING, _DECAY = 0.9, 0.9, 1e-3


def fresh(keys: Tensor, way: int, size: int) -> Tensor:
    """Weights (E, way, size + 1) of linear layers as torch.nn.Linear starts them, the biases last, from keys (E,).

    Both are uniform up to 1 / sqrt(size); float64.
    """
    return uniform(keys, 0, way * (size + 1)).view(-1, way, size + 1) / size**0.5


def linear_gradients(images: Tensor, labels: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The gradients of logits x W^T with respect to W (E, N, D)."""
    (weights,) = parameters
    residuals = ((images @ weights.mT).softmax(2) - labels) / images.shape[1]
    return [residuals.mT @ images]


def cosine_gradients(images: Tensor, labels: Tensor, parameters: list[Tensor], scale: float) -> list[Tensor]:
    """The gradients of logits scale * g_k * cos(x, v_k), with |x| = 1, with respect to v (E, N, D) and g (E, N, 1)."""
    directions, gains = parameters
    lengths = directions.norm(dim=2, keepdim=True).clamp_min(1e-12)
    units = directions / lengths
    cosines = images @ units.mT
    residuals = ((scale * gains.mT * cosines).softmax(2) - labels) * (scale / images.shape[1])
    slopes = (residuals * cosines).sum(1)[..., None]  # with respect to the gains
    return [gains / lengths * (residuals.mT @ images - slopes * units), slopes]


def fitted(
    images: Tensor, labels: Tensor, start: list[Tensor], gradients: Gradients, keys: Tensor, *, epochs: int, rate: float
) -> list[Tensor]:
    """The parameters, from `start`, (E, ...) each, after `epochs` epochs of torch.optim.SGD on batches of 4 images.

    images (E, M, D), labels (M, N) or (E, M, N) one-hot. The episode's key (E,) decides the order of images in each
    epoch; the last batch of an epoch has the images that are left.
    """
    place: list[Tensor] = [parameter.clone() for parameter in start]
    speed: list[Tensor] = []
    count, rows = images.shape[1], images.flatten(0, 1)
    labels = labels.expand(len(images), -1, -1)
    firsts = torch.arange(0, len(rows), count, device=rows.device)[:, None]
    for epoch in range(epochs):
        order = shuffled(keys, 1 + epoch, count)
        # index_select copies whole rows, gather number by number
        batches = rows.index_select(0, (firsts + order).flatten()).view_as(images).split(_BATCH, dim=1)
        targets = labels.gather(1, order[..., None].expand_as(labels)).split(_BATCH, dim=1)
        for batch, wanted in zip(batches, targets, strict=True):
            slopes = gradients(batch, wanted, place)
            slopes = [slope.add_(parameter, alpha=_DECAY) for slope, parameter in zip(slopes, place, strict=True)]
            speed = [v.mul_(_MOMENTUM).add_(s, alpha=1 - _DAMPENING) for v, s in zip(speed, slopes)] or slopes
            for parameter, velocity in zip(place, speed, strict=True):
                parameter.sub_(velocity, alpha=rate)
    return place


class Span:
    """Images (E, M, D) and weights (E, N, D) of a head in the coordinates that gradient descent on the head can change:
    D' = min(D, M + 1) numbers each, with unchanged inner products.

    The gradient with respect to the weights of a class is a sum of images. So descent moves the weights within the span
    of the images and, by weight decay and cosines, along the part of their start orthogonal to that span: this part
    gets one coordinate.

    images, weights   (E, M, D') and (E, N, D'), for the descent
    """

    def __init__(self, images: Tensor, start: Tensor) -> None:
        self.small = start.shape[2] > images.shape[1] + 1
        self.images, self.weights = images, start
        if self.small:
            self._axes = torch.linalg.qr(images.mT).Q  # (E, D, M)
            within = start @ self._axes
            out = start - within @ self._axes.mT
            length = out.norm(dim=2, keepdim=True).clamp_min(1e-12)
            self._out = out / length
            coordinates = images @ self._axes
            self.images = torch.cat([coordinates, coordinates.new_zeros(*coordinates.shape[:2], 1)], 2)
            self.weights = torch.cat([within, length], 2)

    def whole(self, weights: Tensor) -> Tensor:
        """The weights (E, N, D) in all coordinates, from those that the descent has found, (E, N, D')."""
        return weights[..., :-1] @ self._axes.mT + weights[..., -1:] * self._out if self.small else weights


def in_order(support: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Support (E, N, K, D) in an order that depends on its embeddings alone, its mask (E, N, K) in the same order, and
    the new places (E, N) of its classes.

    Images stand in the order of the sums of their embeddings, and classes in the order of the sums of theirs, so that a
    random number drawn for a place goes to the same image or class whatever the order of the support was. Images that
    do not count stand behind those that do.
    """
    sums = support.sum(3)
    sums, order = (sums if mask is None else sums.where(mask, torch.inf)).sort(dim=2, stable=True)
    support = support.gather(2, order[..., None].expand_as(support))
    if mask is not None:
        mask = mask.gather(2, order)
        sums = sums.where(mask, 0)
    classes = sums.sum(2).argsort(dim=1, stable=True)
    if mask is not None:
        mask = mask.gather(1, classes[..., None].expand_as(mask))
    return support.gather(1, classes[..., None, None].expand_as(support)), mask, classes.argsort(1)
