"""Learners that installed packages bring: the example package, built, installed and benchmarked; and broken ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import encoded, toy_bank, write_files

from fewshot import Learner
from fewshot.cli import main
from fewshot.learners import find_learner
from fewshot.learners.registry import LEARNERS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fewshot-neighbours"
TINY = """
learners = ["soft-neighbours"]
data = {dataset = "./pictures", size = 16}
evaluation = {ways = [5], shots = [1], query = 2, episodes = 20}
validation = {way = 5, query = 2, episodes = 10}
[training]
backbone = "conv4-32"
steps = 20
batches = {classes = 10, images = 4}
precision = "float32"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the example package is installed into, from a copy of its source, without a network."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / EXAMPLE.name)
    offline = "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir"
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", folder, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def run(installed: Path, *arguments: object, where: Path) -> subprocess.CompletedProcess:
    """A Python of its own that finds the suite and the installed package."""
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True)


def test_the_example_package_is_benchmarked_by_its_name(installed, tmp_path, cache):
    (tmp_path / "tiny.toml").write_text(TINY)
    bank = toy_bank(classes=20, images=8)
    for number, (label, pixels) in enumerate(zip(bank.labels.tolist(), bank.images[:, 0].numpy())):
        files = {f"{label:02d}/{number}.png": encoded(pixels)}
        write_files(tmp_path / "pictures", files)
    command = "import sys; from fewshot.cli import main; sys.exit(main())"
    said = run(installed, "-c", command, "bench", "--preset", "tiny.toml", "--output", "run", where=tmp_path)
    assert (said.returncode, said.stderr.count("Traceback")) == (0, 0), said.stderr
    (row,) = pd.read_csv(tmp_path / "run" / "results.csv").itertuples()
    assert (row.learner, row.episodes) == ("soft-neighbours", 20)
    assert row.accuracy > 30  # of 20 at random


def test_the_example_package_passes_its_own_tests(installed, tmp_path):
    shutil.copy(EXAMPLE / "test_fewshot_neighbours.py", tmp_path)
    said = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", where=tmp_path)
    assert said.returncode == 0, said.stdout
    assert "passed" in said.stdout


MODULES = {
    "fails": "raise ImportError('no libfoo here')",
    "other": "class Other: pass",
    "half": "from fewshot import Learner\nclass Half(Learner):\n    def loss(self, images, labels): ...",
    "whole": "from fewshot.learners.npair import NPair\nclass Whole(NPair):\n    '''Pairs, from elsewhere.'''",
}
POINTS = {"fails": "fails:Gone", "vain": "other:Other", "half": "half:Half", "whole": "whole:Whole", "void": "void:X"}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package of five entry points, of which one is a learner."""
    for name, text in MODULES.items():
        (tmp_path / f"theirs_{name}.py").write_text(text)
    about = tmp_path / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = [f"{name} = theirs_{value}" for name, value in POINTS.items()]
    (about / "entry_points.txt").write_text("\n".join(["[fewshot.learners]", *points]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("fewshot.learners.registry.LEARNERS", dict(LEARNERS))
    yield
    for name in MODULES:
        sys.modules.pop(f"theirs_{name}", None)


SENTENCES = {
    "fails": "the entry point fails = theirs_fails:Gone of the package theirs cannot be loaded: ImportError: no libfoo",
    "vain": "the entry point vain = theirs_other:Other of the package theirs is no learner: it must name a class",
    "half": "the entry point half = theirs_half:Half of the package theirs is not a whole learner: it lacks scores",
    "void": "the entry point void = theirs_void:X of the package theirs cannot be loaded: ModuleNotFoundError",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_an_entry_point_that_is_no_learner_is_told_with_its_package(packages, capsys, name):
    assert main(["bench", "--learner", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fewshot: {SENTENCES[name]}")


def test_broken_entry_points_do_not_hide_the_others(packages, capsys):
    assert main(["learners"]) == 0
    said = capsys.readouterr()
    first = [line.split()[0] for line in said.out.splitlines() if line.strip()]
    assert {"whole", *LEARNERS} <= set(first)
    assert not {*first} & SENTENCES.keys()
    assert all(any(sentence in line for line in said.err.splitlines()) for sentence in SENTENCES.values())


def test_a_learner_that_registers_no_name_is_called_as_its_entry_point(packages):
    cls, _ = find_learner("whole")
    assert (cls.name, issubclass(cls, Learner)) == ("whole", True)
