"""The one exception for bad input: its text is a sentence that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside: a name, a number, a file. The command line prints it and exits with code 2.

    The text is always one line, because file names in a stranger's archive may contain any character.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among `known`, naming the nearest ones."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if nearest:
        return InputError(f"unknown {kind} '{name}': did you mean {' or '.join(repr(word) for word in nearest)}?")
    choice = f"choose one of {', '.join(known)}" if known else "there are none"
    return InputError(f"unknown {kind} '{name}': {choice}")


def counted(count: int, thing: str) -> str:
    """A number of things in words, with the plural of `thing` unless there is one.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "class"), counted(0, "query"), counted(5, "way")
    ('1 image', '1,200 images', '2 classes', '0 queries', '5 ways')
    """
    if count == 1:
        return f"1 {thing}"
    if thing.endswith("s"):
        return f"{count:,} {thing}es"
    if thing.endswith("y") and thing[-2] not in "aeiou":
        return f"{count:,} {thing[:-1]}ies"
    return f"{count:,} {thing}s"


class MissingData(InputError):
    """A data set is not on this machine and cannot be downloaded."""


def nearest_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """As unknown_name, for hundreds of known names: the error lists only the nearest names."""
    return unknown_name(kind, name, difflib.get_close_matches(name, known, n=10, cutoff=0))
