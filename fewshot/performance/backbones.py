"""The cost of a backbone: its size, and the images a second that it trains on and embeds on this machine."""

import time
from collections.abc import Callable

import pandas as pd
import torch
from tqdm import tqdm

from fewshot.backbones import Backbone, make_backbone
from fewshot.devices import choose_device, describe, prepare, training_precision
from fewshot.embedding import computing_in

_SECONDS = 4  # of measuring, at least


def measure_backbones(
    names: list[str], size: int, batch: int = 64, device: str = "auto", timed: bool = True
) -> pd.DataFrame:
    """A DataFrame of one row a backbone, for RGB images of `size` x `size` in batches of `batch`.

    parameters, embedding       of the network
    train_rate, embed_rate      images a second: forward, backward and SGD step in the precision of training on this
                                device; forward in float32; nan if not `timed`
    """
    chosen = choose_device(device)
    prepare(chosen)
    rows = []
    for name in tqdm(names, desc="backbones", unit="backbone", disable=None if timed else True):
        backbone = make_backbone(name, 3, size).to(chosen)
        row = {
            "backbone": name,
            "image_size": size,
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "embedding": backbone.embedding_size,
            "train_rate": float("nan"),
            "embed_rate": float("nan"),
        }
        if timed:
            images = torch.rand(batch, 3, size, size, device=chosen)
            row |= {"train_rate": _train_rate(backbone, images), "embed_rate": _embed_rate(backbone, images)}
        row |= {
            "precision": str(training_precision("auto", chosen)).removeprefix("torch."),
            "device": describe(chosen),
            "torch": torch.__version__,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _train_rate(backbone: Backbone, images: torch.Tensor) -> float:
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backbone(images).square().mean().backward()
        optimizer.step()

    backbone.train()
    with computing_in(backbone, training_precision("auto", images.device)):
        return _rate(step, images)


def _embed_rate(backbone: Backbone, images: torch.Tensor) -> float:
    backbone.eval()
    with torch.no_grad():
        return _rate(lambda: backbone(images), images)


def _rate(work: Callable[[], object], images: torch.Tensor) -> float:
    """Images a second of `work`, after one call that is not counted."""
    work()
    _wait(images.device)
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < _SECONDS:
        work()
        calls += 1
        _wait(images.device)
    return calls * len(images) / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
