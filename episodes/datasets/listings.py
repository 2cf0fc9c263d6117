"""csv and tsv files, in their usual forms, that say the class and perhaps the split of each image."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from episodes.archives import read_regular
from episodes.datasets import places
from episodes.errors import InputError, counted

_FILE_COLUMNS = (
    *("filename", "file", "file_name", "image", "image_name", "path"),
    *("image_path", "img_path", "file_path", "filepath", "image_id", "name", "id"),
)
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "labels")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "fold")
_SEPARATORS = (",", ";", "\t", "|")


class Row(NamedTuple):
    """One line: the file as the line names it, with forward slashes; its label; its split, '' if no column says it."""

    file: str
    label: str
    split: str = ""


class Listing(NamedTuple):
    """The rows of a csv file, and the names of the columns that say nothing about files, labels and splits."""

    rows: list[Row]
    unused: list[str]


def read(data: bytes, source: str) -> Listing:
    """The rows of a csv file with these bytes; InputError, which names `source`, if the file lacks any of them.

    The header decides whether commas, semicolons, tabs or bars separate the columns. Text is UTF-8 or UTF-16. A column
    called split holds a word for a split in every line; a column called set, subset, partition, phase or fold is one if
    it holds such words.
    """
    try:
        table = cells_of_lines(data)
        header = [name.strip().lower() for name in table[0][1]] if table else []
        file, label = _position(header, _FILE_COLUMNS), _position(header, _LABEL_COLUMNS)
        if file is None or label is None:
            raise InputError(
                f"{source} needs a header with the columns filename and label, not"
                f" {', '.join(header) or 'an empty file'}: write them into its first line, or move it away"
            )
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{source} cannot be read as a csv file in UTF-8 or UTF-16 ({error})") from error
    split = _split_column(header, [cells for _, cells in table[1:]])
    rows = []
    for line, cells in table[1:]:
        if any(map(str.strip, cells[len(header) :])):
            raise InputError(f"line {line} of {source} has more cells than the header: quote names that hold a comma")
        cells = [*map(str.strip, cells), *[""] * (len(header) - len(cells))]
        if not (cells[file] and cells[label]):
            raise InputError(f"line {line} of {source} lacks a file name or a label")
        word = "" if split is None else _split(cells[split], cells[file], source)
        rows.append(Row(cells[file].replace("\\", "/"), cells[label], word))
    unused = [name for place, name in enumerate(header) if name and place not in (file, label, split)]
    return Listing(rows, unused)


def _text(data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16, with a byte order mark or without one."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    if b"\0" in data[:2]:  # no file name begins so: the first character is in ASCII and has two bytes
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    return data.decode("utf-8-sig")


def cells_of_lines(data: bytes) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank, with the separator that gives the header most columns.

    Raises UnicodeError or csv.Error for bytes that are no csv file in UTF-8 or UTF-16.
    """
    lines = io.StringIO(_text(data), newline="")
    header = lines.readline()
    separator = max(_SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
    lines.seek(0)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]


def lines_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the cells of `columns` of each line of a csv file, which has a header with these columns.

    Raises InputError if the file cannot be read, its header lacks a column, or a line has more or fewer cells.
    """
    try:
        table = cells_of_lines(read_regular(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a csv file in UTF-8 or UTF-16 ({error})") from error
    header = [name.strip().lower() for name in table[0][1]] if table else []
    if not set(columns) <= set(header):
        raise InputError(
            f"{path} needs a header with the columns {', '.join(columns)}, not {', '.join(header) or 'an empty file'}"
        )
    positions = [header.index(name) for name in columns]
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise InputError(f"line {line} of {path} has {counted(len(cells), 'cell')}, but the header {len(header)}")
        yield line, [cells[position].strip() for position in positions]


def _position(header: Sequence[str], names: Iterable[str]) -> int | None:
    """The place in the header of the first of `names` that the header has."""
    return next((header.index(name) for name in names if name in header), None)


def _split_column(header: list[str], lines: list[list[str]]) -> int | None:
    """The place of the column that says the split of each image."""
    for name in _SPLIT_COLUMNS:
        if name in header:
            place = header.index(name)
            if name == "split" or any(
                places.word_for_split(cells[place].strip()) for cells in lines if place < len(cells)
            ):
                return place
    return None


def _split(word: str, file: str, source: str) -> str:
    split = places.word_for_split(word)
    if split is None:
        raise InputError(f"{source} has '{word}' as the split of {file}: write train, val or test into each line")
    return split


class Finder:
    """Finds the images of a folder by the names that a csv file has for them.

    A name may be a path from anywhere: the longest end that it shares with the path of an image counts. The suffix may
    be missing or another one.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._images = set(images)
        self._by_end: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in sorted(self._images):
            for end in _ends(name):
                self._by_end.setdefault(end, []).append(name)
                self._by_stem.setdefault(_stem(end), []).append(name)

    def find(self, rows: Sequence[Row], source: str) -> list[str]:
        """The image of each row; InputError if a row has no image or several images."""
        found = [self._matches(row.file.removeprefix("./")) for row in rows]
        roots = {root for root, _ in found if root is not None}
        # if files of /data are there, and not those of /data/owl, an image of the same name is another image
        absent = {root for root in roots if any(above in roots for above in _above(root))}
        images = []
        for row, (root, matches) in zip(rows, found):
            if len(matches) != 1 or root in absent:
                raise InputError(f"{source} lists the image {row.file}, which {_fault(matches, root in absent)}")
            images.append(matches[0])
        return images

    def _matches(self, file: str) -> tuple[str | None, list[str]]:
        """The part of `file` before the longest end that it shares with images, and these images."""
        if file in self._images:
            return "", [file]
        for end in _ends(file):
            matches = self._by_end.get(end) or self._by_stem.get(end) or self._by_stem.get(_stem(end))
            if matches:
                return file[: len(file) - len(end)], matches
        return None, []


def _fault(matches: list[str], elsewhere: bool) -> str:
    """What is wrong with a name that these images match; elsewhere: the name is in a folder that is not there."""
    if not matches:
        return "is not there: correct its name, or leave the line out"
    if elsewhere:
        return (
            f"is not there, and other lines do not name that folder: if {matches[0]} is the image, write it so, and all"
            " others alike"
        )
    return f"is there {len(matches)} times, as in {matches[0]}: write more of its path"


def _ends(path: str) -> list[str]:
    """'a/b/c', 'b/c', 'c' of 'a/b/c'."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _above(root: str) -> list[str]:
    """'', 'a/' of 'a/b/'."""
    parts = root.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:count]) for count in range(len(parts))]


def _stem(path: str) -> str:
    """The path without its last suffix."""
    return path.removesuffix(PurePosixPath(path).suffix)
