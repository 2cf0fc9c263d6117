"""A file of features as a data set: embeddings that were computed anywhere, in the place of images.

given  the splits of the array or column `split`; no class may be in two of them
seedN  used on request, or if there is no `split`: the classes are shuffled with seed N and dealt out to the splits, as
       those of a folder of images

If the rows of a split lie one after the other, class by class, they are mapped into memory from the file. Any other
split is sorted once into the cache folder.
"""

import functools
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from episodes.archives import files_fingerprint, fingerprint
from episodes.bank import FileNames, created, from_map, prepared
from episodes.datasets import places
from episodes.datasets.splits import shared_out
from episodes.errors import InputError
from episodes.feature_files import FeatureFile, read_features
from episodes.features import UNKNOWN, FeatureBank

SIZE = 1  # a feature is a channel of one pixel
_FORMAT = 2  # of the files in the cache folder
_FILES = "files.json"  # in the cache folder, the names of the files that the features are of
# what `fewshot embed` writes about a data set, and the values for a file from elsewhere: see ImageBank and FeatureBank;
# turns by split, and the splits that are listed
_ABOUT: dict[str, Any] = {"dataset": "", "protocol": "", "turns": {}, "listed": [], "trained_on": UNKNOWN}

log = logging.getLogger("episodes")


class Division(NamedTuple):
    """Which rows of a file are of which class, and which classes are of which split.

    labels   (N,) int64, the class of each row
    names    of the classes, and groups: what each class belongs to
    splits   the classes of each split, ascending
    protocol 'given' or seedN; about: what `fewshot embed` wrote, or the values for a file from elsewhere
    """

    labels: np.ndarray
    names: list[str]
    groups: list[str]
    splits: dict[str, list[int]]
    protocol: str
    about: dict[str, Any]


def load(path: Path, split: str, protocol: str, size: int) -> FeatureBank:
    """The bank of one split of the features in `path`; `protocol` is '' for the splits of the file, or seedN.

    The first call for a file reads the file once, to check that its features are finite and to compute their checksum;
    the cache folder keeps the result for as long as the file has the same size and times.
    """
    if size != SIZE:
        raise InputError(f"{path} holds features, which have no size in pixels: leave out --size")
    mark = fingerprint((str(path.resolve()), files_fingerprint([path])))
    key = f"{places.squashed(path.stem)[:40]}-features-{split}-{protocol or 'given'}-{mark}"
    return prepared(key, functools.partial(_open, path), lambda folder: _prepare(folder, path, split, protocol))


def where(path: Path, protocol: str = "") -> str:
    """The contents of `path`, in words."""
    file = read_features(path)
    division = divided(file, protocol)
    counts = ", ".join(f"{len(classes)} {split}" for split, classes in division.splits.items())
    splits = "as they are given" if division.protocol == "given" else f"made by class with {division.protocol}"
    return f"{path}, {file.shape[0]:,} features of {file.shape[1]} {file.dtype}, splits {splits}: {counts} classes"


def gives_test(path: Path) -> bool:
    """Whether the file names the rows of the test classes."""
    division = divided(read_features(path))
    return division.protocol == "given" and "test" in division.splits


def divided(file: FeatureFile, protocol: str = "") -> Division:
    """The classes and splits of a file; InputError if its arrays contradict each other or it has too few classes."""
    labels, names = _classes(file)
    groups = _names_of_classes(file, "group_names", len(names)) or [name.rpartition("/")[0] for name in names]
    about = _about(file)
    given = _given(file, labels, names) if "split" in file.arrays else None
    if given is None or protocol:
        if max(about["turns"].values(), default=1) > 1:
            raise InputError(
                f"the classes of {file.path} are turned copies of others, which must stay in one split: leave out"
                f" :{protocol or 'seed0'}, and keep its splits"
            )
        present = np.unique(labels).tolist()
        protocol = protocol or "seed0"
        splits = shared_out({str(number): [number] for number in present}, protocol, str(file.path))
        given = {split: sorted(int(number) for number in classes) for split, classes in splits.items()}
        about = {**about, "protocol": protocol, "listed": []}
    return Division(labels, names, groups, given, protocol or "given", about)


