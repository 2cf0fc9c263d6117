"""Any folder of images, or archive of one, as a data set: class folders, or images with a csv file.

given  the splits that the user made: folders train/, val/ and test/ of class folders, or train.csv, val.csv and
       test.csv, or a column split. If only validation is missing, a fifth of the training classes becomes validation.
seedN  used on request, if no splits are given, or if train/ and test/ hold the same classes: the classes are shuffled
       with seed N; 64 % are for training, 16 % for validation, 20 % for test, the shares of miniImageNet. If there are
       few classes, the test split gets more.
"""

import collections
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image

from episodes.archives import ARCHIVES, ImageFiles, fingerprint, image_formats
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import places
from episodes.errors import InputError
from episodes.pictures import Picture, contents
from episodes.sampler import stream

SIZE = 84

log = logging.getLogger("episodes")

Classes = dict[str, list[Picture]]
_Images = TypeVar("_Images")  # what stands for the images of a class


class Layout(NamedTuple):
    """The classes of each split, the protocol that split them, and remarks about what was left out or split anew."""

    splits: dict[str, Classes]
    protocol: str
    remarks: list[str]


def load(path: Path, split: str, protocol: str, size: int) -> ImageBank:
    """The bank of one split of the images at `path`; `protocol` is '' for the splits as they are, or seedN."""
    files = image_files(path)

    def whole() -> Contents:
        layout = look(files, protocol)
        if split == "train":  # warn once, not for each split
            for remark in layout.remarks:
                log.warning("%s: %s", path, remark)
        about = {"dataset": dataset_name(path), "protocol": layout.protocol, "split": split, "source": str(path)}
        classes = layout.splits[split]
        groups = {name: name.rpartition("/")[0] for name in classes}
        return contents(classes, groups, size, about)

    # the whole path too: two folders with one name may hold files with the same names, sizes and times
    mark = fingerprint((str(path.resolve()), files.fingerprint))
    return cached_bank(f"{places.squashed(path.name)[:40]}-{split}-{protocol or 'given'}-{size}-{mark}", whole)


def where(path: Path, protocol: str = "") -> str:
    """What is at `path`, in words."""
    layout = look(image_files(path), protocol)
    counts = ", ".join(f"{len(layout.splits[split])} {split}" for split in ("train", "validation", "test"))
    splits = "as they are given" if layout.protocol == "given" else f"made by class with {layout.protocol}"
    return "; ".join([f"{path}, splits {splits}: {counts} classes", *layout.remarks])


def dataset_name(path: Path) -> str:
    """The name of the data set in tables: the name of the folder, or of the archive without its suffix."""
    name = path.resolve().name
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending) and path.is_file()), "")
    return name[: len(name) - len(ending)] or "images"


def image_files(path: Path) -> ImageFiles:
    """The images at `path` by their suffixes."""
    kinds = image_formats()
    suffixes = sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds)
    return ImageFiles(path, rf"(?i:{'|'.join(map(re.escape, [*suffixes, '.csv']))})$")


def look(files: ImageFiles, protocol: str = "") -> Layout:
    """Which image is of which class and split; InputError if the files do not say or there are too few classes."""
    images = {name: Picture(files, name) for name in files.names if not name.lower().endswith(".csv")}
    if not images:
        raise InputError(
            f"there are no images in {files.path}: give a folder of class folders, or images with a csv file"
        )
    inside = _inside(files.names)
    listings = [name for name in files.names if name.lower().endswith(".csv") and "/" not in inside[name]]
    listings = [name for name in listings if places.split_of(name.rpartition("/")[2])] or listings
    splits = _from_csv(files, images, listings) if listings else _from_folders(files, images)
    remarks = _left_out([*files.others, *(set(files.names) - images.keys() - set(listings))], images, splits)
    if repeated := files.repeated:
        remarks.append(
            f"{_left(len(repeated), 'link')}, to folders that are read under another name, the first one is"
            f" {repeated[0]}"
        )
    splits = {split: {name: splits[split][name] for name in sorted(splits[split])} for split in splits}
    given = _given(splits)
    if given is None and len(splits) > 1:
        remarks.append(
            "the splits that are given share classes, or one has a single class: they are pooled and made anew"
        )
    if given is None or protocol:
        pooled: Classes = {}
        for classes in splits.values():
            for name, pictures in classes.items():
                pooled.setdefault(name, []).extend(pictures)
        protocol = protocol or "seed0"
        given = shared_out({name: pooled[name] for name in sorted(pooled)}, protocol, str(files.path))
    for classes in given.values():
        for name, pictures in classes.items():
            if len(pictures) < 2:
                raise InputError(
                    f"the class '{name}' in {files.path} has one image, but an episode needs one to learn from and one"
                    " to ask: add images, or move that one away"
                )
    return Layout(given, protocol or "given", remarks)


