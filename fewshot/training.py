"""Training one learner on base classes, choosing its checkpoint on validation classes."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from episodes import EpisodeSampler, FeatureBank, ImageBank, InputError, class_texts
from episodes.batches import Batches, batches_from
from fewshot import checkpoints
from fewshot.augmentation import find_augmentation, resized
from fewshot.backbones import load_weights
from fewshot.classification import RegularisedLoss
from fewshot.config import Classification, Training, Validation
from fewshot.curves import Curves, curves_of
from fewshot.devices import choose_device, placed, prepare, training_precision
from fewshot.embedding import EmbeddedBank, computing_in
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.files import replace_text, writing
from fewshot.learners.base import Learner
from fewshot.learners.registry import lacks_weights, traits_of
from fewshot.mining import hard_batches
from fewshot.models import ModelSpec
from fewshot.optimizers import optimizer_of, schedule_of
from fewshot.pretraining import by_published_means, of_base_classes
from fewshot.provenance import RENEWED, told
from fewshot.recording import gradients_of
from fewshot.trail import Trail

log = logging.getLogger("fewshot")

_BASE_SAMPLE = 5000  # base images that a learner looks at before a validation, or one a class
_SHOW_EVERY = 20  # steps between updates of the progress bar: reading the loss makes a GPU wait


@dataclasses.dataclass
class Trained:
    """The result of a training; the learner itself holds the weights of `best_step`.

    history: one row a validation: step, loss (mean since the last one), accuracy and ci95 (validation, percent),
    seconds (of training so far)
    collapsed: the training ended no better than guessing: the validation accuracy of `best_step` exceeds that of
    guessing by no more than its interval
    shares: the name of the model whose training it followed, '' if it trained itself
    """

    best_step: int
    best_accuracy: float
    seconds: float
    history: pd.DataFrame
    collapsed: bool = False
    shares: str = ""


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
    spec: ModelSpec | None = None,
    resume: bool = False,
    progress: bool = True,
    curves: str = "",
    trail: Trail | None = None,
    validated: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train `learner` in place and leave it with the weights that did best on the validation episodes.

    settings  settings.weights, if given, is the file of weights that the learner's backbone starts from
    folder    gets last.pt (everything, for `resume`) and, at the end, best.pt (the weights) and training.csv; None: no
              files are written
    spec      what the checkpoints say of the model, besides its weights
    resume    continue from folder/last.pt if there is one, InputError if it is of another `spec`; the result is the
              same as without the interruption
    curves    what is written step by step, in `folder` or elsewhere: one of curves.KINDS, or '' for nothing
    trail     of a training that several learners share: this one leaves it or, if it is whole, follows it
    validated  is called after each validation with the step and the accuracy in percent; an exception that it raises
              ends the training

    The same seed, learner and machine give the same weights; for that, PyTorch's seed and its deterministic algorithms
    are set for the whole process. Training sees no test images: this function gets none.
    """
    settings, validation = settings or Training(), validation or Validation()
    chosen = choose_device(device)
    prepare(chosen)
    learner.to(chosen)
    train_bank, validation_bank = placed(train_bank, chosen), placed(validation_bank, chosen)
    settings = clamped(settings, type(learner), learner.variant, train_bank)
    if not trainable(learner):
        settings = settings.model_copy(update={"steps": 0})
    batches = batches_from(settings.batches)
    _equip(learner, settings, batches, train_bank)
    sampler = _validation_sampler(validation, validation_bank)
    precision = training_precision(settings.precision, chosen)
    source = hard_batches(batches, settings.hard_from, train_bank, str(chosen)) if settings.hard_from else batches
    torch.manual_seed(seed)
    if settings.steps == 0:
        _show_base(learner, train_bank)
    objective = objective_of(learner, settings, train_bank).to(chosen)
    run, validations = _Run(learner, objective, settings, folder, spec), _validations(settings)
    if trail is not None and trail.following and trail.leads(learner, validations):
        run.followed = trail
    elif resume:
        run.restore()
    if trail is not None and not trail.following:
        run.leave(trail)
    following = _augmented(source.following(train_bank, seed, run.step), learner, settings, train_bank, run.step)
    gradients = gradients_of(objective, chosen)
    learner.train()
    with (
        run.bar(progress) as bar,
        curves_of(curves if settings.steps else "", folder, run.step, spec) as run.curves,
        computing_in(learner.backbone, precision),
    ):
        for step in range(run.step + 1, settings.steps + 1):
            enter_stage(learner, (step - 1) / settings.steps)
            if run.followed is None:
                images, labels = next(following)
                run.descend(gradients(images, labels))
            if step in validations:
                loss = run.mean_loss(step) if run.followed is None else run.follow(run.followed, step)
                _show_base(learner, train_bank)
                data = EmbeddedBank(learner, validation_bank, precision)
                run.record(step, loss, run_episodes(learner, data, sampler, validation.episodes))
                if validated is not None:
                    validated(step, run.history[-1]["accuracy"])
            if step % _SHOW_EVERY == 0 or step == settings.steps:
                run.show(bar, step)
    return run.finish(guessing=100 / sampler.way)


