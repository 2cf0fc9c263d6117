"""A run: every learner trained and evaluated on the same episodes."""

import contextlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from episodes import ImageBank, InputError, MissingData, load_dataset
from episodes.datasets import ALL, SPLITS, full_name
from episodes.locks import locked
from fewshot import checkpoints, provenance
from fewshot.clamping import clamped_config, with_held_out
from fewshot.config import Config
from fewshot.devices import choose_device, describe, placed, prepare
from fewshot.embedding import EmbeddedBank
from fewshot.files import writing
from fewshot.freshness import check_same, mark, parts_of, tell_stale, waiting
from fewshot.frozen import SharedOutputs, one_thread
from fewshot.learners.base import Learner, resolved
from fewshot.learners.registry import find_learner
from fewshot.models import ModelSpec, model_name
from fewshot.other_data import reading_of, with_other_data
from fewshot.plan import Planned, plan
from fewshot.protocols.base import NotComparable, Task
from fewshot.protocols.registry import check_protocols, measure
from fewshot.records import row_of
from fewshot.run_folder import RunFolder
from fewshot.training import give_weights, train, trainable

log = logging.getLogger("fewshot")


def open_data(
    config: Config, data: str | None = None, splits: Sequence[str] = SPLITS
) -> tuple[Config, dict[str, ImageBank]]:
    """The banks of `splits`, and the configuration clamped to them; held-out images are a bank of their own.

    Other data sets that the run tests on are banks too, if 'test' is among the splits: see with_other_data.
    If all classes are for the test, 'test' is the only bank, with the images of the split 'all'. If the configured data
    set is unavailable and has a fallback, the fallback is opened. If the data set has fewer classes or images than a
    learner's batches or the validation episodes need, those get fewer. Each change is logged.
    """
    name = config.data.dataset
    splits = (ALL,) if config.data.test == ALL else splits
    try:
        banks = _banks(config, name, data, splits)
    except MissingData as error:
        name = config.data.fallback
        if not name:
            raise
        log.warning("%s; until then this runs on the embedded data set '%s'", error, name.partition(":")[0])
        banks = _banks(config, name, data, splits)
    used = config.data.model_copy(update={"dataset": full_name(name), "fallback": ""})
    banks = with_held_out(banks, used.held_out)
    config = clamped_config(config.model_copy(update={"data": used}), banks)
    return with_other_data(config, banks, data) if "test" in banks else (config, banks)


