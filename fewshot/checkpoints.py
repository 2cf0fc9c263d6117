"""Checkpoints: written whole or not at all, and read without trusting them."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from episodes.errors import InputError
from fewshot.files import replacing

_FORMAT = "fewshot checkpoint 1"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content`: tensors, numbers, strings and containers of them."""
    packed = io.BytesIO()  # torch.save would raise a RuntimeError if the disk is full, as it does for many faults
    torch.save({"format": _FORMAT, **content}, packed)
    with replacing(path) as unfinished:
        unfinished.write_bytes(packed.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; InputError if the file is no checkpoint of this suite.

    Only tensors and plain data are unpickled (weights_only), so a checkpoint cannot run code.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content = unpickled(path)
    except Exception as error:  # bytes that are no checkpoint can fail anywhere in the unpickler
        raise InputError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than tensors and plain data"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("about"), dict):
        raise InputError(f"{path} is not a checkpoint of this suite: train one with 'fewshot train' or 'fewshot bench'")
    return content


def unpickled(path: Path) -> Any:
    """What torch.save wrote, on the CPU; weights_only raises various exceptions for content that could run code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caller's error alone says what is wrong with the file
        return torch.load(path, map_location="cpu", weights_only=True)


def restore(learner: torch.nn.Module, content: dict[str, Any], path: Path) -> None:
    """Give `learner` the weights of a checkpoint; InputError if the weights are another learner's."""
    try:
        learner.load_state_dict(content["learner"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold the weights of such a learner: its class or its settings have changed"
        ) from error