def _validations(settings: Training) -> list[int]:
    """The steps after which a training is validated."""
    return sorted({*range(settings.validate_every, settings.steps + 1, settings.validate_every), settings.steps})


def objective_of(learner: Learner, settings: Training, bank: ImageBank) -> Learner | RegularisedLoss:
    """What has the loss of a training on `bank`: the learner itself, unless the settings name regularisers.

    InputError if the learner cannot train with these, or if its teacher was trained on other images than `bank`, which
    would teach what these know.
    """
    if settings.classification == Classification():
        return learner
    teacher = settings.classification.teacher
    if teacher and not of_base_classes(teacher, bank):
        raise InputError(
            f"teacher = {teacher} is no checkpoint of a training on {bank.name} alone: name the best.pt of one"
        )
    return RegularisedLoss(learner, settings.classification)


def enter_stage(learner: Learner, done: float) -> None:
    """Bring the learner into its training stage after a share `done` of the steps, in [0, 1)."""
    stage = sum(done >= share for share in learner.stages)
    if stage != learner.stage:
        learner.stage = stage
        learner.train(learner.training)


def trainable(learner: Learner) -> bool:
    """Whether the learner has something to train: on features, some learners have no weights of their own."""
    return learner.traits.trains and any(weight.requires_grad for weight in learner.parameters())


def clamped(settings: Training, cls: type[Learner], variant: str, bank: ImageBank) -> Training:
    """The settings with the batches and steps that `bank` has images for.

    If the settings name no batches, the learner's own are taken. A variant with nothing to train gets no steps.
    """
    batches = (batches_from(settings.batches) if settings.batches else cls.batches).fitted(bank)
    most = settings.epochs * len(bank) // len(batches) or settings.steps
    steps = min(settings.steps, most) if traits_of(cls, variant).trains else 0
    return settings.model_copy(update={"batches": dict(vars(batches)), "steps": steps})


def give_weights(learner: Learner, settings: Training, bank: ImageBank) -> None:
    """Give the backbone the weights it starts from; InputError if a learner needs such weights and has none.

    The learner is external from then on, unless the weights are proven to be of `bank`, its base classes, alone.
    Features need no weights: InputError if some are named.
    """
    if isinstance(bank, FeatureBank):
        if settings.weights:
            raise InputError(f"{bank.name} holds features, which no weights change: leave out weights = ...")
    elif settings.weights:
        load_weights(learner.backbone, Path(settings.weights), settings.backbone)
        if by_published_means(settings):
            learner.backbone.standardise_as_published()
        external = learner.traits.external or not of_base_classes(settings.weights, bank)
        learner.traits = dataclasses.replace(learner.traits, external=external)
    elif getattr(learner.backbone, "trained_on", "") or learner.traits.trained_on:
        learner.traits = dataclasses.replace(learner.traits, external=True)
    elif learner.traits.external:
        raise InputError(f"{learner.name} {lacks_weights(type(learner))}")


def _equip(learner: Learner, settings: Training, batches: Batches, bank: ImageBank) -> None:
    """Give the learner what it trains with: class names, if it reads them, batches that it accepts, and weights."""
    if learner.traits.text and not learner.class_names:  # made by hand: ModelSpec.build gives the names that it has
        learner.class_names = class_texts(bank)
    learner.check_batches(batches)
    learner.batches = batches
    if settings.sizes:
        _check_sizes(learner)
    give_weights(learner, settings, bank)


def _check_sizes(learner: Learner) -> None:
    """InputError if the learner's network does not take images of several sizes."""
    if not learner.backbone.averages:
        raise InputError(
            f"sizes = ... needs a network that averages its last feature map, such as resnet12 or conv4-average, and"
            f" {learner.name} has another one"
        )


