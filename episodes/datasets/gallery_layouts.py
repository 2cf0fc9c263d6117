"""Known layouts of query and gallery sets and of pairs: Market-1501, LFW, revisited Oxford and Paris, Brown's patches.

Each is read as it is published. Classes that the test names are for the test, the others for training.
"""

import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from episodes import pickles
from episodes.archives import ImageFiles
from episodes.datasets import galleries
from episodes.datasets.galleries import Answers, Lists, Mark, Pair
from episodes.errors import InputError
from episodes.pictures import Picture, Prepared

_MARKET = {"query": "query", "bounding_box_test": "gallery"}  # the role of the images in each folder of the test
_PERSON = re.compile(r"(-1|\d{1,9})_c(\d{1,4})")  # the beginning of a name of Market-1501: person and camera
_PATCH, _SHEET = 64, 1024  # pixels of a patch of Brown et al. and of the sheets that hold 16 x 16 patches
_STANDARD = "m50_100000_100000_0.txt"  # the test pairs among Brown's lists

Classes = dict[str, list[Picture]]


class Known(NamedTuple):
    """The classes of each split of a known layout, what its lists say, and remarks about what was left out."""

    splits: dict[str, Classes]
    lists: Lists
    remarks: list[str]


def read(files: ImageFiles) -> Known | None:
    """The images at a path whose files are in a known layout; None if they are in none.

    InputError, which names the place, if the lists of a layout are damaged or name images that are not there.
    """
    parts = {part for name in files.names for part in name.split("/")[:-1]}
    if parts >= _MARKET.keys():
        return _market(files)
    lists = [name for name in files.names if galleries.is_list(name) and not name.lower().endswith(galleries.TABLES)]
    for pattern, layout in _BY_LIST.items():
        found = [name for name in lists if re.search(pattern, name)]
        if found:
            return layout(files, found)
    return None


# --- Market-1501 (Zheng et al. 2015)


def _market(files: ImageFiles) -> Known:
    """Folders query, bounding_box_test and bounding_box_train of images such as 0002_c1s1_000451_03.jpg.

    Images of the person -1, which are to be ignored, are left out; those of the person 0000 are distractors: gallery
    images of no query.
    """
    splits: dict[str, Classes] = {"train": {}, "test": {}}
    marks, ignored = {}, 0
    for name in files.names:
        folder, _, file = name.rpartition("/")
        folder, person = folder.rpartition("/")[2], _PERSON.match(file)
        if galleries.is_list(name) or folder not in (*_MARKET, "bounding_box_train"):
            continue
        if person is None:
            raise InputError(
                f"{name} in {files.path} does not begin with a person and a camera, as in 0002_c1: move it"
            )
        if person[1] == "-1":
            ignored += 1
            continue
        split = "test" if folder in _MARKET else "train"
        splits[split].setdefault(person[1], []).append(Picture(files, name))
        if split == "test":
            marks[name] = Mark(_MARKET[folder], person[2])
    remarks = [f"{ignored:,} images of the person -1 are left out"] if ignored else []
    return Known({split: classes for split, classes in splits.items() if classes}, Lists(marks=marks), remarks)


# --- Labeled Faces in the Wild (Huang et al. 2007)


