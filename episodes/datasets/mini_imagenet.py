"""miniImageNet: 100 classes of ImageNet with 600 images each, split by Ravi and Larochelle (2017) into 64/16/20.

Nobody may redistribute miniImageNet, so copies differ in form. The suite recognises each of these forms:

- mini-imagenet-cache-{train,val,test}.pkl (image_data, class_dict), learn2learn's -validation.pkl too
- miniImageNet_category_split_{train_phase_train,val,test}.pickle (data with labels or catname2label); if labels are
  numbers without names, the numbers name the classes, because copies differ in the order of the names
- class folders, flat or in a folder for each split, or images named after their class; loose, or in zip and tar
  archives, one or several; with train.csv, val.csv and test.csv (filename, label) or without
- class folders of ImageNet's training set with those csv files, whose file names are class and position in the
  listing of the class
- parquet files, as Hugging Face keeps data sets

Images of another size than the one asked for are squashed to a square, as the makers of the set did. Popular copies
agree in their classes; whether the copies agree in every image is not known.
"""

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from episodes import pickles
from episodes.archives import ImageFiles, files_fingerprint, fingerprint, is_archive, read_regular
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import listings, places, wordnet
from episodes.datasets.classes import read_classes
from episodes.datasets.parquet import ParquetImages
from episodes.errors import InputError, MissingData
from episodes.pictures import ArrayImages, Picture, contents, squashed

PROTOCOLS = ("ravi",)
SIZE = 84
IMAGES = 600  # of each class
NUMBERED = "label "  # before the number of a class without a name

NAMES = {row["wordnet_id"]: row["name"] for row in read_classes("mini_imagenet")}
SPLITS = {
    split: tuple(row["wordnet_id"] for row in read_classes("mini_imagenet") if row["split"] == split)
    for split in ("train", "validation", "test")
}

_PARQUET = ("*.parquet", "data/*.parquet", "default/*/*.parquet")  # the last as Hugging Face converts them

Classes = dict[str, list[Picture]]


