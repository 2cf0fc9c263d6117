"""No command replaces a file of the user's without being asked to."""

import argparse
from collections.abc import Iterator

import pytest

from fewshot.cli import parser_of_commands


def commands(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Each command and action of the command line, with its options."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, one in action.choices.items():
            yield from commands(one, *words, word)
    if not inner:
        yield words, set(parser._option_string_actions)


def test_every_command_that_writes_a_file_can_be_told_to_replace_it():
    # import makes a new folder, and refuses one that is there
    writing = [
        (words, options)
        for words, options in commands(parser_of_commands())
        if "--output" in options
        if words != ("import",)
    ]
    assert len(writing) >= 12
    for words, options in writing:
        assert options & {"--overwrite", "--resume"}, words


FILES = {
    ("predict", "pixels", "query", "--support", "support"): "a.csv",
    ("predict", "pixels", "query", "--support", "support", "--output", "b.csv"): "a.html",
    ("embed", "pixels", "glyphs"): "a.npz",
    ("data", "check", "glyphs"): "a.csv",
    ("data", "show", "glyphs"): "a.png",
    ("data", "episodes", "--dataset", "glyphs"): "a.csv",
    ("compare", "run"): "a.csv",
    ("backbones",): "a.csv",
    ("export", "best.pt", "--to", "onnx"): "a.onnx",
    ("evaluate", "best.pt"): "classes.csv",
    ("report", "run"): "report.html",
}


@pytest.mark.parametrize(("command", "name"), FILES.items(), ids=lambda one: one if isinstance(one, str) else one[0])
def test_a_file_that_is_there_is_refused_before_any_work(call_plain, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("mine")
    option = "--page" if name == "a.html" else "--output"
    said = call_plain(*command, option, "." if command[0] in ("evaluate", "report") else name)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"fewshot: {name} is there already: choose another name, or replace the file with --overwrite\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_is_replaced_on_request_and_a_folder_never(call_plain, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("mine")
    command = "data", "check", "glyphs", "--split", "validation", "--output"
    assert call_plain(*command, table, "--overwrite").code == 0
    assert table.read_text().startswith("kind,group,")
    said = call_plain(*command, tmp_path, "--overwrite")
    assert said.code == 2
    assert "is no regular file" in said.err
    said = call_plain(*command, tmp_path / "none" / "a.csv")
    assert "there is no folder" in said.err
