"""Training one learner on base classes, choosing its checkpoint on validation classes."""

import contextlib
import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR, StepLR
from tqdm import tqdm

from episodes import EpisodeSampler, ImageBank, InputError, class_texts
from episodes.batches import batches_from
from fewshot import checkpoints
from fewshot.augmentation import find_augmentation
from fewshot.backbones import load_weights
from fewshot.config import Training, Validation
from fewshot.devices import choose_device, placed, prepare, training_precision
from fewshot.embedding import EmbeddedBank, computing_in
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.files import replace_text, writing
from fewshot.gradients import gradients_of
from fewshot.learners.base import Learner
from fewshot.learners.registry import lacks_weights, traits_of
from fewshot.pretraining import of_base_classes
from fewshot.provenance import RENEWED, told

log = logging.getLogger("fewshot")

_BASE_SAMPLE = 5000  # base images that a learner looks at before a validation, or one a class
_SHOW_EVERY = 20  # steps between updates of the progress bar: reading the loss makes a GPU wait


@dataclasses.dataclass
class Trained:
    """What came of a training; the learner itself holds the weights of `best_step`.

    history: one row a validation: step, loss (mean since the last one), accuracy and ci95 (validation, percent),
    seconds (of training so far)
    collapsed: it ended no better than guessing: the validation accuracy of `best_step` does not exceed that by more
    than its interval
    """

    best_step: int
    best_accuracy: float
    seconds: float
    history: pd.DataFrame
    collapsed: bool = False


