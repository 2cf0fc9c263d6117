"""A run: every learner trained and evaluated on the same episodes."""

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodes import EpisodeSampler, ImageBank, InputError, MissingData, load_dataset
from episodes.batches import batches_from
from episodes.datasets import SPLITS, full_name
from episodes.sampler import sampler_of
from fewshot import checkpoints
from fewshot.backbones import make_backbone
from fewshot.config import PROTOCOLS, Config, Training, Validation
from fewshot.devices import choose_device, describe, placed, prepare, training_precision
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.files import writing
from fewshot.fitting import fitted_config, with_held_out
from fewshot.learners.base import EmbeddedBank, Learner
from fewshot.learners.registry import find_learner, source_of, split_backbone
from fewshot.models import about_of
from fewshot.pretraining import of_base_classes, saw_other_data
from fewshot.protocols.generalised import NotComparable
from fewshot.protocols.rows import check_protocols, measure
from fewshot.run_folder import RunFolder
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import LEAGUE
from fewshot.training import changes, give_weights, train

log = logging.getLogger("fewshot")


def open_data(
    config: Config, data: str | None = None, splits: Sequence[str] = SPLITS
) -> tuple[Config, dict[str, ImageBank]]:
    """The banks of `splits`, and the configuration as it really holds for them; images held out of training are apart.

    Where the configured data set cannot be had and there is a fallback, says so and opens that. Where the data set
    has fewer classes or images than a learner's batches or the validation episodes ask for, says so and takes fewer.
    """
    name = config.data.dataset
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
    return fitted_config(config.model_copy(update={"data": used}), banks), banks


