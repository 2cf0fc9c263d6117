"""Files of weights in the usual forms: read without trusting them, or refused with a sentence on what to do."""

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodes.errors import InputError
from fewshot.checkpoints import unpickled

# the keys of weights in files, the first that holds tensors counts; 'learner' is the key of this suite
_TABLES = ("state_dict", "model_state_dict", "model", "params", "state", "net", "teacher", "student", "learner")
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
_IN_PYTORCH = f"load it into the network in PyTorch and save that with {_SAVE}"
_WEB_PAGE = "is a web page and not a file of weights: download the file itself"
_BEGINNINGS = {  # the first bytes of a file, in lower case and without spaces before them
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: get the file with 'git lfs pull'",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": _WEB_PAGE,
    b"\x93numpy": f"is a NumPy array: {_IN_PYTORCH}",
    b"\x89hdf": f"is a file of Keras or HDF5: {_IN_PYTORCH}",
    b"gguf": f"is a GGUF file: {_IN_PYTORCH}",
    b"\x1f\x8b": "is a compressed archive: unpack it, and name the file of weights in it",
    b"{": "is JSON and not a file of weights: name the file with the tensors, saved as one file",
}
_SUFFIXES = {".pb": "TensorFlow", ".index": "TensorFlow", ".tflite": "TensorFlow", ".onnx": "ONNX", ".msgpack": "Flax"}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU.

    The file is of torch.save or safetensors, and holds a state dict: as it is, or under the usual keys, one inside the
    other at most. No code of the file runs. InputError if it is of another kind; the message says how to save it.
    """
    _check_kind(path)
    try:
        content = _safetensors(path) if _is_safetensors(path) else _pickled(path)
    except InputError:
        raise
    except Exception as error:  # a file without weights can fail anywhere in the readers
        if "Unsupported global" in str(error) or "unsupported GLOBAL" in str(error):
            fault = (
                "holds more than tensors and plain data, as a whole pickled module does: load it yourself if you trust"
                f" it, and save its weights with {_SAVE}"
            )
        else:
            fault = f"cannot be read as weights: it is damaged, or of a kind that is not known; save them with {_SAVE}"
        raise InputError(f"{path} {fault}") from error
    tensors = _tensors(content)
    if not tensors:
        raise InputError(
            f"{path} holds no weights: it needs a state dict, as it is or under {', '.join(_TABLES[:-1])}; save one"
            f" with {_SAVE}"
        )
    return tensors


def _tensors(content: Any, inside: int = 2) -> dict[str, Tensor]:
    """The tensors of a state dict, which stands in `content` at most `inside` keys deep; none if there are none."""
    if not isinstance(content, dict):
        return {}
    tables = (content.get(table) for table in _TABLES) if inside else iter(())
    found = next(filter(None, (_tensors(table, inside - 1) for table in tables)), None)
    return found or {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _check_kind(path: Path) -> None:
    """InputError if the beginning or the name of a file shows that it is not of torch.save or safetensors."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of weights in it, or save one with {_SAVE}")
    if not path.is_file():
        raise InputError(f"there is no file of weights {path}")
    for suffix, library in _SUFFIXES.items():
        if path.name.endswith(suffix):
            raise InputError(f"{path} is a file of {library}: {_IN_PYTORCH}")
    with path.open("rb") as file:
        beginning = file.read(64)
    if _begins_as_safetensors(beginning, path):  # whose length can be the letters of another kind
        return
    beginning = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for known, fault in _BEGINNINGS.items():
        if beginning.startswith(known):
            raise InputError(f"{path} {fault}")
    if fault := _fault_of_archive(path):
        raise InputError(f"{path} {fault}")


def _fault_of_archive(path: Path) -> str:
    """What is wrong with a zip file that torch.save did not write; '' for its own files and for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return ""
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return f"is a TorchScript archive: open it with torch.jit.load and save its weights with {_SAVE}"
    if any(name.endswith(".npy") for name in names):
        return f"holds NumPy arrays: {_IN_PYTORCH}"
    if any(name.endswith(".h5") for name in names):
        return f"is a file of Keras: {_IN_PYTORCH}"
    if not any(name.endswith("data.pkl") for name in names):
        return "is an archive of other files: unpack it, and name the file of weights in it"
    return ""


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or _begins_as_safetensors(file.read(9), path)


def _begins_as_safetensors(beginning: bytes, path: Path) -> bool:
    """Whether a file begins with a length in eight bytes and JSON of that length."""
    length = int.from_bytes(beginning[:8], "little")
    return beginning[8:9] == b"{" and length <= path.stat().st_size


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors: pip install safetensors") from error
    return load_file(path)


def _pickled(path: Path) -> Any:
    """What torch.save wrote, with arguments of a command line and numbers of NumPy, which many trainings save, too."""
    with torch.serialization.safe_globals(list(_plain_types())):
        return unpickled(path)


def _plain_types() -> Iterator[Any]:
    """Types that hold data alone, and whose making runs no code of the file."""
    yield argparse.Namespace
    yield np.dtype
    yield from (type(np.dtype(code)) for code in "?bhilqBHILQefd")
    scalar = np.float64().__reduce__()[0]
    yield from ((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))