def _classes(file: FeatureFile) -> tuple[np.ndarray, list[str]]:
    """The class of each row, (N,) int64, and the names of the classes."""
    labels = file.arrays["labels"]
    names = _names_of_classes(file, "class_names")
    if labels.dtype.kind == "U" or names is None:
        found, labels = np.unique(labels, return_inverse=True)
        return labels.astype(np.int64), [str(one) for one in found]
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(
            f"{file.path} has labels from {labels.min()} to {labels.max()}, but class_names has {len(names)} names: a"
            " label is the position of its name, from 0"
        )
    return labels.astype(np.int64), names


def _names_of_classes(file: FeatureFile, array: str, count: int | None = None) -> list[str] | None:
    """The names in an array, one a class; None if the file has no such array."""
    if array not in file.arrays:
        return None
    names = file.arrays[array]
    if names.ndim != 1 or names.dtype.kind not in "Uiu" or count not in (None, len(names)):
        wanted = "one name a class" if count is None else f"{count} names"
        raise InputError(f"{array} in {file.path} must be {wanted}, not {names.shape} of {names.dtype}")
    return [str(name) for name in names]


def _given(file: FeatureFile, labels: np.ndarray, names: list[str]) -> dict[str, list[int]]:
    """The classes of each split that the file names."""
    split = file.arrays["split"]
    if split.shape != labels.shape or split.dtype.kind != "U":
        raise InputError(
            f"split in {file.path} must be {len(labels):,} words such as train, not {split.shape} of {split.dtype}"
        )
    words, rows = np.unique(split, return_inverse=True)
    found: dict[str, list[int]] = {}
    for number, word in enumerate(words.tolist()):
        name = places.word_for_split(word)
        if name is None:
            raise InputError(f"split in {file.path} has the word '{word}': write train, validation or test")
        found[name] = sorted({*found.get(name, []), *np.unique(labels[rows == number]).tolist()})
    every = [number for classes in found.values() for number in classes]
    if len(every) > len(set(every)):
        shared = next(number for number in every if every.count(number) > 1)
        raise InputError(
            f"the class '{names[shared]}' of {file.path} is in two splits, but the test must bring new classes:"
            f" {file.path}:seed0 splits all classes anew"
        )
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _about(file: FeatureFile) -> dict[str, Any]:
    """The facts that `fewshot embed` wrote about the data set; for a file from elsewhere, that nothing is known."""
    text = str(file.arrays.get("about", "{}"))
    try:
        given = json.loads(text)
        about = {name: given.get(name, default) for name, default in _ABOUT.items()}
    except (ValueError, AttributeError, RecursionError):
        about = {}
    right = all(type(about.get(name)) is type(default) for name, default in _ABOUT.items())
    if not right or not all(type(turns) is int and 1 <= turns <= 1000 for turns in about["turns"].values()):
        raise InputError(f"about in {file.path} is not what 'fewshot embed' writes: leave that array out")
    return about


def _prepare(folder: Path, path: Path, split: str, protocol: str) -> None:
    """Write what `_open` reads: the record of a split, and its features if they do not lie in the file as a bank."""
    file = read_features(path)
    division = divided(file, protocol)
    if split not in (*division.splits, "all"):
        raise InputError(
            f"{path} has no rows of the split {split}, only of {', '.join(division.splits)}: {path}:seed0 splits all"
            " classes anew"
        )
    every = sorted(number for classes in division.splits.values() for number in classes)
    classes = np.array(every if split == "all" else division.splits[split])
    rank = np.full(len(division.names), -1)
    rank[classes] = np.arange(len(classes))
    place = rank[division.labels]
    rows = np.flatnonzero(place >= 0)
    rows = rows[np.argsort(place[rows], kind="stable")]
    whole = bool((np.diff(rows) == 1).all())
    begin = (
        file.offset + int(rows[0]) * file.shape[1] * file.dtype.itemsize if whole and file.offset is not None else None
    )
    dtype = np.dtype(np.float16 if file.dtype.itemsize == 2 else np.float32)
    if begin is None:
        _sort(folder / "features.npy", file, rows, dtype)
    if "texts" in file.arrays:
        np.save(folder / "texts.npy", _texts(file, len(division.names))[classes])
    if "files" in file.arrays:
        (folder / _FILES).write_text(json.dumps(_files(file)[rows].tolist()), encoding="utf-8")
    about = division.about
    record = {
        "dataset": about["dataset"] or path.stem,
        "protocol": about["protocol"] or division.protocol,
        "split": split,
        "turns": about["turns"].get(split, 1),
        "listed": split in about["listed"],
        "trained_on": about["trained_on"],
        "source": str(path),
        "class_names": [division.names[number] for number in classes],
        "group_names": [division.groups[number] for number in classes],
        "offsets": [0, *np.bincount(place[rows]).cumsum().tolist()],
        "shape": [len(rows), file.shape[1]],
        "dtype": dtype.name,
        "begin": begin,
    }
    bank = _bank(folder, path, record)
    _check_finite(bank, rows)
    record = {"format": _FORMAT, **record, "checksum": bank.compute_checksum()}
    (folder / "bank.json").write_text(json.dumps(record), encoding="utf-8")


