"""The ORL database of faces (Samaria and Harter 1994): 40 people x 10 grey photographs.

The split is the suite's own, for the original has none: people 1 to 16 are for training, 17 to 20 for validation and 21
to 40 for test, so that a test of ten folds has two people in each. The whole photograph of 92 x 112 pixels is scaled to
a square.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from episodes.archives import ImageFiles
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import places
from episodes.errors import InputError, MissingData
from episodes.pictures import prepared

PROTOCOLS = ("people",)
SIZE = 48
_IMAGES = 10  # of each person
_OF_SPLIT = {"train": range(1, 17), "validation": range(17, 21), "test": range(21, 41)}
_PATTERN = r"(?:^|/)s(\d{1,2})/(\d{1,2})\.pgm$"


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split, one channel, people and images in the order of their numbers."""
    path = _located(folders)
    if path is None:
        raise MissingData(
            f"the ORL faces are not in {', '.join(map(str, folders))}: put orl_faces.zip, or the folders s1 to s40 in"
            " it, there; https://cam-orl.co.uk/facedatabase.html describes it"
        )
    files = ImageFiles(path, _PATTERN)

    def whole() -> Contents:
        found: dict[tuple[int, ...], str] = {}
        for name in files.names:
            match = re.search(_PATTERN, name)
            assert match is not None  # it is what was searched for
            found[tuple(map(int, match.groups()))] = name
        people, numbers = _OF_SPLIT[split], range(1, _IMAGES + 1)
        names = [found.get((person, number), "") for person in people for number in numbers]
        if not all(names):
            raise InputError(f"{path} is not the whole of the ORL faces, 10 images of each person: copy it again")

        def fill(images: np.ndarray) -> None:
            for place, name in enumerate(names):
                images[place] = files.image(name, lambda image: prepared(image, size, 1, "squash"))

        about: dict[str, Any] = {"dataset": "orl_faces", "protocol": protocol, "split": split, "source": str(path)}
        about |= {"fit": "squash", "inverted": False}
        classes = [f"s{person}" for person in people]
        return Contents(
            (1, size, size), [_IMAGES] * len(classes), classes, [""] * len(classes), fill, about, files=names
        )

    return cached_bank(f"orl_faces-{split}-{size}-{files.fingerprint}", whole)


def where(folders: list[Path]) -> str:
    """The place of the ORL faces, in words."""
    return str(_located(folders) or "not found")


def _located(folders: list[Path]) -> Path | None:
    """The folder or archive that has the folders of people."""
    for home in places.homes(folders, "orlfaces", "attfaces"):
        if home in folders:
            continue
        archive = next(iter(sorted(home.glob("*.zip"))), None) if home.is_dir() else None
        return archive if archive is not None and not (home / "s1").is_dir() else home
    return None
