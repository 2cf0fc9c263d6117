"""The data sets by name, and `load_dataset`, which opens any split of them as an ImageBank."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from episodes.bank import ImageBank, cache_folder
from episodes.datasets import glyphs, omniglot
from episodes.errors import InputError, unknown_name

SPLITS = ("train", "validation", "test")


class Source(NamedTuple):
    """One data set: `load(split, protocol, size, folders)` gives the bank; the first protocol is the default.

    where: given the folders, where its files are, in words.
    """

    load: Callable[[str, str, int, list[Path]], ImageBank]
    protocols: tuple[str, ...]
    size: int
    about: str
    where: Callable[[list[Path]], str]


SOURCES = {
    "omniglot": Source(
        omniglot.load,
        omniglot.PROTOCOLS,
        omniglot.SIZE,
        "1,623 handwritten characters of 50 alphabets x 20 drawings (Lake et al. 2015)",
        omniglot.where,
    ),
    "glyphs": Source(
        glyphs.load,
        glyphs.PROTOCOLS,
        glyphs.SIZE,
        f"{glyphs.CHARACTERS} printed characters of {len(glyphs.SCRIPTS)} scripts x 20 renderings",
        lambda folders: "embedded",
    ),
}


def resolve(name: str) -> tuple[str, str]:
    """'omniglot' or 'omniglot:lake' as (data set, protocol); InputError for names that there are not."""
    dataset, _, protocol = name.partition(":")
    if dataset not in SOURCES:
        raise unknown_name("data set", dataset, SOURCES)
    protocols = SOURCES[dataset].protocols
    if protocol and protocol not in protocols:
        raise unknown_name(f"protocol of {dataset}", protocol, protocols)
    return dataset, protocol or protocols[0]


def data_folders(data: str | os.PathLike | None = None) -> list[Path]:
    """Where data sets are looked for, in this order: `data` or else $FEWSHOT_DATA, then the cache folder."""
    chosen = data or os.environ.get("FEWSHOT_DATA")
    if chosen and not Path(chosen).is_dir():
        raise InputError(f"the data folder {chosen} ({'--data' if data else 'FEWSHOT_DATA'}) does not exist")
    return [*([Path(chosen)] if chosen else []), cache_folder() / "data"]


def load_dataset(name: str, split: str, *, data: str | os.PathLike | None = None, size: int | None = None) -> ImageBank:
    """One split of a data set as a memory-mapped ImageBank, prepared in the cache folder on first use.

    name   'omniglot', 'omniglot:lake', 'glyphs': data set, and protocol where it is not the default one
    split  'train', 'validation' or 'test': disjoint classes
    data   the folder that holds the data sets; by default $FEWSHOT_DATA
    size   height and width in pixels; by default the customary one

    Raises InputError with a sentence to act on; MissingData where the files are not to be had.
    """
    dataset, protocol = resolve(name)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if size is not None and not 8 <= size <= 1024:
        raise InputError(f"an image size of {size} pixels is not between 8 and 1024")
    source = SOURCES[dataset]
    return source.load(split, protocol, size or source.size, data_folders(data))
