"""Drawings of strangers: rendered with ink bright, and refused if they read files or would never end."""

import numpy as np
import pytest
from conftest import refusal

from episodes.svg import Box, Drawing, check, rendered

pytest.importorskip("resvg_py", reason="needs the extra icons")

BOX = Box(0, 0, 8, 8)
SQUARE = '<path fill="currentColor" d="M0 0h4v4H0z"/>'  # a quarter of the box


def draw(body: str, size: int = 8, box: Box = BOX) -> np.ndarray:
    check(body)
    return rendered([Drawing("set/one", body, box)], size, "test")[0]


def test_ink_is_bright_where_the_drawing_has_it():
    expected = np.zeros((8, 8), np.uint8)
    expected[:4, :4] = 255
    assert np.array_equal(draw(SQUARE), expected)


def test_the_box_is_scaled_to_the_square_without_a_change_of_shape():
    assert np.array_equal(draw(SQUARE, 16), draw(SQUARE).repeat(2, 0).repeat(2, 1))
    wide = draw(SQUARE, 8, Box(0, 0, 16, 8))
    assert (wide > 0).sum() == 4
    assert wide[2:4, :2].min() == 255


def test_colours_become_grey_and_drawings_keep_their_order():
    bodies = [SQUARE, SQUARE.replace("currentColor", "#fff"), SQUARE.replace("currentColor", "#808080")]
    pixels = rendered([Drawing("set/one", body, BOX) for body in bodies], 8, "test")
    assert pixels[:, 0, 0].tolist() == [255, 0, 127]


def test_a_drawing_that_resvg_refuses_stays_paper():
    assert draw('<path d="this is no path"/>').max() == 0


def nested(element: str, layers: int = 12, copies: int = 10) -> str:
    """Elements that draw ten of the layer below, which draw ten of the layer below, and so on: ten to the twelfth."""
    uses = {"g": '<use href="#a{0}"/>', "mask": '<path mask="url(#a{0})" d="M0 0h4v4z"/>'}[element]
    layered = (f'<{element} id="a{i}">{uses.format(i - 1) * copies}</{element}>' for i in range(1, layers))
    return f'<{element} id="a0">{SQUARE}</{element}>{"".join(layered)}{uses.format(layers - 1)}'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('<image href="/etc/hostname"/>', "an element image"),
        ('<filter><feImage href="/etc/hostname"/></filter>', "an element feImage"),
        ("<script>fetch()</script>", "an element script"),
        ("<style>@import url(a.css)</style>", "an element style"),
        ("<text>letters need fonts</text>", "an element text"),
        ('<x:path xmlns:x="urn:other"/>', "an element {urn:other}path"),
        ('<use href="other.svg#a"/>', "refers to 'other.svg#a'"),
        ('<use xlink:href="https://example.org/a.svg#a"/>', "refers to 'https"),
        ('<path fill="url(file:///etc/hostname)" d="M0 0h4v4z"/>', "refers to 'file:"),
        ('<path style="fill:url(file.svg#a)" d="M0 0h4v4z"/>', "refers to 'file.svg#a'"),
        ('<path fill="url(#a" d="M0 0h4v4z"/>', "unusual reference"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>", "declaration"),
        ("<?xml-stylesheet href='a'?>", "declaration"),
        (f"</svg>{SQUARE}<svg>", "no XML"),
        ("<path", "no XML"),
        (" " * 300_000, "characters"),
        ("<g>" * 100 + "</g>" * 100, "inside each other"),
        (nested("g"), "draws more than 20,000 elements"),
        (nested("mask"), "draws more than 20,000 elements"),
        ('<g id="a"><use href="#a"/></g>', "leads back to itself"),
        ('<mask id="a"><path mask="url(#a)" d="M0 0h4v4z"/></mask>', "leads back to itself"),
    ],
)
def test_drawings_that_reach_out_or_never_end_are_refused(body, reason):
    assert reason in refusal(lambda: check(body))


def test_what_icon_sets_draw_with_is_allowed():
    check(
        '<defs><linearGradient id="a"><stop offset="0"/></linearGradient><mask id="b"><rect id="url1"/></mask></defs>'
        '<g mask="url(#b)" transform="scale(2)"><circle r="1" fill="url(\'#a\')"/><use xlink:href="#c"/></g>'
        '<symbol id="c"><path d="M0 0"><animate attributeName="d" dur="1s"/></path></symbol>'
    )


def test_a_drawing_that_crashes_resvg_is_named_and_the_process_goes_on():
    crash = '<path d="M0 0L nan 4A1e38 1e38 0 0 1 3 4M0 0A1e5 1e5 0 1 1 9e4 -8e3C1e5 3 -9e4 1 5e4 -1e5" stroke="#000"/>'
    crash = '<path d="' + "M0 0A1e9 1e9 0 1 1 9 9" * 8000 + '" stroke="#000" stroke-width="3"/>'
    drawings = [Drawing(f"set/{name}", body, BOX) for name, body in (("good", SQUARE), ("bad", crash))]
    assert refusal(lambda: rendered(drawings, 64, "test")).startswith("set/bad crashes resvg")
