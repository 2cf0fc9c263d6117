"""How pytest-xdist spreads the tests over processes."""

import os
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(6))
def test_the_tests_of_a_file_run_in_one_process(cache: Path, number: int):
    with (cache / "processes.txt").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    assert set((cache / "processes.txt").read_text(encoding="utf-8").split()) == {str(os.getpid())}