def _sort(target: Path, file: FeatureFile, rows: np.ndarray, dtype: np.dtype) -> None:
    """Write the features of these rows of a file, (M,), in this order to a new file."""
    features = created(target, dtype, (len(rows), file.shape[1]))
    places = np.full(file.shape[0], -1)
    places[rows] = np.arange(len(rows))
    start = 0
    with tqdm(total=file.shape[0], desc=f"sorting {file.path.name}", unit="row", disable=None, leave=False) as bar:
        for part in file.parts():
            to = places[start : start + len(part)]
            with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, and are refused
                features[to[to >= 0]] = part[to >= 0]
            start += len(part)
            bar.update(len(part))
    if start != file.shape[0]:
        raise InputError(f"{file.path} has {start:,} embeddings, not {file.shape[0]:,}: write it again")
    features.flush()


def _texts(file: FeatureFile, classes: int) -> np.ndarray:
    texts = file.arrays["texts"]
    if texts.shape != (classes, file.shape[1]) or texts.dtype.kind != "f" or not np.isfinite(texts).all():
        raise InputError(
            f"texts in {file.path} must be finite numbers ({classes}, {file.shape[1]}), one row a class, as long as an"
            f" embedding, not {texts.shape} of {texts.dtype}"
        )
    return texts.astype(np.float32)


def _files(file: FeatureFile) -> np.ndarray:
    names = file.arrays["files"]
    if names.shape != file.shape[:1] or names.dtype.kind != "U":
        raise InputError(
            f"files in {file.path} must be {file.shape[0]:,} names, one a row, not {names.shape} of {names.dtype}"
        )
    return names


def _check_finite(bank: FeatureBank, rows: np.ndarray) -> None:
    """InputError if a feature is nan or infinite; `rows` are the rows of the file that the bank holds."""
    few = max(1, (1 << 22) // bank.images.shape[1])
    parts = bank.images.flatten(1).split(few)
    for number, part in enumerate(tqdm(parts, desc=f"checking {bank.name}", unit="part", disable=None, leave=False)):
        finite = part.isfinite().all(1)
        if not finite.all():
            row = rows[number * few + int(finite.logical_not().nonzero()[0])]
            raise InputError(
                f"row {row} of the embeddings in {bank.source} holds numbers that are nan or infinite: leave that row"
                " out, or compute it again"
            )


def _open(path: Path, folder: Path) -> FeatureBank | None:
    """The bank that `_prepare` made, memory-mapped; None if there is none."""
    try:
        record = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
        if record.pop("format") != _FORMAT:
            return None
        return _bank(folder, path, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _bank(folder: Path, path: Path, record: dict[str, Any]) -> FeatureBank:
    """The bank of a record: its features lie in the file `path`, or sorted in `folder`."""
    fields = dict(record)
    shape, dtype, begin = (fields.pop(name) for name in ("shape", "dtype", "begin"))
    # "c": pages are read when touched, and a write would stay in memory; torch wants a writable array
    if begin is None:
        features = np.lib.format.open_memmap(folder / "features.npy", mode="c")
    else:
        features = np.memmap(path, dtype, "c", begin, tuple(shape))
    texts, files = folder / "texts.npy", folder / _FILES
    return FeatureBank(
        from_map(features.reshape(*features.shape, 1, 1)),
        torch.tensor(fields.pop("offsets"), dtype=torch.int64),
        tuple(fields.pop("class_names")),
        tuple(fields.pop("group_names")),
        texts=torch.from_numpy(np.load(texts)) if texts.exists() else None,
        files=FileNames(files) if files.exists() else (),
        **fields,
    )
