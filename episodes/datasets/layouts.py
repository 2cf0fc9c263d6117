"""The class of each image of a folder or archive, and the user's splits, as folders or csv files give them."""

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from episodes.archives import ImageFiles
from episodes.datasets import galleries, gallery_layouts, listings, places
from episodes.datasets.galleries import Lists
from episodes.errors import InputError, counted
from episodes.pictures import Picture

Classes = dict[str, list[Picture]]
_TEXTS = "; a .txt file that lists images must be called .tsv or .csv"
BARE = ""  # the class, in a split, of images that are in no class folder


class Found(NamedTuple):
    """The classes of each split that the user made, or of the split '' if there are no splits; what was left out; and
    the lists of queries, gallery and pairs beside the images."""

    splits: dict[str, Classes]
    remarks: list[str]
    lists: Lists = Lists()


def find(files: ImageFiles) -> Found:
    """Which image is of which class, and of which split if the user made splits; InputError if the files do not say."""
    known = gallery_layouts.read(files)
    if known is not None:
        return Found({split: _sorted(classes) for split, classes in known.splits.items()}, known.remarks, known.lists)
    images = {name: Picture(files, name) for name in files.names if not galleries.is_list(name)}
    if not images:
        raise InputError(
            f"there are no images in {files.path}: give a folder of class folders, or images with a csv file"
        )
    inside = _inside(files.names)
    used = [name for name in files.names if _is_table(name) and "/" not in inside[name]]
    pairs = [name for name in used if Path(inside[name]).stem.lower() == galleries.PAIRS]
    used = [name for name in used if name not in pairs]
    used = [name for name in used if name.lower().endswith(".csv")] or used  # csv files come first
    used = [name for name in used if _split_of_file(name)] or used
    splits, remarks, lists = _from_csv(files, images, used) if used else (_from_folders(files, images), [], Lists())
    for name in pairs:
        lists = lists._replace(pairs=galleries.listed_pairs(files, name, images))
    others = [*files.others, *(set(files.names) - images.keys() - {*used, *pairs})]
    splits = {split: _sorted(classes) for split, classes in splits.items()}
    return Found(splits, [*_left_out(others, files, images, splits), *remarks], lists)


def _sorted(classes: Classes) -> Classes:
    return {name: classes[name] for name in sorted(classes)}


def left_out(count: int, what: str) -> str:
    """'3 images are left out', the beginning of a remark."""
    return f"{counted(count, what)} {'is' if count == 1 else 'are'} left out"


def _left_out(
    others: list[str], files: ImageFiles, images: dict[str, Picture], splits: dict[str, Classes]
) -> list[str]:
    remarks = []
    if others:
        kinds = collections.Counter(Path(name).suffix.lower() or "no suffix" for name in others)
        told = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        remarks.append(
            f"{left_out(len(others), 'file')}, of no image format that Pillow reads here ({told}), the first one is"
            f" {min(others)}" + (_TEXTS if ".txt" in kinds else "")
        )
    used = {picture.key for classes in splits.values() for pictures in classes.values() for picture in pictures}
    if len(used) < len(images):
        left = images.keys() - used
        remarks.append(f"{left_out(len(left), 'image')}, in no csv file, the first one is {min(left)}")
    if files.repeated:
        remarks.append(
            f"{left_out(len(files.repeated), 'link')}, to folders that are read under another name, the first one is"
            f" {files.repeated[0]}"
        )
    if files.empty:
        remarks.append(f"{left_out(len(files.empty), 'empty folder')}, the first one is {files.empty[0]}")
    return remarks


def _inside(names: Iterable[str]) -> dict[str, str]:
    """Each path without its first folder, if that folder contains all files, as in many archives and downloads.

    A folder called test is kept: it says that all images are for test.
    """
    names = list(names)
    tops = {name.partition("/")[0] for name in names}
    wrapped = len(tops) == 1 and places.word_for_split(min(tops)) != "test"
    return {name: name.partition("/")[2] if wrapped and "/" in name else name for name in names}


# --- class folders


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
        splits.setdefault(split, {}).setdefault(path.rpartition("/")[0] if "/" in path else BARE, []).append(
            images[name]
        )
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
    if len(inside) == 1 and places.word_for_split(min(inside)) == "test" and found:
        return found
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


# --- csv files


def _is_table(name: str) -> bool:
    """Whether a file of that name lists images, with commas, tabs and so on between its columns (see listings.read).

    A .txt file does not count: most are notes or lists of classes, and lists of images have no common form.
    """
    return name.lower().endswith(galleries.TABLES)


def _split_of_file(path: str) -> str | None:
    return places.split_of(path.rpartition("/")[2])


def _from_csv(
    files: ImageFiles, images: dict[str, Picture], used: list[str]
) -> tuple[dict[str, Classes], list[str], Lists]:
    """{split: classes} of the csv files, remarks, and the roles that they give; every image that a row names must
    exist, and be named once."""
    of_splits = _split_of_file(used[0]) is not None
    if not of_splits and len(used) > 1:
        raise InputError(
            f"{files.path} has the csv files {', '.join(used)}: keep one that lists all images, or call them"
            " train.csv, val.csv and test.csv"
        )
    finder = listings.Finder(images)
    splits: dict[str, Classes] = {}
    remarks, named, marks = [], set(), dict[str, galleries.Mark]()
    for path in used:
        source = f"{path} in {files.path}"
        rows, unused = listings.read(files.read(path), source)
        if unused:
            column = "columns" if len(unused) > 1 else "column"
            remarks.append(f"the {column} {', '.join(unused)} of {path} {'are' if len(unused) > 1 else 'is'} not used")
        chosen = finder.find(rows, source)
        marks |= galleries.marks_of(rows, chosen)
        for row, name in zip(rows, chosen):
            if name in named:
                raise InputError(f"{source} lists the image {row.file} a second time: leave one line of it")
            named.add(name)
            split = (_split_of_file(path) or "") if of_splits else row.split
            splits.setdefault(split, {}).setdefault(row.label, []).append(images[name])
    return splits, remarks, Lists(marks=marks)
