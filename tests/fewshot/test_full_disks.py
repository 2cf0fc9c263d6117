"""Full disks, full or closed outputs, a locale without UTF-8, a user without a home: one sentence, no partial file."""

import ast
import contextlib
import itertools
import os
import pwd
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import encoded, refusal

from episodes import InputError
from fewshot import checkpoints
from fewshot.files import writing
from fewshot.run_folder import read_results

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from fewshot.cli import main; sys.exit(main())"


@contextlib.contextmanager
def room(size: int):
    """Inside, no file can grow beyond `size` bytes, which looks like a full disk to a program that writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def shell(command: str, **environment: str | None) -> subprocess.CompletedProcess:
    """A line of a shell, in which 'fewshot' is the command line, with these variables set, or unset if None."""
    line = f"fewshot() {{ {sys.executable} -c '{MAIN}' \"$@\"; }}; {command}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=variables, capture_output=True, timeout=120, check=False)


def test_a_checkpoint_that_does_not_fit_the_disk_is_told_and_the_one_before_stays(tmp_path):
    path = tmp_path / "best.pt"
    checkpoints.save(path, {"about": {}, "learner": {"w": torch.zeros(10)}})
    before = path.read_bytes()

    def save() -> None:
        with room(20_000), writing(tmp_path):
            checkpoints.save(path, {"about": {}, "learner": {"w": torch.zeros(10_000)}})

    assert "cannot be written" in refusal(save)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("size", [0, 300, 1000, 3000, 30_000])
def test_a_disk_that_is_full_at_any_time_of_a_run_is_told_in_one_sentence(call, preset, tmp_path, size):
    command = "bench", "--preset", preset, "--output", tmp_path / "run", "--device", "cpu"
    with room(size):
        said = call(*command)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert line.startswith("fewshot: the output folder")
    assert not list(tmp_path.rglob(".unfinished*"))
    assert call(*command, "--resume").code == 0
    assert len(read_results(tmp_path / "run")[0]) == 4


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("fewshot data list >/dev/full", 2, "fewshot: its output cannot be written (No space left on device)"),
        ("fewshot data list | true; exit ${PIPESTATUS[0]}", 1, ""),
        ("fewshot data list >&-", 0, ""),
        ("fewshot data list >&- 2>&-", 0, ""),
    ],
)
def test_an_output_that_cannot_be_written(line, code, said):
    done = shell(line)
    assert done.returncode == code
    assert done.stderr.decode().startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_what_a_locale_cannot_show_is_replaced(tmp_path, preset):
    text = Path(preset).read_text(encoding="utf-8")
    (tmp_path / "é.toml").write_text(f"# ±, é\n{text}", encoding="utf-8")
    for label, number in itertools.product(range(12), range(8)):
        picture = tmp_path / "pictures" / f"ö {label:02d}" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(encoded(np.full((16, 16), 20 * label + number, np.uint8)))
    data = "--dataset pictures --size 16"
    line = f"cd {tmp_path}; fewshot bench --preset é.toml {data} --learner npair --device cpu --output ü"
    done = shell(line, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=None)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert "±" in (tmp_path / "ü" / "results.md").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "ü" / "results.csv")["preset"].tolist() == ["é"]


def test_names_that_are_not_utf8(call, preset, tmp_path):
    odd = tmp_path / os.fsdecode(b"run\xe9")
    assert call("bench", "--preset", preset, "--learner", "npair", "--output", odd, "--device", "cpu").code == 0
    assert call("compare", odd).code == 0
    pictures = tmp_path / os.fsdecode(b"pictures\xe9")
    pictures.mkdir()
    said = call("bench", "--preset", preset, "--dataset", pictures, "--output", tmp_path / "other")
    assert (said.code, "is no name in UTF-8" in said.err) == (2, True)


def test_a_user_without_a_home_is_told_what_to_set(call_plain, monkeypatch):
    """As in a container whose user has no entry in /etc/passwd."""

    def nobody(_):
        raise KeyError

    for name in ("HOME", "FEWSHOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    said = call_plain("data", "prepare", "glyphs")
    assert said.code == 2
    assert "set FEWSHOT_CACHE to a folder" in said.err


@pytest.mark.parametrize("package", ["baselines", "episodes", "fewshot"])
def test_every_text_file_is_opened_with_its_encoding(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}, line {node.lineno}"


def _opens_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    binary = any(isinstance(one, ast.Constant) and "b" in str(one.value) for one in call.args)
    if name == "open":
        return owner not in ("Image", "archive", "os", "tarfile", "zipfile", "webbrowser") and not binary
    return name in ("write_text", "FileHandler") or (name == "read_text" and owner != "")


def test_input_errors_show_names_that_are_no_text():
    assert "\\udce9" in str(InputError(os.fsdecode(b"\xe9")))