def _left_out(others: list[str], images: dict[str, Picture], splits: dict[str, Classes]) -> list[str]:
    faults = []
    if others:
        kinds = collections.Counter(Path(name).suffix.lower() or "no suffix" for name in others)
        told = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        faults.append(
            f"{_left(len(others), 'file')}, of no image format that Pillow reads here ({told}), the first one is"
            f" {min(others)}"
        )
    used = {picture.key for classes in splits.values() for pictures in classes.values() for picture in pictures}
    if len(used) < len(images):
        left = images.keys() - used
        faults.append(f"{_left(len(left), 'image')}, in no csv file, the first one is {min(left)}")
    return faults


def _left(count: int, what: str) -> str:
    return f"{count:,} {what}s are left out" if count > 1 else f"1 {what} is left out"


def shared_out(classes: Mapping[str, _Images], protocol: str, where: str) -> dict[str, dict[str, _Images]]:
    """The classes shuffled with the seed of `protocol` ('seed7') and dealt out to the splits."""
    names = list(classes)
    # small data sets give more to the test, so that fifteen classes are enough for its five ways
    test, validation = (max(2, min(5, len(names) // 3), round(share * len(names))) for share in (0.20, 0.16))
    validation = min(validation, max(2, len(names) // 5))
    if len(names) - test - validation < 2:
        raise InputError(f"{where} has {len(names)} classes: three splits of two classes or more need six")
    order = _shuffled(len(names), int(protocol.removeprefix("seed")))
    ends = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    return {
        split: {names[i]: classes[names[i]] for i in sorted(ends[split])} for split in ("train", "validation", "test")
    }


def _shuffled(count: int, seed: int) -> list[int]:
    return stream(seed, torch.arange(count)).argsort(stable=True).tolist()


def _given(splits: dict[str, Classes]) -> dict[str, Classes] | None:
    """The three splits if at least training and test classes are given and no class is in two splits; else None."""
    if not {"train", "test"} <= splits.keys():
        return None
    splits = dict(splits)
    if "validation" not in splits:
        names = list(splits["train"])
        held_out = {names[i] for i in _shuffled(len(names), 0)[: max(2, round(0.2 * len(names)))]}
        splits["validation"] = {name: splits["train"][name] for name in names if name in held_out}
        splits["train"] = {name: splits["train"][name] for name in names if name not in held_out}
    classes = [name for split in splits.values() for name in split]
    if len(classes) > len(set(classes)) or min(map(len, splits.values())) < 2:
        return None
    return splits


def _inside(names: Iterable[str]) -> dict[str, str]:
    """Each path without its first folder, if that folder contains all files, as in many archives and downloads."""
    names = list(names)
    wrapped = len({name.partition("/")[0] for name in names}) == 1
    return {name: name.partition("/")[2] if wrapped and "/" in name else name for name in names}


def _from_folders(files: ImageFiles, images: dict[str, Picture]) -> dict[str, Classes]:
    """{split: classes}, or {'': classes} if no folder stands for a split."""
    paths = _inside(images)
    bare = next((name for name, path in paths.items() if "/" not in path), None)
    if bare is not None and all("/" not in path for path in paths.values()) and any("/" in name for name in images):
        paths, bare = {name: name for name in images}, None  # the one folder is a class
    if bare is not None:
        raise InputError(
            f"the image {bare} in {files.path} is in no class folder: move it into one or away, or add a csv file with"
            " the columns filename and label"
        )
    split_of = _split_folders(files, paths.values())
    splits: dict[str, Classes] = {}
    for name, path in paths.items():
        top, _, rest = path.partition("/")
        split, path = (split_of[top], rest) if split_of else ("", path)
        if "/" not in path:
            raise InputError(f"the image {name} in {files.path} is in a folder of a split, but in no class folder")
        splits.setdefault(split, {}).setdefault(path.rpartition("/")[0], []).append(images[name])
    return splits


def _split_folders(files: ImageFiles, paths: Iterable[str]) -> dict[str, str]:
    """The split of each top folder, such as train/, if the top folders are splits of class folders; else {}."""
    inside: dict[str, set[str]] = {}
    for path in paths:
        top, _, rest = path.partition("/")
        inside.setdefault(top, set()).add(rest.rpartition("/")[0])
    # a folder 'bullet train' or 'test tube' that holds images is a class
    split_of = {top: places.split_of(top) for top in inside if inside[top] != {""}}
    found = {top: split for top, split in split_of.items() if split}
    others = sorted(inside.keys() - found.keys())
    if len(set(found.values())) < 2:
        alike = [top for top in split_of if len(inside[top]) > 1 and list(inside.values()).count(inside[top]) > 1]
        if alike:
            raise InputError(
                f"the folders {' and '.join(sorted(alike)[:2])} in {files.path} hold class folders of the same names:"
                " call them train, val and test if they are splits, or give one of them"
            )
        return {}
    if others:
        raise InputError(
            f"{files.path} has folders of splits ({', '.join(sorted(found))}) and beside them {others[0]}, which is"
            " none: move it away"
        )
    return found


def _from_csv(files: ImageFiles, images: dict[str, Picture], listings: list[str]) -> dict[str, Classes]:
    """{split: classes} of the csv files; every image that a row names must exist once, and be named once."""
    of_splits = places.split_of(listings[0].rpartition("/")[2]) is not None
    if not of_splits and len(listings) > 1:
        raise InputError(
            f"{files.path} has the csv files {', '.join(listings)}: keep one that lists all images, or call them"
            " train.csv, val.csv and test.csv"
        )
    by_end = {}
    for name in images:
        parts = name.split("/")
        for start in range(len(parts)):
            by_end.setdefault("/".join(parts[start:]), []).append(name)
    splits: dict[str, Classes] = {}
    named: set[str] = set()
    for listing in listings:
        where = f"{listing} in {files.path}"
        for row in places.read_listing(files.read(listing), where):
            matches = [row["file"]] if row["file"] in images else by_end.get(row["file"].removeprefix("./"), [])
            if len(matches) != 1:
                fault = "is not there" if not matches else f"is there {len(matches)} times, as in {matches[0]}"
                raise InputError(f"{where} lists the image {row['file']}, which {fault}")
            if matches[0] in named:
                raise InputError(f"{where} lists the image {row['file']} a second time: leave one line of it")
            named.add(matches[0])
            split = places.split_of(listing.rpartition("/")[2]) if of_splits else _split_in(row, where)
            splits.setdefault(split, {}).setdefault(row["label"], []).append(images[matches[0]])
    return splits


def _split_in(row: dict[str, str], where: str) -> str:
    """The split in the column 'split' of a row; '' if there is no such column."""
    if "split" not in row:
        return ""
    split = places.word_for_split(row["split"])
    if split is None:
        raise InputError(
            f"{where} has '{row['split']}' as the split of {row['file']}: write train, val or test into each line"
        )
    return split
