"""A run: every learner trained and evaluated on the same episodes."""

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from episodes import EpisodeSampler, ImageBank, InputError, MissingData, load_dataset
from episodes.batches import batches_from
from episodes.datasets import SPLITS
from fewshot import checkpoints
from fewshot.backbones import make_backbone
from fewshot.config import Config
from fewshot.devices import choose_device, describe, placed, prepare
from fewshot.evaluation import run_episodes
from fewshot.learners.base import EmbeddedBank, Learner
from fewshot.learners.registry import find_learner, source_of
from fewshot.run_folder import RunFolder, writing
from fewshot.training import train

log = logging.getLogger("fewshot")


def open_data(config: Config, data: str | None = None) -> tuple[Config, dict[str, ImageBank]]:
    """The banks of the three splits, and the configuration with the data set they are really of.

    Where the configured data set cannot be had and there is a fallback, says so and opens that.
    """
    try:
        return config, _banks(config, config.data.dataset, data)
    except MissingData as error:
        if not config.data.fallback:
            raise
        log.warning("%s; until then this runs on the embedded data set '%s'", error, config.data.fallback)
        used = config.data.model_copy(update={"dataset": config.data.fallback, "fallback": ""})
        return config.model_copy(update={"data": used}), _banks(config, used.dataset, data)


def _banks(config: Config, name: str, data: str | None) -> dict[str, ImageBank]:
    return {split: load_dataset(name, split, data=data, size=config.data.size or None) for split in SPLITS}


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
    cells = _cells(config, banks)
    samplers = [
        EpisodeSampler(banks["test"], way, shot, wanted.query, wanted.seed)
        for way in wanted.ways
        for shot in wanted.shots
    ]
    folder = RunFolder(path, config, banks, chosen, resume)
    with folder.logged():
        test = placed(banks["test"], chosen)
        for cell in cells:
            if cell.finished(folder):
                log.info("%s: finished earlier; remove %s to run everything again", cell.label, path)
                continue
            learner, seconds = cell.train(config, banks, folder.checkpoints(cell.name), device, resume, progress)
            data = EmbeddedBank(learner, test)
            rows, accuracies = [], {}
            for sampler in samplers:
                result = run_episodes(learner, data, sampler, wanted.episodes)
                log.info("%s: %d-way %d-shot %.2f ± %.2f", cell.label, sampler.way, sampler.shot, *result.percent)
                accuracies[f"{cell.name}/{sampler.way}way{sampler.shot}shot"] = result.values
                rows.append(
                    {
                        **cell.columns,
                        "dataset": test.dataset,
                        "protocol": test.protocol,
                        "split": test.split,
                        "way": sampler.way,
                        "shot": sampler.shot,
                        "query": sampler.query,
                        "episodes": wanted.episodes,
                        "accuracy": round(result.percent.mean, 4),
                        "ci95": round(result.percent.ci95, 4),
                        "train_seconds": round(seconds, 2),
                        "eval_seconds": round(result.seconds, 2),
                    }
                )
            folder.add(rows, accuracies)
    return folder.results


def train_learner(
    config: Config, banks: dict[str, ImageBank], folder: Path, *, device: str = "auto", resume: bool = False
) -> list[Path]:
    """Train the learners of `config`; the paths of their best checkpoints, each in a folder of its name in `folder`."""
    prepare(choose_device(device))
    cells = _cells(config, banks)
    for cell in cells:
        home = folder / cell.name
        if (home / "last.pt").exists() and not resume:
            raise InputError(
                f"{home} already holds a training: add --resume to go on with it, or choose another folder with"
                " --output"
            )
        with writing(folder):
            home.mkdir(parents=True, exist_ok=True)
        cell.train(config, banks, home, device, resume)
    return [folder / cell.name / "best.pt" for cell in cells]