def _lfw(files: ImageFiles, found: list[str]) -> Known:
    """Class folders, and pairs.txt: folds and pairs in its first line, then for each fold as many lines 'NAME i j' as
    'NAME i OTHER j'."""
    source = f"{found[0]} in {files.path}"
    classes: Classes = {}
    for name in files.names:
        if not galleries.is_list(name):
            classes.setdefault(name.split("/")[-2] if "/" in name else "", []).append(Picture(files, name))
    by_stem = {PurePosixPath(one.key).stem: one.key for pictures in classes.values() for one in pictures}
    head, *lines = [line.split() for line in _text(files, found[0]).splitlines() if line.strip()] or [[]]
    if not (1 <= len(head) <= 2 and all(map(_is_number, head))):
        raise InputError(f"the first line of {source} gives neither the folds nor the number of pairs: copy it again")
    count = int(head[-1])
    if len(lines) != 2 * count * (int(head[0]) if len(head) == 2 else 1):
        raise InputError(f"{source} has {len(lines):,} pairs, and not as many as its first line says: copy it again")
    pairs = []
    for number, cells in enumerate(lines):
        if len(cells) not in (3, 4) or not all(map(_is_number, cells[1::2] if len(cells) == 4 else cells[1:])):
            raise InputError(f"line {number + 2} of {source} is neither 'NAME i j' nor 'NAME i OTHER j': copy it again")
        people = (cells[0], cells[0]) if len(cells) == 3 else (cells[0], cells[2])
        wanted = [f"{person}_{int(image):04d}" for person, image in zip(people, (cells[1], cells[-1]))]
        one, other = (_there(by_stem, image, f"line {number + 2} of {source}") for image in wanted)
        pairs.append(Pair(str(number // (2 * count) + 1), one, other))
    return _split_by_pairs(classes, pairs)


# --- the revisited Oxford and Paris buildings (Radenovic et al. 2018)


def _revisited(files: ImageFiles, found: list[str]) -> Known:
    """Images, and the ground truth gnd_*.json or .pkl: imlist, qimlist, and gnd, which gives for each query its box and
    the numbers of its easy, hard and junk images. Queries are cut to their boxes.

    A pickle is read without running its code, as plain data alone. The class of an image is its name without its
    number: the landmark of a query, a word of the search that found a gallery image.
    """
    name = min(found, key=lambda one: (not one.endswith(".json"), one))
    source = f"{name} in {files.path}"
    truth = _plain(files, name, source)
    try:
        gallery, queries, given = ([*truth[part]] for part in ("imlist", "qimlist", "gnd"))
        if len(queries) != len(given) or not queries:
            raise ValueError
        by_stem = {PurePosixPath(one).stem: one for one in files.names if not galleries.is_list(one)}
        gallery, queries = ([_there(by_stem, str(one), source) for one in part] for part in (gallery, queries))
        answers, boxes = {}, {}
        for query, one in zip(queries, given):
            boxes[query] = tuple(float(side) for side in one["bbx"])
            numbers = [_numbers(one.get(part, ()), len(gallery)) for part in Answers._fields]
            answers[query] = Answers(*(tuple(gallery[number] for number in part) for part in numbers))
            if len(boxes[query]) != 4:
                raise ValueError
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source} is no ground truth of imlist, qimlist and gnd with bbx, easy, hard and junk: copy it again"
        ) from error
    classes: Classes = {}
    for one in [*queries, *gallery]:
        landmark = re.sub(r"_\d+$", "", PurePosixPath(one).stem)
        classes.setdefault(landmark, []).append(Picture(_Boxed(files, boxes) if one in boxes else files, one))
    marks = {**dict.fromkeys(gallery, Mark("gallery")), **dict.fromkeys(queries, Mark("query"))}
    return Known({"test": classes}, Lists(marks=marks, answers=answers), [])


class _Boxed:
    """Images cut to their boxes (left, top, right, bottom)."""

    def __init__(self, files: ImageFiles, boxes: Mapping[str, Any]) -> None:
        self._files, self._boxes = files, boxes

    def image(self, key: str, prepare: Callable[[Image.Image], Prepared]) -> Prepared:
        def cut(image: Image.Image) -> Prepared:
            left, top, right, bottom = map(round, self._boxes[key])
            box = max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise InputError(f"the box of the query {key} is outside of its image: copy the ground truth again")
            return prepare(image.crop(box))

        return self._files.image(key, cut)

    def name(self, key: str) -> str:
        return key


# --- the patches of Brown et al. 2011


def _brown(files: ImageFiles, found: list[str]) -> Known:
    """Sheets of 16 x 16 patches, info.txt with the 3D point of each patch, and a list m50_*.txt of pairs: patch, point
    and a number that is not used, twice. Patches of one point are one class."""
    lists = [name for name in found if "m50_" in name]
    infos = [name for name in files.names if name.rpartition("/")[2] == "info.txt"]
    name = next((one for one in lists if one.endswith(_STANDARD)), lists[0])
    if (len(lists) > 1 and not name.endswith(_STANDARD)) or not infos:
        raise InputError(f"{files.path} needs info.txt and one list of pairs, {_STANDARD} or another one alone")
    sheets = sorted(one for one in files.names if re.search(r"(?:^|/)patches\d+\.\w+$", one))
    points = [line.split()[0] for line in _text(files, infos[0]).splitlines() if line.strip()]
    side = _SHEET // _PATCH
    if len(points) > len(sheets) * side**2:
        raise InputError(
            f"{infos[0]} in {files.path} has {len(points):,} patches, and the sheets have fewer: copy them"
        )
    source, classes = _Patches(files, sheets), dict[str, list[Picture]]()
    for number, point in enumerate(points):
        classes.setdefault(point, []).append(Picture(source, number))
    pairs = []
    for line, text in enumerate(_text(files, name).splitlines(), 1):
        cells = text.split()
        if not cells:
            continue
        chosen = [int(cell) for cell in (cells[0], cells[3])] if len(cells) > 4 and all(map(_is_number, cells)) else []
        if not chosen or max(chosen) >= len(points) or [points[one] for one in chosen] != [cells[1], cells[4]]:
            raise InputError(f"line {line} of {name} in {files.path} gives no two patches of info.txt: copy it again")
        pairs.append(Pair("", source.name(chosen[0]), source.name(chosen[1])))
    return _split_by_pairs(classes, pairs)


class _Patches:
    """The patches of Brown's sheets by their numbers, row by row."""

    def __init__(self, files: ImageFiles, sheets: list[str]) -> None:
        self._files, self._sheets = files, sheets
        self._sheet = functools.lru_cache(maxsize=8)(lambda name: files.image(name, Image.Image.copy))

    def image(self, key: int, prepare: Callable[[Image.Image], Prepared]) -> Prepared:
        sheet, place = divmod(key, (_SHEET // _PATCH) ** 2)
        row, column = divmod(place, _SHEET // _PATCH)
        left, top = column * _PATCH, row * _PATCH
        return prepare(self._sheet(self._sheets[sheet]).crop((left, top, left + _PATCH, top + _PATCH)))

    def name(self, key: int) -> str:
        return f"{self._sheets[key // (_SHEET // _PATCH) ** 2]}#{key}"


_BY_LIST = {r"(?:^|/)gnd_": _revisited, r"(?:^|/)m50_": _brown, r"(?:^|/)pairs\.txt$": _lfw}

# --- what several layouts need


def _split_by_pairs(classes: Classes, pairs: list[Pair]) -> Known:
    """The classes of paired images are for the test, the others for training, unless they have a single image."""
    label_of = {one.source.name(one.key): label for label, pictures in classes.items() for one in pictures}
    paired = {label_of[name] for pair in pairs for name in (pair.first, pair.second)}
    others = {label: pictures for label, pictures in classes.items() if label not in paired}
    train = {label: pictures for label, pictures in others.items() if len(pictures) > 1}
    test = {label: pictures for label, pictures in classes.items() if label in paired}
    left = len(others) - len(train)
    remarks = [f"{left:,} classes of a single image are left out of the training"] if left else []
    return Known({**({"train": train} if train else {}), "test": test}, Lists(pairs=pairs), remarks)


def _text(files: ImageFiles, name: str) -> str:
    try:
        return files.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} in {files.path} is no text in UTF-8: copy it again") from error


def _plain(files: ImageFiles, name: str, source: str) -> Any:
    """What a JSON file or a pickle says; no code of a pickle is run."""
    if name.endswith(".pkl"):
        return pickles.read(io.BytesIO(files.read(name)), source)
    try:
        return json.loads(_text(files, name))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} cannot be read as JSON: copy it again") from error


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\d{1,9}", cell) is not None


def _numbers(values: Iterable[Any], count: int) -> list[int]:
    """Whole numbers from 0 to `count` - 1; ValueError if they are not."""
    numbers = [int(value) for value in values]
    if any(not 0 <= number < count for number in numbers):
        raise ValueError
    return numbers


def _there(by_stem: Mapping[str, str], image: str, where: str) -> str:
    """The file of an image that a list names without its suffix."""
    if image not in by_stem:
        raise InputError(f"{where} names the image {image:.200}, which is not there: copy the images again")
    return by_stem[image]
