"""The text of a class in a person's words, made from the name that a data set gives the class."""

import functools
import re

from episodes.bank import ImageBank
from episodes.datasets.classes import read_classes

_WORDNET = re.compile(r"n\d{8}")
_OMNIGLOT = re.compile(r"(.+)/character(\d+)(?:/rot(\d+))?")
_NUMBER = re.compile(r"\d{3}\.(?=\D)")  # before the names of CUB's classes
_WORD_BORDER = re.compile(r"[_/]+|(?<=[a-z])(?=[A-Z])")  # as in tree_frog, frogs/tree and TreeFrog


def class_texts(bank: ImageBank) -> tuple[str, ...]:
    """The text of each class of `bank`, in order; two classes may have the same.

    It comes from the class's name alone: WordNet ids become the words of the published lists, a character of Omniglot
    its alphabet, its number and how far it is turned, and any other name its words.
    """
    return tuple(map(class_text, bank.class_names))


def class_text(name: str) -> str:
    """The text of a class called `name`: 'house finch' for 'n01532829', 'Black footed Albatross' for
    '001.Black_footed_Albatross'."""
    first, _, rest = name.rpartition("/")[2].partition(" ")
    if _WORDNET.fullmatch(first):  # the id stays if no list has it
        return rest or _words_of_wordnet().get(first, first)
    if character := _OMNIGLOT.fullmatch(name):
        alphabet, number, turn = character.groups()
        turned = f" turned by {int(turn)} degrees" if int(turn or 0) else ""
        return f"{_WORD_BORDER.sub(' ', alphabet)} character {number}{turned}"
    return " ".join(_WORD_BORDER.sub(" ", _NUMBER.sub("", name)).split()) or name


@functools.cache
def _words_of_wordnet() -> dict[str, str]:
    rows = (row for dataset in ("tiered_imagenet", "mini_imagenet") for row in read_classes(dataset))
    return {row["wordnet_id"]: row["name"] for row in rows}
