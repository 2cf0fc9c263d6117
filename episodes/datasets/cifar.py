"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): two splits of CIFAR-100's classes.

Both pool the training and test images of CIFAR-100, 600 of each class. CIFAR-FS splits the 100 classes 64/16/20 at
random, FC100 60/20/20 by superclass, so that test classes are far from the trained ones.

The suite recognises CIFAR-100 in each of these forms, in a folder or in a zip or tar archive of it:

- the official pickles train and test (data, fine_labels), with or without meta
- class folders, called by the fine names or by their numbers, with or without folders train and test around them
- parquet files, as Hugging Face keeps data sets (img, fine_label)

Numbers mean the official order of the fine labels, which is that of the alphabet. The images of a class are sorted by
their pixels, so that every form gives the same bank.
"""

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from episodes import pickles
from episodes.archives import ImageFiles, is_archive
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import places
from episodes.datasets.classes import read_classes
from episodes.datasets.downloads import download
from episodes.datasets.parquet import ParquetImages
from episodes.errors import InputError
from episodes.pictures import ArrayImages, Picture, contents

SIZE = 32
IMAGES = 600  # of each class
NAMES = tuple(sorted(row["name"] for row in read_classes("fc100")))  # in the order of the official fine labels

_NAME_OF = {places.squashed(name): name for name in NAMES} | {str(number): name for number, name in enumerate(NAMES)}
_GROUPS = {places.squashed(row["superclass"]) for row in read_classes("fc100")}
_AROUND = ("train", "test", "val", "data", "images", "default", "cifar", "cifarfs", "fc100", *_GROUPS)
_FILES = r"(?:^|/)(?:train|test|[^/]+\.parquet|[^/]+/[^/]+\.(?i:png|jpe?g|bmp|webp))$"
_LARGEST = 2**29  # bytes of a pickle or a parquet file; the official training images are 155 MB

Classes = dict[str, list[Picture]]


class Form(NamedTuple):
    """The place of CIFAR-100, its form if that is known without opening an archive, and the function for its images."""

    about: str
    files: ImageFiles
    gather: Callable[[], Classes]


def load(dataset: str, split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split of `dataset`, cifar_fs or fc100."""
    form = find(folders) or find([_download(folders)])
    if form is None:
        raise InputError("the download of CIFAR-100 is not whole: remove it from the cache folder")
    rows = [row for row in read_classes(dataset) if row["split"] == split]

    def whole() -> Contents:
        classes = form.gather()
        _check(classes, form)
        about = {"dataset": dataset, "protocol": protocol, "split": split, "source": str(form.files.path)}
        chosen = _sorted_by_pixels({row["name"]: classes[row["name"]] for row in rows}, about)
        return contents(chosen, {row["name"]: row.get("superclass", "") for row in rows}, size, about)

    return cached_bank(f"{dataset}-{split}-{size}-{form.files.fingerprint}", whole)


cifar_fs = functools.partial(load, "cifar_fs")
fc100 = functools.partial(load, "fc100")


def where(folders: list[Path]) -> str:
    """Where CIFAR-100 is, and in which form, in words."""
    form = find(folders)
    return f"{form.about} in {form.files.path}" if form else "not found; downloaded when first used"


def find(folders: list[Path]) -> Form | None:
    """The first form of CIFAR-100 in `folders`; None if no form is there."""
    for home in places.homes(folders, "cifar", "fc100"):
        if re.match("cifar10(?!0)", places.squashed(home.name)):
            continue
        files = ImageFiles(home, _FILES, _holds_images)
        if is_archive(home):  # not opened here: a prepared bank needs no archive
            return Form("an archive", files, functools.partial(_from_archive, files))
        about, gather = _gatherer(files)
        if about:
            return Form(about, files, gather)
    return None


def _holds_images(name: str) -> bool:
    """Whether to enter a folder by its name: a class, or a folder that may hold classes, pickles or tables."""
    squashed = places.squashed(name)
    return squashed in _NAME_OF or squashed in _AROUND or squashed.startswith("cifar100")


