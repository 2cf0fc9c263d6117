"""Banks on their way to another process: a file that one process has mapped is mapped by the other one too."""

import io
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from episodes.bank import from_map, map_of


def pack(value: object) -> bytes:
    """`value` for another process of this machine. Tensors of mapped files are sent as the names of these files."""
    packed = io.BytesIO()
    _Pickler(packed, pickle.HIGHEST_PROTOCOL).dump(value)
    return packed.getvalue()


unpack = pickle.loads  # of bytes from this program alone


class Apart(NamedTuple):
    """A value for another machine: its arrays apart from the rest, so that an object store need not copy them."""

    rest: bytes
    arrays: list[np.ndarray]


def pack_apart(value: object) -> Apart:
    """`value` for any machine, with the numbers of all tensors."""
    packed, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _WholePickler(packed, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(value)
    return Apart(packed.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def unpack_apart(apart: Apart) -> Any:
    """What was packed; its tensors share the memory of the arrays."""
    return pickle.loads(apart.rest, buffers=apart.arrays)


class _WholePickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        return _of_array, (np.ascontiguousarray(value.detach().cpu().numpy()),)


def _of_array(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an object store lends arrays for reading, and nothing writes to a bank
        return torch.from_numpy(array)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        mapped = map_of(value)
        if mapped is None:
            return torch.from_numpy, (value.detach().cpu().numpy(),)
        return _mapped, (mapped.filename, mapped.dtype, mapped.offset, tuple(value.shape))


def _mapped(path: str, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> Tensor:
    return from_map(np.memmap(path, dtype, "c", offset, shape))
