"""Feature files: embeddings that were computed anywhere, as npz, safetensors or parquet; the files are not trusted."""

import dataclasses
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from episodes.archives import open_regular
from episodes.errors import InputError

NAMES = {  # the names that people give to the arrays, in lower case
    "embeddings": ("embeddings", "embedding", "features", "feature", "x", "emb"),
    "labels": ("labels", "label", "y", "targets", "target"),
    "class_names": ("class_names", "classes"),
    "group_names": ("group_names", "groups"),
    "split": ("split", "splits"),
    "texts": ("texts", "text_features"),
    "files": ("files",),
    "about": ("about",),
}
_NEED = (
    "a file of features needs the arrays embeddings (N, D), of float16 or float32, and labels (N,), numbers or names;"
    " class_names, split, texts and files may stand beside them"
)
_PART = 1 << 22  # numbers read at once
_LARGEST = 1 << 32  # bytes of an array besides the embeddings
_HEADER = 100_000_000  # bytes of the header of a safetensors file, at most, as in the library
_SAFETENSORS = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
}


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureFile:
    """The contents of a file of features.

    shape   of the embeddings, (N, D); dtype: their numbers in the file
    offset  where they begin in the file, in bytes, if they lie there row after row as in memory; None if they do not
    parts   gives the embeddings in the order of the file, in parts (M, D)
    arrays  the other arrays by their names in NAMES: labels (N,), and those of the others that the file has
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    offset: int | None
    parts: Callable[[], Iterator[np.ndarray]]
    arrays: Mapping[str, np.ndarray]


def is_features(path: Path) -> bool:
    """Whether `path` is a file of features, by its suffix."""
    return path.suffix.lower() in _READERS and path.is_file()


def read_features(path: Path) -> FeatureFile:
    """The content of a file of features; its embeddings are not read yet.

    InputError if the file is damaged, holds Python objects or lacks an array; the sentence says which arrays it needs.
    """
    try:
        found = _READERS[path.suffix.lower()](path)
    except InputError:
        raise
    except (
        *(OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, RecursionError, NotImplementedError),
        *(struct.error, zipfile.BadZipFile, zlib.error, RuntimeError),
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read as a file of features ({reason:.200}): write it again") from error
    labels = found.arrays["labels"]
    if labels.shape != found.shape[:1] or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{path} has {found.shape[0]:,} embeddings, so labels must be as many whole numbers or names, not"
            f" {labels.shape} of {labels.dtype}"
        )
    return found


# ---- npz


def _npz(path: Path) -> FeatureFile:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        names = _chosen(path, members)
        info = members[names["embeddings"]]
        with archive.open(info) as stream:
            shape, dtype = _npy_header(path, stream, info)
            header = stream.tell()
        stored = info.compress_type == zipfile.ZIP_STORED
        offset = _data_offset(file, info) + header if stored else None
        arrays = {}
        for name, own in names.items():
            if name != "embeddings":
                with archive.open(members[own]) as stream:
                    _npy_header(path, stream, members[own], most=_LARGEST)
                with archive.open(members[own]) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)

    def streamed() -> Iterator[np.ndarray]:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open(info) as stream:
            stream.read(header)
            for start, stop in _ranges(shape):
                data = stream.read((stop - start) * shape[1] * dtype.itemsize)
                yield np.frombuffer(data, dtype).reshape(stop - start, shape[1])

    return _whole(path, shape, dtype, offset, streamed, arrays)


def _npy_header(
    path: Path, stream: IO[bytes], info: zipfile.ZipInfo, most: int | None = None
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in a zip archive; InputError for Python objects and an incomplete array.

    most: bytes of an array that is read as a whole
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    array = f"the array {info.filename.removesuffix('.npy')} in {path}"
    if dtype.hasobject:
        raise InputError(
            f"{array} holds Python objects, which could run code and are never read: save plain numbers, and names as"
            " numpy.array(names, dtype=str)"
        )
    if fortran and len(shape) > 1:
        raise InputError(f"{array} is stored column by column: save numpy.ascontiguousarray of it")
    size = math.prod(shape) * dtype.itemsize
    if size != info.file_size - stream.tell() or (most is not None and size > most):
        raise InputError(f"{array} is not whole, or too large: write the file again")
    return shape, dtype


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin in a zip archive."""
    file.seek(info.header_offset)
    signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
    if signature != b"PK\3\4":
        raise zipfile.BadZipFile(f"{info.filename} has no header")
    return info.header_offset + 30 + name + extra


# ---- safetensors