def _gatherer(files: ImageFiles) -> tuple[str, Callable[[], Classes]]:
    """The form of these files in words, '' if they are none, and the function that gives the images of each class."""
    last = {name: name.rpartition("/")[2] for name in files.names}
    packed = [name for name in files.names if last[name] in ("train", "test")]
    tables = [name for name in files.names if name.endswith(".parquet")]
    images = [name for name in files.names if places.squashed(name.split("/")[-2:][0]) in _NAME_OF and "/" in name]
    if len(packed) == 2:
        return "pickles", lambda: _pooled([_from_pickle(files, name) for name in packed])
    if tables:
        return "parquet files", lambda: _pooled([_from_parquet(files, name) for name in tables])
    if images:
        return "class folders", lambda: _from_folders(files, images)
    return "", dict


def _from_archive(files: ImageFiles) -> Classes:
    return _gatherer(files)[1]()


def _pooled(parts: list[Classes]) -> Classes:
    together: Classes = {}
    for classes in parts:
        for name, pictures in classes.items():
            together.setdefault(name, []).extend(pictures)
    return together


def _from_folders(files: ImageFiles, images: list[str]) -> Classes:
    classes: Classes = {}
    for path in images:
        classes.setdefault(_NAME_OF[places.squashed(path.split("/")[-2])], []).append(Picture(files, path))
    return classes


def _from_parquet(files: ImageFiles, name: str) -> Classes:
    source = ParquetImages(files.path / name, files.read(name, _LARGEST))
    return _by_label(source.labels, source, f"{name} in {files.path}")


def _from_pickle(files: ImageFiles, name: str) -> Classes:
    where = f"{name} in {files.path}"
    found = pickles.read(io.BytesIO(files.read(name, _LARGEST)), where)
    found = {_text(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    pixels, labels, names = found.get("data"), found.get("fine_labels"), found.get("filenames")
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape[1:] == (3 * SIZE * SIZE,)
        and isinstance(labels, list | np.ndarray)
        and len(labels) == len(pixels)
    ):
        raise InputError(f"{where} does not hold data and fine_labels as CIFAR-100's pickles do: download it again")
    images = pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    known = names if isinstance(names, list) and len(names) == len(images) else []
    source = ArrayImages(images, [_text(one) for one in known])
    return _by_label([f"{label}" for label in labels], source, where)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _by_label(labels: list[str], source: Any, where: str) -> Classes:
    """The images of each class, from a label for each: a fine name or its number."""
    classes: Classes = {}
    for number, label in enumerate(labels):
        name = _NAME_OF.get(places.squashed(label))
        if name is None:
            raise InputError(
                f"{where} has the label '{label:.40}', which is no fine label of CIFAR-100: download it again"
            )
        classes.setdefault(name, []).append(Picture(source, number))
    return classes


def _check(classes: Classes, form: Form) -> None:
    """InputError, with the classes at fault, if a class does not have exactly IMAGES images."""
    wrong = [f"{name} has {len(classes.get(name, ()))}" for name in NAMES if len(classes.get(name, ())) != IMAGES]
    if wrong:
        more = f" and {len(wrong) - 3} more classes are wrong" if len(wrong) > 3 else ""
        raise InputError(
            f"{form.files.path} is not the whole of CIFAR-100, whose classes have {IMAGES} images each, those of"
            f" training and test together: {', '.join(wrong[:3])}{more}; download it again"
        )


def _sorted_by_pixels(classes: Classes, about: dict[str, Any]) -> Classes:
    """The images of each class in the order of their pixels, decoded: forms name and order the images differently."""
    plan = contents(classes, {}, SIZE, about)
    images = np.empty((sum(plan.sizes), *plan.shape), np.uint8)
    plan.fill(images)
    source = ArrayImages(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), plan.files)
    ordered, start = {}, 0
    for name, pictures in classes.items():
        numbers = range(start, start + len(pictures))
        ordered[name] = [Picture(source, number) for number in sorted(numbers, key=lambda one: images[one].tobytes())]
        start += len(pictures)
    return ordered


def _download(folders: list[Path]) -> Path:
    from torchvision.datasets import CIFAR100  # takes two seconds, which only a download needs

    advice = f"unpack {CIFAR100.url} into a folder cifar100/"
    return download(lambda folder: CIFAR100(str(folder), download=True), "cifar100", "CIFAR-100", advice, folders)
