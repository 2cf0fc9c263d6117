"""The networks that turn images into embeddings, by name; one file a family, `base.py` is the contract."""

from pathlib import Path

from episodes.errors import unknown_name
from fewshot.backbones import external
from fewshot.backbones.base import Backbone, Recipe, mirrored
from fewshot.backbones.conv4 import CONV4, conv4
from fewshot.backbones.ensemble import ensemble, split_members
from fewshot.backbones.features import FEATURES, RECIPE, check_takes
from fewshot.backbones.pixels import PIXELS
from fewshot.backbones.pretrained import PRETRAINED
from fewshot.backbones.resnet import RESNETS
from fewshot.backbones.weights import load_weights
from fewshot.backbones.wide_resnet import WIDE_RESNETS

__all__ = [
    "BACKBONES",
    "FEATURES",
    "MIRRORED",
    "PRETRAINED",
    "Backbone",
    "backbone_listing",
    "conv4",
    "find_backbone",
    "gives_maps",
    "load_weights",
    "make_backbone",
]

# with random weights; PRETRAINED has those that bring their weights
BACKBONES: dict[str, Recipe] = {**CONV4, **RESNETS, **WIDE_RESNETS, **PIXELS}
MIRRORED = "-mirrored"  # ends the name of a network that averages over mirror images at test: conv4-mirrored


def find_backbone(name: str) -> Recipe:
    """The recipe of the backbone called `name`, such as 'conv4', '4xconv4' or 'conv4-mirrored'; InputError for an
    unknown name."""
    plain = name.removesuffix(MIRRORED)
    if plain != name and _gives_maps(plain):
        return mirrored(find_backbone(plain))
    count, member = split_members(name)
    if count and _gives_maps(member):
        return ensemble(count, member, find_backbone(member))
    library, colon, network = name.partition(":")
    if colon and library in external.LIBRARIES:
        return Recipe(external.LIBRARIES[library](network), external.ABOUT[library], "")
    known = {**BACKBONES, **PRETRAINED, FEATURES: RECIPE}
    if name not in known:
        raise unknown_name("backbone", name, [*known, *(f"{library}:NAME" for library in external.LIBRARIES)])
    return known[name]


def gives_maps(name: str) -> bool:
    """Whether the backbone called `name` gives feature maps (see Backbone.maps)."""
    return _gives_maps(name.removesuffix(MIRRORED))


def _gives_maps(plain: str) -> bool:
    return split_members(plain)[1] in {**CONV4, **RESNETS, **WIDE_RESNETS}


def make_backbone(name: str, channels: int, size: int, weights: str | Path = "") -> Backbone:
    """A fresh backbone for images of `channels` x `size` x `size`, by its name.

    weights: a local file of weights that its body starts from, see `fewshot.backbones.weights`. Colours are
        standardised by ImageNet's means. If a network of timm has published weights, call its method
        `standardise_as_published`.
    InputError if the backbone takes images and the data set holds features (size 1), or the other way round.
    """
    check_takes(name, size)
    backbone = find_backbone(name)(channels, size)
    backbone.channels = channels
    if weights:
        load_weights(backbone, Path(weights), name)
    return backbone


def backbone_listing() -> list[tuple[str, str, str]]:
    """Name, description and paper of each backbone; each library is one row, NAME, because it has hundreds."""
    known = {**BACKBONES, **PRETRAINED, FEATURES: RECIPE}
    listed = [(name, recipe.about, recipe.paper) for name, recipe in known.items()]
    return [*listed, *((f"{library}:NAME", external.ABOUT[library], "") for library in external.LIBRARIES)]
