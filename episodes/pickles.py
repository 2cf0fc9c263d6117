"""Untrusted pickles: only arrays, bytes, strings, numbers and containers are read, and no code is run."""

import collections
import functools
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from episodes.archives import open_regular
from episodes.errors import InputError

_DEEPEST = 32  # tuples in tuples; arrays and lists of numbers need three


def load(path: Path) -> Any:
    """What the pickle at `path` holds; InputError if the file is damaged or asks for anything but plain data.

    A pickle is a program. This function lets the program call only replacements of the few functions that make NumPy
    arrays and plain containers; the replacements make nothing else. Pickles from Python 2 are read too.
    """
    try:
        with open_regular(path) as file:
            return read(file, str(path))
    except OSError as error:
        reason = (str(error) or type(error).__name__)[:200]
        raise InputError(f"{path} is not a whole pickle ({reason}): copy or download it again") from error


def read(file: IO[bytes], name: str) -> Any:
    """As `load`, of an open file; `name` names it in errors."""
    try:
        return _Unpickler(_WholeLines(file), encoding="latin1").load()
    except InputError as error:
        raise InputError(f"{name} is refused: {error}") from error
    except Exception as error:  # the bytes decide what goes wrong inside the unpickler
        reason = (str(error) or type(error).__name__)[:200]
        raise InputError(f"{name} is not a whole pickle ({reason}): copy or download it again") from error


class _Dtype:
    """A dtype of plain numbers or text: only the kind and the byte order are read from a pickle."""

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
        super().__setstate__((1, shape, dtype.real, by_columns, _contents(data, dtype)))


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array((0,), np.uint8)


def _from_buffer(buffer: Any, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(_contents(buffer, dtype), dtype=dtype.real).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    return np.frombuffer(_contents(data, dtype), dtype=dtype.real, count=1)[0].item()


def _contents(data: bytes | str, dtype: _Dtype) -> bytes:
    """The bytes of an array; InputError for an array of text whose bytes are no text, which NumPy finds too late."""
    data = _bytes(data)
    if dtype.real.kind == "U":
        points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.real.byteorder))
        if ((points > sys.maxunicode) | ((points >= 0xD800) & (points < 0xE000))).any():  # surrogates are no characters
            raise InputError("it holds an array of text with numbers that are no characters")
    return data


def _bytes(data: bytes | str, encoding: str = "latin1") -> bytes:
    """The bytes of text: Python 2, and pickle protocols below 3, write bytes as text."""
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


class _Tuple(tuple):
    """A tuple that cannot be a key, since deeply shared tuples take endless time to hash, and has limited nesting."""

    __hash__ = None  # type: ignore[assignment]  # other tuples have a hash
    height: int

    def __init__(self, items: Iterable) -> None:
        self.height = 1 + max((item.height for item in items if isinstance(item, _Tuple)), default=0)
        if self.height > _DEEPEST:
            raise InputError(f"it holds tuples in tuples, more than {_DEEPEST} deep, which no images need")


def _watched(load_tuple: Callable, unpickler: "_Unpickler") -> None:
    load_tuple(unpickler)
    unpickler.stack[-1] = _Tuple(unpickler.stack[-1])


class _WholeLines:
    """A file that raises EOFError if its last line was cut off, which the unpickler in Python accepts."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.read = file, file.read

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class _Unpickler(pickle._Unpickler):  # the one in Python, since that in C lets nobody see its tuples
    stack: list[Any]  # of the base class, whose types leave it out
    dispatch = pickle._Unpickler.dispatch | {
        opcode: functools.partial(_watched, pickle._Unpickler.dispatch[opcode])
        for opcode in b"".join((pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3))
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(f"it wants to load {f'{module}.{name}':.80}, which no file of images needs")
        return _ALLOWED[module, name]

    def persistent_load(self, key: Any) -> Any:
        raise InputError("it refers to things outside of itself")