def build_learner(about: dict[str, Any], spec: str | None = None) -> Learner:
    """A fresh learner from what its checkpoint says about it; the same weights for the same seed.

    spec: where to find its class, instead of what `about` says. A name like FILE.py:CLASS runs that file.
    """
    cls, variant = find_learner(spec or about["learner"])
    settings = about["settings"]
    if cls.name != about.get("name", cls.name):
        raise InputError(f"the checkpoint is of the learner {about['name']}, not of {cls.name}")
    torch.manual_seed(about["seed"])
    backbone = make_backbone(settings["backbone"], about["channels"], about["size"])
    return cls(backbone, about["classes"], variant=about["variant"] or variant, **settings["options"])


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One learner with one training seed."""

    cls: type[Learner]
    variant: str
    about: dict[str, Any]  # what its checkpoints say of it

    @classmethod
    def of(cls, spec: str, config: Config, banks: dict[str, ImageBank], seed: int) -> "_Cell":
        learner, variant = find_learner(spec)
        variant = variant or learner.variants[0]
        source, bank = source_of(learner), banks["train"]
        return cls(
            learner,
            variant,
            {
                "learner": spec,
                "name": learner.name,
                "variant": variant,
                "seed": seed,
                "settings": config.learner[spec].model_dump(),
                "validation": config.validation.model_dump(),
                "dataset": f"{bank.dataset}:{bank.protocol}",
                "data": {split: one.checksum for split, one in banks.items()},
                "channels": bank.images.shape[1],
                "size": bank.images.shape[2],
                "classes": bank.classes,
                "source": hashlib.sha256(source.read_bytes()).hexdigest() if source else "",
            },
        )

    @property
    def name(self) -> str:
        """'siamese-koch-seed0': of its folder and of its arrays."""
        return "-".join(filter(None, [self.cls.name, self.variant, f"seed{self.about['seed']}"]))

    @property
    def label(self) -> str:
        """'siamese (koch), seed 0': what messages call it."""
        return f"{self.cls.name}{f' ({self.variant})' if self.variant else ''}, seed {self.about['seed']}"

    @property
    def columns(self) -> dict[str, Any]:
        """What its rows say of it."""
        return {
            "learner": self.cls.name,
            "variant": self.variant,
            "backbone": self.about["settings"]["backbone"],
            "seed": self.about["seed"],
            "image_size": self.about["size"],
            "transductive": self.cls.transductive,
        }

    def train(
        self,
        config: Config,
        banks: dict[str, ImageBank],
        folder: Path,
        device: str,
        resume: bool,
        progress: bool = True,
    ) -> tuple[Learner, float]:
        """The trained learner and the seconds it took; it is given no test images."""
        learner = build_learner(self.about)
        settings = config.learner[self.about["learner"]]
        log.info("%s: training %s steps on %s", self.label, f"{settings.steps:,}", describe(choose_device(device)))
        trained = train(
            learner,
            banks["train"],
            banks["validation"],
            settings,
            validation=config.validation,
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
        return learner, trained.seconds

    def finished(self, folder: RunFolder) -> bool:
        """Whether its rows are there; not where they are of an older state of the file it comes from."""
        if not folder.has(self.cls.name, self.variant, self.about["seed"]):
            return False
        before = checkpoints.load(folder.checkpoints(self.name) / "best.pt")["about"]
        changed = {key for key in self.about if before.get(key) != self.about[key]}
        if "source" in changed and "learner" not in changed:
            log.info("%s: its file has changed, running it again", self.label)
            return False
        if changed & {"source", "settings"}:
            raise InputError(
                f"{folder.path} holds another learner called {self.label}, {before['learner']}: rename one, or choose"
                " another folder with --output"
            )
        return True


def _cells(config: Config, banks: dict[str, ImageBank]) -> list[_Cell]:
    """All learners with all seeds; InputError where two have one name or one cannot train on its batches."""
    cells = [_Cell.of(spec, config, banks, seed) for spec in config.learner for seed in config.seeds]
    specs: dict[str, str] = {}
    for cell in cells:
        spec = cell.about["learner"]
        if specs.setdefault(cell.name, spec) != spec:
            raise InputError(f"{specs[cell.name]} and {spec} are both called {cell.label}: leave out or rename one")
        if cell.about["seed"] == config.seeds[0]:
            build_learner(cell.about).check_batches(batches_from(cell.about["settings"]["batches"]))
    return cells
