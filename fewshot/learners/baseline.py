"""The two baselines of Chen et al. 2019: a classifier of the base classes, and a new head for each episode."""

import functools
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from episodes import ShuffledBatches
from fewshot.backbones.base import Backbone
from fewshot.heads import cosine_gradient, descend, head_lengths, on_counted, softmax_gradient
from fewshot.learners.base import Traits
from fewshot.learners.cosine_classifier import CosineClassifier
from fewshot.learners.episodic import in_parts
from fewshot.learners.linear_classifier import LinearClassifier
from fewshot.learners.registry import register
from fewshot.small_batches import Span, cosine_gradients, fitted, fresh, in_order, linear_gradients

_TRAITS = Traits(fits_episodes=True, paper="Chen et al. 2019")
_SCALE = 2.0  # of the cosine head of an episode: the authors' code fixes it for 200 classes or fewer
# of our own variants: an epoch has as many steps as batches of 4, but 8 at most, and each step is on all images
_BATCH, _STEPS = 4, 8
_SEARCH = {"head_rate": (1e-3, 1e-1, "log")}
_SGD = {"momentum": 0.9, "dampening": 0.9, "decay": 1e-3}


@register("baseline")
class Baseline(LinearClassifier):
    """A linear classifier of base classes; a new linear one is fitted to each episode.

    The new head is fitted as the authors' code does (CloserLookFewShot, methods/baselinefinetune.py): a fresh
    torch.nn.Linear learns the cross-entropy of the support set by SGD with a rate of 0.01, momentum and dampening 0.9
    and weight decay 0.001, in 100 epochs of shuffled batches of 4. The episode's key draws the random start and the
    shuffling, and the embeddings decide which class or image gets which random number: neither other episodes nor the
    order of classes or images change the scores.

    zero-start  is no published method: the head starts from zero, and each step is on the whole support set, as many as
                there are batches (from 32 images on 8 longer ones an epoch, as far together), so nothing is drawn. On
                the validation classes of Omniglot it had 1.4 +- 0.5 points more than the published procedure in 5-way
                1-shot episodes, 0.1 +- 0.2 with 5 shots and 1.0 +- 0.4 of 20 ways, both with one network (conv4-strided
                after 300 steps, 68 % in 5-way 1-shot).
    """

    variants = dict.fromkeys(["", "zero-start"], _TRAITS)
    search: ClassVar = _SEARCH

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", head_epochs: int = 100, head_rate: float = 0.01
    ) -> None:
        """head_epochs and head_rate: of the gradient descent that fits an episode's head."""
        super().__init__(backbone, classes, variant)
        self.head_epochs, self.head_rate = head_epochs, head_rate

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.variant == "zero-start":
            return on_counted(self._from_zero, support, mask, query)
        return _of_ordered(self._from_random, support, query, keys, mask)

    def base_logits(self, query: Tensor) -> Tensor:
        return self.head(query)

    def _from_random(self, images: Tensor, labels: Tensor, query: Tensor, keys: Tensor) -> Tensor:
        start = fresh(keys, labels.shape[-1], images.shape[-1]).to(images)
        images = functional.pad(images, (0, 1), value=1.0)  # the weight of that 1 is the bias
        span, epochs, rate = Span(images, start), self.head_epochs, self.head_rate
        (weights,) = fitted(span.images, labels, [span.weights], linear_gradients, keys, epochs=epochs, rate=rate)
        head = span.whole(weights)  # (E, N, D + 1)
        return query @ head[..., :-1].mT + head[..., None, :, -1]

    def _from_zero(self, images: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        images = functional.pad(images, (0, 1), value=1.0)  # the weight of that 1 is the bias
        gradient = softmax_gradient(images @ images.mT, labels)
        coefficients = _descended(torch.zeros_like(labels), gradient, self.head_epochs, self.head_rate)
        head = coefficients.mT @ images  # (E, N, D + 1)
        return query @ head[..., :-1].mT + head[..., None, :, -1]


@register("baseline++")
class BaselinePlusPlus(CosineClassifier):
    """A cosine classifier of base classes; a new cosine one is fitted to each episode.

    The new head is that of the authors' code (CloserLookFewShot, distLinear in backbone.py): its logits are
    2 g_k cos(f(x), v_k), and the length g_k and the direction v_k of a fresh linear layer's weights learn separately
    (torch.nn.utils.weight_norm). The head is fitted and drawn as for `baseline`. With so small a scale the head fits an
    episode loosely, and its logits are small beside those of the base classes, which have a learned tau: in the
    test protocol `generalised` nearly all queries go to base classes.

    The classifier of base classes is our own in both variants: it has a learned tau and weights of length one. The
    authors' classifier has a fixed scale (10, or 2 for 200 classes or fewer) and learned lengths.

    mean-start  is no published method: the head keeps the tau that was learned on base classes, all its w_k start as
                the mean direction of the support set, and each step is on the whole support set, as for
                `baseline:zero-start`. On the validation classes of Omniglot it had 8.6 +- 0.9 points more than the
                published procedure in 5-way 1-shot episodes (68.0 to 59.4 %), 3.7 +- 0.4 with 5 shots and 16.9 +- 1.0
                of 20 ways, both with one network (conv4-strided after 300 steps).
    """

    variants = dict.fromkeys(["", "mean-start"], _TRAITS)
    batches = ShuffledBatches(size=256)
    search: ClassVar = _SEARCH

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", head_epochs: int = 100, head_rate: float = 0.01
    ) -> None:
        """head_epochs and head_rate: of the gradient descent that fits an episode's head."""
        super().__init__(backbone, classes, variant)
        self.head_epochs, self.head_rate = head_epochs, head_rate

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.variant == "mean-start":
            return on_counted(self._from_mean, support, mask, query)
        return _of_ordered(self._from_random, support, query, keys, mask)

    def _from_random(self, images: Tensor, labels: Tensor, query: Tensor, keys: Tensor) -> Tensor:
        images = functional.normalize(images, dim=2)
        start = fresh(keys, labels.shape[-1], images.shape[-1])[..., :-1].to(images)  # a cosine layer has no bias
        span = Span(images, start)
        lengths = start.norm(dim=2, keepdim=True)
        weights, lengths = fitted(
            span.images,
            labels,
            [span.weights, lengths],
            functools.partial(cosine_gradients, scale=_SCALE),
            keys,
            epochs=self.head_epochs,
            rate=self.head_rate,
        )
        directions = functional.normalize(span.whole(weights), dim=2)
        return _SCALE * lengths.mT * (functional.normalize(query, dim=2) @ directions.mT)

    def _from_mean(self, images: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        images = functional.normalize(images, dim=2)
        products = images @ images.mT
        start = torch.ones_like(labels) / head_lengths(products, torch.ones_like(labels))
        gradient = cosine_gradient(products, labels, self.tau)
        coefficients = _descended(start, gradient, self.head_epochs, self.head_rate)
        return self.logits(query, coefficients.mT @ images)


def _of_ordered(
    scores: Callable[..., Tensor], support: Tensor, query: Tensor, keys: Tensor | None, mask: Tensor | None
) -> Tensor:
    """scores(images, labels, query, keys) of support sets in the order of `in_order`, a few episodes at a time.

    Episodes without keys all draw the same numbers.
    """
    keys = torch.zeros(len(support), dtype=torch.int64, device=support.device) if keys is None else keys
    support, mask, places = in_order(support, mask)
    few = functools.partial(on_counted, scores)
    found = in_parts(few, support.shape[1] * (support.shape[3] + 1), support, mask, query, keys)
    return found.gather(2, places[:, None].expand_as(found))


def _descended(start: Tensor, gradient: Callable[[Tensor], Tensor], epochs: int, rate: float) -> Tensor:
    """Coefficients (E, M, N) after `epochs` epochs of M images in batches of 4, from `start` (..., M, N)."""
    batches = -(-start.shape[-2] // _BATCH)
    steps = min(batches, _STEPS)
    return descend(start, gradient, epochs * steps, rate * batches / steps, **_SGD)
