"""The split protocols of Omniglot: which characters, drawers and rotations each split has, and the listed episodes."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch

from episodes.datasets.splits import SPLITS
from episodes.draws import draw, stream

DRAWERS = 20

# characters of each alphabet in the official release
# fmt: off
BACKGROUND = {
    "Alphabet_of_the_Magi": 20, "Anglo-Saxon_Futhorc": 29, "Arcadian": 26, "Armenian": 41,
    "Asomtavruli_(Georgian)": 40, "Balinese": 24, "Bengali": 46, "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
    "Braille": 26, "Burmese_(Myanmar)": 34, "Cyrillic": 33, "Early_Aramaic": 22, "Futurama": 26, "Grantha": 43,
    "Greek": 24, "Gujarati": 48, "Hebrew": 22, "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
    "Japanese_(hiragana)": 52, "Japanese_(katakana)": 47, "Korean": 40, "Latin": 26, "Malay_(Jawi_-_Arabic)": 40,
    "Mkhedruli_(Georgian)": 41, "N_Ko": 33, "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14, "Sanskrit": 42,
    "Syriac_(Estrangelo)": 23, "Tagalog": 17, "Tifinagh": 55,
}
EVALUATION = {
    "Angelic": 20, "Atemayar_Qelisayer": 26, "Atlantean": 26, "Aurek-Besh": 26, "Avesta": 26, "Ge_ez": 26,
    "Glagolitic": 45, "Gurmukhi": 45, "Kannada": 41, "Keble": 26, "Malayalam": 47, "Manipuri": 40, "Mongolian": 30,
    "Old_Church_Slavonic_(Cyrillic)": 45, "Oriya": 46, "Sylheti": 28, "Syriac_(Serto)": 23, "Tengwar": 25,
    "Tibetan": 42, "ULOG": 26,
}
# fmt: on
PARTS = {"images_background": BACKGROUND, "images_evaluation": EVALUATION}

Character = tuple[str, str, str]  # (part, alphabet, 'characterNN')
Characters = tuple[Character, ...]

# the ten evaluation alphabets of the one-shot challenge
CHALLENGE = (
    "Atlantean", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada", "Malayalam", "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)", "Tengwar", "Tibetan",
)  # fmt: skip
VALIDATION_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_SMALLEST = (
    "Alphabet_of_the_Magi", "Blackfoot_(Canadian_Aboriginal_Syllabics)", "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)", "Tagalog",
)  # fmt: skip
_BEFORE_TEST = 1200  # characters, of the split protocols vinyals and pooled
_POOLED_VALIDATION = 100
_RUNS, _WAY = 20, 20  # runs of each alphabet and characters of a run, if the suite lists the test episodes


def characters(split: str, protocol: str) -> Characters:
    """The characters of one split, in order; a rule gives them, so the suite needs no list.

    If the protocol lists its test episodes, 'test' has the characters of the alphabets that they could be drawn from.
    """
    return _RULES[protocol]()[SPLITS.index(split)]


def turns(split: str, protocol: str) -> int:
    """4 if each rotation of a character by 0, 90, 180 and 270 degrees is a class of its own, else 1."""
    every = protocol == "vinyals" or protocol.startswith("pooled")
    return 4 if every or (protocol.startswith("lake-oneshot") and split == "train") else 1


def drawers(split: str, protocol: str) -> range:
    """The numbers of the drawers, from 0, whose drawings a split has."""
    return _KOCH_DRAWERS[split] if protocol == "koch" else range(DRAWERS)


class Run(NamedTuple):
    """A listed one-shot episode of characters of one alphabet: a drawer draws the support, another one the queries."""

    name: str
    characters: Characters
    support: int
    query: int


def runs_of(protocol: str) -> list[Run]:
    """The listed test episodes of within-alphabet or koch: 20 runs of 20 characters of each test alphabet, and of two
    of the drawers of the test, drawn with seed 0."""
    found = []
    shown = drawers("test", protocol)
    for number, alphabet in enumerate(dict.fromkeys(alphabet for _, alphabet, _ in characters("test", protocol))):
        own = _of("images_evaluation", alphabet)
        keys = stream(0, torch.arange(_RUNS * number, _RUNS * (number + 1)))
        chosen = draw(keys, 0, len(own), len(own), _WAY).T.tolist()
        pairs = draw(keys, 1, len(shown), len(shown), 2).T.tolist()
        for run, (places, (support, query)) in enumerate(zip(chosen, pairs), 1):
            name, drawn = f"{alphabet}/run{run:02d}", tuple(own[place] for place in places)
            found.append(Run(name, drawn, shown[support], shown[query]))
    return found


def _every() -> Characters:
    return tuple(one for part, alphabets in PARTS.items() for alphabet in alphabets for one in _of(part, alphabet))


def _of(part: str, *alphabets: str) -> Characters:
    """The characters of some alphabets of a part of the release, of all if none is named."""
    return tuple(
        (part, alphabet, f"character{number:02d}")
        for alphabet in alphabets or PARTS[part]
        for number in range(1, PARTS[part][alphabet] + 1)
    )


def _without(whole: Characters, alphabets: tuple[str, ...]) -> tuple[Characters, Characters]:
    """The characters of all other alphabets, and those of `alphabets`."""
    return tuple(one for one in whole if one[1] not in alphabets), tuple(one for one in whole if one[1] in alphabets)


def _vinyals() -> tuple[Characters, ...]:
    return *_without(_every()[:_BEFORE_TEST], VALIDATION_ALPHABETS), _every()[_BEFORE_TEST:]


def _lake(validation: tuple[str, ...] = VALIDATION_ALPHABETS) -> tuple[Characters, ...]:
    return *_without(_of("images_background"), validation), _of("images_evaluation")


def _minimal(*alphabets: str) -> tuple[Characters, ...]:
    return *(_of("images_background", *some) for some in (alphabets, ["Latin"])), _of("images_evaluation")


def _koch() -> tuple[Characters, ...]:
    return _of("images_background"), *_without(_of("images_evaluation"), CHALLENGE)


_KOCH_DRAWERS = {"train": range(12), "validation": range(12, 16), "test": range(16, 20)}


def _pooled(seed: int) -> tuple[Characters, ...]:
    every = _every()
    order = stream(seed, torch.arange(len(every))).argsort(stable=True)
    border = _BEFORE_TEST - _POOLED_VALIDATION
    parts = order.split([border, _POOLED_VALIDATION, len(every) - _BEFORE_TEST])
    return tuple(tuple(every[place] for place in part.sort().values.tolist()) for part in parts)


_RULES: dict[str, Callable[[], tuple[Characters, ...]]] = {
    "vinyals": _vinyals,
    "lake": _lake,
    "lake-oneshot": _lake,
    "lake-oneshot-minimal-1": functools.partial(_minimal, "Balinese", "Early_Aramaic", "Greek", "Korean"),
    "lake-oneshot-minimal-2": functools.partial(_minimal, "Greek", "Japanese_(katakana)", "Sanskrit", "Tagalog"),
    "within-alphabet": _lake,
    "meta-dataset": functools.partial(_lake, _SMALLEST),
    "koch": _koch,
    **{f"pooled-{seed}" if seed else "pooled": functools.partial(_pooled, seed) for seed in range(5)},
}
PROTOCOLS = tuple(_RULES)
