"""Banks on their way to another process: a file that one process has mapped is mapped by the other one too."""

import io
import pickle
from typing import Any

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
