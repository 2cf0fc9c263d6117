"""The example of images that texts steer passes its own tests, if the package that it needs is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "text-guided"


def test_the_example_passes_its_own_tests(tmp_path):
    pytest.importorskip("diffusers", reason="the example needs diffusers, which the suite does not")
    path = os.pathsep.join(map(str, (EXAMPLE, EXAMPLE.parents[1])))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "own", EXAMPLE]
    environment = {name: value for name, value in os.environ.items() if name != "FEWSHOT_DATA"}  # icons take a minute
    environment["PYTHONPATH"] = path
    said = subprocess.run(command, env=environment, cwd=EXAMPLE, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
