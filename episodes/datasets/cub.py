"""CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 kinds of birds, split as in A Closer Look.

Chen et al. (2019) take, of the classes numbered from 0, every even one for training, i % 4 == 1 for validation and
i % 4 == 3 for test: 100/50/50. The suite takes the middle square of each photograph, and does not crop to the bird.
"""

from pathlib import Path

from episodes.archives import ImageFiles
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import places
from episodes.errors import InputError, MissingData
from episodes.pictures import Picture, contents

PROTOCOLS = ("closer-look",)
SIZE = 84
CLASSES = 200
IMAGES = 11_788
_OF_SPLIT = {"train": (0, 2), "validation": (1,), "test": (3,)}  # class number modulo 4
_PATTERN = r"(?:^|/)\d{3}\.[^/]+/[^/]+\.(?i:jpe?g|png)$"


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split, classes in the order of their numbers."""
    path = _located(folders)
    if path is None:
        raise MissingData(
            f"CUB-200-2011 is not in {', '.join(map(str, folders))}: put CUB_200_2011.tgz, or the files in it, there;"
            " https://www.vision.caltech.edu/datasets/cub_200_2011/ has it"
        )
    files = ImageFiles(path, _PATTERN, lambda name: name != "segmentations")

    def whole() -> Contents:
        classes: dict[str, list[Picture]] = {}
        for name in files.names:
            classes.setdefault(name.split("/")[-2], []).append(Picture(files, name))
        if (len(classes), len(files.names)) != (CLASSES, IMAGES):
            raise InputError(
                f"{path} has {len(files.names):,} images of {len(classes)} classes, and CUB-200-2011 has {IMAGES:,} of"
                f" {CLASSES}: download it again"
            )
        chosen = {name: classes[name] for i, name in enumerate(sorted(classes)) if i % 4 in _OF_SPLIT[split]}
        return contents(chosen, {}, size, {"dataset": "cub", "protocol": protocol, "split": split, "source": str(path)})

    return cached_bank(f"cub-{split}-{size}-{files.fingerprint}", whole)


def where(folders: list[Path]) -> str:
    """The place of CUB-200-2011, in words."""
    return str(_located(folders) or "not found")


def _located(folders: list[Path]) -> Path | None:
    homes = [home for home in places.homes(folders, "cub200", "cub") if home not in folders]
    return next((home / "images" if (home / "images").is_dir() else home for home in homes), None)
