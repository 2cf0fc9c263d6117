"""A finished run tested again: all its trained models, from their checkpoints, on other data sets."""

from pathlib import Path
from typing import NamedTuple

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
    models = _models(run, config)
    config, banks = open_data(config, data)
    check_protocols(config.evaluation, banks)
    chosen = choose_device(device)
    prepare(chosen)
    rows: list[Row] = []
    arrays: dict[str, np.ndarray] = {}
    for model in models:
        _check_images(model.spec, banks)
    for model in models:
        task = _task(model, learner, config, banks, chosen)
        found, kept = measure("domains", task)
        rows += found
        arrays |= kept
    return pd.DataFrame(rows, columns=list(PROTOCOLS["domains"].columns)), arrays


class _Model(NamedTuple):
    """A model of the run: its best checkpoint, and what that says of it, without the weights."""

    path: Path
    spec: ModelSpec
    collapsed: bool


def _models(run: Path, config: Config) -> list[_Model]:
    """Each model of the run, in the order of its learners and seeds; no learner's file runs.

    The weights are read again when their turn comes, since those of all models together may not fit into memory.
    """
    if config.data.test == ALL:
        raise InputError(
            f"the run in {run} trained nothing: 'fewshot bench --test' tests its models on other data sets"
        )
    found = {}
    for path in sorted(run.glob("checkpoints/*/best.pt")):
        content = checkpoints.load(path)
        spec = ModelSpec.from_checkpoint(content, path)
        found[spec.asked, spec.seed, spec.shot] = _Model(path, spec, content.get("collapsed", False) is True)
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


def _check_images(spec: ModelSpec, banks: dict[str, ImageBank]) -> None:
    """InputError if a model was trained on other images than those that the run's data set has now."""
    if spec.data and banks["train"].checksum not in spec.data:
        raise InputError(f"the images of {banks['train'].name} are not those that {spec.label} was trained with")


def _task(trained: _Model, learner: str, config: Config, banks: dict[str, ImageBank], device: torch.device) -> Task:
    """The trained model of a checkpoint, and its test."""
    spec, model = open_checkpoint(trained.path, learner if ".py:" in trained.spec.asked else "")
    model.to(device)
    data = {
        name: EmbeddedBank(model, bank if name == "train" else placed(bank, device)) for name, bank in banks.items()
    }
    per_shot = config.learner[spec.asked].per_shot
    shots = (spec.shot,) if spec.shot else tuple(one for one in config.evaluation.shots if str(one) not in per_shot)
    columns = {
        **row_of(spec, model, banks["test"]),
        "collapsed": trained.collapsed,
        "preset": config.preset,
        "key": "",
        "kept": "",
    }
    return Task(model, spec, data, config.evaluation, shots, columns)