def _safetensors(path: Path) -> FeatureFile:
    with open_regular(path) as file:
        size = path.stat().st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_HEADER, size - 8):
            raise InputError(f"{path} is no safetensors file, or not all of it is there: write it again")
        header = json.loads(file.read(length))
    texts = {name: text for name, text in (header.pop("__metadata__", None) or {}).items() if isinstance(text, str)}
    start = 8 + length
    names = _chosen(path, [*header, *texts])
    arrays = {}
    for name, own in names.items():
        if name == "embeddings":
            shape, dtype, offset = _tensor(path, own, header.get(own), start, size)
        elif own in header:
            inner, kind, place = _tensor(path, own, header[own], start, size)
            arrays[name] = np.array(np.memmap(path, kind, "r", place, inner))
        else:
            listed = texts[own] if name == "about" else json.loads(texts[own])
            arrays[name] = np.array(listed, dtype=str)
    return _whole(path, shape, dtype, offset, None, arrays)


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and offset in the file of a tensor, from its entry in the header."""
    entry = entry if isinstance(entry, dict) else {}
    if entry.get("dtype") not in _SAFETENSORS:
        raise InputError(f"the tensor {name} in {path} is of the type {entry.get('dtype')}: {_NEED}")
    dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), tuple(map(int, entry["shape"]))
    begin, end = map(int, entry["data_offsets"])
    if min(shape, default=1) < 1 or begin < 0 or end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
        raise InputError(f"the tensor {name} in {path} is not all there: write the file again")
    return shape, dtype, start + begin


# ---- parquet


def _parquet(path: Path) -> FeatureFile:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"reading {path} needs pyarrow: pip install 'fewshot[parquet]'") from error
    try:
        with open_regular(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            schema, rows = table.schema_arrow, table.metadata.num_rows
            metadata = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
            names = _chosen(path, [*schema.names, *(key for key in metadata if key in NAMES)])
            listed = {name: own for name, own in names.items() if name != "embeddings" and own in schema.names}
            columns = table.read(list(listed.values()))
            arrays = {name: _column(path, columns.column(own)) for name, own in listed.items()}
            for name in names.keys() - {"embeddings"} - listed.keys():
                text = metadata[names[name]]
                arrays[name] = np.array(text if name == "about" else json.loads(text), dtype=str)
            first = next(table.iter_batches(1, columns=[names["embeddings"]])).column(0)
    except (pyarrow.ArrowException, StopIteration) as error:
        raise InputError(f"{path} is not a whole parquet file of features: write it again") from error
    vectors = _vectors(path, first, None)

    def parts() -> Iterator[np.ndarray]:
        with open_regular(path) as file:
            few = max(1, _PART // vectors.shape[1])
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(few, columns=[names["embeddings"]]):
                yield _vectors(path, batch.column(0), vectors.shape[1])

    return _whole(path, (rows, vectors.shape[1]), vectors.dtype, None, parts, arrays)


def _column(path: Path, column: Any) -> np.ndarray:
    if column.null_count:
        raise InputError(f"{path} has rows without a label or a split: fill them in, or leave these rows out")
    values = column.to_numpy()
    return values.astype(str) if values.dtype.kind == "O" else values


def _vectors(path: Path, column: Any, size: int | None) -> np.ndarray:
    """The lists of numbers of a column as (M, D); InputError if they are no lists of the same length."""
    import pyarrow

    kind = column.type
    if not (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)):
        raise InputError(f"the embeddings in {path} are a column of {kind}, not of lists of numbers: {_NEED}")
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    flat = column.flatten()
    if column.null_count or flat.null_count or len(lengths) != 1 or size not in (None, int(lengths[0])):
        raise InputError(f"the embeddings in {path} are not all lists of the same length: {_NEED}")
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)


# ---- all of them

_READERS: dict[str, Callable[[Path], FeatureFile]] = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
SUFFIXES = tuple(_READERS)


def _chosen(path: Path, there: Iterable[str]) -> dict[str, str]:
    """The names in the file of the arrays that are wanted; InputError if embeddings or labels are not among them."""
    names = list(there)
    lowered = {name.lower(): name for name in reversed(names)}
    found = {
        name: lowered[next(other for other in others if other in lowered)]
        for name, others in NAMES.items()
        if any(other in lowered for other in others)
    }
    if lacking := [name for name in ("embeddings", "labels") if name not in found]:
        has = ", ".join(names[:10]) or "nothing"
        raise InputError(f"{path} has no {' and no '.join(lacking)} (it has {has}): {_NEED}")
    return found


def _whole(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    offset: int | None,
    parts: Callable[[], Iterator[np.ndarray]] | None,
    arrays: Mapping[str, np.ndarray],
) -> FeatureFile:
    """The FeatureFile of a reader's findings; embeddings that lie in the file in their final order need no `parts`."""
    if len(shape) != 2 or not (shape[0] > 0 and 0 < shape[1] <= 100_000) or dtype.kind != "f" or dtype.itemsize > 8:
        raise InputError(f"the embeddings in {path} are {shape} of {dtype}: {_NEED}")

    def mapped() -> Iterator[np.ndarray]:
        assert offset is not None
        every = np.memmap(path, dtype, "r", offset, shape)
        return (every[start:stop] for start, stop in _ranges(shape))

    usable = offset is not None and dtype.isnative and dtype.itemsize < 8 and offset % dtype.itemsize == 0
    reading = parts if offset is None and parts is not None else mapped
    return FeatureFile(path, (shape[0], shape[1]), dtype, offset if usable else None, reading, arrays)


def _ranges(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    few = max(1, _PART // shape[1])
    return ((start, min(start + few, shape[0])) for start in range(0, shape[0], few))