def run_benchmark(
    config: Config,
    banks: dict[str, ImageBank],
    path: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    keep: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate every learner of `config` with every training seed; the tidy rows of the whole run.

    path: the run's folder (see RunFolder). With `resume` the folder may hold a run already: finished learners are not
    run again, an interrupted training goes on from its last checkpoint, and new test protocols measure the best
    checkpoints. Rows of code or packages that have changed since are run again, or with `keep` stay and are marked.
    Several processes may share one folder. Returns the rows of the episodes.
    """
    chosen = choose_device(device)
    prepare(chosen)
    wanted, banks = config.evaluation, with_held_out(banks, config.data.held_out)
    # all models are planned before any training, so that an impossible request fails at once
    check_protocols(wanted, banks)
    models = plan(config, banks)
    folder = RunFolder(path, config, banks, chosen, resume)
    with folder.running():
        test = placed(banks["test"], chosen)
        counts = [f"{bank.classes:,} classes for {split}" for split, bank in banks.items() if split != "held_out"]
        log.info("%s (%s): %s; on %s", test.dataset, test.protocol, ", ".join(counts), describe(chosen))
        for model in models:
            check_same(model, folder)
        images = {split: bank.checksum for split, bank in banks.items()}
        mark(folder, models, images)
        tell_stale(folder, models, images, keep)
        data = {**banks, "test": test}
        # the outputs of an encoder that nothing trains are the same for all learners
        embed = EmbeddedBank if "train" in banks else SharedOutputs().embedded
        worked = False
        for model in models:
            if not waiting(model, folder, wanted.protocols, keep):
                log.info("%s: finished earlier", model.spec.label)
                continue
            with folder.claimed(model.spec.name):
                protocols = waiting(model, folder, wanted.protocols, keep)  # another process may have finished them
                if protocols:
                    home = folder.checkpoints(model.spec.name)
                    trained = _obtain(model, banks, home, chosen, resume=resume, keep=keep, progress=progress)
                    embedded = {split: embed(trained.learner, bank) for split, bank in data.items()}
                    _measure(model, trained, protocols, embedded, folder)
                    worked = True
        if not worked:
            log.info("All of it was finished earlier: remove %s to run it again", path)
    return folder.results


def _measure(
    model: Planned, trained: "_Trained", protocols: Sequence[str], data: dict[str, EmbeddedBank], folder: RunFolder
) -> None:
    """Measure a trained model by each of the test protocols, and add its rows to the folder after each protocol."""
    learner, spec, wanted = trained.learner, model.spec, folder.config.evaluation
    images = {split: embedded.bank.checksum for split, embedded in data.items()}
    columns = {
        **row_of(spec, learner, data["test"].bank),
        "collapsed": trained.collapsed,
        "preset": folder.config.preset,
        "train_seconds": round(trained.seconds, 2),
    }
    task = Task(learner, spec, data, wanted, model.shots, columns)
    for protocol in protocols:
        try:
            with contextlib.nullcontext() if "train" in data else one_thread():
                rows, arrays = measure(protocol, task)
        except NotComparable as error:
            log.warning("%s is left out of %s: %s", spec.label, protocol, error)
            continue
        log.info("%s: %s measured", spec.label, protocol)
        now, parts = (parts_of(model, one, protocol, wanted, images) for one in (spec, trained.spec))
        kept = provenance.mark(parts, now)
        folder.add(protocol, rows, arrays, model=spec.name, parts=parts, kept=kept)


def train_learner(
    config: Config, banks: dict[str, ImageBank], folder: Path, *, device: str = "auto", resume: bool = False
) -> list[Path]:
    """Train the learners of `config`; the paths of their best checkpoints, each in a folder of its name in `folder`."""
    prepare(choose_device(device))
    banks = with_held_out(banks, config.data.held_out)
    if config.data.test == ALL:
        raise InputError(f"the preset {config.preset} trains nothing: take 'fewshot bench', or another preset")
    models = plan(config, banks)
    check_trainings_free(folder, config, resume)
    for model in models:
        home = folder / model.spec.name
        with writing(folder):
            home.mkdir(parents=True, exist_ok=True)
        with locked(home / ".lock", f"is at work on {home}"):
            _obtain(model, banks, home, choose_device(device), resume=resume)
    return [folder / model.spec.name / "best.pt" for model in models]


def check_trainings_free(folder: Path, config: Config, resume: bool) -> None:
    """InputError if `folder` holds a training of a learner of `config` and `resume` is not set."""
    for asked in [] if resume else config.learner:
        learner, variant = find_learner(asked)
        shots = [0, *map(int, config.learner[asked].per_shot)]
        for seed, shot in itertools.product(config.seeds, shots):
            home = folder / model_name(asked, learner.name, resolved(learner, variant)[0], shot, seed)
            if (home / "last.pt").exists():
                raise InputError(
                    f"{home} already holds a training: add --resume to go on with it, or choose another folder with"
                    " --output"
                )


class _Trained(NamedTuple):
    """A trained learner, the seconds of its training, whether that collapsed, and the spec in its checkpoints."""

    learner: Learner
    seconds: float
    collapsed: bool
    spec: ModelSpec


def _obtain(
    model: Planned,
    banks: dict[str, ImageBank],
    folder: Path,
    device: torch.device,
    *,
    resume: bool,
    keep: bool = False,
    progress: bool = True,
) -> _Trained:
    """The trained learner of a model: with `resume` from the best checkpoint in `folder`, if that is of this model or,
    with `keep`, of other code or packages; otherwise trained, with checkpoints in `folder`. It gets no test images.

    Without base classes, the learner is taken as it is, and there is nothing that a checkpoint would have to keep.
    """
    spec, path = model.spec, folder / "best.pt"
    if "train" not in banks:
        learner = spec.build(model.cls)
        give_weights(learner, spec.settings, banks["test"])
        return _Trained(learner.to(device), 0.0, False, spec)
    if resume and path.exists():
        content = checkpoints.load(path)
        before = ModelSpec.from_checkpoint(content, path)
        changed = spec.changes(before)
        if not changed or (keep and changed <= set(provenance.RENEWED)):
            return _restored(model, before, content, path, device)
    learner = spec.build(model.cls)
    if trainable(learner) and spec.settings.steps:
        log.info("%s: training %s steps", spec.label, f"{spec.settings.steps:,}")
    trained = train(
        learner,
        banks["train"],
        banks["validation"],
        spec.settings,
        validation=spec.validation,
        seed=spec.seed,
        device=str(device),
        folder=folder,
        spec=spec,
        resume=resume,
        progress=progress,
    )
    if trained.history.empty:
        why = "it has no weights to train" if learner.traits.trains and not trainable(learner) else "not trained"
        log.info("%s: %s, taken as it is", spec.label, why)
    else:
        log.info(
            "%s: trained in %.0f s, best checkpoint at step %s with %.2f %% on validation classes",
            spec.label,
            trained.seconds,
            f"{trained.best_step:,}",
            trained.best_accuracy,
        )
    return _Trained(learner, trained.seconds, trained.collapsed, spec)


def _restored(model: Planned, before: ModelSpec, content: dict[str, Any], path: Path, device: torch.device) -> _Trained:
    """The learner of an earlier training, from its best checkpoint."""
    log.info("%s: trained earlier", model.spec.label)
    learner = model.spec.build(model.cls)
    checkpoints.restore(learner, content, path)
    seconds = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        seconds = float(pd.read_csv(path.with_name("training.csv"))["seconds"].iloc[-1])
    renewed = {name: getattr(before, name) for name in provenance.RENEWED}
    spec = model.spec.model_copy(update=renewed)
    return _Trained(learner.to(device), seconds, content.get("collapsed", False) is True, spec)


def _banks(config: Config, name: str, data: str | None, splits: Sequence[str]) -> dict[str, ImageBank]:
    size, reading = config.data.size or None, reading_of(name, config)
    return {
        "test" if split == ALL else split: load_dataset(name, split, data=data, size=size, options=reading)
        for split in splits
    }
