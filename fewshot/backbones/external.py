"""The networks of torchvision, timm and open_clip as backbones, by their names there."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from episodes.errors import InputError, nearest_name
from fewshot.backbones.base import Backbone
from fewshot.backbones.openclip import openclip_network

_WITH_SIDE_CLASSIFIERS = ("googlenet", "inception_v3")  # which only training as a classifier uses


class ColourBackbone(Backbone):
    """A backbone of a network for colour images: grey images become colour images with three equal channels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.expand(-1, 3, -1, -1))

    def standardises(self, channels: int) -> bool:
        return True


def torchvision_network(network: str) -> Callable[[int, int], Backbone]:
    """A function that makes a classification network of torchvision, untrained, without its last linear layer."""
    from torchvision import models  # takes two seconds, which other networks do without

    _check_name("torchvision", network, models.list_models(module=models))
    return functools.partial(_backbone, f"torchvision:{network}", functools.partial(_of_torchvision, network))


def timm_network(network: str) -> Callable[[int, int], Backbone]:
    """A function that makes a network of timm, untrained and without its classifier."""
    try:
        import timm
    except ImportError as error:
        raise InputError(f"timm:{network} needs the package timm: pip install 'fewshot[timm]'") from error
    # a name like hf-hub:NAME, which timm would look for online, is not among them
    _check_name("timm", network, [*timm.list_models(), *timm.list_pretrained()])
    build = functools.partial(timm.create_model, network, pretrained=False, num_classes=0)
    return functools.partial(_timm_backbone, network, build)


LIBRARIES: dict[str, Callable[[str], Callable[[int, int], Backbone]]] = {
    "torchvision": torchvision_network,
    "timm": timm_network,
    "openclip": openclip_network,
}
_CLASSIFIER = "any classification network of {}, untrained, without its classifier"
ABOUT = {
    "torchvision": _CLASSIFIER.format("torchvision"),
    "timm": _CLASSIFIER.format("timm"),
    "openclip": "the image network of a model of open_clip; its weights from a local file",
}


def _of_torchvision(network: str) -> nn.Module:
    from torchvision import models

    options = {"aux_logits": False, "init_weights": True} if network in _WITH_SIDE_CLASSIFIERS else {}
    body = models.get_model(network, weights=None, **options)
    classifiers = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not classifiers:
        raise InputError(f"torchvision:{network} has no linear classifier to take off: choose another network")
    body.set_submodule(classifiers[-1], nn.Identity())
    return body


def _backbone(name: str, build: Callable[[], nn.Module], channels: int, size: int) -> Backbone:
    if channels not in (1, 3):
        raise InputError(f"{name} takes grey or colour images, not {channels} channels")
    body = build()
    was_training = body.training
    try:
        with torch.no_grad():  # in eval mode, so that the blank image does not count in a batch norm
            features = body.eval()(torch.zeros(1, 3, size, size))
        embedding_size = features.flatten(1).shape[1]
    except Exception as error:  # each network refuses in its own way
        raise InputError(f"{name} does not take images of {size}x{size} pixels") from error
    return ColourBackbone(body.train(was_training), embedding_size)


def _timm_backbone(network: str, build: Callable[[], nn.Module], channels: int, size: int) -> Backbone:
    backbone = _backbone(f"timm:{network}", build, channels, size)
    config: dict[str, Any] = getattr(backbone.body, "pretrained_cfg", {})
    if config.get("mean") and config.get("std"):
        backbone.published = config["mean"], config["std"]
    return backbone


def _check_name(library: str, network: str, known: list[str]) -> None:
    if network not in known:
        raise nearest_name(f"network of {library}", network, known)
