"""Weights of a backbone from a local file, trained here or elsewhere, read without trusting it."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from episodes.errors import InputError
from fewshot.backbones.base import Backbone
from fewshot.checkpoints import unpickled

_TABLES = ("state_dict", "model", "learner")  # the keys of weights in files; 'learner' is the key of this suite
_PREFIXES = ("module.", "backbone.", "encoder.", "body.")  # before the names of weights, in any order


def load_weights(backbone: Backbone, path: Path, name: str) -> None:
    """Give the body of `backbone`, called `name`, the weights in the file; InputError if they do not fit.

    The file is a state dict from torch.save or safetensors, of the body alone or of a whole model: a classifier beside
    the body is left out. Every weight of the body must be there, in its shape.
    """
    wanted = backbone.body.state_dict()
    given = _by_wanted_names(_read(path), wanted, path)
    for weight, value in wanted.items():
        if weight not in given and value.is_floating_point():  # older files do not count batches
            raise InputError(f"{path} has no weight {weight}, which {name} needs")
        if weight in given and given[weight].shape != value.shape:
            shapes = " and not ".join("x".join(map(str, one.shape)) or "one number" for one in (given[weight], value))
            raise InputError(
                f"in {path} the weight {weight} has the shape {shapes}, which {name} needs for these images"
            )
    for weight in given:
        if weight not in wanted and _inside(weight, backbone.body):
            raise InputError(f"{path} is of another network than {name}, which has no weight {weight}")
    backbone.body.load_state_dict({**wanted, **{key: value for key, value in given.items() if key in wanted}})


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU."""
    if not path.is_file():
        raise InputError(f"there is no file of weights {path}")
    try:
        content: Any = _safetensors(path) if path.suffix == ".safetensors" else unpickled(path)
    except InputError:
        raise
    except Exception as error:  # a file without weights can fail anywhere in the readers
        raise InputError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors and plain data"
        ) from error
    content = content if isinstance(content, dict) else {}
    content = next((content[table] for table in _TABLES if isinstance(content.get(table), dict)), content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no weights: it needs a state dict, as it is or under {' or '.join(_TABLES)}")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors: pip install safetensors") from error
    return load_file(path)


def _by_wanted_names(tensors: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their names in the body: prefixes are taken off as long as the name is not among the `wanted`."""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = str(key)
        while name not in wanted and (prefix := next(filter(name.startswith, _PREFIXES), "")):
            name = name.removeprefix(prefix)
        if name in named and name in wanted:
            raise InputError(f"{path} has the weight {name} twice, with different prefixes: leave one in it")
        named[name] = tensor
    return named


def _inside(weight: str, body: nn.Module) -> bool:
    """Whether a weight that the body lacks would be inside its layers, and not in a classifier at the end.

    A deeper network has all the weights of a shallower one and more, so its file must not load into the shallower one.
    """
    parent = weight.rpartition(".")[0]
    modules = dict(body.named_modules())
    if isinstance(modules.get(parent), nn.Identity):  # the place of the removed classifier
        return False
    return any(name.startswith(weight.partition(".")[0] + ".") for name in body.state_dict())
