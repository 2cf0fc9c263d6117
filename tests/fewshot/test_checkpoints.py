"""Checkpoints: written whole or not at all, and read without trusting them."""

import pickle
from pathlib import Path

import pytest
import torch

from episodes import InputError
from fewshot import checkpoints


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


CONTENT = {"about": {"learner": "npair", "options": {"rate": 0.5}}, "step": 3, "learner": {"w": torch.arange(4.0)}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "best.pt"


def test_round_trip(path):
    checkpoints.save(path, CONTENT)
    content = checkpoints.load(path)
    assert {key: content[key] for key in ("about", "step")} == {key: CONTENT[key] for key in ("about", "step")}
    assert torch.equal(content["learner"]["w"], CONTENT["learner"]["w"])
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_checkpoint_cannot_run_code(path, tmp_path, write):
    trap = tmp_path / "trap"
    write({"format": "fewshot checkpoint 1", "learner": Touch(trap)}, path)
    with pytest.raises(InputError, match="holds more than tensors and plain data"):
        checkpoints.load(path)
    assert not trap.exists()


def truncated(path: Path, share: float) -> None:
    checkpoints.save(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: truncated(path, 0.5),
        lambda path: truncated(path, 0.95),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint at all\n"),
        lambda path: path.write_bytes(bytes(range(256)) * 10),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    ],
    ids=["half", "nearly whole", "empty", "text", "bytes", "zip"],
)
def test_a_file_that_cannot_be_read_is_an_input_error(path, spoil):
    spoil(path)
    with pytest.raises(InputError, match=r"best\.pt cannot be read as a checkpoint"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, torch.arange(3), [1, 2], {"format": "another"}, {"format": torch.zeros(2)}],
    ids=["dictionary", "tensor", "list", "other format", "odd format"],
)
def test_a_foreign_checkpoint_is_an_input_error(path, content):
    torch.save(content, path)
    with pytest.raises(InputError, match=r"best\.pt is not a checkpoint of this suite"):
        checkpoints.load(path)


def test_missing_file_and_folder(path):
    for missing in (path, path.parent):
        with pytest.raises(InputError, match="there is no checkpoint"):
            checkpoints.load(missing)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_save_keeps_the_checkpoint_before(path, monkeypatch, error):
    checkpoints.save(path, CONTENT)

    def half(file, data):
        with file.open("wb") as opened:
            opened.write(b"half")
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(error):
        checkpoints.save(path, {"step": 4})
    assert checkpoints.load(path)["step"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["best.pt"]


def test_restore_gives_the_weights(path):
    saved, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    checkpoints.save(path, {**CONTENT, "learner": saved.state_dict()})
    checkpoints.restore(other, checkpoints.load(path), path)
    assert torch.equal(other.weight, saved.weight)


@pytest.mark.parametrize(
    "content",
    [
        {"learner": torch.nn.Linear(4, 2).state_dict()},
        {"learner": {}},
        {},
        {"learner": 3},
        {"learner": {"weight": "x"}},
    ],
    ids=["shapes", "none", "missing", "number", "text"],
)
def test_restore_refuses_the_weights_of_another_learner(path, content):
    with pytest.raises(InputError, match=r"best\.pt does not hold the weights of such a learner"):
        checkpoints.restore(torch.nn.Linear(3, 2), content, path)
