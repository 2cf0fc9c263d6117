"""Omniglot's official one-shot challenge: all_runs.zip, 20 runs of 20 characters of one alphabet (Lake et al. 2015)."""

import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from episodes.archives import ImageFiles
from episodes.bank import Contents
from episodes.errors import InputError

RUNS = 20
CHARACTERS = 20  # of a run; one drawer makes the training image of each, another drawer the test image
FILES = r"(?:^|/)run\d\d/(?:training/class\d\d\.png|test/item\d\d\.png|class_labels\.txt)$"
_ANSWER = re.compile(r"run(\d\d)/test/(item\d\d\.png) run(\d\d)/training/class(\d\d)\.png")


def contents(
    files: ImageFiles, size: int, prepare: Callable[[Image.Image], Image.Image], protocol: str = "lake-oneshot"
) -> Contents:
    """One class for each character of each run, with two images: the training image and the test image.

    prepare: makes the image of a file grey, (H, W) = (size, size); protocol: the split protocol that the bank names.
    Raises InputError if the runs are incomplete.
    """
    pairs = [pair for run in range(1, RUNS + 1) for pair in _pairs(files, run)]

    def fill(images: np.ndarray) -> None:
        for place, pair in zip(images.reshape(len(pairs), 2, size, size), pairs):
            for number, name in enumerate(pair):
                place[number] = np.asarray(files.image(name, prepare))

    names = [f"run{run:02d}/class{number:02d}" for run in range(1, RUNS + 1) for number in range(1, CHARACTERS + 1)]
    return Contents(
        (1, size, size),
        [2] * len(names),
        names,
        [name.partition("/")[0] for name in names],
        fill,
        {
            "dataset": "omniglot",
            "protocol": protocol,
            "split": "test",
            "source": str(files.path),
            "listed": True,
            "fit": "squash",
            "inverted": True,
        },
        [name for pair in pairs for name in pair],
    )


def _pairs(files: ImageFiles, run: int) -> list[tuple[str, str]]:
    """The paths of the training image and of the test image of each character of one run."""
    homes = (re.match(rf"(?:.*/)?run{run:02d}/(?=training/|test/|class_labels)", name) for name in files.names)
    home = next((found[0] for found in homes if found), f"run{run:02d}/")
    answers = _answers(files, run, f"{home}class_labels.txt")
    pairs = [(f"{home}training/class{number:02d}.png", f"{home}test/{answers[number]}") for number in sorted(answers)]
    lost = sorted({name for pair in pairs for name in pair} - set(files.names))
    if lost:
        raise _broken(files, f"{lost[0]} is missing")
    return pairs


def _answers(files: ImageFiles, run: int, path: str) -> dict[int, str]:
    """Which test item shows character 1 .. 20, from class_labels.txt: lines 'run01/test/item01.png run01/training/...'.

    Raises InputError unless every character has one item.
    """
    if path not in files.names:
        raise _broken(files, f"{path} is missing")
    lines = files.read(path).decode("ascii", errors="replace").split("\n")
    matches = [_ANSWER.fullmatch(line.strip()) for line in lines if line.strip()]
    found = [match for match in matches if match is not None]
    if len(found) < len(matches) or any({int(line[1]), int(line[3])} != {run} for line in found):
        raise _broken(files, f"{path} holds something other than the answers of run {run}")
    answers = {int(line[4]): line[2] for line in found}
    if sorted(answers) != [*range(1, CHARACTERS + 1)] or len(set(answers.values())) != len(found):
        raise _broken(files, f"{path} does not pair {CHARACTERS} characters with {CHARACTERS} items")
    return answers


def _broken(files: ImageFiles, what: str) -> InputError:
    return InputError(f"{files.path} is not Omniglot's one-shot challenge ({what}): copy or download it again")
