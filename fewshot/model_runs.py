"""One model of a run: trained, or taken from its checkpoint, and measured by test protocols.

Whatever process runs the model, and on whatever machine, it calls these functions.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from episodes import ImageBank, InputError
from fewshot import checkpoints, provenance
from fewshot.backbones.base import is_random
from fewshot.config import Config
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank
from fewshot.freshness import parts_of
from fewshot.frozen import SharedOutputs, one_thread
from fewshot.learners.base import Learner
from fewshot.models import ModelSpec
from fewshot.plan import Planned
from fewshot.protocols.base import NotComparable, Row, Task
from fewshot.protocols.registry import measure
from fewshot.records import row_of
from fewshot.trail import Trail
from fewshot.training import give_weights, train, trainable

log = logging.getLogger("fewshot")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What all models of a run share.

    banks     by split, as benchmark.open_data gives them
    device    by a name that choose_device takes
    resume    whether checkpoints that are there count; keep: also those of other code or packages
    progress  whether trainings show progress bars on a terminal
    curves    what trainings write step by step beside their checkpoints: see training.train
    """

    config: Config
    banks: dict[str, ImageBank]
    device: str = "auto"
    resume: bool = False
    keep: bool = False
    progress: bool = True
    curves: str = ""


class Measured(NamedTuple):
    """What one test protocol found of one model: see RunFolder.add, whose arguments these are."""

    model: str
    protocol: str
    rows: list[Row]
    arrays: dict[str, np.ndarray]
    parts: dict[str, Any]
    kept: str
    environment: dict[str, Any] | None = None


