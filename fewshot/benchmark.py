"""A run: every learner trained and evaluated on the same episodes."""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodes import ImageBank, InputError, ListedEpisodes, MissingData, load_dataset
from episodes.batches import batches_from
from episodes.datasets import SPLITS, full_name
from episodes.sampler import sampler_of
from fewshot import checkpoints
from fewshot.backbones import make_backbone
from fewshot.config import Config, Evaluation, Training, Validation
from fewshot.devices import choose_device, describe, placed, prepare, training_precision
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.files import writing
from fewshot.learners.base import EmbeddedBank, Learner
from fewshot.learners.registry import find_learner, source_of, split_backbone
from fewshot.run_folder import RunFolder
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import LEAGUE
from fewshot.training import Trained, changes, fitted, give_weights, train

log = logging.getLogger("fewshot")


def open_data(
    config: Config, data: str | None = None, splits: Sequence[str] = SPLITS
) -> tuple[Config, dict[str, ImageBank]]:
    """The banks of `splits`, and the configuration as it really holds for them.

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
    return _fitted(config.model_copy(update={"data": used}), banks), banks


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
    are not run again, and one whose training was interrupted goes on from its last checkpoint.
    """
    chosen = choose_device(device)
    prepare(chosen)
    wanted = config.evaluation
    # both are made before any training, so that a wish that cannot be met is told at once
    cells = _cells(config, banks["train"], banks["validation"])
    samplers = [
        sampler_of(banks["test"], way, shot, wanted.query, wanted.seed) for way in wanted.ways for shot in wanted.shots
    ]
    folder = RunFolder(path, config, banks, chosen, resume)
    with folder.logged():
        test = placed(banks["test"], chosen)
        counts = [f"{bank.classes:,} classes for {split}" for split, bank in banks.items()]
        log.info("%s (%s): %s; on %s", test.dataset, test.protocol, ", ".join(counts), describe(chosen))
        waiting = [cell for cell in cells if not cell.finished(folder)]
        if not waiting:
            log.info("All of it was finished earlier: remove %s to run it again", path)
        for cell in waiting:
            home = folder.checkpoints(cell.name)
            learner, trained = cell.train(banks["train"], banks["validation"], home, device, resume, progress)
            data = EmbeddedBank(learner, test)
            rows, accuracies = [], {}
            for sampler in (one for one in samplers if one.shot in cell.shots):
                result = run_episodes(learner, data, sampler, wanted.episodes)
                log.info("%s: %d-way %d-shot %.2f ± %.2f", cell.label, sampler.way, sampler.shot, *result.percent)
                accuracies[f"{cell.name}/{sampler.way}way{sampler.shot}shot"] = result.values
                rows.append(
                    {
                        **cell.columns(learner, chosen),
                        "dataset": test.dataset,
                        "protocol": test.protocol,
                        "split": test.split,
                        "way": sampler.way,
                        "shot": sampler.shot,
                        "query": sampler.query,
                        "episodes": wanted.episodes,
                        "accuracy": round(result.percent.mean, 4),
                        "ci95": round(result.percent.ci95, 4),
                        "ci95_open": round(open_interval(result, test).ci95, 4),
                        "train_seconds": round(trained.seconds, 2),
                        "eval_seconds": round(result.seconds, 2),
                    }
                )
            folder.add(rows, accuracies)
    return folder.results


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
    cells = _cells(config, banks["train"], banks["validation"])
    there = [folder / cell.name for cell in cells if (folder / cell.name / "last.pt").exists()]
    if there and not resume:
        raise InputError(
            f"{there[0]} already holds a training: add --resume to go on with it, or choose another folder with"
            " --output"
        )
    for cell in cells:
        home = folder / cell.name
        with writing(folder):
            home.mkdir(parents=True, exist_ok=True)
        cell.train(banks["train"], banks["validation"], home, device, resume)
    return [folder / cell.name / "best.pt" for cell in cells]


