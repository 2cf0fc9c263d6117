"""What several tests need: a cache folder of their own, toy banks, and the real data if it is available."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from episodes import ImageBank, InputError

if TYPE_CHECKING:
    from groups import Groups
    from xdist.remote import Producer

# One thread a process, here and in processes that tests start: pytest-xdist has a process for each core, and more
# threads on arrays as small as these cost more time than they save.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# torch.manual_seed notes the whole stack for each kind of GPU that is missing: milliseconds, thousands of times
if not torch.accelerator.is_available():
    torch.manual_seed = torch.default_generator.manual_seed


# the files whose groups take longest: they come first, so that the processes end at about the same time
LONGEST = (
    "test_tutorials",
    "test_workers",
    "test_tuning",
    "test_omniglot",
    "test_same_answers",
    "test_board",
    "test_report",
)


@pytest.hookimpl(optionalhook=True)  # -p no:xdist leaves the plugin out
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "Groups":
    from groups import Groups  # not in processes that tests start and that import this file

    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that train, and puts the files that take longest first."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        examined = {"learner", "check"} <= parameters.keys()
        if examined or "preset" in item.fixturenames:  # the preset of small runs
            item.add_marker(pytest.mark.training)
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same numbers, whichever tests its process ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """A cache folder for this session, so that tests neither trust nor touch the user's.

    The processes of pytest-xdist have one together: each data set is prepared once.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"
    folder.mkdir(exist_ok=True)
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
    """The folder of the real data sets; tests that need it are skipped if there is none."""
    folder = os.environ.get("FEWSHOT_DATA")
    if not folder or not (Path(folder) / "omniglot").is_dir():
        pytest.skip("needs real Omniglot: set FEWSHOT_DATA to the folder that holds omniglot/")
    return Path(folder)


def toy_splits(classes: int, images: int) -> dict[str, ImageBank]:
    """A toy bank for each split, of different classes."""
    seeds = {"train": 1, "validation": 2, "test": 3}
    return {split: toy_bank(classes, images, seed=seed, split=split) for split, seed in seeds.items()}


def toy_bank(classes: int = 30, images: int = 8, size: int = 16, seed: int = 0, split: str = "train") -> ImageBank:
    """Classes that are easy to tell apart: each a random pattern, its images the pattern with noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 1, size, size, generator=generator)
    noise = 0.3 * torch.rand(classes, images, 1, size, size, generator=generator)
    pixels = ((0.7 * patterns + noise) * 255).byte().flatten(0, 1)
    offsets = torch.arange(classes + 1) * images
    names = tuple(f"class {number}" for number in range(classes))
    return ImageBank(pixels, offsets, names, names, dataset="toy", protocol="random", split=split)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    """The bytes of an image file of `pixels`, uint8 (H, W) or (H, W, 3)."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form, **options)
    return data.getvalue()


def write_files(path: Path, files: dict[str, bytes]) -> Path:
    """Writes `files` as a folder, or as the zip or tar archive that the name of `path` asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
    elif ".t" in path.name:
        packing = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(path.name.rpartition(".")[2], "")
        with tarfile.open(path, f"w:{packing}", **({"preset": 1} if packing == "xz" else {})) as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def refusal(call: Callable[[], object], kind: type[InputError] = InputError) -> str:
    """The text of the InputError that `call` raises: of class `kind` and no subclass of it, and one line."""
    with pytest.raises(InputError) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)
