"""A run: every learner trained and evaluated on the same episodes, its rows and files in one folder."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch

from episodes import EpisodeSampler, ImageBank, InputError, MissingData, load_dataset
from episodes.datasets import SPLITS
from fewshot import checkpoints, tables
from fewshot.backbones import make_backbone
from fewshot.config import Config, LearnerSettings
from fewshot.devices import choose_device, describe, prepare, training_precision
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.learners.base import Learner
from fewshot.learners.registry import find_learner, source_of
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
        log.warning("%s. Running on the embedded data set '%s' instead.", error, config.data.fallback)
        used = config.data.model_copy(update={"dataset": config.data.fallback, "fallback": ""})
        return config.model_copy(update={"data": used}), _banks(config, used.dataset, data)


def _banks(config: Config, name: str, data: str | None) -> dict[str, ImageBank]:
    return {split: load_dataset(name, split, data=data, size=config.data.size or None) for split in SPLITS}


def run_benchmark(
    config: Config,
    banks: dict[str, ImageBank],
    folder: Path,
    *,
    seeds: tuple[int, ...] = (0,),
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate every learner of `config` with every training seed; the tidy rows of the whole folder.

    folder holds config.toml, environment.json, results.csv, .md and .tex, episodes.npz, checkpoints/ and run.log. A
    learner whose rows are there is not run again; with `resume`, one whose training was interrupted goes on from its
    last checkpoint.
    """
    chosen = choose_device(device)
    prepare(chosen)
    samplers = _samplers(config, banks["test"])
    with _open_folder(folder, config, banks, chosen, resume) as (whole, results, episodes):
        test = banks["test"].to(chosen)
        for spec, settings in config.learner.items():
            for seed in seeds:
                cell = _Cell.of(spec, settings, banks, seed)
                if cell.finished(folder, results):
                    log.info("%s: finished earlier, see %s", cell.label, folder)
                    continue
                learner, seconds = cell.train(config, banks, cell.folder(folder), device, resume, progress)
                began = time.perf_counter()
                data = EmbeddedBank(learner, test)
                data.embeddings  # noqa: B018  shared by the protocols, and timed on its own
                embedding_seconds = time.perf_counter() - began
                rows = []
                for sampler in samplers:
                    accuracies = run_episodes(learner, data, sampler, config.evaluation.episodes)
                    rows.append(_row(cell, learner, test, sampler, accuracies, seconds, embedding_seconds))
                    episodes[f"{cell.name}/{sampler.way}way{sampler.shot}shot"] = accuracies.values
                    log.info(
                        "%s: %d-way %d-shot %.2f ± %.2f", cell.label, sampler.way, sampler.shot, *accuracies.percent
                    )
                results = _merged(results, pd.DataFrame(rows, columns=tables.COLUMNS), whole)
                _write(folder, results, episodes)
    return results