class Form(NamedTuple):
    """The form in which the user has a split: in words, its files, and a function that gives its images by class."""

    about: str
    home: Path
    paths: list[Path]
    fingerprint: str
    gather: Callable[[], Classes]


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split, classes in the order of their WordNet ids."""
    form = find(split, folders)
    if form is None:
        raise MissingData(
            f"miniImageNet's {split} split is not in {', '.join(map(str, folders))}: put it there in any of the forms"
            " that docs/data-sets.md names, in a folder mini_imagenet/, or name its folder with --data or FEWSHOT_DATA"
        )

    def whole() -> Contents:
        classes = form.gather()
        _check(classes, split, form)
        named = {f"{key} {NAMES[key]}" if key in NAMES else key: classes[key] for key in sorted(classes)}
        source = ", ".join(map(str, form.paths))
        about = {"dataset": "mini_imagenet", "protocol": protocol, "split": split, "source": source}
        return contents(named, {}, size, about, squashed)

    return cached_bank(f"mini_imagenet-{split}-{size}-{form.fingerprint}", whole)


def where(folders: list[Path]) -> str:
    """Where the splits of miniImageNet are, and in which form, in words."""
    found = {split: find(split, folders) for split in SPLITS}
    if not any(found.values()):
        return "not found; docs/data-sets.md names the forms that are recognised"
    missing = [f"no {split} split" for split, form in found.items() if form is None]
    there = dict.fromkeys(f"{form.about} in {form.home}" for form in found.values() if form)
    return "; ".join([*there, *missing])


def find(split: str, folders: list[Path]) -> Form | None:
    """The first form of `split` in `folders`; None if no form is there."""
    listing = None
    for home in places.homes(folders, "miniimagenet"):
        entries = sorted(home.iterdir()) if home.is_dir() else [home]
        # the csv files may lie in mini_imagenet/, and the images that they name in imagenet/ beside it
        listing = _csv(split, entries) or listing
        form = _pickle(split, home, entries) or _parquet(split, home) or _files(split, home, entries, listing)
        if form is not None:
            return form
    return None


def _key(name: str, split: str, path: Path) -> str:
    """The WordNet id of a class from its id or its human name; a label stays unchanged; InputError for other names."""
    if name.startswith(NUMBERED):
        return name
    human = places.squashed(name.partition(",")[0])
    names = {places.squashed(known): key for key, known in NAMES.items()}
    key = name[:9] if name[:9] in NAMES else names.get(human, "")
    if key not in SPLITS[split]:
        home = next((f"its {other} split" for other in SPLITS if key in SPLITS[other]), "none of its splits")
        raise InputError(
            f"{path} should be miniImageNet's {split} split but holds the class '{name}', which is in {home}: rename"
            " the file, or get another copy"
        )
    return key


# --- pickles


def _pickle(split: str, home: Path, entries: list[Path]) -> Form | None:
    paths = [
        path
        for path in entries
        if path.suffix in (".pkl", ".pickle") and "bookkeeping" not in path.name and places.split_of(path.name) == split
    ]
    if not paths:
        return None
    return Form("pickles", home, paths[:1], files_fingerprint(paths[:1]), lambda: _unpickled(paths[0], split))


def _unpickled(path: Path, split: str) -> Classes:
    data = pickles.load(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}, not image_data and class_dict, nor data and labels")
    data = {_text(key): value for key, value in data.items()}
    images = data.get("image_data", data.get("data"))
    if not _are_images(images):
        kind = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"{path} holds {kind} as its images, not an array of bytes (images, height, width, 3)")
    try:
        members = _members(data, len(images))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} has class_dict or labels that say nothing ({error}): get another copy") from error
    source, classes = ArrayImages(images), {}
    for name, indices in members.items():
        key = _key(name, split, path)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(images)):
            raise InputError(f"{path} has {len(images)} images, but its class {name} has others: get another copy")
        classes[key] = [Picture(source, int(index)) for index in indices]
    used = [picture.key for pictures in classes.values() for picture in pictures]
    if len(set(used)) < len(used):
        raise InputError(f"{path} has an image that belongs to a class twice, or to two classes: get another copy")
    return classes


def _are_images(array: object) -> TypeGuard[np.ndarray]:
    """Whether the value is an array of bytes (images, height, width, 3) with no dimension 0."""
    return isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape[3:] == (3,) and array.size > 0


def _members(data: dict, images: int) -> dict[str, np.ndarray]:
    """The image numbers of each class, from class_dict, or from labels with or without catname2label."""
    if "class_dict" in data:
        return {_text(name): _numbers_in(rows) for name, rows in data["class_dict"].items()}
    labels = _numbers_in(data["labels"])
    if len(labels) != images:
        raise ValueError(f"{len(labels)} labels of {images} images")
    names = {_text(name): int(label) for name, label in (data.get("catname2label") or {}).items()}
    names = names or {f"{NUMBERED}{label:03d}": label for label in np.unique(labels).tolist()}
    return {name: np.flatnonzero(labels == label) for name, label in names.items()}


def _numbers_in(values: object) -> np.ndarray:
    if not isinstance(values, list | tuple | np.ndarray) or any(isinstance(value, list | tuple) for value in values):
        raise ValueError("numbers that are not in a row")  # nested lists may have no end
    numbers = np.asarray(values, np.int64)
    if numbers.ndim != 1:
        raise ValueError(f"numbers in {numbers.ndim} dimensions, not in a row")
    return numbers


def _text(name: object) -> str:
    if not isinstance(name, bytes | str | int):
        raise InputError(f"a pickle of images has names, and a {type(name).__name__} is none: get another copy")
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


# --- parquet


def _parquet(split: str, home: Path) -> Form | None:
    paths = [path for pattern in _PARQUET for path in sorted(home.glob(pattern)) if home.is_dir()]
    paths = [path for path in paths if places.split_of(path.relative_to(home).as_posix()) == split]
    return (
        Form("parquet files", home, paths, files_fingerprint(paths), lambda: _from_parquet(paths, split))
        if paths
        else None
    )


def _from_parquet(paths: list[Path], split: str) -> Classes:
    classes: Classes = {}
    for source in map(ParquetImages, paths):
        names = {name: f"{NUMBERED}{int(name):03d}" if name.isdecimal() else name for name in set(source.labels)}
        keys = {name: _key(names[name], split, source.path) for name in names}
        for row, name in enumerate(source.labels):
            classes.setdefault(keys[name], []).append(Picture(source, row))
    return classes


# --- image files


def _csv(split: str, entries: list[Path]) -> Path | None:
    return next((path for path in entries if path.suffix == ".csv" and places.split_of(path.name) == split), None)


def _files(split: str, home: Path, entries: list[Path], listing: Path | None) -> Form | None:
    wanted = SPLITS[split]
    archives = [path for path in entries if is_archive(path)]
    own = [path for path in archives if places.split_of(path.name) == split]
    if not own and (places.squashed(home.name).startswith("miniimagenet") or _csv(split, entries)):
        own = [path for path in archives if places.split_of(path.name) is None]
    enter = wordnet.holds_classes(wanted, ("miniimagenet", "imagenet", "ilsvrc"))
    pattern = rf"{wordnet.pattern(wanted)}|\.csv$"
    loose = ImageFiles(home, pattern, enter) if home.is_dir() else None
    if loose and not all(name.endswith(".csv") for name in loose.names):
        sources, about = [loose], "image files"
    elif own:
        sources, about = [ImageFiles(path, pattern) for path in own], "archives of image files"
    else:
        return None
    marks = [source.fingerprint for source in sources] + [files_fingerprint([listing] if listing else [])]
    return Form(
        about + (" with csv files" if listing else ""),
        home,
        [source.path for source in sources],
        fingerprint(marks),
        lambda: _from_files(sources, split, listing),
    )


def _from_files(sources: list[ImageFiles], split: str, listing: Path | None) -> Classes:
    found = wordnet.of_classes(sources, SPLITS[split])
    if listing is None:
        inside = [(source, name) for source in sources for name in source.names if name.endswith(".csv")]
        rows = next(
            (
                listings.read(source.read(name), f"{name} in {source.path}").rows
                for source, name in inside
                if places.split_of(name.rpartition("/")[2]) == split
            ),
            None,
        )
    else:
        rows = listings.read(read_regular(listing), str(listing)).rows
    if rows is None:
        return {key: [pictures[name] for name in sorted(pictures)] for key, pictures in found.items()}
    listed: dict[str, list[str]] = {}
    for row in rows:
        if row.label not in SPLITS[split]:
            raise InputError(
                f"the csv file of the {split} split lists {row.label}, which is not in Ravi and Larochelle's {split}"
                " split of miniImageNet: get theirs"
            )
        listed.setdefault(row.label, []).append(row.file.rpartition("/")[2])
    return {key: _listed(key, sorted(names), found.get(key, {})) for key, names in listed.items()}


def _listed(key: str, names: list[str], found: dict[str, Picture]) -> list[Picture]:
    """The pictures of one class that the csv file lists: by name, or by position in the listing of ImageNet's class."""
    twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if twice:
        raise InputError(f"the csv file lists {twice} of class {key} twice: get Ravi and Larochelle's")
    if not found or any(name in found for name in names):
        return [found[name] for name in names if name in found]
    listing = sorted(found, key=_numbers)
    pictures = []
    for name in names:
        position = re.fullmatch(rf"{key}(\d{{8}})\.\w+", name)
        if position is None:
            raise InputError(f"the csv file lists {name}, which is neither a file of class {key} nor a position in it")
        if not 1 <= int(position[1]) <= len(listing):
            raise InputError(
                f"the csv file lists {name}, the image number {int(position[1])} of class {key}, which has only"
                f" {len(listing)}: the whole training set of ImageNet is needed"
            )
        pictures.append(found[listing[int(position[1]) - 1]])
    return pictures


