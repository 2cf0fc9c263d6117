"""Weights of a backbone from a local file, trained here or elsewhere."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from episodes.errors import InputError
from fewshot.backbones.base import Backbone
from fewshot.backbones.weight_files import read_weights

# before the names of weights, in any order
_PREFIXES = ("module.", "backbone.", "encoder.", "body.", "model.", "_orig_mod.", "net.", "base_model.")
_SIDE_CLASSIFIERS = ("aux", "AuxLogits")  # of GoogLeNet and Inception, which have convolutions
_NAMED = 3  # weights that a message names


def load_weights(backbone: Backbone, path: Path, name: str) -> None:
    """Give the body of `backbone`, called `name`, the weights in the file; InputError if they do not fit.

    The file is a state dict from torch.save or safetensors, of the body alone or of a whole model: a classifier beside
    the body is left out, and nothing else. Every weight of the body must be there, in its shape.
    """
    wanted = backbone.body.state_dict()
    given = _by_wanted_names(read_weights(path), wanted, path)
    # older files do not count batches
    lacking = [weight for weight, value in wanted.items() if weight not in given and value.is_floating_point()]
    if lacking:
        raise InputError(f"{path} lacks {len(lacking)} of the {len(wanted)} weights of {name}: {_first(lacking)}")
    reshaped = [
        f"{weight} ({_shape(given[weight])} and not {_shape(value)})"
        for weight, value in wanted.items()
        if weight in given and given[weight].shape != value.shape
    ]
    if reshaped:
        raise InputError(
            f"in {path} {len(reshaped)} of the {len(wanted)} weights have another shape than {name} needs for these"
            f" images: {_first(reshaped)}"
        )
    unusable = [weight for weight, value in wanted.items() if weight in given and not _usable(given[weight], value)]
    if unusable:
        raise InputError(
            f"{path} has {len(unusable)} weights that are no plain floating-point numbers (they are integers, complex,"
            f" NaN, sparse or empty): {_first(unusable)}; save the network's own weights in float32"
        )
    foreign = [weight for weight in given if weight not in wanted and not _of_classifier(weight, given, backbone.body)]
    if foreign:
        raise InputError(
            f"{path} is of another network than {name}, which lacks {len(foreign)} of its weights: {_first(foreign)}"
        )
    backbone.body.load_state_dict({**wanted, **{key: value for key, value in given.items() if key in wanted}})


def _usable(given: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor of a file holds numbers that the body can calculate with: it may be quantised, sparse or NaN."""
    if given.is_meta or given.layout != torch.strided or given.is_quantized or given.is_complex():
        return False
    return not wanted.is_floating_point() or (given.is_floating_point() and not bool(given.float().isnan().any()))


def _first(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def _by_wanted_names(tensors: dict[str, Tensor], wanted: Iterable[str], path: Path) -> dict[str, Tensor]:
    """The tensors by their names in the body: prefixes are taken off as long as the name is not among the `wanted`."""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        while name not in wanted and (prefix := next(filter(name.startswith, _PREFIXES), "")):
            name = name.removeprefix(prefix)
        if name in named and name in wanted:
            raise InputError(f"{path} has the weight {name} twice, with different prefixes: leave one in it")
        named[name] = tensor
    return named


def _of_classifier(weight: str, given: dict[str, Tensor], body: nn.Module) -> bool:
    """Whether a weight that the body lacks is of a classifier: outside of the body's layers, and no convolution.

    A deeper network has all the weights of a shallower one and more, so its file must not load into the shallower one.
    """
    top, parent = weight.partition(".")[0], weight.rpartition(".")[0]
    if isinstance(dict(body.named_modules()).get(parent), nn.Identity):  # the place of the removed classifier
        return True
    if any(name.startswith(f"{top}.") for name in body.state_dict()):
        return False
    return top.startswith(_SIDE_CLASSIFIERS) or given[weight].shape[2:].numel() == 1
