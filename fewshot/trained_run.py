"""A finished run tested again: all its trained models, from their checkpoints, on other data sets."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from episodes import ImageBank, InputError
from episodes.datasets import ALL
from fewshot import checkpoints
from fewshot.benchmark import open_data
from fewshot.config import Config
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank
from fewshot.loading import open_checkpoint
from fewshot.models import ModelSpec
from fewshot.protocols.base import Row, Task
from fewshot.protocols.registry import PROTOCOLS, check_protocols, measure
from fewshot.records import row_of


def measure_on_others(
    run: Path, config: Config, data: str | None = None, *, learner: str = "", device: str = "auto"
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows and arrays of the test protocol `domains` for all models of the run in the folder `run`.

    config   that of the run, whose test protocol is `domains` with the data sets and episodes of this test
    learner  FILE.py:CLASS for models whose learner is in a file, which runs that file's code

    The rows have no key, since no run continues them. InputError if a checkpoint is missing or of other images, or if
    the data sets cannot be tested on.
    """
    paths = _checkpoints(run, config)
    config, banks = open_data(config, data)
    check_protocols(config.evaluation, banks)
    chosen = choose_device(device)
    prepare(chosen)
    rows: list[Row] = []
    arrays: dict[str, np.ndarray] = {}
    for path in paths:
        task = _task(path, learner, config, banks, chosen)
        found, kept = measure("domains", task)
        rows += found
        arrays |= kept
    return pd.DataFrame(rows, columns=list(PROTOCOLS["domains"].columns)), arrays


def _checkpoints(run: Path, config: Config) -> list[Path]:
    """The best checkpoint of each model of the run, in the order of its learners and seeds; no learner's file runs."""
    if config.data.test == ALL:
        raise InputError(
            f"the run in {run} trained nothing: 'fewshot bench --test' tests its models on other data sets"
        )
    found = {}
    for path in sorted(run.glob("checkpoints/*/best.pt")):
        spec = ModelSpec.from_checkpoint(checkpoints.load(path), path)
        found[spec.asked, spec.seed, spec.shot] = path
    models = [
        (asked, seed, shot)
        for asked, settings in config.learner.items()
        for seed in config.seeds
        for shot in dict.fromkeys(shot if str(shot) in settings.per_shot else 0 for shot in config.evaluation.shots)
    ]
    for model in models:
        if model not in found:
            raise InputError(
                f"the run in {run} has no checkpoint of {model[0]} with seed {model[1]}: finish the run with --resume,"
                " or bring its folder checkpoints back"
            )
    return [found[model] for model in models]


def _task(path: Path, learner: str, config: Config, banks: dict[str, ImageBank], device: torch.device) -> Task:
    """The trained model of a checkpoint, and its test."""
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    if spec.data and banks["train"].checksum not in spec.data:
        raise InputError(f"the images of {banks['train'].name} are not those that {spec.label} was trained with")
    spec, model = open_checkpoint(path, learner if ".py:" in spec.asked else "")
    model.to(device)
    data = {
        name: EmbeddedBank(model, bank if name == "train" else placed(bank, device)) for name, bank in banks.items()
    }
    per_shot = config.learner[spec.asked].per_shot
    shots = (spec.shot,) if spec.shot else tuple(one for one in config.evaluation.shots if str(one) not in per_shot)
    columns = {
        **row_of(spec, model, banks["test"]),
        "collapsed": content.get("collapsed", False) is True,
        "shares": str(content.get("shares", "")),
        "preset": config.preset,
        "key": "",
        "kept": "",
    }
    return Task(model, spec, data, config.evaluation, shots, columns)