def train_learner(
    config: Config,
    banks: dict[str, ImageBank],
    folder: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> Path:
    """Train the one learner of `config`; the path of its best checkpoint, in a folder of its name under `folder`."""
    ((spec, settings),) = config.learner.items()
    cell = _Cell.of(spec, settings, banks, seed)
    home = folder / cell.name
    if (home / "last.pt").exists() and not resume:
        raise InputError(
            f"{home} already holds a training: add --resume to go on with it, or choose another folder with --output"
        )
    with _writing(folder):
        home.mkdir(parents=True, exist_ok=True)
    prepare(choose_device(device))
    cell.train(config, banks, home, device, resume)
    return home / "best.pt"


def build_learner(about: dict[str, Any], spec: str | None = None) -> Learner:
    """A fresh learner from what a checkpoint says about it; the same weights for the same seed.

    spec: where to find its class, if not by the name in `about`, which is never taken for a file to run.
    """
    cls, variant = find_learner(spec or about["learner"])
    settings = about["settings"]
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
    def of(cls, spec: str, settings: LearnerSettings, banks: dict[str, ImageBank], seed: int) -> "_Cell":
        learner, variant = find_learner(spec)
        variant = variant or learner.variants[0]
        source, bank = source_of(learner), banks["train"]
        return cls(
            learner,
            variant,
            {
                "learner": spec,
                "variant": variant,
                "seed": seed,
                "settings": settings.model_dump(),
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
        return f"{self.cls.name} ({self.variant})" if self.variant else self.cls.name

    def folder(self, run: Path) -> Path:
        return run / "checkpoints" / self.name

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

    def finished(self, run: Path, results: pd.DataFrame) -> bool:
        """Whether its rows are there, of the same source where it comes from a file."""
        rows = results.query("learner == @self.cls.name and variant == @self.variant and seed == @self.about['seed']")
        if rows.empty:
            return False
        if self.about["source"]:
            before = checkpoints.load(self.folder(run) / "best.pt")["about"]
            if before["source"] != self.about["source"]:
                log.info("%s: its file has changed, running it again", self.label)
                return False
        return True


def _samplers(config: Config, bank: ImageBank) -> list[EpisodeSampler]:
    """One for each test protocol, made before any training so that a wish that cannot be met is told at once."""
    wanted = config.evaluation
    return [EpisodeSampler(bank, way, shot, wanted.query, wanted.seed) for way in wanted.ways for shot in wanted.shots]


def _row(
    cell: _Cell,
    learner: Learner,
    bank: ImageBank,
    sampler: EpisodeSampler,
    accuracies: Accuracies,
    train_seconds: float,
    embedding_seconds: float,
) -> dict[str, Any]:
    accuracy, ci95 = accuracies.percent
    return {
        "dataset": bank.dataset,
        "split": bank.split,
        "learner": cell.cls.name,
        "variant": cell.variant,
        "backbone": cell.about["settings"]["backbone"],
        "way": sampler.way,
        "shot": sampler.shot,
        "query": sampler.query,
        "episodes": len(accuracies.values),
        "seed": cell.about["seed"],
        "accuracy": round(accuracy, 4),
        "ci95": round(ci95, 4),
        "train_seconds": round(train_seconds, 2),
        "eval_seconds": round(embedding_seconds + accuracies.seconds, 2),
        "protocol": bank.protocol,
        "image_size": cell.about["size"],
        "transductive": learner.transductive,
    }


def _merged(results: pd.DataFrame, rows: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows with the new ones in place of older ones of the same cells, in the order of the configuration."""
    order = {}
    for spec in config.learner:
        learner, variant = find_learner(spec)
        order.setdefault((learner.name, variant or learner.variants[0]), len(order))
    together = pd.concat([results, rows]) if len(results) else rows
    together = together.drop_duplicates(["learner", "variant", "seed", "way", "shot"], keep="last")
    place = [order.get(key, len(order)) for key in zip(together["learner"], together["variant"])]
    together = together.assign(place=place).sort_values(["place", "seed", "way", "shot"], kind="stable")
    return together.drop(columns="place").reset_index(drop=True)


@contextlib.contextmanager
def _open_folder(
    folder: Path, config: Config, banks: dict[str, ImageBank], device: torch.device, resume: bool
) -> Iterator[tuple[Config, pd.DataFrame, dict[str, np.ndarray]]]:
    """Make or re-open a run's folder: the configuration with learners of earlier calls, their rows and accuracies."""
    with _writing(folder):
        config = _joined(_earlier_config(folder, resume), config, folder)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        _replace(folder / "config.toml", tomli_w.dumps(config.model_dump()))
        _replace(folder / "environment.json", json.dumps(environment(banks, device), indent=2) + "\n")
        handler = logging.FileHandler(folder / "run.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    results = pd.DataFrame(columns=tables.COLUMNS)
    episodes: dict[str, np.ndarray] = {}
    try:
        if (folder / "results.csv").exists():
            results = pd.read_csv(folder / "results.csv", keep_default_na=False)
            with np.load(folder / "episodes.npz", allow_pickle=False) as arrays:
                episodes = dict(arrays)
        yield config, results, episodes
    finally:
        log.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns an error of the file system into an InputError about the output folder."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written ({error.strerror}): choose another one with --output"
        ) from error


def _earlier_config(folder: Path, resume: bool) -> Config | None:
    path = folder / "config.toml"
    if not path.exists():
        return None
    if not resume:
        raise InputError(
            f"{folder} already holds a run: add --resume to go on with it (finished learners stay as they"
            " are), or choose another folder with --output"
        )
    return Config.model_validate(tomllib.loads(path.read_text()))


def _joined(earlier: Config | None, config: Config, folder: Path) -> Config:
    """The configuration of both calls; InputError where they contradict each other."""
    if earlier is None:
        return config
    for part in ("data", "evaluation", "validation"):
        if getattr(earlier, part) != getattr(config, part):
            raise InputError(
                f"{folder} holds a run with other settings of [{part}]: choose another folder with --output"
            )
    for spec in earlier.learner.keys() & config.learner.keys():
        if earlier.learner[spec] != config.learner[spec]:
            raise InputError(f"{folder} holds a run of {spec} with other settings: choose another folder with --output")
    return config.model_copy(update={"learner": {**earlier.learner, **config.learner}})


def environment(banks: dict[str, ImageBank], device: torch.device) -> dict[str, Any]:
    """What a run depends on besides its configuration: software, machine, and the data's checksums."""
    packages = ("fewshot", "torch", "torchvision", "numpy", "pandas")
    return {
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": describe(device),
        "training_precision": str(training_precision("auto", device)).removeprefix("torch."),
        "data": {
            split: {"classes": bank.classes, "images": len(bank), "checksum": bank.checksum}
            for split, bank in banks.items()
        },
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _write(folder: Path, results: pd.DataFrame, episodes: dict[str, np.ndarray]) -> None:
    """Bring the folder's files up to date; results.csv last, since it says which cells are finished."""
    unfinished = folder / ".episodes.unfinished.npz"
    np.savez_compressed(unfinished, **episodes)
    unfinished.replace(folder / "episodes.npz")
    _replace(folder / "results.md", tables.markdown(results))
    _replace(folder / "results.tex", tables.latex(results))
    _replace(folder / "results.csv", results.to_csv(index=False))


def _replace(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
