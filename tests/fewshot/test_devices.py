"""Devices by name: found, counted, refused in one sentence; float64 where the device has it, else on the CPU."""

import re
from pathlib import Path

import pytest
import torch
from conftest import refusal

import fewshot
from fewshot.devices import choose_device, describe, exact, exact_device, training_precision


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as far as PyTorch is asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_gpu_is_chosen_by_its_number(gpus):
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(gpus):
    assert refusal(lambda: choose_device("cuda:2")) == (
        "cuda:2 was asked for, but the last GPU here is cuda:1: take --device cuda:1 or auto"
    )


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "auto:1", "gpu", "", "cuda:1:1"])
def test_other_names_are_unknown(gpus, name):
    assert f"unknown device '{name}'" in refusal(lambda: choose_device(name))


def test_mps_is_refused_where_there_is_none_and_taken_where_there_is(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "mps was asked for, but" in refusal(lambda: choose_device("mps"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = choose_device("mps")
    assert found == torch.device("mps")
    assert describe(found) == "GPU of Apple (mps)"
    assert training_precision("auto", found) == torch.float32


def test_float64_stays_on_its_device_if_the_device_has_it():
    assert exact_device(torch.device("mps")) == torch.device("cpu")
    assert exact_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert exact(torch.tensor([1, 2])).dtype == torch.float64


def test_no_other_code_asks_a_tensor_for_float64():
    """What makes float64 on a GPU of Apple fails there: exact is the way to float64."""
    package = Path(fewshot.__file__).parent
    places = [
        path for path in sorted(package.rglob("*.py")) if path.name != "devices.py" and "testing" not in path.parts
    ]
    found = [
        f"{path.name}: {line.strip()}"
        for path in places
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\.double\(|torch\.float64", line)
    ]
    # these work on exact_device already, or on the CPU
    there = ("retrieval.py", "ties.py", "open_set.py", "difficulty.py")
    assert all(line.startswith(there) for line in found), found