def train(
    learner: Learner,
    train_bank: ImageBank,
    validation_bank: ImageBank,
    settings: Training | None = None,
    *,
    validation: Validation | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: Path | None = None,
    about: dict[str, Any] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Train `learner` in place and leave it with the weights that did best on the validation episodes.

    settings.weights, where it is given, is what the learner's backbone starts from.

    folder  where last.pt (everything, for `resume`) and, at the end, best.pt (the weights) and training.csv go; None:
            nowhere
    about   what the checkpoints should say of the learner, besides its weights
    resume  go on from folder/last.pt where there is one, InputError if it is of another `about`; the result is the
            same as without the interruption

    The same seed, learner and machine give the same weights; for that, PyTorch's seed and its deterministic algorithms
    are set for the whole process. It sees no test images: it is not given any.
    """
    settings, validation = settings or Training(), validation or Validation()
    chosen = choose_device(device)
    prepare(chosen)
    learner.to(chosen)
    train_bank, validation_bank = placed(train_bank, chosen), placed(validation_bank, chosen)
    labels = (
        train_bank.labels.to(chosen) if learner.traits.uses_labels else torch.arange(len(train_bank), device=chosen)
    )
    if learner.traits.text:
        learner.class_names = class_texts(train_bank)
    settings = fitted(settings, type(learner), learner.variant, train_bank)
    batches = batches_from(settings.batches)
    learner.check_batches(batches)
    learner.batches = batches
    give_weights(learner, settings, train_bank)
    way = min(validation.way, validation_bank.classes)
    sampler = EpisodeSampler(validation_bank, way, validation.shot, validation.query, seed=0)
    precision = training_precision(settings.precision, chosen)
    augment = find_augmentation(settings.augmentation)

    torch.manual_seed(seed)
    if settings.steps == 0:
        _show_base(learner, train_bank)
    run = _Run(learner, settings, folder, about or {})
    if resume:
        run.restore()
    began = time.perf_counter() - run.seconds
    total, counted = torch.zeros((), device=chosen), 0
    learner.train()
    name = " ".join(filter(None, [learner.name, learner.variant]))
    following = batches.following(train_bank, seed, run.step)
    gradients = gradients_of(learner, chosen)
    bar = tqdm(total=settings.steps, initial=run.step, desc=name, unit="step", disable=None if progress else True)
    with bar, computing_in(learner.backbone, precision):
        for step in range(run.step + 1, settings.steps + 1):
            enter_stage(learner, (step - 1) / settings.steps)
            indices = next(following)
            images = train_bank.batch(indices).to(chosen)
            total += gradients(augment(images), labels[indices.to(chosen)])
            run.descend()
            counted += 1
            if step % settings.validate_every == 0 or step == settings.steps:
                mean = total.item() / counted
                if not math.isfinite(mean):
                    raise InputError(
                        f"the loss of {learner.name} is no number any more at step {step}: lower learning_rate"
                    )
                _show_base(learner, train_bank)
                data = EmbeddedBank(learner, validation_bank, precision)
                accuracies = run_episodes(learner, data, sampler, validation.episodes)
                run.record(step, mean, accuracies, time.perf_counter() - began)
                total, counted = torch.zeros((), device=chosen), 0
            if step % _SHOW_EVERY == 0 or step == settings.steps:
                bar.update(step - bar.n)
                bar.set_postfix(run.shown(total.item() / counted if counted else None))
    run.finish(guessing=100 / way)
    table = pd.DataFrame(run.history, columns=["step", "loss", "accuracy", "ci95", "seconds"])
    if folder is not None:
        with writing(folder):
            replace_text(folder / "training.csv", table.round(4).to_csv(index=False))
    collapsed = run.best["collapsed"]
    if collapsed:
        _warn_of_collapse(name, run.best["accuracy"], 100 / way)
    return Trained(run.best["step"], run.best["accuracy"], time.perf_counter() - began, table, collapsed)


def enter_stage(learner: Learner, done: float) -> None:
    """Bring the learner into the stage of its training that holds after a share `done` of the steps, in [0, 1)."""
    stage = sum(done >= share for share in learner.stages)
    if stage != learner.stage:
        learner.stage = stage
        learner.train(learner.training)


def fitted(settings: Training, cls: type[Learner], variant: str, bank: ImageBank) -> Training:
    """The settings with the batches and steps that `bank` has images for; the learner's batches if they name none.

    No steps if the variant has nothing to train.
    """
    batches = (batches_from(settings.batches) if settings.batches else cls.batches).fitted(bank)
    most = settings.epochs * len(bank) // len(batches) or settings.steps
    steps = min(settings.steps, most) if traits_of(cls, variant).trains else 0
    return settings.model_copy(update={"batches": dict(vars(batches)), "steps": steps})


def give_weights(learner: Learner, settings: Training, bank: ImageBank) -> None:
    """Give the backbone the weights it starts from; InputError where a learner that lives on them has none.

    The learner is external from then on, unless the weights are proven to be of `bank`, its base classes, alone.
    """
    if settings.weights:
        load_weights(learner.backbone, Path(settings.weights), settings.backbone)
        external = learner.traits.external or not of_base_classes(settings.weights, bank)
        learner.traits = dataclasses.replace(learner.traits, external=external)
    elif learner.traits.external:
        raise InputError(f"{learner.name} {lacks_weights(type(learner))}")


def _show_base(learner: Learner, bank: ImageBank) -> None:
    """Call begin_validation with a sample of the training images, where the learner does anything there."""
    if type(learner).begin_validation is Learner.begin_validation:
        return
    images = min(-(-_BASE_SAMPLE // bank.classes), int(bank.sizes.min()))
    drawn = EpisodeSampler(bank, bank.classes, images, query=0, seed=0).episodes(0, 1)
    learner.begin_validation(EmbeddedBank(learner, bank.only(drawn.support.flatten().sort().values)))


def _warn_of_collapse(name: str, accuracy: float, guessing: float) -> None:
    log.warning(
        "%s: its training collapsed: %.2f %% on validation classes, no better than guessing, which has %.2f %%; a lower"
        " learning_rate may help",
        *(name, accuracy, guessing),
    )


def changes(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """What differs between two `about`s; settings that an older version did not know count as their defaults.

    Of code and packages that an older version did not note, it is not known that they are the same: they differ.
    """
    different = {key for key in now if (before.get(key) or "") != (now[key] or "")}
    if "settings" in different and "settings" in before:
        with contextlib.suppress(ValueError):  # of settings that this version refuses, and so of others
            old, new = (Training.model_validate(about["settings"]) for about in (before, now))
            different -= {"settings"} if old == new else set()
    return different


class _Progress(BaseModel):
    """How far a training had come, as last.pt holds it."""

    model_config = ConfigDict(strict=True)

    step: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    history: list[dict[Literal["step", "loss", "accuracy", "ci95", "seconds"], float]]
    best: dict[Literal["step", "accuracy", "learner"], Any]


class _Run:
    """What changes while a learner trains, and its checkpoints: last.pt has all of it, best.pt the weights to keep."""

    def __init__(self, learner: Learner, settings: Training, folder: Path | None, about: dict[str, Any]) -> None:
        self.learner, self.folder, self.about, self.steps = learner, folder, about, settings.steps
        self.optimizer = _optimizer(learner, settings)
        self.schedule = _schedule(self.optimizer, settings)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"step": 0, "accuracy": math.nan, "learner": _weights(learner)}
        if folder is not None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def restore(self) -> None:
        """Go on from last.pt, where there is one; InputError where it is of another training."""
        if self.folder is None or not (self.folder / "last.pt").exists():
            return
        path = self.folder / "last.pt"
        state = checkpoints.load(path)
        changed = changes(state["about"], self.about)
        if changed and changed <= set(RENEWED):
            log.warning("%s is of %s: this training begins anew", path, told(state["about"], self.about))
            return
        if changed:
            raise InputError(
                f"{path} is of a training with another {' and '.join(sorted(changed))}: choose another folder with"
                f" --output, or remove {self.folder}"
            )
        try:
            progress = {name: state[name] for name in _Progress.model_fields}
            _Progress.model_validate(progress)
            for part in (state["best"]["learner"], state["learner"]):  # the last one stays
                self.learner.load_state_dict(part)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            _set_random_state(state["random"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged and cannot be gone on with: remove it, and the training starts again"
            ) from error
        self.step, self.seconds, self.history, self.best = progress.values()

    def descend(self) -> None:
        """One step of the optimizer, by the gradients that the weights have, and of the learning rate."""
        self.optimizer.step()
        self.schedule.step()

    def record(self, step: int, loss: float, accuracies: Accuracies, seconds: float) -> None:
        """A validation: keep the weights where they are the best so far, and write the checkpoints."""
        accuracy, ci95 = accuracies.percent
        self.step = step
        self.history.append({"step": step, "loss": loss, "accuracy": accuracy, "ci95": ci95, "seconds": seconds})
        counts = self.learner.stage == len(self.learner.stages) or step == self.steps
        if counts and not accuracy <= self.best["accuracy"]:  # true for the first one, which is compared with nan
            self.best = {"step": step, "accuracy": accuracy, "learner": _weights(self.learner)}
        if self.folder is not None:
            common = {"about": self.about, "step": step, "seconds": seconds, "history": self.history}
            state = {
                "learner": _weights(self.learner),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": _random_state(),
            }
            with writing(self.folder):
                checkpoints.save(self.folder / "last.pt", {**common, **state})

    def finish(self, guessing: float) -> None:
        """Leave the learner with the best weights, and write them; `guessing` has that accuracy in percent."""
        best = next((row for row in self.history if row["step"] == self.best["step"]), None)
        collapsed = best is not None and best["accuracy"] - best["ci95"] <= guessing
        self.best = {**self.best, "collapsed": collapsed}
        self.learner.load_state_dict(self.best["learner"])
        if self.folder is not None:
            with writing(self.folder):
                checkpoints.save(self.folder / "best.pt", {"about": self.about, **self.best})

    def shown(self, loss: float | None) -> dict[str, str]:
        """What the progress bar says: the loss since the last validation, and what that found."""
        last = self.history[-1] if self.history else {"loss": math.nan}
        said = {"loss": f"{last['loss'] if loss is None else loss:.3f}"}
        return {**said, "validation": f"{last['accuracy']:.1f} %"} if self.history else said


def _optimizer(learner: Learner, settings: Training) -> Optimizer:
    """Weight decay holds for weight matrices and kernels, not for biases, norms and temperatures."""
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]] or groups[:1]  # one is needed, though it be empty
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    on_gpu = bool(parameters) and parameters[0].is_cuda
    return AdamW(groups, settings.learning_rate, fused=on_gpu)  # one kernel for all weights, not several for each


def _schedule(optimizer: Optimizer, settings: Training) -> LRScheduler:
    if settings.schedule == "one-cycle":
        # one step more than there are, since the scheduler steps after the last one too
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1)
    if settings.schedule == "halving":
        return StepLR(optimizer, settings.halve_every, gamma=0.5)
    if settings.schedule == "milestones":
        factors = sorted((int(step), factor) for step, factor in settings.milestones.items())
        return LambdaLR(optimizer, lambda step: next((f for at, f in reversed(factors) if step >= at), 1.0))
    return ConstantLR(optimizer, factor=1.0)


def _weights(learner: Learner) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
