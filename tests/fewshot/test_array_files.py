"""Archives of arrays that grow with a run."""

import os

import numpy as np
import pytest

from fewshot import array_files
from fewshot.array_files import ArrayFile
from fewshot.record_files import Damaged, read_arrays

FIRST = {"a/x": np.arange(5, dtype=np.uint8), "a/name": np.array(["one", "two"])}
SECOND = {"b/x": np.linspace(0, 1, 3), "b/empty": np.zeros((0, 2), np.float16)}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    return True


@pytest.fixture
def compressed(monkeypatch):
    """How many arrays each write has compressed."""
    counts = []
    whole, extend = array_files.write_arrays, array_files._extend
    monkeypatch.setattr(array_files, "write_arrays", lambda path, new: (counts.append(len(new)), whole(path, new)))
    monkeypatch.setattr(array_files, "_extend", lambda path, new: (counts.append(len(new)), extend(path, new)))
    return counts


def test_what_is_there_is_not_compressed_again(tmp_path, compressed):
    file = ArrayFile(tmp_path / "run.npz")
    file.write(FIRST)
    copies = {name: array.copy() for name, array in FIRST.items()}  # as they are after reading
    file.write({**copies, **SECOND})
    assert compressed == [2, 2]
    assert same(read_arrays(tmp_path / "run.npz"), {**FIRST, **SECOND})
    assert same(file.read(), {**FIRST, **SECOND})
    file.write({**copies, **SECOND})  # nothing new
    assert compressed == [2, 2]
    assert os.listdir(tmp_path) == ["run.npz"]


@pytest.mark.parametrize(
    "changed",
    [
        {"a/x": np.arange(1, 6, dtype=np.uint8), "a/name": FIRST["a/name"]},
        {"a/x": np.arange(5, dtype=np.int64), "a/name": FIRST["a/name"]},
        {"a/x": FIRST["a/x"]},
        {"c": FIRST["a/x"]},
        {},
    ],
)
def test_an_archive_with_another_array_or_without_one_is_written_anew(tmp_path, compressed, changed):
    file = ArrayFile(tmp_path / "run.npz")
    file.write(FIRST)
    file.write({**changed, **SECOND})
    assert compressed == [2, len(changed) + 2]
    assert same(read_arrays(tmp_path / "run.npz"), {**changed, **SECOND})


def test_it_goes_on_from_the_archive_of_an_earlier_process(tmp_path, compressed):
    ArrayFile(tmp_path / "run.npz").write(FIRST)
    later = ArrayFile(tmp_path / "run.npz")
    later.write({**later.read(), **SECOND})
    assert compressed == [2, 2]
    assert same(read_arrays(tmp_path / "run.npz"), {**FIRST, **SECOND})


def test_an_archive_that_another_process_replaced_is_read_again(tmp_path, compressed):
    ours, theirs = (ArrayFile(tmp_path / "run.npz") for _ in range(2))
    ours.write(FIRST)
    theirs.write({**theirs.read(), **SECOND})
    assert same(ours.read(), {**FIRST, **SECOND})
    theirs.write(SECOND)
    ours.write({**FIRST, **SECOND})  # not by adding to what it remembers
    assert same(read_arrays(tmp_path / "run.npz"), {**FIRST, **SECOND})
    assert compressed == [2, 2, 2, 4]


def test_it_is_read_once(tmp_path, monkeypatch):
    ArrayFile(tmp_path / "run.npz").write(FIRST)
    reads = []
    monkeypatch.setattr(array_files, "read_arrays", lambda path: reads.append(path) or read_arrays(path))
    file = ArrayFile(tmp_path / "run.npz")
    for _ in range(3):
        assert same(file.read(), FIRST)
    assert len(reads) == 1


def test_a_missing_or_damaged_archive(tmp_path):
    file = ArrayFile(tmp_path / "run.npz")
    with pytest.raises(FileNotFoundError):
        file.read()
    file.write(FIRST)
    (tmp_path / "run.npz").write_bytes(b"no archive")
    with pytest.raises(Damaged, match=r"run\.npz cannot be read as arrays"):
        file.read()
    file.write({**FIRST, **SECOND})
    assert same(file.read(), {**FIRST, **SECOND})
    (tmp_path / "run.npz").unlink()
    file.write(SECOND)
    assert same(read_arrays(tmp_path / "run.npz"), SECOND)


def test_an_archive_that_cannot_be_extended_stays_as_it_was(tmp_path):
    file = ArrayFile(tmp_path / "run.npz")
    file.write(FIRST)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        file.write({**FIRST, "b": np.array([object()])})
    assert os.listdir(tmp_path) == ["run.npz"]
    assert same(file.read(), FIRST)
    file.write({**FIRST, **SECOND})
    assert same(read_arrays(tmp_path / "run.npz"), {**FIRST, **SECOND})
