"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): two splits of CIFAR-100's classes.

Both pool the training and test images of CIFAR-100, 600 of each class. CIFAR-FS splits the 100 classes 64/16/20 at
random, FC100 60/20/20 by superclass, so that test classes are far from the trained ones.
"""

import functools
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100

from episodes.archives import files_fingerprint
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets.classes import read_classes
from episodes.datasets.downloads import download
from episodes.errors import InputError
from episodes.pictures import ArrayImages, Picture, contents

SIZE = 32
_PLACES = (".", "cifar", "cifar100", "cifar-100", "CIFAR100", "cifar_fs", "fc100")


def load(dataset: str, split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split of `dataset`, cifar_fs or fc100."""
    root = _root(folders) or _download(folders)
    rows = [row for row in read_classes(dataset) if row["split"] == split]

    def whole() -> Contents:
        try:
            parts = [CIFAR100(str(root), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise InputError(
                f"{root / CIFAR100.base_folder} is not the whole of CIFAR-100: download it again"
            ) from error
        images = np.concatenate([part.data for part in parts])
        labels = np.concatenate([part.targets for part in parts])
        source, label_of = ArrayImages(images), parts[0].class_to_idx
        classes = {
            row["name"]: [Picture(source, int(i)) for i in np.flatnonzero(labels == label_of[row["name"]])]
            for row in rows
        }
        groups = {row["name"]: row.get("superclass", "") for row in rows}
        about = {"dataset": dataset, "protocol": protocol, "split": split, "source": str(root / CIFAR100.base_folder)}
        return contents(classes, groups, size, about)

    mark = files_fingerprint(sorted((root / CIFAR100.base_folder).iterdir()))
    return cached_bank(f"{dataset}-{split}-{size}-{mark}", whole)


cifar_fs = functools.partial(load, "cifar_fs")
fc100 = functools.partial(load, "fc100")


def where(folders: list[Path]) -> str:
    """Where CIFAR-100 is, in words."""
    root = _root(folders)
    return str(root / CIFAR100.base_folder) if root else "not found; downloaded when first used"


def _root(folders: list[Path]) -> Path | None:
    """The folder that holds cifar-100-python/."""
    homes = (folder / name for folder in folders for name in _PLACES)
    return next((home for home in homes if (home / CIFAR100.base_folder / "train").is_file()), None)


def _download(folders: list[Path]) -> Path:
    advice = f"unpack {CIFAR100.url} into a folder cifar100/"
    return download(lambda folder: CIFAR100(str(folder), download=True), "cifar100", "CIFAR-100", advice, folders)
