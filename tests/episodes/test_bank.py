"""Image banks are whole or absent: built once, opened read-only from the cache, never trusted when damaged."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank

from episodes import ImageBank, InputError
from episodes.bank import Contents, cached_bank

PIXELS = np.arange(5 * 16, dtype=np.uint8).reshape(5, 1, 4, 4)


class Filler:
    """Writes PIXELS and counts its calls."""

    calls = 0

    def __call__(self, images: np.ndarray) -> None:
        self.calls += 1
        images[:] = PIXELS


def build(fill, key: str = "toy-key", **about) -> ImageBank:
    about = {"dataset": "toy", "split": "test", **about}
    contents = Contents((1, 4, 4), [2, 3], ["a", "b"], ["g", "h"], fill, about)
    return cached_bank(key, lambda: contents)


@pytest.fixture
def fill() -> Filler:
    return Filler()


@pytest.fixture
def banks(tmp_path, monkeypatch) -> Path:
    """The folder of the banks in a fresh cache."""
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    return tmp_path / "banks"


def test_a_bank_is_built_once_and_reopened_equal(banks, fill):
    first, second = build(fill), build(fill)
    assert fill.calls == 1
    assert [path.name for path in banks.iterdir()] == ["toy-key"]
    for field in dataclasses.fields(ImageBank):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert torch.equal(second.images, torch.from_numpy(PIXELS))
    assert (second.class_names, second.group_names, second.name) == (("a", "b"), ("g", "h"), "toy test")
    assert second.checksum == second.compute_checksum()


@pytest.mark.parametrize("about", [{"turns": 2}, {"listed": True}], ids=["turns", "listed"])
def test_what_protocols_say_of_the_classes_survives_the_cache(banks, fill, about):
    for bank in (build(fill, **about), build(fill, **about)):
        assert {"turns": bank.turns, "listed": bank.listed} == {"turns": 1, "listed": False, **about}
    assert fill.calls == 1


def test_a_bank_on_another_device_keeps_what_protocols_say_of_the_classes():
    moved = dataclasses.replace(toy_bank(), turns=2, listed=True).to("cpu")
    assert (moved.turns, moved.listed) == (2, True)


def test_a_bank_prepared_in_format_1_is_built_anew(banks, fill):
    """A record without `turns`: its turned classes would count as classes of their own."""
    build(fill, turns=2)
    record = banks / "toy-key" / "bank.json"
    old = {**json.loads(record.read_text()), "format": 1}
    old.pop("turns")
    record.write_text(json.dumps(old))
    assert build(fill, turns=2).turns == 2
    assert fill.calls == 2
    assert json.loads(record.read_text())["format"] == 3


def test_the_checksum_is_reproducible():
    assert toy_bank().compute_checksum() == toy_bank().compute_checksum()


@pytest.mark.parametrize("field", ["images", "offsets", "class_names", "group_names"])
def test_the_checksum_depends_on(field):
    bank = toy_bank(classes=4)
    pixels = bank.images.clone()
    pixels[7, 0, 3, 3] ^= 1
    changed = {
        "images": pixels,
        "offsets": torch.tensor([0, 7, 16, 24, 32]),
        "class_names": ("other", *bank.class_names[1:]),
        "group_names": ("other", *bank.group_names[1:]),
    }
    assert dataclasses.replace(bank, **{field: changed[field]}).compute_checksum() != bank.compute_checksum()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt, KeyboardInterrupt),
        (InputError("a broken image"), InputError),
        (OSError("disk full"), InputError),
    ],
)
def test_an_interrupted_build_leaves_nothing(banks, fill, error, told):
    def interrupted(images):
        images[:2] = 9
        raise error

    with pytest.raises(told):
        build(interrupted)
    assert [*banks.iterdir()] == []
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))


def test_a_build_killed_outright_leaves_nothing_that_is_opened(banks, fill):
    script = (
        "import os, signal\n"
        "from episodes.bank import Contents, cached_bank\n"
        "def fill(images):\n"
        "    images[:2] = 9\n"
        "    images.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "contents = Contents((1, 4, 4), [2, 3], ['a', 'b'], ['g', 'h'], fill, {'dataset': 'toy', 'split': 'test'})\n"
        "cached_bank('toy-key', lambda: contents)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert child.returncode == -signal.SIGKILL
    assert not (banks / "toy-key").exists()
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))
    assert fill.calls == 1


def test_of_builds_at_once_one_builds_and_the_others_wait(banks, fill):
    def slowly(images):
        time.sleep(0.2)
        fill(images)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: build(slowly), range(4)))
    assert all(torch.equal(bank.images, torch.from_numpy(PIXELS)) for bank in found)
    assert fill.calls == 1
    assert [path.name for path in banks.iterdir()] == ["toy-key"]


RACING = """
import sys
import time
from pathlib import Path
import torch
sys.path[:0] = ["tests", "tests/episodes"]
from test_bank import Filler, build
start = float(sys.argv[1])
for key in range(30):
    time.sleep(max(0, start + 0.02 * key - time.time()))
    build(Filler(), key=f"toy-key-{key}")
