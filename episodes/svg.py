"""SVG drawings from strangers, rendered as grey pixels: what is drawn can read no file, no network and no font."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from tqdm import tqdm

from episodes.errors import InputError

_NAMESPACE = "{http://www.w3.org/2000/svg}"
# what may be in a drawing: neither images, texts, scripts and style sheets, which read other files, nor patterns
# fmt: off
_ELEMENTS = {_NAMESPACE + name for name in (
    "animate", "animateMotion", "animateTransform", "circle", "clipPath", "defs", "desc", "ellipse", "feBlend",
    "feColorMatrix", "feComposite", "feFlood", "feGaussianBlur", "feMerge", "feMergeNode", "feOffset", "filter", "g",
    "line", "linearGradient", "mask", "path", "polygon", "polyline", "radialGradient", "rect", "set", "stop", "symbol",
    "title", "use",
)}
# fmt: on
_LONGEST = 2**18  # characters of a drawing
_DEEPEST = 64  # elements inside each other
_MOST = 20_000  # elements drawn; each reference to an element draws that element again
_RENDERER = Path(__file__).with_name("svg_renderer.py")
_TOGETHER = 1000  # drawings rendered by one process
_SECONDS = 300  # that the process may take
_REFERENCE = re.compile(r"url\(\s*(['\"]?)(.*?)\1\s*\)")


class Box(NamedTuple):
    """The part of the plane that a drawing shows, in its own units."""

    left: float
    top: float
    width: float
    height: float


class Drawing(NamedTuple):
    """The name of a drawing for messages, its content, as inside of an <svg> element, and the box that it shows."""

    name: str
    body: str
    box: Box


def rendered(drawings: Sequence[Drawing], size: int, about: str) -> np.ndarray:
    """The drawings as (N, size, size) uint8: ink bright, paper 0; `about` is the title of the progress bar.

    The box of a drawing is scaled to the square without a change of shape. `currentColor` is black ink on white paper,
    and colours become grey. Each drawing must have passed `check`. resvg runs in a process of its own, with a limit of
    time: InputError, with the name of the drawing, if a drawing crashes resvg or takes too long.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise InputError("drawings need the renderer resvg: pip install 'fewshot[icons]'")
    images = np.empty((len(drawings), size, size), np.uint8)
    with tqdm(total=len(drawings), desc=about, unit="drawing", disable=None) as bar:
        for start in range(0, len(drawings), _TOGETHER):
            part = drawings[start : start + _TOGETHER]
            images[start : start + len(part)] = _rendered(part, size)
            bar.update(len(part))
    return images


def _rendered(drawings: Sequence[Drawing], size: int) -> np.ndarray:
    asked = json.dumps({"size": size, "drawings": [_svg(drawing, size) for drawing in drawings]})
    try:
        done = subprocess.run(
            [sys.executable, "-I", _RENDERER], input=asked.encode(), capture_output=True, timeout=_SECONDS
        )
        output, failure = done.stdout, "crashes resvg"
    except subprocess.TimeoutExpired as late:
        output, failure = late.stdout or b"", "takes too long to draw"
    if len(output) < len(drawings) * size * size:
        raise InputError(f"{drawings[len(output) // (size * size)].name} {failure}: get it from its source again")
    return np.frombuffer(output, np.uint8).reshape(-1, size, size)


def _svg(drawing: Drawing, size: int) -> str:
    view = " ".join(f"{number:.6g}" for number in drawing.box)
    return f"""{_opening(f'width="{size}" height="{size}" viewBox="{view}"')}{drawing.body}</svg>"""


def check(body: str) -> None:
    """InputError if a drawing has an element that reads other files or is too long, too deep or too much to draw."""
    if len(body) > _LONGEST:
        raise InputError(f"the drawing has more than {_LONGEST:,} characters")
    if "<!" in body or "<?" in body:  # declarations of entities among them, which may expand without end
        raise InputError("the drawing has a declaration or a comment")
    try:
        root = ElementTree.fromstring(f"{_opening()}{body}</svg>")
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"the drawing is no XML ({error})") from error
    elements = _elements(root)
    if _drawn(elements) > _MOST:
        raise InputError(f"the drawing draws more than {_MOST:,} elements")


def _opening(attributes: str = "") -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>'


def _elements(root: ElementTree.Element) -> list[ElementTree.Element]:
    """All elements, each after the one that it is in; InputError for one that is not allowed, or in too many others."""
    found, waiting = [], [(root, 0)]
    while waiting:
        element, depth = waiting.pop()
        if depth and element.tag not in _ELEMENTS:
            raise InputError(f"the drawing has an element {str(element.tag).removeprefix(_NAMESPACE)[:40]}")
        if depth > _DEEPEST:
            raise InputError(f"the drawing has more than {_DEEPEST} elements inside each other")
        found.append(element)
        waiting += [(child, depth + 1) for child in element]
    return found


def _references(element: ElementTree.Element) -> list[str]:
    """The ids of the elements of the same drawing that an element draws; InputError if it names anything else."""
    found = []
    for name, value in element.attrib.items():
        targets = [match[2] for match in _REFERENCE.finditer(value)]
        if name.rpartition("}")[2] == "href":
            targets.append(value.strip())
        elif value.lower().count("url(") != len(targets):  # an escaped or unusual form of url(...)
            raise InputError(f"the attribute {name[:40]} of the drawing has an unusual reference")
        for target in targets:
            if not target.startswith("#"):
                raise InputError(f"the drawing refers to {target[:40]!r}, which is no part of it")
            found.append(target[1:])
    return found


def _drawn(elements: list[ElementTree.Element]) -> int:
    """How many elements are drawn, as far as it matters here; InputError if a reference leads back to itself."""
    by_id: dict[str, list[ElementTree.Element]] = {}
    for element in elements:
        by_id.setdefault(element.get("id", ""), []).append(element)
    parts: dict[Any, list[Any]] = {
        element: [*element, *(target for name in _references(element) for target in by_id.get(name, []))]
        for element in elements
    }
    drawn: dict[Any, int] = {}
    waiting, open_ones = [elements[0]], set()
    while waiting:
        element = waiting[-1]
        missing = [part for part in parts[element] if part not in drawn]
        if element in drawn:
            waiting.pop()
        elif missing:
            if element in open_ones:
                raise InputError("a reference in the drawing leads back to itself")
            open_ones.add(element)
            waiting += missing
        else:
            open_ones.discard(element)
            drawn[element] = min(_MOST + 1, 1 + sum(drawn[part] for part in parts[element]))
            waiting.pop()
    return drawn[elements[0]]
