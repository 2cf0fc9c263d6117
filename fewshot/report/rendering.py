"""How pages are made: the templates, the colours of both schemes, and figures and links as addresses."""

import re
import urllib.parse
from typing import Any

import jinja2
from markupsafe import Markup, escape

from fewshot.report import figures

# the figures' colours by their names on the page, and their values if the reader's scheme is dark
SCHEME = {
    "ink": (figures.INK, "#e4e7eb"),
    "muted": (figures.MUTED, "#9aa4af"),
    "rule": (figures.RULE, "#333a42"),
    "paper": (figures.PAPER, "#171b20"),
}
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_KINDS = {"doi": "https://doi.org/", "openreview": "https://openreview.net/forum?id="}


def rendered(template: str, **values: Any) -> str:
    """The page that a template makes of `values`, as HTML; every value is text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fewshot.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(address=_address, breakable=_breakable, outline=figures.outline, text_file=_text_file)
    return environment.get_template(template).render(scheme=SCHEME, **values)


def paper_link(number: str) -> str:
    """The address of a paper, by the column `arxiv` of the published numbers; '' if it has none."""
    if _ARXIV.fullmatch(number):
        return f"https://arxiv.org/abs/{number}"
    kind, _, name = number.partition(":")
    return _KINDS[kind] + urllib.parse.quote(name) if kind in _KINDS else ""


def _address(drawing: bytes) -> str:
    """An SVG file as the data: address of an image whose colours follow the reader's scheme, as the page's do."""
    svg = drawing.decode()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for name, (light, _) in SCHEME.items():
        svg = svg.replace(light, f"var(--{name})")
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in SCHEME.items()) for i in range(2))
    style = f"svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}@media print{{svg{{{light}}}}}"
    svg = svg.replace("'DejaVu Sans'", "system-ui,'DejaVu Sans',sans-serif").replace(">", f"><style>{style}</style>", 1)
    return "data:image/svg+xml," + urllib.parse.quote(re.sub(r"\s+", " ", svg), safe=" /:;=,+()'")


def _breakable(text: str) -> Markup:
    """Text that may go on in a new line after each slash, as names of classes need."""
    return escape(text).replace("/", Markup("/<wbr>"))


def _text_file(text: str) -> str:
    """A text as the data: address of a csv file."""
    return "data:text/csv;charset=utf-8," + urllib.parse.quote(text.encode(errors="replace"))
