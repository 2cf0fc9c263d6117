"""Lists beside images: which are queries, gallery or junk, which camera took each, and which pairs to compare."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from episodes.archives import ImageFiles, fingerprint
from episodes.datasets import listings
from episodes.errors import InputError

TABLES = (".csv", ".tsv")  # suffixes of files that list images
PAIRS = "pairs"  # the name, without its suffix, of a table of pairs
_NAMES = r"(?:^|/)(?:pairs\.txt|info\.txt|m50_\w+\.txt|gnd_\w+\.(?:json|pkl))$"  # of the lists of known layouts
FILES = rf"(?i:\.csv|\.tsv)$|{_NAMES}"


class Mark(NamedTuple):
    """What lists say of one image: its role, query, gallery, junk or '', and its camera, '' if unknown."""

    role: str = ""
    camera: str = ""


class Answers(NamedTuple):
    """The gallery images, by name, that are easy, hard and junk for one query; all others are wrong."""

    easy: tuple[str, ...]
    hard: tuple[str, ...]
    junk: tuple[str, ...]


class Pair(NamedTuple):
    """Two images by name, and the fold of the pair."""

    fold: str
    first: str
    second: str


class Lists(NamedTuple):
    """What the lists beside the images say, by the names of images; an empty part is not listed.

    marks    of the images of the test; pairs  in the order of their list
    answers  of each query, in place of its label: which gallery images are right
    """

    marks: Mapping[str, Mark] = {}
    pairs: Sequence[Pair] = ()
    answers: Mapping[str, Answers] = {}

    @property
    def digest(self) -> str:
        """A digest of all that the lists say, '' if they say nothing."""
        return fingerprint((sorted(self.marks.items()), list(self.pairs), sorted(self.answers.items()))) * any(self)


def is_list(name: str) -> bool:
    """Whether a file of this name may list images."""
    return re.search(FILES, name) is not None


def marks_of(rows: Sequence[listings.Row], images: Sequence[str]) -> dict[str, Mark]:
    """The marks in the rows of a csv file, by the image of each row; {} if no row has a role."""
    if not any(row.role for row in rows):
        return {}
    return {name: Mark(row.role, row.camera) for row, name in zip(rows, images) if row.role}


def listed_pairs(files: ImageFiles, name: str, images: Iterable[str]) -> list[Pair]:
    """The pairs in a csv file with the columns fold, first and second; InputError if it lists no pairs of `images`."""
    source = f"{name} in {files.path}"
    lines = listings.lines_of_bytes(files.read(name), source, ("fold", "first", "second"))
    finder, pairs = listings.Finder(images), []
    for line, (fold, first, second) in lines:
        one, other = finder.find([listings.Row(file, "") for file in (first, second)], f"line {line} of {source}")
        pairs.append(Pair(fold, one, other))
        if not fold or one == other:
            fault = "pairs an image with itself" if fold else "names no fold"
            raise InputError(f"line {line} of {source} {fault}: give each pair a fold and two images")
    if not pairs:
        raise InputError(f"{source} lists no pairs: add some, or move it away")
    return pairs
