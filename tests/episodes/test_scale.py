"""A large prepared bank opens at once, and its images stay on disk until they are read."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from episodes.bank import Contents, cached_bank

CLASSES, IMAGES = 100, 100  # 212 MB at 84x84
OPENED = """
import os, time
import torch
from episodes import EpisodeSampler
from episodes.bank import bank_folder, cached_bank

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

EpisodeSampler([20] * 5, 5, 1, 15, 0).episodes(0, 2)  # the first arithmetic of PyTorch starts its threads
before, began = resident(), time.perf_counter()
bank = cached_bank("large", None)
seconds = time.perf_counter() - began
opened = resident()
episodes = EpisodeSampler(bank, 5, 1, 15, 0).episodes(0, 1000)
print(len(bank), len(episodes), seconds, opened - before, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_an_open_bank_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))

    def fill(images: np.ndarray) -> None:
        images[:] = 7

    names = [f"c{number}" for number in range(CLASSES)]
    about = {"dataset": "large", "split": "test"}
    cached_bank("large", lambda: Contents((3, 84, 84), [IMAGES] * CLASSES, names, names, fill, about))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", OPENED]
    said = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    images, episodes, seconds, opened, sampled = map(float, said.stdout.split())
    assert (images, episodes) == (CLASSES * IMAGES, 1000)
    assert seconds < 0.2
    assert opened < 5  # megabytes, of 212
    assert sampled < 50
