"""Keeps the columns and examples of docstrings in the reference pages as they are written."""

import re
from typing import Any

from griffe import Extension, Object

# two or more spaces inside a line: `classes (E, N)   the classes of each episode`
_COLUMNS = re.compile(r"\S {2,}\S")


def columns_kept(text: str) -> str:
    """The Markdown `text` with a fence around each paragraph that has columns, and around each example."""
    return "\n\n".join(map(_fenced, text.split("\n\n")))


def _fenced(paragraph: str) -> str:
    if paragraph.startswith(">>>"):
        return f"```pycon\n{paragraph}\n```"
    return f"```text\n{paragraph}\n```" if _COLUMNS.search(paragraph) else paragraph


class Columns(Extension):
    """Applies `columns_kept` to every docstring that the pages show."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = columns_kept(obj.docstring.value)
