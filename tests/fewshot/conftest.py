"""Small runs on toy banks, and the command line called in this process."""

import logging
from typing import NamedTuple

import pytest
from conftest import toy_bank

from fewshot.cli import main

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
    """What one call of the command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def toy_banks():
    """The three splits of a toy data set."""
    seeds = {"train": 1, "validation": 2, "test": 3}
    return {split: toy_bank(30, 24, seed=seed, split=split) for split, seed in seeds.items()}


@pytest.fixture(scope="session")
def preset(tmp_path_factory) -> str:
    """The path of a preset that runs in a second."""
    path = tmp_path_factory.mktemp("presets") / "tiny.toml"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture
def toy_data(monkeypatch, toy_banks) -> None:
    """Every data set is the toy one."""
    for module in ("benchmark", "commands.data", "commands.evaluate"):
        monkeypatch.setattr(f"fewshot.{module}.load_dataset", lambda name, split, **_: toy_banks[split])


@pytest.fixture
def call(capsys, toy_data):
    """Calls the command line in this process, as a fresh one would run."""
    log = logging.getLogger("fewshot")

    def command(*arguments) -> Said:
        log.handlers.clear()  # they write to the output of an earlier call
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    yield command
    log.handlers.clear()