def _numbers(name: str) -> list[int]:
    """Sorts n01532829_10.JPEG behind n01532829_9.JPEG, as the makers of the popular copies did."""
    return [int(number) for number in re.findall(r"\d+", name)]


# --- checks


def _check(classes: Classes, split: str, form: Form) -> None:
    """Raise InputError, with the classes at fault, if a class of the split does not have exactly IMAGES images."""
    numbered = all(key.startswith(NUMBERED) for key in classes) and len(classes) == len(SPLITS[split])
    wrong = [key for key in (classes if numbered else SPLITS[split]) if len(classes.get(key, ())) != IMAGES]
    if not wrong:
        return
    told = [f"{key} ({NAMES.get(key, 'no name')}) has {len(classes.get(key, ()))}" for key in wrong[:3]]
    more = f" and {len(wrong) - 3} more classes are wrong" if len(wrong) > 3 else ""
    many = any(len(classes.get(key, ())) > IMAGES for key in wrong)
    advice = (
        "put Ravi and Larochelle's train.csv, val.csv and test.csv beside them, which say what to take"
        if many
        else "copy or download it again"
    )
    raise InputError(
        f"{form.paths[0]} ({form.about}) does not hold the {IMAGES} images of each of the {len(SPLITS[split])} classes"
        f" of miniImageNet's {split} split: {', '.join(told)}{more}; {advice}"
    )
