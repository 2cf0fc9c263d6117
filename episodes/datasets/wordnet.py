"""Image files of ImageNet classes, found by the WordNet ids in their paths."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from episodes.archives import ImageFiles
from episodes.datasets import places
from episodes.pictures import Picture

_HOLDERS = ("images", "data", "train", "val", "valid", "validation", "test", "clsloc")


def pattern(wanted: Iterable[str]) -> str:
    """The pattern of the paths n01532829/any.jpg and n01532829....jpg of the wanted classes.

    Images of ImageNet's validation set do not match: some users sort them into class folders, but no data set here uses
    them.
    """
    ids = "|".join(sorted(wanted))
    return rf"(?:^|/)(?:{ids})(?:/(?!ILSVRC2012_val_)[^/]+|[^/]*)\.(?i:jpe?g|png|bmp|webp)$"


def class_files(folders: list[Path], names: tuple[str, ...], wanted: Collection[str]) -> Iterator[ImageFiles]:
    """Folders that hold wanted classes, and whose names begin with one of `names` (squashed) or are in `folders`."""
    for home in places.homes(folders, *names):
        if home.is_dir():
            files = ImageFiles(home, pattern(wanted), holds_classes(wanted, names))
            if files.names:
                yield files


def holds_classes(wanted: Collection[str], names: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether to enter a folder by its name: the folder of a wanted class, or one that may hold such folders."""
    return lambda name: name in wanted or places.squashed(name) in _HOLDERS or places.squashed(name).startswith(names)


def of_classes(sources: list[ImageFiles], wanted: Collection[str]) -> dict[str, dict[str, Picture]]:
    """The pictures of each wanted class by file name; the first picture if a name is there twice."""
    found: dict[str, dict[str, Picture]] = {}
    for source in sources:
        for path in source.names:
            if path.endswith(".csv"):
                continue
            *_, parent, name = ["", *path.split("/")]
            key = parent if parent in wanted else name[:9]
            found.setdefault(key, {}).setdefault(name, Picture(source, path))
    return found
