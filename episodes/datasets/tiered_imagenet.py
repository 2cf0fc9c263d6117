"""tieredImageNet (Ren et al. 2018): 608 classes of ImageNet, split 351/97/160 by superclass, all their images.

The suite reads the user's copy of ImageNet's training set: unpacked class folders, named by WordNet id.
Images are squashed to a square.
"""

from pathlib import Path

from episodes.archives import ImageFiles
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets.classes import read_classes
from episodes.datasets.wordnet import class_files, of_classes
from episodes.errors import InputError, MissingData
from episodes.pictures import contents, squashed

PROTOCOLS = ("ren",)
SIZE = 84
FEWEST = 732  # images of the smallest class in ImageNet's training set


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split, classes in the order of the published list; groups are the superclasses."""
    rows = [row for row in read_classes("tiered_imagenet") if row["split"] == split]
    files = _located(split, folders)
    if files is None:
        raise MissingData(
            f"tieredImageNet's classes are not in {', '.join(map(str, folders))}: put the class folders"
            " (n01530575/ ...) of ImageNet's training set, unpacked, into a folder tiered_imagenet/ or imagenet/ there"
        )

    def whole() -> Contents:
        found = of_classes([files], {row["wordnet_id"] for row in rows})
        short = [row for row in rows if len(found.get(row["wordnet_id"], ())) < FEWEST]
        if short:
            told = ", ".join(
                f"{row['wordnet_id']} ({row['name']}) has {len(found.get(row['wordnet_id'], ()))}" for row in short[:3]
            )
            more = f" and {len(short) - 3} more have too few" if len(short) > 3 else ""
            raise InputError(
                f"{files.path} does not hold all of tieredImageNet's {split} split, whose classes have {FEWEST} images"
                f" or more: {told}{more}; copy it again"
            )
        named = {f"{row['wordnet_id']} {row['name']}": row for row in rows}
        classes = {
            name: [found[row["wordnet_id"]][file] for file in sorted(found[row["wordnet_id"]])]
            for name, row in named.items()
        }
        groups = {name: row["superclass"] for name, row in named.items()}
        about = {"dataset": "tiered_imagenet", "protocol": protocol, "split": split, "source": str(files.path)}
        return contents(classes, groups, size, about, squashed)

    return cached_bank(f"tiered_imagenet-{split}-{size}-{files.fingerprint}", whole)


def where(folders: list[Path]) -> str:
    """Where ImageNet's class folders are, in words."""
    found = {split: _located(split, folders) for split in ("train", "validation", "test")}
    missing = [f"no {split} classes" for split, files in found.items() if files is None]
    there = dict.fromkeys(str(files.path) for files in found.values() if files)
    return "; ".join([*there, *missing]) if there else "not found"


def _located(split: str, folders: list[Path]) -> ImageFiles | None:
    wanted = {row["wordnet_id"] for row in read_classes("tiered_imagenet") if row["split"] == split}
    return next(class_files(folders, ("tieredimagenet", "imagenet", "ilsvrc"), wanted), None)
