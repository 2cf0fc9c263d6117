"""Small runs on toy banks, and the command line called in this process."""

import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest
from conftest import toy_splits

import fewshot.model_runs
from fewshot.cli import main
from fewshot.learners import pt_map, text_probes
from fewshot.learners.image_text_heads import minimised

PRESET = """
learners = ["prototypical", "npair"]
[evaluation]
ways = [3, 5]
shots = [1]
query = 3
episodes = 40
[validation]
way = 5
query = 3
episodes = 20
[training]
steps = 4
validate_every = 2
precision = "float32"
[learner.prototypical]
batches = {classes = 10, images = 4}
[learner.siamese]
batches = {classes = 10, images = 3}
[learner.npair]
batches = {classes = 10, images = 2}
"""


class Said(NamedTuple):
    """The result of one call of the command line."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def toy_banks():
    """The three splits of a toy data set."""
    return toy_splits(30, 24)


@pytest.fixture(scope="session")
def preset(tmp_path_factory) -> str:
    """The path of a preset that runs in a second."""
    path = tmp_path_factory.mktemp("presets") / "tiny.toml"
    path.write_text(PRESET)
    return str(path)


def use_toy_data(patch: pytest.MonkeyPatch, toy_banks) -> None:
    for module in ("benchmark", "commands.data", "commands.evaluate"):
        patch.setattr(f"fewshot.{module}.load_dataset", lambda name, split, **_: toy_banks[split])


@pytest.fixture
def toy_data(monkeypatch, toy_banks) -> None:
    """Every data set is the toy one."""
    use_toy_data(monkeypatch, toy_banks)


@pytest.fixture(scope="module")
def call_once(toy_banks):
    """Calls the command line for a fixture that all tests of a file share: they only read what the call wrote."""
    log = logging.getLogger("fewshot")

    def command(*arguments) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            use_toy_data(patch, toy_banks)
            code = main([str(argument) for argument in arguments])
        log.handlers.clear()
        return Said(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture
def short_fits(monkeypatch) -> None:
    """Of the slowest learners, clap fits a head in 100 steps instead of 300, and pt-map seeks a plan in 100 rounds
    instead of 1,000: for tests that score many episodes."""
    monkeypatch.setattr(pt_map, "_ROUNDS", 100)
    monkeypatch.setattr(
        text_probes, "minimised", lambda loss, start, make, steps: minimised(loss, start, make, min(steps, 100))
    )


@pytest.fixture
def trained(monkeypatch):
    """The names of the learners that are trained from here on."""
    names, train = [], fewshot.model_runs.train
    monkeypatch.setattr(
        fewshot.model_runs, "train", lambda learner, *a, **k: names.append(learner.name) or train(learner, *a, **k)
    )
    return names


@pytest.fixture
def call_plain(capsys):
    """Calls the command line in this process, as a fresh one would run."""
    log = logging.getLogger("fewshot")

    def command(*arguments) -> Said:
        log.handlers.clear()  # these handlers write to the output of an earlier call
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    yield command
    log.handlers.clear()


@pytest.fixture
def call(call_plain, toy_data):
    """As call_plain, and every data set is the toy one."""
    return call_plain
