"""Reading pickles that nobody vouches for: arrays, bytes, strings, numbers and containers come out, nothing is run."""

import collections
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from episodes.errors import InputError


def load(path: Path) -> Any:
    """What the pickle at `path` holds; InputError where it is damaged or asks for anything but plain data.

    A pickle is a program. Of what it may call there are only the few pieces that make NumPy arrays and plain
    containers, in forms of our own that make nothing else. Files of Python 2 are read too.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from error
    except Exception as error:  # the bytes decide what goes wrong inside the unpickler
        reason = (str(error) or type(error).__name__)[:200]
        raise InputError(f"{path} is not a whole pickle ({reason}): copy or download it again") from error


class _Dtype:
    """A dtype of plain numbers or text: what a pickle says beyond its kind and byte order is not listened to."""

    __slots__ = ("real",)

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"[<>=|]?(\?|[biufcSU]\d{0,4})", code):
            raise InputError(f"it holds an array of the kind '{code:.80}', and images need numbers or text")
        self.real = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.real = self.real.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes its contents from bytes alone."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        super().__setstate__((1, shape, dtype.real, by_columns, _bytes(data)))


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array((0,), np.uint8)


def _from_buffer(buffer: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype.real).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    return np.frombuffer(_bytes(data), dtype=dtype.real, count=1)[0].item()


def _bytes(data: bytes | str, encoding: str = "latin1") -> bytes:
    """Python 2 wrote bytes as text, and protocols below 3 spell them so."""
    if not isinstance(data, bytes | bytearray | str):
        raise InputError(f"it makes bytes of a {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _bytearray(data: bytes | str = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_bytes(data))


def _no_bytes() -> bytes:
    return b""


class _Call:
    """A function as a pickle gets it: without attributes that it could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise InputError("it changes a function")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _Call(_bytes),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): _Call(_Dtype),
    ("numpy", "ndarray"): None,  # only ever named, as an argument of _reconstruct
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Call(_reconstruct)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Call(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Call(_from_buffer)
for _builtins in ("builtins", "__builtin__"):  # in Python 3 and 2
    _ALLOWED |= {(_builtins, kind.__name__): kind for kind in (set, frozenset, complex)}
    _ALLOWED[_builtins, "bytearray"] = _Call(_bytearray)
    _ALLOWED[_builtins, "bytes"] = _Call(_no_bytes)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(f"it wants to load {f'{module}.{name}':.80}, and a file of images needs no such thing")
        return _ALLOWED[module, name]

    def persistent_load(self, key: Any) -> Any:
        raise InputError("it refers to things outside of itself")
