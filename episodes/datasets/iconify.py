"""The icon sets of the npm package @iconify/json: their drawings, titles, authors and licences, from untrusted files.

The package may be its .tgz, a folder of what is in it, or a part of either, with the files that the package has:
collections.json, where each set has its title, author and licence by the prefix of the set, and json/PREFIX.json with
the drawings of a set. An alias, a second name of a drawing, is no drawing.
"""

import functools
import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from episodes.archives import ImageFiles, is_archive
from episodes.datasets import places
from episodes.errors import InputError
from episodes.svg import Box, Drawing, check

# licences that allow anyone to use, change and pass on the drawings, if the author is named
FREE = frozenset(
    ("Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "OFL-1.1", "Unlicense")
)
_FILES = r"(?:^|/)(?:collections|json/[a-z0-9-]+)\.json$"
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LARGEST = 2**28  # bytes of one file of the package; the largest has 104 million
_MOST_SETS = 2_000
_MOST_DRAWINGS = 200_000  # of one set
_FARTHEST = 100_000  # the largest number of a box
_LONGEST = 300  # characters of a title or an address
_STYLES = {
    "outline": r"outlined?|line|linear",
    "solid": r"solid|filled|fill|bold",
    "duotone": r"duo\w*|two\W?tone",
    "rounded": r"round(?:ed)?",
    "sharp": r"sharp",
    "light": r"light|thin",
    "pixel": r"pixel\w*",
    "colour": r"colou?r(?:ed)?",
}


class IconSet(NamedTuple):
    """One icon set: its prefix, which names it in files, and what credits must say of it."""

    prefix: str
    title: str
    author: str
    author_url: str
    licence: str
    licence_url: str

    @property
    def styles(self) -> tuple[str, ...]:
        """The words for how the set draws, from its title: 'outline', 'solid', 'duotone', 'rounded', 'sharp' ..."""
        found = (word for word, forms in _STYLES.items() if re.search(rf"\b(?:{forms})\b", self.title.casefold()))
        return tuple(found)


class Package:
    """The files of the package, in a folder or an archive; nothing is read before a method is called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = ImageFiles(path, _FILES)

    @property
    def fingerprint(self) -> str:
        return self._files.fingerprint

    @functools.cached_property
    def free_sets(self) -> dict[str, IconSet]:
        """The sets under one of the licences FREE, by prefix, in the order of the prefixes; a part may lack some."""
        names = [name for name in self._files.names if name.rpartition("/")[2] == "collections.json"]
        if len(names) != 1:
            raise InputError(
                f"{self.path} has {len(names)} files collections.json, and the package @iconify/json has one: get it"
                " again with 'npm pack @iconify/json'"
            )
        listed = self._table(names[0], _MOST_SETS)
        home = names[0].removesuffix("collections.json")
        there = set(self._files.names)
        free = [key for key in sorted(listed) if _NAME.fullmatch(key) and f"{home}json/{key}.json" in there]
        sets = [_icon_set(key, listed[key], f"{names[0]} in {self.path}") for key in free]
        return {one.prefix: one for one in sets if one.licence in FREE}

    def names(self, prefix: str) -> list[str]:
        """The names of the drawings of a set, sorted."""
        return sorted(filter(_NAME.fullmatch, self._icons(prefix)[0]))

    def drawings(self, prefix: str, names: Container[str]) -> Iterator[tuple[str, Drawing]]:
        """The drawings of a set that have one of `names`, with the name, in the order of the names.

        A drawing is left out if `svg.check` refuses it, or if its box is no box.
        """
        icons, usual = self._icons(prefix)
        for name in sorted(icons):
            icon = icons[name]
            if name in names and isinstance(icon, dict) and isinstance(icon.get("body"), str):
                box = _box({**usual, **icon})
                if box and _is_safe(icon["body"]):
                    yield name, Drawing(f"{prefix}/{name}", icon["body"], box)

    def _icons(self, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The icons of a set by their names, and what the set says of the boxes of all of them."""
        file = next(name for name in self._files.names if name.endswith(f"json/{prefix}.json"))
        found = self._table(file)
        icons = found.pop("icons", None)
        if not isinstance(icons, dict) or len(icons) > _MOST_DRAWINGS:
            raise InputError(
                f"{file} in {self.path} has no table of {_MOST_DRAWINGS:,} icons or fewer: get the package again"
            )
        return icons, found

    def _table(self, name: str, most: int = 10**6) -> dict[str, Any]:
        try:
            table = json.loads(self._files.read(name, _LARGEST))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} in {self.path} is no JSON ({error}): get the package again") from error
        if not isinstance(table, dict) or len(table) > most:
            raise InputError(f"{name} in {self.path} is no table of {most:,} entries or fewer: get the package again")
        return table


def find(folders: list[Path]) -> Package | None:
    """The first package in `folders`, in a folder iconify/ or icons/ there, or in one of them itself."""
    for home in places.homes(folders, "iconify", "icons"):
        if is_archive(home):
            return Package(home)
        inside = [home, home / "package", home / "json"]  # npm unpacks into package/ or @iconify/json/
        opened = next((path for path in inside if (path / "collections.json").is_file()), None)
        packed = [path for path in sorted(home.iterdir()) if path.name.startswith("iconify-json") and is_archive(path)]
        if opened or packed:
            return Package(opened or packed[0])
    return None


def _icon_set(prefix: str, record: Any, where: str) -> IconSet:
    """What collections.json says of a set, each text cut to a length that a person would read."""
    record = record if isinstance(record, dict) else {}
    author, licence = (record.get(part) if isinstance(record.get(part), dict) else {} for part in ("author", "license"))
    texts = record.get("name"), author.get("name"), author.get("url"), licence.get("spdx"), licence.get("url")
    if not all(isinstance(text, str) for text in (texts[0], texts[1], texts[3])):
        raise InputError(f"the set {prefix} has no title, author or licence in {where}: get the package again")
    return IconSet(prefix, *(str(text or "")[:_LONGEST] for text in texts))


def _box(record: dict[str, Any]) -> Box | None:
    """The box of a drawing; None if its numbers are none, or too large or too small to draw."""
    numbers = [record.get("left", 0), record.get("top", 0), record.get("width", 16), record.get("height", 16)]
    if not all(isinstance(one, int | float) and abs(one) < _FARTHEST for one in numbers) or min(numbers[2:]) < 1:
        return None
    return Box(*map(float, numbers))


def _is_safe(body: str) -> bool:
    try:
        check(body)
    except InputError:
        return False
    return True
