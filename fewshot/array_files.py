"""The archives of arrays in a run's folder, which grow with every model of the run."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fewshot.files import replacing, write_arrays
from fewshot.record_files import read_arrays

_State = tuple[int, int, int]


class ArrayFile:
    """The .npz archive at `path`, which other processes may replace.

    It is read again only if another process has replaced it. What it holds already is copied, not compressed again: a
    run that adds model after model would otherwise compress the first one as often as there are models.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: _State | None = None  # of the file that holds `_arrays`
        self._arrays: Mapping[str, np.ndarray] = {}

    def read(self) -> Mapping[str, np.ndarray]:
        """Its arrays by name; Damaged if it holds none."""
        state = _state_of(self._path)
        if state is None or state != self._state:
            self._remember(state, read_arrays(self._path))
        return self._arrays

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Have the archive hold these arrays and no others."""
        ours = self._state is not None and self._state == _state_of(self._path)
        if ours and all(name in arrays and _equal(arrays[name], array) for name, array in self._arrays.items()):
            added = {name: array for name, array in arrays.items() if name not in self._arrays}
            if added:
                _extend(self._path, added)
        else:
            write_arrays(self._path, arrays)
        self._remember(_state_of(self._path), dict(arrays))

    def _remember(self, state: _State | None, arrays: Mapping[str, np.ndarray]) -> None:
        self._state, self._arrays = state, arrays


def _state_of(path: Path) -> _State | None:
    """What tells one file at `path` from another that has replaced it; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one is other or (one.dtype == other.dtype and np.array_equal(one, other))


def _extend(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace the archive at `path` by one with these arrays behind its own."""
    with replacing(path) as unfinished:
        shutil.copyfile(path, unfinished)
        with zipfile.ZipFile(unfinished, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