def _augmented(
    following: Iterator[Tensor], learner: Learner, settings: Training, bank: ImageBank, step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images (B, C, H, W) and labels (B,), on the learner's device, of the batches whose indices follow on
    step number `step`.

    The labels are the base classes; for a learner that uses none, each image is a class of its own.
    """
    device = next(learner.parameters()).device
    labels = bank.labels.to(device) if learner.traits.uses_labels else torch.arange(len(bank), device=device)
    augment = find_augmentation(settings.augmentation)
    for number, indices in enumerate(following, start=step):
        images = augment(bank.batch(indices).to(device))
        if settings.sizes:
            images = resized(images, size_at(settings, number))
        yield images, labels[indices.to(device)]


def size_at(settings: Training, step: int) -> int:
    """The size in pixels of the training images in the step number `step`, counted from 0, by settings.sizes."""
    begun = [int(percent) for percent in settings.sizes if 100 * step >= int(percent) * settings.steps]
    return settings.sizes[str(max(begun))]


def _validation_sampler(validation: Validation, bank: ImageBank) -> EpisodeSampler:
    """The validation episodes, with fewer classes if the bank has fewer."""
    return EpisodeSampler(bank, min(validation.way, bank.classes), validation.shot, validation.query, seed=0)


def _show_base(learner: Learner, bank: ImageBank) -> None:
    """Call begin_validation with a sample of the training images, if the learner overrides begin_validation."""
    if type(learner).begin_validation is Learner.begin_validation:
        return
    images = min(-(-_BASE_SAMPLE // bank.classes), int(bank.sizes.min()))
    drawn = EpisodeSampler(bank, bank.classes, images, query=0, seed=0).episodes(0, 1)
    learner.begin_validation(EmbeddedBank(learner, bank.only(drawn.support.flatten().sort().values)))


class _Progress(BaseModel):
    """How far a training had come, as last.pt holds it."""

    model_config = ConfigDict(strict=True)

    step: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    history: list[dict[Literal["step", "loss", "accuracy", "ci95", "seconds"], float]]
    best: dict[Literal["step", "accuracy", "learner"], Any]


class _Run:
    """What changes while a learner trains, and its checkpoints: last.pt has all of it, best.pt the weights to keep."""

    def __init__(
        self,
        learner: Learner,
        objective: Learner | RegularisedLoss,
        settings: Training,
        folder: Path | None,
        spec: ModelSpec | None,
    ) -> None:
        self.regularisers = objective if isinstance(objective, RegularisedLoss) else None
        self.learner, self.folder, self.spec, self.steps = learner, folder, spec, settings.steps
        self.about = spec.to_checkpoint() if spec else {}
        self.name = " ".join(filter(None, [learner.name, learner.variant]))
        self.optimizer = optimizer_of(objective, settings)
        self.schedule = schedule_of(self.optimizer, settings)
        self.step, self.began = 0, time.perf_counter()
        self.total: Tensor | float = 0.0  # the summed losses of the steps since the last validation
        self.counted = 0  # those steps
        self.history: list[dict[str, float]] = []
        self.curves = Curves()
        self.left: Trail | None = None  # for learners that share this training
        self.followed: Trail | None = None  # of the training that this learner shares
        self.best: dict[str, Any] = {"step": 0, "accuracy": math.nan, "learner": _weights(learner)}
        if folder is not None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def restore(self) -> None:
        """Continue from last.pt, if there is one; InputError if it is of another training."""
        if self.folder is None or not (self.folder / "last.pt").exists():
            return
        path = self.folder / "last.pt"
        state = checkpoints.load(path)
        before = ModelSpec.from_checkpoint(state, path) if self.spec else None
        changed = self.spec.changes(before) if self.spec and before else set()
        if changed and changed <= set(RENEWED):
            then, now = ({name: about.get(name) for name in RENEWED} for about in (state["about"], self.about))
            log.warning("%s is of %s: this training begins anew", path, told(then, now))
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
            if self.regularisers is not None:
                self.regularisers.own.load_state_dict(state["regularisers"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            _set_random_state(state["random"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged and cannot be continued: remove it, and the training starts again"
            ) from error
        self.step, seconds, self.history, self.best = progress.values()
        self.began = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """How long the training has taken so far, the part before an interruption included."""
        return time.perf_counter() - self.began

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer, by the gradients that the weights have, and of the learning rate."""
        self.total, self.counted = self.total + loss.float(), self.counted + 1
        self.optimizer.step()
        self.schedule.step()

    def mean_loss(self, step: int) -> float:
        """The mean loss of the steps since the last validation; InputError if it became NaN or infinite."""
        mean = float(self.total) / self.counted
        if not math.isfinite(mean):
            raise InputError(
                f"the loss of {self.learner.name} became NaN or infinite at step {step}: lower learning_rate"
            )
        return mean

    def leave(self, trail: Trail) -> None:
        """Leave a trail from here on, from the start if this is one."""
        self.left = trail
        if self.step == 0:
            trail.leave(self.learner, 0)

    def follow(self, trail: Trail, step: int) -> float:
        """Take the weights of the shared training after `step` steps; the mean loss since its last validation."""
        loss, seconds = trail.follow(self.learner, step)
        self.began = time.perf_counter() - seconds
        return loss

    def record(self, step: int, loss: float, accuracies: Accuracies) -> None:
        """A validation: keep the weights if they are the best so far, and write the checkpoints."""
        accuracy, ci95 = accuracies.percent
        self.step, seconds = step, self.seconds
        self.total, self.counted = 0.0, 0
        self.history.append({"step": step, "loss": loss, "accuracy": accuracy, "ci95": ci95, "seconds": seconds})
        self.curves.add(step, seconds, {"accuracy": accuracy, "ci95": ci95})
        log.debug("%s: step %d, loss %.4f, %.2f ± %.2f on validation classes", self.name, step, loss, accuracy, ci95)
        counts = self.learner.stage == len(self.learner.stages) or step == self.steps
        if counts and not accuracy <= self.best["accuracy"]:  # true for the first one, which is compared with nan
            self.best = {"step": step, "accuracy": accuracy, "learner": _weights(self.learner)}
        if self.left is not None:
            self.left.leave(self.learner, step, loss, seconds)
        if self.folder is not None and self.followed is None:  # whoever follows has nothing to continue
            common = {"about": self.about, "step": step, "seconds": seconds, "history": self.history}
            state = {
                "learner": _weights(self.learner),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": _random_state(),
            }
            if self.regularisers is not None:
                state["regularisers"] = _weights(self.regularisers.own)
            with writing(self.folder):
                checkpoints.save(self.folder / "last.pt", {**common, **state})

    def finish(self, guessing: float) -> Trained:
        """Leave the learner with the best weights, and write them; `guessing` has that accuracy in percent."""
        best = next((row for row in self.history if row["step"] == self.best["step"]), None)
        collapsed = best is not None and best["accuracy"] - best["ci95"] <= guessing
        shares = self.followed.name if self.followed else ""
        self.best = {**self.best, "collapsed": collapsed, "shares": shares}
        self.learner.load_state_dict(self.best["learner"])
        history = pd.DataFrame(self.history, columns=["step", "loss", "accuracy", "ci95", "seconds"])
        if self.folder is not None:
            with writing(self.folder):
                checkpoints.save(self.folder / "best.pt", {"about": self.about, **self.best})
                replace_text(self.folder / "training.csv", history.round(4).to_csv(index=False))
        if collapsed:
            log.warning(
                "%s: its training collapsed: %.2f %% on validation classes, no better than guessing, which has %.2f %%;"
                " a lower learning_rate may help",
                self.name,
                self.best["accuracy"],
                guessing,
            )
        return Trained(self.best["step"], self.best["accuracy"], self.seconds, history, collapsed, shares)

    def bar(self, shown: bool) -> tqdm:
        """A progress bar of all steps, those before an interruption included."""
        disable = None if shown else True  # None: shown if the output is a terminal
        return tqdm(total=self.steps, initial=self.step, desc=self.name, unit="step", disable=disable)

    def show(self, bar: tqdm, step: int) -> None:
        """Move the bar to `step`; it says the loss since the last validation, and what that validation found."""
        last = self.history[-1] if self.history else {"loss": math.nan}
        loss = float(self.total) / self.counted if self.counted else last["loss"]
        said = {"loss": f"{loss:.3f}"}
        if self.history:
            said["validation"] = f"{last['accuracy']:.1f} %"
        bar.update(step - bar.n)
        bar.set_postfix(said)
        rate = self.optimizer.param_groups[0]["lr"]
        self.curves.add(step, self.seconds, {"loss": loss, "learning_rate": rate})


def _weights(learner: nn.Module) -> dict[str, Tensor]:
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