class Runner:
    """Runs models under the same conditions, one after the other, in this process."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions, self._device = conditions, choose_device(conditions.device)
        prepare(self._device)
        banks = conditions.banks
        self._data = {**banks, "test": placed(banks["test"], self._device)}
        # the outputs of an encoder that nothing trains are the same for all learners
        self._embedded = EmbeddedBank if "train" in banks else SharedOutputs().embedded

    def run(
        self, model: Planned, protocols: Sequence[str], home: Path, trail: Trail | None = None, trained: bool = False
    ) -> Iterator[Measured]:
        """Train a model, with checkpoints in the folder `home`, and measure it by each of the test protocols.

        trail: of a training that several models share; trained: whether the checkpoints are there already
        """
        found = obtain(model, self._conditions, home, self._device, trail, trained)
        data = {split: self._embedded(found.learner, bank) for split, bank in self._data.items()}
        for protocol in protocols:
            with contextlib.suppress(NotComparable):
                yield _measured(model, found, protocol, data, self._conditions.config)


class Trained(NamedTuple):
    """A trained learner, the seconds of its training, whether that collapsed, the spec in its checkpoints, and the name
    of the model whose training it shares."""

    learner: Learner
    seconds: float
    collapsed: bool
    spec: ModelSpec
    shares: str = ""


def obtain(
    model: Planned,
    conditions: Conditions,
    home: Path,
    device: torch.device,
    trail: Trail | None = None,
    trained: bool = False,
) -> Trained:
    """The trained learner of a model: with `resume` from the best checkpoint in the folder `home`, if that is of this
    model or, with `keep`, of other code or packages; otherwise trained, with checkpoints in `home`. It gets no test
    images. If this run has `trained` the model, it is taken from that checkpoint without `resume`, too.

    Without base classes, the learner is taken as it is, and there is nothing that a checkpoint would have to keep.
    """
    spec, path, banks = model.spec, home / "best.pt", conditions.banks
    if "train" not in banks:
        learner = spec.build(model.cls)
        give_weights(learner, spec.settings, banks["test"])
        _tell_random(learner, spec)
        return Trained(learner.to(device), 0.0, False, spec)
    if trained and not path.exists():
        raise InputError(f"{path} is gone since its training: the same command with --resume trains it again")
    if (conditions.resume or trained) and path.exists():
        content = checkpoints.load(path)
        before = ModelSpec.from_checkpoint(content, path)
        changed = spec.changes(before)
        if not changed or (conditions.keep and changed <= set(provenance.RENEWED)):
            if not trained:
                log.info("%s: trained earlier", spec.label)
            return _restored(model, before, content, path, device)
    return _fresh(model, conditions, home, device, trail)


def _fresh(model: Planned, conditions: Conditions, home: Path, device: torch.device, trail: Trail | None) -> Trained:
    """The learner of a training that begins or goes on now."""
    spec, banks = model.spec, conditions.banks
    learner = spec.build(model.cls)
    if trainable(learner) and spec.settings.steps:
        log.info("%s: training %s steps", spec.label, f"{spec.settings.steps:,}")
    with trail.kept(home) if trail else contextlib.nullcontext() as kept:
        trained = train(
            learner,
            banks["train"],
            banks["validation"],
            spec.settings,
            validation=spec.validation,
            seed=spec.seed,
            device=str(device),
            folder=home,
            spec=spec,
            resume=conditions.resume,
            progress=conditions.progress,
            curves=conditions.curves,
            trail=kept,
        )
    if trained.history.empty:
        why = "it has no weights to train" if learner.traits.trains and not trainable(learner) else "not trained"
        log.info("%s: %s, taken as it is", spec.label, why)
        _tell_random(learner, spec)
    elif trained.shares:
        log.info("%s: shares the training of %s", spec.label, trained.shares)
    else:
        log.info(
            "%s: trained in %.0f s, best checkpoint at step %s with %.2f %% on validation classes",
            spec.label,
            trained.seconds,
            f"{trained.best_step:,}",
            trained.best_accuracy,
        )
    return Trained(learner, trained.seconds, trained.collapsed, spec, trained.shares)


def _tell_random(learner: Learner, spec: ModelSpec) -> None:
    """A warning if a network that nothing trains has the weights that it got by chance."""
    if is_random(learner.backbone, spec.settings.weights) and not learner.traits.trained_on:
        log.warning("%s: nothing has trained its network %s, whose weights are random", spec.label, spec.backbone)


def _restored(model: Planned, before: ModelSpec, content: dict[str, Any], path: Path, device: torch.device) -> Trained:
    """The learner of an earlier training, from its best checkpoint."""
    learner = model.spec.build(model.cls)
    checkpoints.restore(learner, content, path)
    seconds = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        seconds = float(pd.read_csv(path.with_name("training.csv"))["seconds"].iloc[-1])
    renewed = {name: getattr(before, name) for name in provenance.RENEWED}
    spec = model.spec.model_copy(update=renewed)
    shares = str(content.get("shares", ""))
    return Trained(learner.to(device), seconds, content.get("collapsed", False) is True, spec, shares)


def _measured(
    model: Planned, trained: Trained, protocol: str, data: dict[str, EmbeddedBank], config: Config
) -> Measured:
    """What a test protocol finds of a trained model; NotComparable, after a warning, if it cannot test that model."""
    learner, spec, wanted = trained.learner, model.spec, config.evaluation
    columns = {
        **row_of(spec, learner, data["test"].bank),
        "collapsed": trained.collapsed,
        "shares": trained.shares,
        "preset": config.preset,
        "train_seconds": round(trained.seconds, 2),
    }
    try:
        with contextlib.nullcontext() if "train" in data else one_thread():
            rows, arrays = measure(protocol, Task(learner, spec, data, wanted, model.shots, columns))
    except NotComparable as error:
        log.warning("%s is left out of %s: %s", spec.label, protocol, error)
        raise
    log.info("%s: %s measured", spec.label, protocol)
    images = {split: embedded.bank.checksum for split, embedded in data.items()}
    now, parts = (parts_of(model, one, protocol, wanted, images) for one in (spec, trained.spec))
    return Measured(spec.name, protocol, rows, arrays, parts, provenance.mark(parts, now))
