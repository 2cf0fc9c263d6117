"""A run: every learner trained and evaluated on the same episodes."""

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from episodes import EpisodeSampler, ImageBank, InputError, MissingData, load_dataset
from episodes.batches import batches_from
from episodes.datasets import SPLITS, full_name
from episodes.locks import locked
from episodes.sampler import sampler_of
from fewshot import checkpoints, provenance
from fewshot.backbones import make_backbone
from fewshot.config import PROTOCOLS, Config, Evaluation, Training, Validation
from fewshot.devices import choose_device, describe, placed, prepare, training_precision
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.files import writing
from fewshot.fitting import fitted_config, with_held_out
from fewshot.learners.base import Learner, resolved
from fewshot.learners.registry import find_learner, split_backbone
from fewshot.models import about_of
from fewshot.pretraining import of_base_classes, saw_other_data
from fewshot.protocols.generalised import NotComparable
from fewshot.protocols.rows import check_protocols, measure
from fewshot.run_folder import RunFolder
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import LEAGUE
from fewshot.training import changes, give_weights, train

log = logging.getLogger("fewshot")
_PARTS = (  # of what a checkpoint says of its model, what the numbers of the model depend on
    *("variant", "seed", "held_out", "data", "channels", "size", "classes", "settings", "validation", "weights"),
    *provenance.RENEWED,
)


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
    keep: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and evaluate every learner of `config` with every training seed; the tidy rows of the whole run.

    path: the run's folder (see RunFolder). With `resume` it may hold a run already: learners that are finished there
    are not run again, one whose training was interrupted goes on from its last checkpoint, and protocols that are new
    are measured on the best checkpoints. Rows of other code or packages than now are run again, or with `keep` stay and
    are marked. Several processes may share one folder. Returns the rows of the episodes.
    """
    chosen = choose_device(device)
    prepare(chosen)
    wanted, banks = config.evaluation, with_held_out(banks, config.data.held_out)
    # all are made before any training, so that a wish that cannot be met is told at once
    check_protocols(wanted, banks)
    cells = _cells(config, banks["train"], banks["validation"])
    samplers = _samplers(wanted, banks["test"])
    folder = RunFolder(path, config, banks, chosen, resume)
    with folder.logged():
        test = placed(banks["test"], chosen)
        counts = [f"{bank.classes:,} classes for {split}" for split, bank in banks.items() if split != "held_out"]
        log.info("%s (%s): %s; on %s", test.dataset, test.protocol, ", ".join(counts), describe(chosen))
        for cell in cells:
            cell.check(folder)
        images = {split: bank.checksum for split, bank in banks.items()}
        _mark(folder, cells, images)
        _tell_stale(folder, cells, images, keep)
        data = {**banks, "test": test}
        worked = False
        for cell in cells:
            if not cell.waiting(folder, wanted.protocols, keep):
                continue
            with folder.claimed(cell.name):
                protocols = cell.waiting(folder, wanted.protocols, keep)  # another process may have done it meanwhile
                if protocols:
                    trained = cell.model(banks, folder.checkpoints(cell.name), chosen, resume, keep, progress)
                    _measure(cell, trained, protocols, data, samplers, folder)
                    worked = True
        if not worked:
            log.info("All of it was finished earlier: remove %s to run it again", path)
    return folder.results


def _samplers(wanted: Evaluation, test: ImageBank) -> list[EpisodeSampler]:
    """The test episodes of each way and shot; none where only other protocols are wanted."""
    return [
        sampler_of(test, way, shot, wanted.query, wanted.seed)
        for way in wanted.ways
        for shot in wanted.shots
        if "episodes" in wanted.protocols
    ]


def _mark(folder: RunFolder, cells: Sequence["_Cell"], images: dict[str, str]) -> None:
    """Mark the rows that depend on something else than what would be run now, before anything is shown or run.

    Of models that this run does not name only what all models share is looked at: their files are not run for it.
    """
    by_model = {(*cell.row, shot): cell for cell in cells for shot in cell.shots}
    first = {cell.row: cell for cell in cells if cell.first}
    code = provenance.suite_code()

    def judge(protocol: str, row: pd.Series) -> str:
        model = row["learner"], row["variant"], row["backbone"], row["seed"]
        cell = by_model.get((*model, row["shot"])) if protocol == "episodes" else first.get(model)
        if cell is not None:
            return cell.difference(folder, protocol, row["key"], images, provenance.mark)
        return provenance.mark(
            folder.parts(row["key"]), {"code": code, "packages": provenance.shared_packages(protocol)}
        )

    folder.mark(judge)


def _tell_stale(folder: RunFolder, cells: Sequence["_Cell"], images: dict[str, str], keep: bool) -> None:
    """Say in one line a model what its rows are of, where that is not what would be run now."""
    for cell in cells:
        of = {}
        for protocol in PROTOCOLS:
            rows = cell.rows(folder, protocol)
            for key in () if rows is None else rows.loc[rows["kept"] != "", "key"]:
                of[cell.difference(folder, protocol, key, images, provenance.told)] = None
        if of:
            done = "they are kept and marked" if keep else "it is run again; --keep shows them as they are"
            log.warning("%s: its rows are of %s: %s", cell.label, " and ".join(of), done)
    named = {cell.row for cell in cells}
    rows = folder.results[folder.results["kept"] != ""]
    models = rows[["learner", "variant", "backbone", "seed"]].itertuples(index=False, name=None)
    if others := sorted({model[0] for model in models if model not in named}):
        log.warning(
            "Rows of %s are of other code or packages than now: they are marked; --learner runs them again",
            ", ".join(others),
        )


def _measure(
    cell: "_Cell",
    trained: "_Model",
    protocols: Sequence[str],
    banks: dict[str, ImageBank],
    samplers: Sequence[EpisodeSampler],
    folder: RunFolder,
) -> None:
    """Measure a trained model by each of the protocols, and add the rows to the folder as they come."""
    learner, wanted = trained.learner, folder.config.evaluation
    images = {split: bank.checksum for split, bank in banks.items()}
    data = {split: EmbeddedBank(learner, bank) for split, bank in banks.items()}
    columns = {**cell.columns(learner), "collapsed": trained.collapsed}
    for protocol in protocols:
        accuracies = None
        if protocol == "episodes":
            here = [one for one in samplers or _samplers(wanted, banks["test"]) if one.shot in cell.shots]
            rows, accuracies = _episode_rows(
                cell, columns, learner, data["test"], here, wanted.episodes, trained.seconds
            )
        else:
            try:
                rows = measure(protocol, learner, data, wanted, columns)
            except NotComparable as error:
                log.warning("%s is left out of %s: %s", cell.label, protocol, error)
                continue
            log.info("%s: %s measured", cell.label, protocol)
        now, parts = (cell.parts(protocol, wanted, images, about) for about in (cell.about, trained.about))
        kept = provenance.mark(parts, now)
        folder.add(protocol, rows, accuracies, model=cell.name, parts=parts, kept=kept)


def _episode_rows(
    cell: "_Cell",
    columns: dict[str, Any],
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
                **columns,
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
        with locked(home / ".lock", f"is at work on {home}"):
            cell.model(banks, home, choose_device(device), resume)
    return [folder / cell.name / "best.pt" for cell in cells]


def check_trainings_free(folder: Path, config: Config, resume: bool) -> None:
    """InputError where `folder` holds a training of a learner of `config` that is not to be gone on with."""
    for spec in [] if resume else config.learner:
        learner, variant = find_learner(spec)
        backbone = split_backbone(spec)[1].replace(":", "-")
        shots = ["", *(f"{shot}shot" for shot in config.learner[spec].per_shot)]
        for seed, shot in itertools.product(config.seeds, shots):
            home = folder / _model_name(learner.name, resolved(learner, variant)[0], backbone, shot, f"seed{seed}")
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
    external = learner.traits.external or saw_other_data(about)
    learner.traits = dataclasses.replace(learner.traits, external=external)
    return learner


class _Model(NamedTuple):
    """A trained learner, the seconds that took, whether the training collapsed, and what its checkpoints say of it."""

    learner: Learner
    seconds: float
    collapsed: bool
    about: dict[str, Any]


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
        common = {
            "learner": spec,
            "name": learner.name,
            "variant": resolved(learner, variant)[0],
            "seed": seed,
            "dataset": config.data.dataset,
            "held_out": config.data.held_out,
            "data": [train_bank.checksum, validation_bank.checksum],
            "channels": train_bank.images.shape[1],
            "size": train_bank.images.shape[2],
            "classes": train_bank.classes if resolved(learner, variant)[1].uses_labels else len(train_bank),
            "source": provenance.learner_code(learner),
            "code": provenance.suite_code(),
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
                    "packages": provenance.packages(learner, one.backbone),
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
            **{column: getattr(learner.traits, column) for column in LEAGUE},
            "device": describe(device),
            "precision": str(precision).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def model(
        self,
        banks: dict[str, ImageBank],
        folder: Path,
        device: torch.device,
        resume: bool,
        keep: bool = False,
        progress: bool = True,
    ) -> _Model:
        """The trained learner: from its best checkpoint, where that is finished and of this or may be `keep`t; else
        trained, with the checkpoints in `folder`. It is given no test images."""
        path = folder / "best.pt"
        if resume and path.exists():
            content = checkpoints.load(path)
            changed = changes(about_of(content, path), self.about)
            if not changed or (keep and changed <= set(provenance.RENEWED)):
                return self._restored(banks["train"], path, content, device)
        learner = build_learner(self.cls, self.about)
        if learner.traits.trains and self.about["settings"]["steps"]:
            log.info("%s: training %s steps", self.label, f"{self.about['settings']['steps']:,}")
        trained = train(
            learner,
            banks["train"],
            banks["validation"],
            Training.model_validate(self.about["settings"]),
            validation=Validation.model_validate(self.about["validation"]),
            seed=self.about["seed"],
            device=device.type,
            folder=folder,
            about=self.about,
            resume=resume,
            progress=progress,
        )
        if trained.history.empty:
            log.info("%s: not trained, taken as it is", self.label)
            return _Model(learner, trained.seconds, trained.collapsed, self.about)
        log.info(
            "%s: trained in %.0f s, best checkpoint at step %s with %.2f %% on validation classes",
            self.label,
            trained.seconds,
            f"{trained.best_step:,}",
            trained.best_accuracy,
        )
        return _Model(learner, trained.seconds, trained.collapsed, self.about)

    def _restored(self, train_bank: ImageBank, path: Path, content: dict[str, Any], device: torch.device) -> _Model:
        """The learner that was trained earlier, from its best checkpoint."""
        log.info("%s: trained earlier", self.label)
        learner = build_learner(self.cls, self.about)
        checkpoints.restore(learner, content, path)
        if learner.traits.text:
            learner.class_names = train_bank.class_names
        seconds = 0.0
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            seconds = float(pd.read_csv(path.with_name("training.csv"))["seconds"].iloc[-1])
        about = self.about | {name: content["about"].get(name) for name in provenance.RENEWED}
        return _Model(learner.to(device), seconds, content.get("collapsed", False) is True, about)

    @property
    def row(self) -> tuple[str, str, str, int]:
        """What the rows of the model are known by: learner, variant, backbone and seed."""
        return self.cls.name, self.about["variant"], self.about["settings"]["backbone"], self.about["seed"]

    def rows(self, folder: RunFolder, protocol: str) -> pd.DataFrame | None:
        """Its rows of a protocol; None where they are not all there, or where the protocol is another model's."""
        return folder.rows(protocol, *self.row, self.shots) if self.first or protocol == "episodes" else None

    def parts(
        self, protocol: str, evaluation: Evaluation, images: dict[str, str], about: dict[str, Any]
    ) -> dict[str, Any]:
        """What its rows of a protocol depend on, trained as `about` says and tested on images of these checksums."""
        settings = evaluation.model_dump(include={"ways", "query", "episodes"}) if protocol == "episodes" else {}
        settings |= {"shots": list(self.shots)} if protocol == "episodes" else {}
        if hasattr(evaluation, protocol) and protocol != "episodes":
            settings |= getattr(evaluation, protocol).model_dump()
        return {
            **{name: about[name] for name in _PARTS},
            "packages": about["packages"] and {**about["packages"], **provenance.shared_packages(protocol)},
            "evaluation": {**settings, "seed": evaluation.seed},
            "images": images["test"],
            "scoring": provenance.protocol_code(protocol),
        }

    def difference(
        self,
        folder: RunFolder,
        protocol: str,
        key: str,
        images: dict[str, str],
        said: Callable[[dict[str, Any] | None, dict[str, Any]], str],
    ) -> str:
        """What `said`, told or mark of provenance, makes of the difference between rows of `key` and what would be run
        now; '' where there is none."""
        now = self.parts(protocol, folder.config.evaluation, images, self.about)
        return "" if key == provenance.key_of(now) else said(folder.parts(key), now)

    def waiting(self, folder: RunFolder, protocols: Sequence[str], keep: bool) -> list[str]:
        """The protocols that it is to be measured by: those of `protocols` whose rows are not there, and all whose rows
        are marked, unless these are to be kept."""
        left = []
        for protocol in PROTOCOLS:
            rows = self.rows(folder, protocol)
            applies = protocol in protocols and (self.first or protocol == "episodes")
            if (applies and rows is None) or (rows is not None and (rows["kept"] != "").any() and not keep):
                left.append(protocol)
        return left

    def check(self, folder: RunFolder) -> None:
        """InputError where the folder holds a model of its name with other settings, or of another learner."""
        path = folder.checkpoints(self.name) / "best.pt"
        if not path.exists() or all(self.rows(folder, protocol) is None for protocol in PROTOCOLS):
            return
        before = about_of(checkpoints.load(path), path)
        changed = changes(before, self.about)
        other = " and ".join(sorted(changed & {"settings", "weights"}))
        if other and "learner" not in changed:
            raise InputError(f"{folder.path} holds {self.label} with other {other}: choose another one with --output")
        if "learner" in changed and changed & {"source", "settings"}:
            raise InputError(
                f"{folder.path} holds another learner called {self.label}, {before['learner']}: rename one, or choose"
                " another folder with --output"
            )


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
