"""The tutorials of the documentation run as they are, and their commands print what the pages say."""

import logging
from pathlib import Path

import pages
import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, the current one, without data sets beside the embedded ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("fewshot.shown.MAP_CLASSES", 3)  # t-SNE of more takes seconds, and no page tells of it
    yield tmp_path
    logging.getLogger("fewshot").handlers.clear()


def test_there_is_a_tutorial_for_each_first_task():
    names = {"first-run", "own-pictures", "own-learner", "own-data-set", "compare-with-a-paper", "many-machines"}
    assert {page.stem for page in TUTORIALS} == names


@pytest.mark.training
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page, folder):
    ran, told = 0, []
    for command, found in pages.run(page):
        ran += 1
        if why := pages.unlike(command.expected, found):
            told.append(f"{page.name}, line {command.line}: $ {command.text}\n{why}")
    assert ran > 2
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    ("expected", "found", "alike"),
    [
        ("a 90.25 b\n", "a  90.75\nb", True),
        ("a 90.25 b", "a 94.25 b", False),  # further away than another machine
        ("a 90.25 b", "a 90.25 c", False),
        ("a 0.25 b", "a -0.25 b", True),
        ("a -0.25 b", "a 4.25 b", False),
        ("a ──── b", "a ───── b", True),
        ("3 models", "4 models", False),  # whole numbers are counts
        ("first\n...\nlast", "first\n1\n2\nlast", True),
        ("first\n...\nlast", "first\n1\n2", False),
        ("...last", "last and more", False),
        ("", "a warning", False),
    ],
)
def test_what_differs_is_told(expected, found, alike):
    assert (pages.unlike(expected, found) == "") == alike


PAGE = """
```csv title="a.csv"
x,y
1,2
```

```python
from pathlib import Path

text = Path("a.csv").read_text()
```

```python
Path("b.csv").write_text(text * 2)
```

```console
$ wc -l \\
    b.csv
4 b.csv
$ true
```
"""


def test_files_code_and_commands_of_a_page_follow_each_other(folder):
    (folder / "page.md").write_text(PAGE)
    ran = list(pages.run(folder / "page.md"))
    expected = [(18, "wc -l b.csv", "4 b.csv\n"), (21, "true", "")]
    assert [(command.line, command.text, found) for command, found in ran] == expected
    assert not any(pages.unlike(command.expected, found) for command, found in ran)
