"""A run: every learner trained and evaluated on the same episodes."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from episodes import ImageBank, InputError, MissingData, load_dataset
from episodes.datasets import ALL, SPLITS, full_name
from episodes.locks import locked
from fewshot.clamping import clamped_config, with_held_out
from fewshot.config import Config
from fewshot.curves import check_curves
from fewshot.devices import choose_device, describe, prepare
from fewshot.files import writing
from fewshot.freshness import check_same, mark, tell_stale, waiting
from fewshot.learners.base import resolved
from fewshot.learners.registry import find_learner
from fewshot.model_runs import Conditions, obtain
from fewshot.models import model_name
from fewshot.other_data import reading_of, with_other_data
from fewshot.plan import Planned, plan
from fewshot.protocols.registry import check_protocols, tell_remarks
from fewshot.run_folder import RunFolder, check_continues
from fewshot.scheduling.base import run_models
from fewshot.scheduling.choice import workers_of
from fewshot.scheduling.cluster import connected
from fewshot.scheduling.share import Asked, share_of, threads_of
from fewshot.shared_training import leaders_of

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
    workers: Asked = None,
    curves: str = "",
    ray: str = "",
) -> pd.DataFrame:
    """Train and evaluate every learner of `config` with every training seed; the tidy rows of the whole run.

    path: the run's folder (see RunFolder). With `resume` the folder may hold a run already: finished learners are not
    run again, an interrupted training goes on from its last checkpoint, and new test protocols measure the best
    checkpoints. Rows of code or packages that have changed since are run again, or with `keep` stay and are marked.
    Several processes may share one folder. workers: how many models are run side by side, each in a process of its own
    (see scheduling.share). ray: the address of a Ray cluster that runs the models instead (see scheduling.cluster),
    'auto' for the one of this machine. curves: what trainings write step by step (see training.train). Returns the rows
    of the episodes.
    """
    check_curves(curves)
    chosen = choose_device(device)
    prepare(chosen)
    wanted, banks = config.evaluation, with_held_out(banks, config.data.held_out)
    models = _planned(config, banks)
    share = share_of(1 if ray else workers, models, banks, chosen)
    with threads_of(share), connected(ray, device) as cluster:  # leaves no folder if it refuses
        folder = RunFolder(path, config, banks, chosen, resume, [model.spec.row for model in models])
        with folder.running():
            counts = [f"{bank.classes:,} classes for {split}" for split, bank in banks.items() if split != "held_out"]
            named = banks["test"].dataset, banks["test"].protocol, ", ".join(counts), describe(chosen), share.told
            log.info("%s (%s): %s; on %s%s", *named)
            if left := _left(models, folder, banks, wanted.protocols, keep):
                shared = Conditions(folder.config, banks, device, resume, keep, progress, curves)
                at_work = workers_of(shared, share, cluster)
                run_models(left, folder, wanted.protocols, keep, at_work, leaders_of(models))
            else:
                log.info("All of it was finished earlier: remove %s to run it again", path)
    return folder.results


def rehearse(
    config: Config, banks: dict[str, ImageBank], path: Path, *, device: str = "auto", resume: bool = False
) -> list[Planned]:
    """The models that `run_benchmark` would run; InputError if it would refuse these arguments. Nothing is written."""
    chosen = choose_device(device)
    banks = with_held_out(banks, config.data.held_out)
    models = _planned(config, banks)
    if resume:
        check_continues(path, config, banks, chosen)
    return models


def _planned(config: Config, banks: dict[str, ImageBank]) -> list[Planned]:
    """All models of a run; they are planned before any training, so that an impossible request fails at once."""
    check_protocols(config.evaluation, banks)
    tell_remarks(config.evaluation, banks)
    return plan(config, banks)


def _left(
    models: Sequence[Planned], folder: RunFolder, banks: dict[str, ImageBank], wanted: Sequence[str], keep: bool
) -> list[Planned]:
    """The models without all their rows, after the rows of other code or packages have been marked and told."""
    for model in models:
        check_same(model, folder)
    images = {split: bank.checksum for split, bank in banks.items()}
    mark(folder, models, images)
    tell_stale(folder, models, images, keep)
    left = [model for model in models if waiting(model, folder, wanted, keep)]
    for model in models:
        if model not in left:
            log.info("%s: finished earlier", model.spec.label)
    return left


def train_learner(
    config: Config, banks: dict[str, ImageBank], folder: Path, *, device: str = "auto", resume: bool = False
) -> list[Path]:
    """Train the learners of `config`; the paths of their best checkpoints, each in a folder of its name in `folder`."""
    chosen = choose_device(device)
    prepare(chosen)
    banks = with_held_out(banks, config.data.held_out)
    if config.data.test == ALL:
        raise InputError(f"the preset {config.preset} trains nothing: take 'fewshot bench', or another preset")
    models = plan(config, banks)
    check_trainings_free(folder, config, resume)
    shared = Conditions(config, banks, device, resume)
    for model in models:
        home = folder / model.spec.name
        with writing(folder):
            home.mkdir(parents=True, exist_ok=True)
        with locked(home / ".lock", f"is at work on {home}"):
            obtain(model, shared, home, chosen)
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


def _banks(config: Config, name: str, data: str | None, splits: Sequence[str]) -> dict[str, ImageBank]:
    size, reading = config.data.size or None, reading_of(name, config)
    return {
        "test" if split == ALL else split: load_dataset(name, split, data=data, size=size, options=reading)
        for split in splits
    }
