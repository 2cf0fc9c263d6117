"""What several tests need: a cache folder of their own, toy banks, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest
import torch

from episodes import ImageBank


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """A cache folder for this session, so that tests neither trust nor touch the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(folder))
        yield folder


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Every download fails at once."""

    def refuse(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("FEWSHOT_DATA")
    if not folder or not (Path(folder) / "omniglot").is_dir():
        pytest.skip("needs real Omniglot: set FEWSHOT_DATA to the folder that holds omniglot/")
    return Path(folder)


def toy_bank(classes: int = 30, images: int = 8, size: int = 16, seed: int = 0, split: str = "train") -> ImageBank:
    """Classes that are easy to tell apart: each a random pattern, its images the pattern with noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 1, size, size, generator=generator)
    noise = 0.3 * torch.rand(classes, images, 1, size, size, generator=generator)
    pixels = ((0.7 * patterns + noise) * 255).byte().flatten(0, 1)
    offsets = torch.arange(classes + 1) * images
    names = tuple(f"class {number}" for number in range(classes))
    return ImageBank(pixels, offsets, names, names, dataset="toy", protocol="random", split=split)
