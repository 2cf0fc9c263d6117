"""icons: hundreds of names, such as 'arrow left', each drawn by at least twenty icon sets of the package @iconify/json.

A class is a name, its images are the drawings that freely licensed sets publish under the name, rendered by resvg. The
rules need no list, so a part of the package with the same drawings gives the same bank:

1. Names that at least SETS sets draw.
2. Of drawings that look the same, such as those of a set and of its forks, the first is kept: of the name that more
   sets draw, then in the order of names and prefixes. Of two names for one thing, the rarer so loses its drawings.
3. Names that still have at least FEWEST drawings.

Three split protocols:
names   a name belongs to the split that a hash of its letters gives, so that later names move no others
sets    all splits have the same classes, drawn by different sets: new styles of known things. The sets of one author
        are in one split, that of a hash of the author's name
styles  names are split as by `names`, and a class is a name in one style, such as 'outline arrow left' or 'solid arrow
        left', whose group is the style (see icon_styles.py): for the test protocol `domain`
"""

import collections
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import iconify
from episodes.datasets.icon_styles import STYLES, styles
from episodes.datasets.iconify import IconSet, Package
from episodes.errors import InputError, MissingData
from episodes.likeness import distinct, shapes
from episodes.svg import Drawing, rendered

PROTOCOLS = ("names", "sets", "styles")
SIZE = 32
SETS = 20  # that draw a name
FEWEST = 20  # drawings of a class, which fill an episode of five shots and fifteen queries
ALIKE = 0.93  # correlation of two drawings above which they look the same: see docs/data-sets.md
CREDITS = "credits.csv"  # beside the images of a prepared bank
_COMPARED = 64  # pixels at which drawings are compared, whatever the size of the bank
_VERSION = 1  # of the rules above
# shares of the splits, and the fewest drawings of a class of the split protocols 'sets' and 'styles'
_OF_NAMES = {"train": 0.64, "validation": 0.16, "test": 0.20}
_SHARES = {"names": _OF_NAMES, "styles": _OF_NAMES, "sets": {"train": 0.50, "validation": 0.20, "test": 0.30}}
_FEWEST_OF_SETS = {"train": 6, "validation": 4, "test": 6}
_FEWEST_OF_STYLES = {"train": 4, "validation": 10, "test": 10}


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split: ink bright on dark, `size` x `size` pixels; the file of an image is PREFIX/NAME.

    Its folder has credits.csv with the title, author and licence of each set.
    """
    package = iconify.find(folders)
    if package is None:
        raise MissingData(
            f"the package @iconify/json is not in {', '.join(map(str, folders))}: put what 'npm pack @iconify/json'"
            " gives, or the files in it, into a folder iconify/ there"
        )

    def part() -> Contents:
        whole, sets = _whole(package, size), package.free_sets
        chosen = _chosen(whole, split, protocol, sets)
        if protocol == "styles":
            chosen = _in_styles(chosen, split, _whole(package, SIZE))
        about = {"dataset": "icons", "protocol": protocol, "split": split, "source": str(package.path)}
        return _contents(whole.images.numpy(), whole.files, chosen, about, sets)

    return cached_bank(f"icons-{protocol}-{split}-{size}-{_VERSION}-{package.fingerprint}", part)


def where(folders: list[Path]) -> str:
    """Where the package is, in words."""
    package = iconify.find(folders)
    return str(package.path) if package else "not found"


def set_names(bank: ImageBank) -> list[str]:
    """The prefix of the set that drew each image of a bank of icons, (N,)."""
    return [file.partition("/")[0] for file in bank.files]


def icon_sets(folders: list[Path]) -> Mapping[str, IconSet]:
    """The freely licensed sets of the package in `folders`, with their titles, authors, licences and styles."""
    package = iconify.find(folders)
    return package.free_sets if package else {}


def _whole(package: Package, size: int) -> ImageBank:
    """The bank of all classes, from which the splits are cut."""

    def contents() -> Contents:
        drawings = _without_look_alikes(_drawings(package))
        images = rendered(drawings, size, "icons")
        files = [drawing.name for drawing in drawings]
        about = {"dataset": "icons", "protocol": "", "split": "", "source": str(package.path)}
        return _contents(images, files, _by_class(files, range(len(files))), about, package.free_sets)

    return cached_bank(f"icons-{size}-{_VERSION}-{package.fingerprint}", contents)


def _drawings(package: Package) -> list[Drawing]:
    """The drawings of the names that enough sets draw; those of names in more sets first, then by name and prefix."""
    sets = list(package.free_sets)
    counts = collections.Counter(name for prefix in sets for name in package.names(prefix))
    common = {name for name, count in counts.items() if count >= SETS}
    if not common:
        raise InputError(f"{package.path} has no name that {SETS} sets draw: it is too small a part of @iconify/json")
    found = [pair for prefix in sets for pair in package.drawings(prefix, common)]
    return [drawing for _, drawing in sorted(found, key=lambda pair: (-counts[pair[0]], pair[0]))]


def _without_look_alikes(drawings: list[Drawing]) -> list[Drawing]:
    """The drawings that show something which no earlier one shows, of names with enough of them."""
    vectors, shown = shapes(rendered(drawings, _COMPARED, "icons compared"))
    seen = np.flatnonzero(shown)
    kept = [drawings[place] for place in seen[distinct(vectors[seen], ALIKE)]]
    counts = collections.Counter(_class(drawing.name) for drawing in kept)
    return [drawing for drawing in kept if counts[_class(drawing.name)] >= FEWEST]


def _class(file: str) -> str:
    return file.partition("/")[2]


def _chosen(whole: ImageBank, split: str, protocol: str, sets: Mapping[str, IconSet]) -> dict[str, list[int]]:
    """The images of one split by the name of the class."""
    shares = _SHARES[protocol]
    if protocol != "sets":
        places = [place for place, file in enumerate(whole.files) if _split(_class(file), shares) == split]
        return _by_class(whole.files, places)
    of_set = {prefix: _split(one.author, shares) for prefix, one in sets.items()}
    parts = {
        part: _by_class(whole.files, (i for i, prefix in enumerate(set_names(whole)) if of_set[prefix] == part))
        for part in shares
    }
    enough = [
        name
        for name in parts[split]
        if all(len(parts[part].get(name, ())) >= fewest for part, fewest in _FEWEST_OF_SETS.items())
    ]
    return {name: parts[split][name] for name in enough}


def _in_styles(chosen: Mapping[str, list[int]], split: str, whole: ImageBank) -> dict[str, list[int]]:
    """The images of the chosen classes by style and name, 'outline/arrow-left', of names with enough in each style.

    whole: the bank of all classes at SIZE pixels, by which the style of a set is judged
    """
    prefixes = set_names(whole)
    of_set = styles(whole.images[:, 0].numpy(), prefixes)
    parts = {
        style: {name: [i for i in places if of_set.get(prefixes[i]) == style] for name, places in chosen.items()}
        for style in STYLES
    }
    fewest = _FEWEST_OF_STYLES[split]
    enough = [name for name in chosen if all(len(parts[style][name]) >= fewest for style in STYLES)]
    return {f"{style}/{name}": parts[style][name] for style in STYLES for name in enough}


def _split(text: str, shares: Mapping[str, float]) -> str:
    """The split of a text: where its hash, as a number from 0 to 1, falls among the shares in their order."""
    place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
    ends = np.cumsum(list(shares.values()))
    return list(shares)[min(int(np.searchsorted(ends, place, side="right")), len(shares) - 1)]


def _by_class(files: Iterable[str], places: Iterable[int]) -> dict[str, list[int]]:
    """The places of images by the name of their class, names and prefixes in the order of the alphabet."""
    names = list(files)
    found: dict[str, list[int]] = {}
    for place in sorted(places, key=lambda place: names[place].partition("/")[::-2]):
        found.setdefault(_class(names[place]), []).append(place)
    return found


def _contents(
    images: np.ndarray,
    files: Iterable[str],
    chosen: Mapping[str, list[int]],
    about: dict[str, Any],
    sets: Mapping[str, IconSet],
) -> Contents:
    """A bank of the chosen `images`, (N, size, size) or (N, 1, size, size), with the credits of their sets."""
    if not chosen:
        raise InputError(
            f"{about['source']} has no name with {FEWEST} different drawings for icons {about['split']}: it is too"
            " small a part of @iconify/json"
        )
    names, order = list(files), [place for places in chosen.values() for place in places]

    def fill(array: np.ndarray) -> None:
        np.take(images.reshape(len(images), 1, *images.shape[-2:]), order, axis=0, out=array)

    kept = [names[place] for place in order]
    return Contents(
        (1, *images.shape[-2:]),
        [len(places) for places in chosen.values()],
        [re.sub("[-/]", " ", name) for name in chosen],
        [name.rpartition("/")[0] for name in chosen],
        fill,
        {**about, "fit": "squash", "inverted": True},
        kept,
        {CREDITS: credits(kept, sets)},
    )


def credits(files: Iterable[str], sets: Mapping[str, IconSet]) -> str:
    """A csv table with the title, author, licence and styles of each set that drew one of `files`, and how many."""
    counts = collections.Counter(file.partition("/")[0] for file in files)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["set", "title", "author", "author_url", "licence", "licence_url", "styles", "images"])
    for prefix in sorted(counts):
        one = sets[prefix]
        table.writerow([*one, " ".join(one.styles), counts[prefix]])
    return text.getvalue()
