"""The answers of `fewshot predict` as one page: each picture with its answer, the doubtful ones first."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from episodes import InputError
from episodes.errors import counted
from episodes.pictures import upright_rgb
from fewshot.answers import NONE
from fewshot.files import replace_text
from fewshot.prediction import Answered, Query

_MOST = 500  # pictures on a page
_THUMBNAIL = 192  # pixels of the longer edge
_NEXT = 3  # classes that are named with their probabilities


class _Card(NamedTuple):
    """A picture on the page: its name, a data URI, its answer, whether it was refused, and the likeliest classes."""

    name: str
    image: str
    answer: str
    refused: bool
    likeliest: list[tuple[str, float]]


def write_page(path: Path, answered: Answered, answers: Sequence[str], chances: np.ndarray, title: str) -> None:
    """Write the page, which loads nothing from a network; see prediction.write_csv for the arguments.

    The page shows 500 pictures at most: those with the smallest lead of the best class over the next one, after those
    that were refused. It names all pictures that cannot be read.
    """
    numbers = _doubtful_first(answered, answers, chances)
    cards = [_card(answered, answers, chances, number) for number in numbers[:_MOST]]
    damaged = [(query.name, error) for query, error in zip(answered.queries, answered.errors, strict=True) if error]
    environment = jinja2.Environment(loader=jinja2.PackageLoader("fewshot.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("answers.html").render(
        title=title,
        cards=cards,
        total=counted(len(answers), "picture"),
        left_out=counted(len(numbers) - _MOST, "picture") if len(numbers) > _MOST else "",
        damaged=damaged,
    )
    replace_text(path, page)


def _doubtful_first(answered: Answered, answers: Sequence[str], chances: np.ndarray) -> list[int]:
    """The numbers of the pictures that were read: the refused ones, then by the lead of the best class."""
    two = np.sort(chances, axis=1)[:, -2:]
    lead = two[:, 1] - two[:, 0]
    read = [number for number, error in enumerate(answered.errors) if not error]
    return sorted(read, key=lambda number: (answers[number] != NONE, lead[number]))


def _card(answered: Answered, answers: Sequence[str], chances: np.ndarray, number: int) -> _Card:
    best = chances[number].argsort()[::-1][:_NEXT]
    likeliest = [(answered.classes[place], 100 * float(chances[number, place])) for place in best]
    query, refused = answered.queries[number], answers[number] == NONE
    return _Card(query.name, _thumbnail(query), answers[number], refused, likeliest)


def _thumbnail(query: Query) -> str:
    """A data URI of the whole picture; '' if it is no longer there."""

    def small(image: Image.Image) -> Image.Image:
        upright = upright_rgb(image)
        upright.thumbnail((_THUMBNAIL, _THUMBNAIL))  # of one pixel in width at least, unlike ImageOps.contain
        return upright

    data = io.BytesIO()
    try:
        query.picture.source.image(query.picture.key, small).save(data, "JPEG", quality=80)
    except InputError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
