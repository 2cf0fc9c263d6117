"""Writing files of features part by part, in constant memory: npz, safetensors or parquet, by the suffix."""

import dataclasses
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from episodes import InputError
from episodes.errors import unknown_name
from fewshot.files import replacing

_HEADER = 100_000_000  # bytes that the readers of safetensors accept as a header


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The contents of a file of features.

    shape, dtype  of the embeddings (N, D), float32 or float16
    parts         the embeddings in order, (M, D) each
    labels        (N,) int64, positions in class_names
    of_classes    names by the array: class_names and group_names, one a class
    of_rows       words by the array: split and, if they are known, files, one a row
    about         of the data set, plain data
    """

    shape: tuple[int, int]
    dtype: np.dtype
    parts: Iterable[np.ndarray]
    labels: np.ndarray
    of_classes: Mapping[str, list[str]]
    of_rows: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


def check_suffix(path: Path) -> None:
    """InputError if the suffix of `path` names no form of a file of features, or if its package is missing."""
    if path.suffix.lower() not in _WRITERS:
        raise unknown_name("form of a file of features", path.suffix, _WRITERS)
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise InputError(f"writing {path} needs pyarrow: pip install 'fewshot[parquet]', or take .npz") from error


def write_features(path: Path, features: Features) -> None:
    """Write the file under a temporary name, and rename it when all of it is on disk."""
    with replacing(path) as unfinished:
        _WRITERS[path.suffix.lower()](unfinished, features)


def _npz(path: Path, features: Features) -> None:
    arrays = {
        "labels": features.labels,
        **{name: np.array(names, dtype=str) for name, names in features.of_classes.items()},
        **features.of_rows,
        "about": np.array(json.dumps(features.about)),
    }
    with zipfile.ZipFile(path, "w") as archive:
        # the first member, with a header of 64 bytes, so that its numbers lie at a multiple of their size
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            header = {"descr": features.dtype.str, "fortran_order": False, "shape": features.shape}
            np.lib.format.write_array_header_1_0(member, header)
            for part in features.parts:
                member.write(part.tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _safetensors(path: Path, features: Features) -> None:
    embeddings = features.dtype.itemsize * features.shape[0] * features.shape[1]
    texts = {
        **{name: json.dumps(names) for name, names in features.of_classes.items()},
        **{name: json.dumps(words.tolist()) for name, words in features.of_rows.items()},
        "about": json.dumps(features.about),
    }
    tensors = {
        "labels": {"dtype": "I64", "shape": [len(features.labels)], "data_offsets": [0, features.labels.nbytes]},
        "embeddings": {
            "dtype": {2: "F16", 4: "F32"}[features.dtype.itemsize],
            "shape": list(features.shape),
            "data_offsets": [features.labels.nbytes, features.labels.nbytes + embeddings],
        },
    }
    header = json.dumps({"__metadata__": texts, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _HEADER:
        raise InputError(f"{path.suffix} files have no room for so many names: write {path.stem}.npz")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(features.labels.tobytes())
        for part in features.parts:
            file.write(part.tobytes())


def _parquet(path: Path, features: Features) -> None:
    import pyarrow
    import pyarrow.parquet

    kind = pyarrow.from_numpy_dtype(features.dtype)
    columns = {"embedding": pyarrow.list_(kind, features.shape[1]), "label": pyarrow.int64()}
    columns |= {"class_name": pyarrow.string()} | dict.fromkeys(features.of_rows, pyarrow.string())
    texts = {name: json.dumps(names) for name, names in features.of_classes.items()}
    schema = pyarrow.schema(columns, {**texts, "about": json.dumps(features.about)})
    names = np.array(features.of_classes["class_names"], dtype=object)
    start = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for part in features.parts:
            rows = slice(start, start + len(part))
            vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.ravel()), features.shape[1])
            labels = features.labels[rows]
            words = [values[rows].tolist() for values in features.of_rows.values()]
            writer.write_batch(pyarrow.record_batch([vectors, labels, names[labels].tolist(), *words], schema=schema))
            start += len(part)


_WRITERS: dict[str, Callable[[Path, Features], None]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