def build_learner(cls: type[Learner], about: dict[str, Any]) -> Learner:
    """A fresh learner of class `cls` from what its checkpoint says about it; the same weights for the same seed."""
    settings = about["settings"]
    torch.manual_seed(about["seed"])
    backbone = make_backbone(settings["backbone"], about["channels"], about["size"])
    try:
        return cls(backbone, about["classes"], variant=about["variant"], **settings["options"])
    except TypeError as error:
        if error.__traceback__.tb_next is not None:  # it was called as it wants to be, and fails inside
            raise
        raise InputError(
            f"{cls.name} cannot be made ({error}): its __init__ must take backbone, classes, variant='' and the options"
            f" {settings['options']}"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One model to train: a learner with one training seed, for all test shots or for one of them."""

    cls: type[Learner]
    about: dict[str, Any]  # what its checkpoints say of it
    shots: tuple[int, ...]  # that it is tested with
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
                },
                shots,
                tuple(filter(None, [backbone, mark])),
            )
            for shots, one, held_out, mark in models
        ]

    @property
    def name(self) -> str:
        """'siamese-koch-seed0': of its folder and of its arrays."""
        parts = [self.cls.name, self.about["variant"], *self.marks, f"seed{self.about['seed']}"]
        return "-".join(filter(None, parts))

    @property
    def label(self) -> str:
        """'siamese (koch), seed 0': what messages call it."""
        variant = self.about["variant"]
        return ", ".join(
            [f"{self.cls.name}{f' ({variant})' if variant else ''}", *self.marks, f"seed {self.about['seed']}"]
        )

    def columns(self, learner: Learner, device: torch.device) -> dict[str, Any]:
        """What its rows say of it."""
        settings = self.about["settings"]
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
    ) -> tuple[Learner, Trained]:
        """The trained learner; it is given no test images."""
        learner = build_learner(self.cls, self.about)
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
        log.info(
            "%s: trained in %.0f s, best checkpoint at step %s with %.2f %% on validation classes",
            self.label,
            trained.seconds,
            f"{trained.best_step:,}",
            trained.best_accuracy,
        )
        return learner, trained

    def finished(self, folder: RunFolder) -> bool:
        """Whether its rows are there; not where they are of an older state of the file it comes from."""
        about = self.about
        if not folder.has(self.cls.name, about["variant"], about["settings"]["backbone"], about["seed"], self.shots):
            return False
        checkpoint = folder.checkpoints(self.name) / "best.pt"
        before = checkpoints.load(checkpoint)["about"] if checkpoint.exists() else self.about
        changed = changes(before, self.about)
        if "source" in changed and "learner" not in changed:
            log.info("%s: its file has changed, running it again", self.label)
            return False
        other = " and ".join(sorted(changed & {"settings", "weights"}))
        if other and "learner" not in changed:
            raise InputError(f"{folder.path} holds {self.label} with other {other}: choose another one with --output")
        if changed & {"source", "settings"}:
            raise InputError(
                f"{folder.path} holds another learner called {self.label}, {before['learner']}: rename one, or choose"
                " another folder with --output"
            )
        log.info("%s: finished earlier", self.label)
        return True


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
            give_weights(learner, settings)
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


def _fitted(config: Config, banks: dict[str, ImageBank]) -> Config:
    """The configuration with no more classes and images a batch or an episode than there are; says what it changed."""
    learners = {}
    for spec, settings in config.learner.items():
        per_shot = {shot: _with_batches(spec, one, banks["train"]) for shot, one in settings.per_shot.items()}
        learners[spec] = _with_batches(spec, settings, banks["train"]).model_copy(update={"per_shot": per_shot})
    validation = _with_validation(config.validation, banks["validation"])
    evaluation = _with_tests(config.evaluation, banks["test"]) if "test" in banks else config.evaluation
    return config.model_copy(update={"learner": learners, "validation": validation, "evaluation": evaluation})


def _with_batches(spec: str, settings: Training, bank: ImageBank) -> Training:
    new = fitted(settings, find_learner(spec)[0], bank)
    options, images = settings.options, new.batches.get("images", 0)
    if 1 < images <= options.get("shot", 0):  # some must be left for queries
        options = {**options, "shot": images - 1}
    if 0 < new.steps < settings.steps:
        passes = f"{settings.epochs} passes through {len(bank):,} images"
        log.warning("%s: %s steps, not %s: %s", spec, f"{new.steps:,}", f"{settings.steps:,}", passes)
    return _changed(
        spec, new.model_copy(update={"batches": settings.batches}), bank, batches=new.batches, options=options
    )


def _with_validation(validation: Validation, bank: ImageBank) -> Validation:
    fewest = int(bank.sizes.min())
    shot = min(validation.shot, fewest - 1)
    query = min(validation.query, fewest - shot)
    return _changed("validation", validation, bank, way=min(validation.way, bank.classes), shot=shot, query=query)


def _with_tests(evaluation: Evaluation, bank: ImageBank) -> Evaluation:
    """The test protocols that the bank can fill; where it can fill none they stay, and are refused later.

    Where the data set's protocol lists its episodes, they are those.
    """
    if bank.listed:
        listed = ListedEpisodes(bank)
        ways, shots, query, episodes = [listed.way], [listed.shot], listed.query, listed.count
        log.info("test: the %d episodes that the protocol lists, %d-way %d-shot", episodes, listed.way, listed.shot)
        return Evaluation(ways=ways, shots=shots, query=query, episodes=episodes, seed=listed.seed)
    fewest = int(bank.sizes.min())
    ways = [way for way in evaluation.ways if way <= bank.classes]
    shots = [shot for shot in evaluation.shots if shot < fewest]
    if not ways or not shots:
        return evaluation
    query = min(evaluation.query, fewest - max(shots))
    return _changed("test", evaluation, bank, ways=ways, shots=shots, query=query)


def _changed(what: str, settings: Any, bank: ImageBank, **fitted: Any) -> Any:
    """The settings with what fits the bank; says which ones that changes."""
    for name, value in fitted.items():
        if value != getattr(settings, name):
            log.warning(
                "%s: %s = %s, not %s: there are %d classes for %s, the smallest of %d images",
                *(what, name, value, getattr(settings, name), bank.classes, bank.split, int(bank.sizes.min())),
            )
    return settings.model_copy(update=fitted)