"""


@pytest.mark.slow
def test_processes_that_build_the_same_banks_at_once_all_open_them(banks):
    command = [sys.executable, "-c", RACING, str(time.time() + 4)]
    children = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) for _ in range(3)]
    assert [child.communicate()[1].decode() for child in children] == [""] * 3
    assert len(list(banks.iterdir())) == 30


@pytest.mark.parametrize("left", [0, 4, 60, 150], ids="{} bytes".format)
def test_truncated_images_are_rebuilt(banks, fill, left):
    build(fill)
    os.truncate(banks / "toy-key" / "images.npy", left)
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))
    assert fill.calls == 2


@pytest.mark.parametrize("content", [b"junk" * 60, bytes(208)], ids=["junk", "zeros"])
def test_images_that_are_something_else_are_rebuilt(banks, fill, content):
    build(fill)
    (banks / "toy-key" / "images.npy").write_bytes(content)
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))
    assert fill.calls == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "null",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"format": 3', '"format": 4'),
        lambda text: text.replace("[0, 2, 5]", "[0, 2, 6]"),
        lambda text: text.replace("[0, 2, 5]", "[0, 9, 5]"),
        lambda text: text.replace('["a", "b"]', '["a"]'),
        lambda text: text.replace('"checksum"', '"surprise"'),
    ],
    ids=["empty", "half", "null", "list", "object", "format", "count", "order", "names", "field"],
)
def test_a_damaged_record_is_rebuilt(banks, fill, damage):
    build(fill)
    record = banks / "toy-key" / "bank.json"
    damaged = damage(record.read_text())
    assert damaged != record.read_text()
    record.write_text(damaged)
    assert build(fill).checksum == build(fill).compute_checksum()
    assert fill.calls == 2


@pytest.mark.parametrize("place", ["/proc/fewshot", __file__])
def test_a_cache_that_cannot_be_written_is_named(place, fill, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", place)
    with pytest.raises(InputError, match=f"{place}.* cannot be written .*: set FEWSHOT_CACHE"):
        build(fill)
    assert fill.calls == 0


def test_writing_to_an_opened_bank_does_not_reach_the_file(banks, fill):
    build(fill).images[:] = 255
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))
    assert fill.calls == 1


def test_bytes_become_numbers_between_zero_and_one_exactly():
    pixels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    bank = ImageBank(pixels, torch.tensor([0, 256]), ("a",), ("g",))
    batch = bank.batch(torch.arange(255, -1, -1))
    assert (batch.dtype, tuple(batch.shape)) == (torch.float32, (256, 1, 1, 1))
    assert torch.equal(batch.flatten(), torch.arange(255, -1, -1) / 255)
    assert (batch[0].item(), batch[-1].item()) == (1.0, 0.0)
    assert torch.equal(bank.images, torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1))


def test_sizes_and_labels_follow_the_offsets():
    bank = ImageBank(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 4, 6]), tuple("abc"), tuple("ggh"))
    assert (len(bank), bank.classes) == (6, 3)
    assert bank.sizes.tolist() == [1, 3, 2]
    assert bank.labels.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(5, 1, 4, 4)}, r"uint8 images \(N, C, H, W\), not \(5, 1, 4, 4\) of torch.float32"),
        ({"images": torch.zeros(5, 4, 4, dtype=torch.uint8)}, r"not \(5, 4, 4\)"),
        ({"class_names": ("a",)}, "2 classes needs as many class and group names, not 1 and 2"),
        ({"group_names": ("g",) * 3}, "not 2 and 3"),
        ({"offsets": torch.tensor([0, 2, 4])}, "rise from 0 to its number of images"),
        ({"offsets": torch.tensor([1, 2, 5])}, "rise from 0"),
        ({"offsets": torch.tensor([0, 5, 5])}, "rise from 0"),
    ],
)
def test_inconsistent_banks_are_refused(change, message):
    fields = {
        "images": torch.from_numpy(PIXELS),
        "offsets": torch.tensor([0, 2, 5]),
        "class_names": ("a", "b"),
        "group_names": ("g", "h"),
    }
    with pytest.raises(InputError, match=message):
        ImageBank(**{**fields, **change})


def unequal_bank() -> ImageBank:
    """Three classes of 3, 5 and 2 images."""
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    names = ("a", "b", "c")
    return ImageBank(images, torch.tensor([0, 3, 8, 10]), names, names, checksum="sum", turns=3)


def test_a_bank_of_some_images_alone():
    part = unequal_bank().only(torch.tensor([0, 2, 4, 9]))
    assert part.images.flatten().tolist() == [0, 2, 4, 9]
    assert part.offsets.tolist() == [0, 2, 3, 4]
    assert part.labels.tolist() == [0, 0, 1, 2]
    assert part.class_names == ("a", "b", "c")


def test_the_last_images_of_each_class_are_held_out():
    rest, last = unequal_bank().held_out(1)
    assert rest.images.flatten().tolist() == [0, 1, 3, 4, 5, 6, 8]
    assert last.images.flatten().tolist() == [2, 7, 9]
    assert (rest.sizes.tolist(), last.sizes.tolist(), last.turns) == ([2, 4, 1], [1, 1, 1], 3)
    assert len({rest.checksum, last.checksum, "sum"}) == 3


@pytest.mark.parametrize("count", [0, 2, 7])
def test_more_images_than_a_class_has_cannot_be_held_out(count):
    assert "class 'c' has 2" in refusal(lambda: unequal_bank().held_out(count))


def test_a_bank_keeps_the_names_of_its_files_and_reads_them_when_asked(banks, fill):
    names = [f"{label}/{number}.png" for label, count in (("a", 2), ("b", 3)) for number in range(count)]
    contents = Contents((1, 4, 4), [2, 3], ["a", "b"], ["g", "h"], fill, {"dataset": "toy", "split": "test"}, names)
    made = cached_bank("named", lambda: contents)
    (banks / "named" / "files.json").rename(banks / "away.json")
    again = cached_bank("named", lambda: contents)
    assert again.checksum == made.checksum  # opened without the names
    with pytest.raises(InputError, match=r"files\.json cannot be read: remove .*named"):
        len(again.files)
    (banks / "away.json").rename(banks / "named" / "files.json")
    assert list(cached_bank("named", lambda: contents).files) == names
    kept, last = made.held_out(1)
    assert list(kept.files) == ["a/0.png", "b/0.png", "b/1.png"]
    assert list(last.files) == ["a/1.png", "b/2.png"]
    assert list(made.only(torch.tensor([0, 3])).files) == ["a/0.png", "b/1.png"]


def test_the_names_of_files_are_no_part_of_the_checksum(banks, fill):
    about = {"dataset": "toy", "split": "test"}
    found = [
        cached_bank(f"toy-{number}", lambda files=files: Contents((1, 4, 4), [5], ["a"], ["g"], fill, about, files))
        for number, files in enumerate(([], list("vwxyz")))
    ]
    assert found[0].checksum == found[1].checksum
    assert [list(bank.files) for bank in found] == [[], list("vwxyz")]


def test_a_bank_is_built_where_a_folder_cannot_be_opened(banks, fill, monkeypatch):
    """As on Windows: the files are written out, the folder is left to the system."""
    opened = os.open

    def refuse_folders(path, *more, **options):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "open", refuse_folders)
    assert torch.equal(build(fill).images, torch.from_numpy(PIXELS))
