"""Any folder of images, or archive of one, as a data set: class folders, or images with a csv file.

given  the splits that the user made: folders train/, val/ and test/ of class folders, or train.csv, val.csv and
       test.csv, or a column split. If validation or test is missing, a fifth of the training classes takes its place.
seedN  used on request, if no splits are given, or if they share classes: the classes are shuffled with seed N; 64 % are
       for training, 16 % for validation, 20 % for test, the shares of miniImageNet. If there are few classes, the test
       split gets more.
The split 'all' has all classes, whatever the splits are.
"""

import functools
import logging
import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from episodes.archives import ARCHIVES, ImageFiles, fingerprint, image_formats
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import layouts, places, splits
from episodes.datasets.layouts import Classes
from episodes.errors import InputError, counted
from episodes.pictures import Picture, contents, find_damaged
from episodes.reading import EVERYTHING, ReadingOptions

SIZE = 84

log = logging.getLogger("episodes")


class Layout(NamedTuple):
    """The classes of each split, all classes, the split protocol that made the splits, why other splits are missing,
    and remarks about what was left out or split anew."""

    splits: dict[str, Classes]
    every: Classes
    protocol: str
    missing: str
    remarks: list[str]


def load(path: Path, split: str, protocol: str, size: int, options: ReadingOptions = EVERYTHING) -> ImageBank:
    """The bank of one split of the images at `path`; `protocol` is '' for the splits of the user, or seedN."""
    files = image_files(path)

    def whole() -> Contents:
        layout = look(files, protocol, options)
        for remark in layout.remarks:
            _warn_once(f"{path}: {remark}")
        classes = layout.every if split == "all" else layout.splits.get(split)
        if classes is None:
            raise InputError(layout.missing)
        splits.check(classes, split, str(path))
        groups = {name: name.rpartition("/")[0] for name in classes}
        about = {"dataset": dataset_name(path), "protocol": layout.protocol, "split": split, "source": str(path)}
        return contents(classes, groups, size, about)

    # the whole path too: two folders with one name may hold files with the same names, sizes and times
    mark = fingerprint((str(path.resolve()), files.fingerprint))
    name = f"{places.squashed(path.name)[:40]}-{split}-{protocol or 'given'}-{size}{options.key}-{mark}"
    return cached_bank(name, whole)


def where(path: Path, protocol: str = "", options: ReadingOptions = EVERYTHING) -> str:
    """The contents of `path`, in words."""
    layout = look(image_files(path), protocol, options)
    if not layout.splits:
        return "; ".join([f"{path}: {counted(len(layout.every), 'class')}, too few for splits", *layout.remarks])
    counts = ", ".join(f"{len(classes)} {split}" for split, classes in layout.splits.items())
    made = "as they are given" if layout.protocol == "given" else f"made by class with {layout.protocol}"
    return "; ".join([f"{path}, splits {made}: {counts} classes", *layout.remarks])


def gives_test(path: Path, options: ReadingOptions = EVERYTHING) -> bool:
    """Whether the user's own splits say which classes at `path` are for the test."""
    layout = look(image_files(path), "", options)
    return layout.protocol == "given" and "test" in layout.splits


def dataset_name(path: Path) -> str:
    """The name of the data set in tables: the name of the folder, or of the archive without its suffix."""
    name = path.resolve().name
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending) and path.is_file()), "")
    return name[: len(name) - len(ending)] or "images"


def image_files(path: Path) -> ImageFiles:
    """The images at `path` by their suffixes."""
    kinds = image_formats()
    suffixes = sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds)
    return ImageFiles(path, rf"(?i:{'|'.join(map(re.escape, [*suffixes, *layouts.LISTS]))})$")


def look(files: ImageFiles, protocol: str = "", options: ReadingOptions = EVERYTHING) -> Layout:
    """Which image is of which class and split; InputError if the files do not say."""
    found, remarks = layouts.find(files)
    if options.skip_damaged:
        found = _without_damaged(found, files, remarks)
    if options.min_images:
        found = _without_small(found, options.min_images, remarks)
    division = splits.divide(found, protocol, str(files.path))
    every = splits.pooled(found)
    if division.protocol != "given" and division.splits:
        splits.check(every, "all", str(files.path))  # the seed deals out all classes, so the fault concerns every split
    return Layout(division.splits, every, division.protocol, division.missing, [*remarks, *division.remarks])


def _without_damaged(found: dict[str, Classes], files: ImageFiles, remarks: list[str]) -> dict[str, Classes]:
    """The classes without images that cannot be decoded, which are added to the remarks."""
    broken = _damaged(files.path, files.fingerprint)
    if broken:
        remarks.append(f"{layouts.left_out(len(broken), 'damaged image')}: {splits.listed(sorted(broken))}")
    sound = {
        split: {name: [one for one in pictures if one.key not in broken] for name, pictures in classes.items()}
        for split, classes in found.items()
    }
    return {split: {name: kept for name, kept in classes.items() if kept} for split, classes in sound.items()}


@functools.lru_cache(maxsize=4)  # for the splits of one folder
def _damaged(path: Path, mark: str) -> dict[str, str]:
    """The damaged images at `path`, by name; `mark` is the fingerprint of the files."""
    files = image_files(path)
    return find_damaged([Picture(files, name) for name in files.names if not layouts.is_list(name)])


def _without_small(found: dict[str, Classes], fewest: int, remarks: list[str]) -> dict[str, Classes]:
    """The classes of `fewest` images or more; the other classes are added to the remarks."""
    sizes = {name: len(pictures) for name, pictures in splits.pooled(found).items()}
    small = {name: size for name, size in sizes.items() if size < fewest}
    if small:
        verb = "is" if len(small) == 1 else "are"
        told = [f"{name} ({size})" for name, size in small.items()]
        remarks.append(
            f"{counted(len(small), 'class')} of fewer than {counted(fewest, 'image')} {verb} left out:"
            f" {splits.listed(told)}"
        )
    return {
        split: {name: pictures for name, pictures in classes.items() if name not in small}
        for split, classes in found.items()
    }


@functools.cache
def _warn_once(text: str) -> None:
    """Warns in this process once, and not for each split."""
    log.warning("%s", text)
