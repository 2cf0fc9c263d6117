"""PODA (Fahes et al. 2023, "PODA: Prompt-driven Zero-shot Domain Adaptation"): styles of feature maps from a prompt."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.learners.base import Learner

_STEPS = 3  # chosen on validation names: in more steps the embeddings of a small network become the prompt's
_RATE, _MOMENTUM = 1.0, 0.9


class Styles(NamedTuple):
    """The mean and the standard deviation of each channel of low-level feature maps over their places, (B, C, 1, 1)."""

    mean: Tensor
    std: Tensor

    def of(self, images: Tensor) -> "Styles":
        """The styles numbered `images` (M,), in this order."""
        return Styles(self.mean[images], self.std[images])


def has_styles(learner: Learner) -> bool:
    """Whether the backbone gives the feature maps that PODA changes, those of its first layer or block."""
    return getattr(learner.backbone, "map_shape", None) is not None


def mined(learner: Learner, images: Tensor, prompt: Tensor) -> Styles:
    """The styles that bring images near to a prompt (algorithm 1).

    images (B, C, H, W) in [0, 1] of the source domain, prompt (D,): the embedding of the words for the target domain.
    The styles of the images' own feature maps are the start, and SGD at a rate of 1 with momentum 0.9 lowers
    1 - cos(embedding, prompt) of each. The paper takes 100 steps, for a larger network.                  (equation 3)
    """
    start = styles_of(learner, images)
    parameters = [part.clone().requires_grad_() for part in start]
    descent = torch.optim.SGD(parameters, lr=_RATE, momentum=_MOMENTUM)
    with torch.enable_grad():
        for _ in range(_STEPS):
            embeddings = restyled(learner, images, Styles(*parameters))
            loss = (1 - functional.cosine_similarity(embeddings, prompt[None].detach(), dim=1)).sum()
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters)):
                parameter.grad = slope
            descent.step()
    return Styles(*(part.detach() for part in parameters))


def styles_of(learner: Learner, images: Tensor) -> Styles:
    """The styles of the low-level feature maps of images (B, C, H, W)."""
    found: list[Styles] = []

    def watch(maps: Tensor) -> Tensor:
        found.append(_styles(maps))
        return maps

    with torch.no_grad(), _low_level(learner, watch):
        learner.embed(images)
    return found[0]


def restyled(learner: Learner, images: Tensor, styles: Styles) -> Tensor:
    """The embeddings (B, D) of images (B, C, H, W) whose low-level feature maps have other styles: PIN.

    PIN(f, mean, std) = std * (f - mean(f)) / std(f) + mean                                           (equation 2)
    """
    with _low_level(learner, lambda maps: normalised(maps, styles)):
        return learner.embed(images)


def normalised(maps: Tensor, styles: Styles) -> Tensor:
    """Feature maps (B, C, H, W) with the means and deviations of `styles`: equation 2."""
    own = _styles(maps)
    return styles.std * (maps - own.mean) / own.std + styles.mean


def _styles(maps: Tensor) -> Styles:
    std, mean = torch.std_mean(maps, (2, 3), correction=0, keepdim=True)
    return Styles(mean, std.clamp_min(1e-6))


@contextlib.contextmanager
def _low_level(learner: Learner, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the feature maps of the backbone's first layer or block are what `change` makes of them."""
    first: nn.Module = next(learner.backbone.body.children())

    def hook(_: nn.Module, __: Any, maps: Tensor) -> Tensor:
        return change(maps)

    handle = first.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
