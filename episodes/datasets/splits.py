"""Which classes are for training, validation and test: the user's splits, and splits by a seed for those not given."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch

from episodes.datasets.layouts import BARE, Classes
from episodes.draws import stream
from episodes.errors import InputError, counted

SPLITS = ("train", "validation", "test")
_Images = TypeVar("_Images")  # what stands for the images of a class
_FEWEST = 2  # classes of a split: an episode needs two


class Division(NamedTuple):
    """The splits, the split protocol that made them, why other splits are missing, and remarks."""

    splits: dict[str, Classes]
    protocol: str
    missing: str
    remarks: list[str]


def divide(found: Mapping[str, Classes], protocol: str, source: str) -> Division:
    """The splits of the classes `found` in each split that the user made ('' if they made none).

    protocol: '' to keep the user's splits and to make only what they do not give, or seedN to make all splits anew
    """
    shared = [name for name in pooled(found) if sum(name in classes for classes in found.values()) > 1]
    if not protocol and not shared and ("test" in found or found.keys() == {"train", "validation"}):
        return _completed({split: dict(found[split]) for split in SPLITS if split in found}, source)
    remarks = []
    if shared and not protocol:
        remarks.append(
            f"the splits that are given share classes, whose images a training would see ({listed(shared)}): all"
            " splits are pooled and made anew by class"
        )
    protocol, classes = protocol or "seed0", pooled(found)
    _check_bare(classes, source)
    try:
        return Division(shared_out(classes, protocol, source), protocol, "", remarks)
    except InputError as error:
        way_out = "to test on all classes and train on none, take 'bench --preset pretrained' or 'evaluate --split all'"
        return Division({}, protocol, f"{error}; {way_out}", remarks)


def pooled(found: Mapping[str, Classes]) -> Classes:
    """The classes of all splits, sorted by name; a class that is in two splits has the images of both."""
    together: Classes = {}
    for classes in found.values():
        for name, pictures in classes.items():
            together[name] = together.get(name, []) + pictures
    return {name: together[name] for name in sorted(together)}


def shared_out(classes: Mapping[str, _Images], protocol: str, source: str) -> dict[str, dict[str, _Images]]:
    """The classes shuffled with the seed of `protocol` ('seed7') and dealt out to the splits."""
    names = list(classes)
    # small data sets give more to the test, so that fifteen classes are enough for its five ways
    test, validation = (max(2, min(5, len(names) // 3), round(share * len(names))) for share in (0.20, 0.16))
    validation = min(validation, max(2, len(names) // 5))
    if len(names) - test - validation < _FEWEST:
        count = counted(len(names), "class")
        raise InputError(f"{source} has {count}: three splits of two classes or more need six")
    order = _shuffled(len(names), int(protocol.removeprefix("seed")))
    ends = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    return {split: {names[i]: classes[names[i]] for i in sorted(ends[split])} for split in SPLITS}


def _completed(given: dict[str, Classes], source: str) -> Division:
    """The given splits, with a fifth of the training classes for validation, or for test, if that is not given."""
    absent = next((split for split in ("validation", "test") if split not in given), None)
    if "train" not in given:
        missing = (
            f"{source} gives classes for {' and '.join(given)} alone: take --split test or all, or add a folder train"
        )
        return Division(given, "given", missing, [])
    if absent is None:
        return Division(given, "given", "", [])
    names = list(given["train"])
    count = max(_FEWEST, round(0.2 * len(names)))
    if len(names) - count < _FEWEST:
        given_for_train = f"{source} gives {counted(len(names), 'class')} for train"
        missing = f"{given_for_train}, too few to take two of them for {absent}: add classes"
        return Division(given, "given", missing, [])
    taken = {names[i] for i in _shuffled(len(names), 0)[:count]}
    made = {
        absent: {name: given["train"][name] for name in names if name in taken},
        "train": {name: given["train"][name] for name in names if name not in taken},
    }
    splits = {**given, **made}
    return Division({split: splits[split] for split in SPLITS}, "given", "", [])


def check(classes: Classes, split: str, source: str, single: bool = False) -> None:
    """InputError if no episode can be drawn from the classes of a split; all classes at fault are named.

    single: whether classes may have a single image, which is enough for a gallery or a pair
    """
    _check_bare(classes, source)
    if len(classes) < _FEWEST:
        told = f"one class for {split}, '{min(classes)}'" if classes else f"no class for {split}"
        raise InputError(f"{source} has {told}, and an episode needs two")
    alone = [f"'{name}'" for name, pictures in classes.items() if len(pictures) < 2]
    if alone and not single:
        told = f"class {alone[0]} in {source} has" if len(alone) == 1 else f"classes {listed(alone)} in {source} have"
        raise InputError(
            f"the {told} one image, but an episode needs one to learn from and one to ask: add images, or leave such"
            " classes out with --min-images 2"
        )


def _check_bare(classes: Classes, source: str) -> None:
    if BARE in classes:
        raise InputError(
            f"the image {classes[BARE][0].key} in {source} is in a folder of a split, but in no class folder: move it"
            " into one or away"
        )


def listed(names: list[str], most: int = 20) -> str:
    """The names with commas between them, and a count instead of those after the first `most`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _shuffled(count: int, seed: int) -> list[int]:
    return stream(seed, torch.arange(count)).argsort(stable=True).tolist()
