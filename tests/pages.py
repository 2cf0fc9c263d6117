"""The pages of docs/tutorials as programs: files are written, code runs, and commands print what the pages say.

A block with a title is the content of a file of that name. Other Python blocks run, all of a page in one namespace. In
a console block, `$ ` begins a command, and the lines below are what it prints: `...` stands for any text, white space
is of any length, and a number with decimals may be one nearby, since another machine rounds otherwise.
"""

import contextlib
import io
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from fewshot.cli import main

NEAR = 3.0  # how far a number with decimals, such as an accuracy in percent, may be from the one on the page
_BLOCK = RawFencedCodeBlockLexer(re.compile(r'(?P<language>\w+)(?: title="(?P<title>[\w.-]+)")?$\n', re.MULTILINE))
_NUMBER, _LINE = r"-?\d+\.\d+", "─+"  # a line is as long as the numbers are wide
_PART = re.compile(rf"(\.\.\.|\s+|{_LINE}|{_NUMBER})")


class Command(NamedTuple):
    """A command of a page, the number of its line, and what the page says it prints."""

    line: int
    text: str
    expected: str


def run(page: Path) -> Iterator[tuple[Command, str]]:
    """Run a page in the current folder: each of its commands, and what the command printed."""
    document, names = Document(page.read_text(encoding="utf-8"), str(page)), {}
    for region in _BLOCK(document):
        source, title = region.lexemes["source"], region.lexemes["title"]
        if title:
            Path(title).write_text(source, encoding="utf-8")
        elif region.lexemes["language"] == "python":
            exec(compile(source, f"{page.name}, line {document.line_column(region.start)}", "exec"), names)
        elif region.lexemes["language"] == "console":
            first = document.text.count("\n", 0, region.start) + 2
            for command in commands(source, first):
                yield command, printed_by(command.text)


def commands(source: str, first: int = 1) -> list[Command]:
    """The commands of a console block whose first line has the number `first`."""
    found: list[Command] = []
    for number, line in enumerate(source.splitlines(), first):
        if line.startswith("$ "):
            found.append(Command(number, line[2:], ""))
        elif found and found[-1].text.endswith("\\"):
            found[-1] = found[-1]._replace(text=f"{found[-1].text[:-1]}{line.strip()}")
        elif found:
            found[-1] = found[-1]._replace(expected=f"{found[-1].expected}{line}\n")
    return found


def printed_by(command: str) -> str:
    """What a command prints, to both streams; `fewshot` runs in this process, all else in a shell."""
    if not command.startswith("fewshot "):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout + done.stderr
    arguments, _, file = command.partition(" > ")
    both = io.StringIO()
    logging.getLogger("fewshot").handlers.clear()  # they write to the output of the command before
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        code = main(arguments.split()[1:])
    assert code == 0, f"{command}: {both.getvalue()}"
    if file:
        Path(file).write_text(both.getvalue(), encoding="utf-8")
    return "" if file else both.getvalue()


def unlike(expected: str, found: str) -> str:
    """What differs between the output on a page and the one of now; '' if nothing does."""
    parts = _PART.split(expected.strip())
    pattern = "".join(map(_pattern, parts))
    match = re.fullmatch(pattern, found.strip(), re.DOTALL)
    if not match:
        return f"expected:\n{expected}\nfound:\n{found}"
    numbers = [part for part in parts if re.fullmatch(_NUMBER, part)]
    apart = [(one, other) for one, other in zip(numbers, match.groups()) if abs(float(one) - float(other)) > NEAR]
    return "".join(f"{one} is now {other}\n" for one, other in apart)


def _pattern(part: str) -> str:
    if part == "...":
        return ".*?"
    if part.isspace():
        return r"\s+"
    if re.fullmatch(_LINE, part):
        return _LINE
    return f"({_NUMBER})" if re.fullmatch(_NUMBER, part) else re.escape(part)