def run_benchmark(
    config: Config,
    banks: dict[str, ImageBank],
    path: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate every learner of `config` with every training seed; the tidy rows of the whole run.

    path: the run's folder (see RunFolder). With `resume` it may hold a run already: learners that are finished there
    are not run again, one whose training was interrupted goes on from its last checkpoint, and protocols that are new
    are measured on the best checkpoints. Returns the rows of the episodes.
    """
    chosen = choose_device(device)
    prepare(chosen)
    wanted, banks = config.evaluation, with_held_out(banks, config.data.held_out)
    # all are made before any training, so that a wish that cannot be met is told at once
    check_protocols(wanted, banks)
    cells = _cells(config, banks["train"], banks["validation"])
    samplers = [
        sampler_of(banks["test"], way, shot, wanted.query, wanted.seed)
        for way in wanted.ways
        for shot in wanted.shots
        if "episodes" in wanted.protocols
    ]
    folder = RunFolder(path, config, banks, chosen, resume)
    with folder.logged():
        test = placed(banks["test"], chosen)
        counts = [f"{bank.classes:,} classes for {split}" for split, bank in banks.items() if split != "held_out"]
        log.info("%s (%s): %s; on %s", test.dataset, test.protocol, ", ".join(counts), describe(chosen))
        waiting = [(cell, *cell.waiting(folder, wanted.protocols)) for cell in cells]
        if not any(protocols for _, protocols, _ in waiting):
            log.info("All of it was finished earlier: remove %s to run it again", path)
        for cell, protocols, there in waiting:
            if not protocols:
                continue
            home = folder.checkpoints(cell.name)
            if there:
                learner, seconds = cell.restored(banks["train"], home, chosen)
            else:
                learner, seconds = cell.train(banks["train"], banks["validation"], home, device, resume, progress)
            data = {split: EmbeddedBank(learner, bank) for split, bank in {**banks, "test": test}.items()}
            for protocol in protocols:
                if protocol == "episodes":
                    wanted_here = [one for one in samplers if one.shot in cell.shots]
                    rows, accuracies = _episode_rows(cell, learner, data["test"], wanted_here, wanted.episodes, seconds)
                    folder.add(protocol, rows, accuracies)
                    continue
                try:
                    folder.add(protocol, measure(protocol, learner, data, wanted, cell.columns(learner)))
                    log.info("%s: %s measured", cell.label, protocol)
                except NotComparable as error:
                    log.warning("%s is left out of %s: %s", cell.label, protocol, error)
    return folder.results


def _episode_rows(
    cell: "_Cell",
    learner: Learner,
    data: EmbeddedBank,
    samplers: list[EpisodeSampler],
    episodes: int,
    train_seconds: float,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The tidy rows of one model's episodes, and the accuracy of each of them."""
    test, rows, accuracies = data.bank, [], {}
    for sampler in samplers:
        result = run_episodes(learner, data, sampler, episodes)
        log.info("%s: %d-way %d-shot %.2f ± %.2f", cell.label, sampler.way, sampler.shot, *result.percent)
        accuracies[f"{cell.name}/{sampler.way}way{sampler.shot}shot"] = result.values
        rows.append(
            {
                **cell.columns(learner),
                "dataset": test.dataset,
                "protocol": test.protocol,
                "split": test.split,
                "way": sampler.way,
                "shot": sampler.shot,
                "query": sampler.query,
                "episodes": episodes,
                "accuracy": round(result.percent.mean, 4),
                "ci95": round(result.percent.ci95, 4),
                "ci95_open": round(open_interval(result, test).ci95, 4),
                "train_seconds": round(train_seconds, 2),
                "eval_seconds": round(result.seconds, 2),
            }
        )
    return rows, accuracies


def open_interval(result: Accuracies, test: ImageBank) -> Estimate:
    """The interval for another test set, in percent; nan where the protocol lists its episodes instead of drawing them.

    Turned copies of one class are counted as one.
    """
    if test.listed:
        return Estimate(result.percent.mean, math.nan)
    return over_classes(100 * result.values, result.classes, np.arange(test.classes) // test.turns)


def train_learner(
    config: Config, banks: dict[str, ImageBank], folder: Path, *, device: str = "auto", resume: bool = False
) -> list[Path]:
    """Train the learners of `config`; the paths of their best checkpoints, each in a folder of its name in `folder`."""
    prepare(choose_device(device))
    banks = with_held_out(banks, config.data.held_out)
    cells = _cells(config, banks["train"], banks["validation"])
    check_trainings_free(folder, config, resume)
    for cell in cells:
        home = folder / cell.name
        with writing(folder):
            home.mkdir(parents=True, exist_ok=True)
        cell.train(banks["train"], banks["validation"], home, device, resume)
    return [folder / cell.name / "best.pt" for cell in cells]


def check_trainings_free(folder: Path, config: Config, resume: bool) -> None:
    """InputError where `folder` holds a training of a learner of `config` that is not to be gone on with."""
    for spec in [] if resume else config.learner:
        learner, variant = find_learner(spec)
        backbone = split_backbone(spec)[1].replace(":", "-")
        shots = ["", *(f"{shot}shot" for shot in config.learner[spec].per_shot)]
        for seed, shot in itertools.product(config.seeds, shots):
            home = folder / _model_name(learner.name, variant or learner.variants[0], backbone, shot, f"seed{seed}")
            if (home / "last.pt").exists():
                raise InputError(
                    f"{home} already holds a training: add --resume to go on with it, or choose another folder with"
                    " --output"
                )


def build_learner(cls: type[Learner], about: dict[str, Any]) -> Learner:
    """A fresh learner of class `cls` from what its checkpoint says about it; the same weights for the same seed.

    It is external where its class is or where it started from weights of other data.
    """
    settings = about["settings"]
    torch.manual_seed(about["seed"])
    backbone = make_backbone(settings["backbone"], about["channels"], about["size"])
    try:
        learner = cls(backbone, about["classes"], variant=about["variant"], **settings["options"])
    except TypeError as error:
        if error.__traceback__.tb_next is not None:  # it was called as it wants to be, and fails inside
            raise
        raise InputError(
            f"{cls.name} cannot be made ({error}): its __init__ must take backbone, classes, variant='' and the options"
            f" {settings['options']}"
        ) from error
    learner.external = learner.external or saw_other_data(about)
    return learner


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One model to train: a learner with one training seed, for all test shots or for one of them."""

    cls: type[Learner]
    about: dict[str, Any]  # what its checkpoints say of it
    shots: tuple[int, ...]  # that it is tested with
    first: bool  # whether it has the fewest of all shots: the one that other protocols than episodes take
    marks: tuple[str, ...]  # what tells it from other models of its learner

    @classmethod
    def all_of(
        cls, spec: str, config: Config, train_bank: ImageBank, validation_bank: ImageBank, seed: int
    ) -> list["_Cell"]:
        """The models of one learner and seed: one, and one more for each shot that has its own settings."""
        learner, variant = find_learner(spec)
        source = source_of(learner)
        common = {
            "learner": spec,
            "name": learner.name,
            "variant": variant or learner.variants[0],
            "seed": seed,
            "dataset": config.data.dataset,
            "held_out": config.data.held_out,
            "data": [train_bank.checksum, validation_bank.checksum],
            "channels": train_bank.images.shape[1],
            "size": train_bank.images.shape[2],
            "classes": train_bank.classes if learner.supervised else len(train_bank),
            "source": hashlib.sha256(source.read_bytes()).hexdigest() if source else "",
        }
        settings, validation = config.learner[spec], config.validation
        own = {shot: settings.per_shot[str(shot)] for shot in config.evaluation.shots if str(shot) in settings.per_shot}
        rest = tuple(shot for shot in config.evaluation.shots if shot not in own)
        models = [(rest, settings, validation, "")] if rest else []
        models += [((shot,), own[shot], validation.model_copy(update={"shot": shot}), f"{shot}shot") for shot in own]
        backbone = split_backbone(spec)[1].replace(":", "-")
        return [
            cls(
                learner,
                {
                    **common,
                    "settings": one.model_dump(exclude={"per_shot"}),
                    "validation": held_out.model_dump(),
                    "weights": _digest(one.weights),
                    "base_weights": bool(one.weights) and of_base_classes(one.weights, train_bank),
                },
                shots,
                min(config.evaluation.shots) in shots,
                tuple(filter(None, [backbone, mark])),
            )
            for shots, one, held_out, mark in models
        ]

    @property
    def name(self) -> str:
        """'siamese-koch-seed0': of its folder and of its arrays."""
        return _model_name(self.cls.name, self.about["variant"], *self.marks, f"seed{self.about['seed']}")

    @property
    def label(self) -> str:
        """'siamese (koch), seed 0': what messages call it."""
        variant = self.about["variant"]
        return ", ".join(
            [f"{self.cls.name}{f' ({variant})' if variant else ''}", *self.marks, f"seed {self.about['seed']}"]
        )

    def columns(self, learner: Learner) -> dict[str, Any]:
        """What its rows say of it."""
        settings = self.about["settings"]
        device = next((parameter.device for parameter in learner.parameters()), torch.device("cpu"))
        precision = training_precision(settings["precision"], device)
        return {
            "learner": self.cls.name,
            "variant": self.about["variant"],
            "backbone": settings["backbone"],
            "seed": self.about["seed"],
            "image_size": self.about["size"],
            **{column: getattr(learner, column) for column in LEAGUE},
            "device": describe(device),
            "precision": str(precision).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def train(
        self,
        train_bank: ImageBank,
        validation_bank: ImageBank,
        folder: Path,
        device: str,
        resume: bool,
        progress: bool = True,
    ) -> tuple[Learner, float]:
        """The trained learner, and the seconds that took; it is given no test images."""
        learner = build_learner(self.cls, self.about)
        if learner.trained and self.about["settings"]["steps"]:
            log.info("%s: training %s steps", self.label, f"{self.about['settings']['steps']:,}")
        trained = train(
            learner,
            train_bank,
            validation_bank,
            Training.model_validate(self.about["settings"]),
            validation=Validation.model_validate(self.about["validation"]),
            seed=self.about["seed"],
            device=device,
            folder=folder,
            about=self.about,
            resume=resume,
            progress=progress,
        )
        if trained.history.empty:
            log.info("%s: not trained, taken as it is", self.label)
            return learner, trained.seconds
        log.info(
            "%s: trained in %.0f s, best checkpoint at step %s with %.2f %% on validation classes",
            self.label,
            trained.seconds,
            f"{trained.best_step:,}",
            trained.best_accuracy,
        )
        return learner, trained.seconds

    def restored(self, train_bank: ImageBank, folder: Path, device: torch.device) -> tuple[Learner, float]:
        """The learner that was trained earlier, from its best checkpoint, and the seconds that had taken."""
        log.info("%s: trained earlier", self.label)
        learner, path = build_learner(self.cls, self.about), folder / "best.pt"
        checkpoints.restore(learner, checkpoints.load(path), path)
        if learner.text:
            learner.class_names = train_bank.class_names
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            return learner.to(device), float(pd.read_csv(folder / "training.csv")["seconds"].iloc[-1])
        return learner.to(device), 0.0

    def waiting(self, folder: RunFolder, protocols: Sequence[str]) -> tuple[list[str], bool]:
        """Those of the protocols whose rows are not there, and whether its best checkpoint can be taken for them.

        All of its protocols where they are of an older state of the file it comes from.
        """
        about = self.about
        model = self.cls.name, about["variant"], about["settings"]["backbone"], about["seed"]
        wanted = [name for name in protocols if self.first or name == "episodes"]
        there = [
            name for name in PROTOCOLS if folder.has(name, *model, self.shots) and (self.first or name == "episodes")
        ]
        left = [name for name in wanted if name not in there]
        if not there:
            return left, False
        checkpoint = folder.checkpoints(self.name) / "best.pt"
        before = about_of(checkpoints.load(checkpoint), checkpoint) if checkpoint.exists() else self.about
        changed = changes(before, self.about)
        if "source" in changed and "learner" not in changed:
            log.info("%s: its file has changed, running it again", self.label)
            return [name for name in PROTOCOLS if name in (*wanted, *there)], False
        other = " and ".join(sorted(changed & {"settings", "weights"}))
        if other and "learner" not in changed:
            raise InputError(f"{folder.path} holds {self.label} with other {other}: choose another one with --output")
        if changed & {"source", "settings"}:
            raise InputError(
                f"{folder.path} holds another learner called {self.label}, {before['learner']}: rename one, or choose"
                " another folder with --output"
            )
        if not left:
            log.info("%s: finished earlier", self.label)
        return left, checkpoint.exists()


def _model_name(*parts: str) -> str:
    return "-".join(filter(None, parts))


def _cells(config: Config, train_bank: ImageBank, validation_bank: ImageBank) -> list[_Cell]:
    """All learners with all seeds; InputError where two have one name or one cannot train on its batches."""
    cells = [
        cell
        for spec in config.learner
        for seed in config.seeds
        for cell in _Cell.all_of(spec, config, train_bank, validation_bank, seed)
    ]
    specs: dict[tuple[str, ...], str] = {}
    for cell in cells:
        spec = cell.about["learner"]
        row = cell.cls.name, cell.about["variant"], cell.about["settings"]["backbone"]
        if specs.setdefault(row, spec) != spec:
            raise InputError(f"{specs[row]} and {spec} are both called {cell.label}: leave out or rename one")
        if cell.about["seed"] == config.seeds[0]:
            learner, settings = build_learner(cell.cls, cell.about), Training.model_validate(cell.about["settings"])
            learner.check_batches(batches_from(settings.batches))
            give_weights(learner, settings, train_bank)
    return cells


def _digest(weights: str) -> str:
    """Of a file of weights: another file under the same name is another training."""
    if not weights:
        return ""
    if not Path(weights).is_file():
        raise InputError(f"there is no file of weights {weights}")
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _banks(config: Config, name: str, data: str | None, splits: Sequence[str]) -> dict[str, ImageBank]:
    return {split: load_dataset(name, split, data=data, size=config.data.size or None) for split in splits}
