"""Any classification data set of torchvision, as torchvision:NAME: all its images, its classes split by a seed."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch.utils.data import Dataset

from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets.downloads import download
from episodes.datasets.splits import shared_out
from episodes.errors import InputError, unknown_name
from episodes.pictures import Picture, Prepared, contents

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

SIZE = 84
_FOLDERS = ("ImageFolder", "DatasetFolder", "FakeData", "VisionDataset")
_PARTS = ("train", "val", "valid", "trainval", "test")  # what torchvision's data sets call their splits


class DatasetImages:
    """The images of a PyTorch data set of (image, label) by their number."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._dataset, self._name = dataset, name

    def image(self, key: int, prepare: Callable[[Image.Image], Prepared]) -> Prepared:
        try:
            image = self._dataset[key][0]
        except Exception as error:  # each data set has its own reader, with its own exceptions
            raise InputError(f"item {key} of {self._name} cannot be read ({error}): download it again") from error
        if not isinstance(image, Image.Image):
            raise InputError(f"item {key} of {self._name} is a {type(image).__name__}, not an image")
        return prepare(image)

    def name(self, key: int) -> str:
        return f"item {key}"


def load(name: str, split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split of the torchvision data set `name`; `protocol` is seedN."""
    cls = find(name)

    def whole() -> Contents:
        classes: dict[str, list[Picture]] = {}
        for part in _parts(cls, name, folders):
            source, names = DatasetImages(part, f"torchvision:{name}"), getattr(part, "classes", None)
            for number, label in enumerate(_labels(part, name)):
                called = names[label] if names is not None and label < len(names) else f"class {label:04d}"
                called = called if isinstance(called, str) else str(called[0])  # some give all synonyms
                classes.setdefault(called, []).append(Picture(source, number))
        chosen = shared_out({key: classes[key] for key in sorted(classes)}, protocol, f"torchvision:{name}")[split]
        about = {"dataset": name, "protocol": protocol, "split": split, "source": f"torchvision.datasets.{name}"}
        return contents(chosen, {}, size, about)

    return cached_bank(f"torchvision-{name}-{split}-{protocol}-{size}-1", whole)


def find(name: str) -> "type[VisionDataset]":
    """The class called `name`; InputError if torchvision has no such class."""
    if name in _FOLDERS:
        raise InputError(f"torchvision's {name} is no data set but a way to read a folder: name the folder itself")
    from torchvision import datasets  # takes two seconds, which other data sets do without

    base = datasets.VisionDataset
    known = {key: cls for key, cls in vars(datasets).items() if inspect.isclass(cls) and issubclass(cls, base)}
    if name not in known:
        raise unknown_name("data set of torchvision", name, known)
    return known[name]


def _parts(cls: "type[VisionDataset]", name: str, folders: list[Path]) -> "list[VisionDataset]":
    """All parts (training, test ...) of the data set, from the first folder that has it, otherwise downloaded."""
    for root in [*folders, *(folder / "torchvision" for folder in folders)]:
        if root.is_dir() and (parts := _opened(cls, name, root)):
            return parts
    if _takes(cls, "download"):
        fetch = functools.partial(_opened, cls, name, download=True)
        where = download(fetch, "torchvision", f"torchvision's {name}", "put its files into a folder", folders)
        if parts := _opened(cls, name, where):
            return parts
    raise InputError(
        f"torchvision's {name} is not whole in {', '.join(map(str, folders))}: put it there as torchvision wants it"
    )


def _opened(cls: "type[VisionDataset]", name: str, root: Path, **more: Any) -> "list[VisionDataset]":
    """The parts that are in `root`; an empty list if the data set is incomplete there."""
    choices: list[dict[str, Any]]
    if "train" in inspect.signature(cls).parameters:
        choices = [{"train": train} for train in (True, False)]
    else:
        choices = [{"split": part} for part in _PARTS] if _takes(cls, "split") else [{}]
    parts: list[VisionDataset] = []
    for choice in choices:
        if choice == {"split": "trainval"} and parts:  # train and val in one
            continue
        try:
            parts.append(cls(str(root), **choice, **more))
        except (TypeError, ImportError, NotImplementedError) as error:
            raise InputError(f"torchvision's {name} cannot be opened as images with classes ({error})") from error
        except ValueError as error:
            if "Unknown value" not in str(error):  # the data set does not have this split
                return []
        except (RuntimeError, OSError):
            if more:
                raise
            return []
    if not parts:
        raise InputError(f"torchvision's {name} has splits of its own: make class folders of it, and name their folder")
    return parts


def _takes(cls: type, name: str) -> bool:
    return name in inspect.signature(cls).parameters


def _labels(part: "VisionDataset", name: str) -> list[int]:
    """The label of each image; no image is decoded if the data set has a list of labels."""
    try:
        for attribute in ("targets", "labels", "_labels"):
            values = getattr(part, attribute, None)
            if values is not None and len(values) == len(part):
                return [int(value) for value in values]
        return [int(part[number][1]) for number in range(len(part))]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the items of torchvision's {name} are not (image, class): it is no classification"
        ) from error
