"""Training one learner on base classes, choosing its checkpoint on validation classes."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR, StepLR
from tqdm import tqdm

from episodes import EpisodeSampler, ImageBank, InputError
from episodes.batches import batches_from
from fewshot import checkpoints
from fewshot.config import LearnerSettings, Validation
from fewshot.devices import choose_device, prepare, training_precision
from fewshot.evaluation import run_episodes
from fewshot.learners.base import EmbeddedBank, Learner

_HISTORY = ["step", "loss", "accuracy", "ci95", "seconds"]
_SHOW_EVERY = 20  # steps between updates of the progress bar: reading the loss makes a GPU wait


@dataclasses.dataclass
class Trained:
    """What came of a training; the learner itself holds the weights of `best_step`.

    history: one row a validation: step, loss (mean since the last one), accuracy and ci95 (validation, percent),
    seconds (of training so far)
    """

    best_step: int
    best_accuracy: float
    seconds: float
    history: pd.DataFrame


def train(
    learner: Learner,
    train_bank: ImageBank,
    validation_bank: ImageBank,
    settings: LearnerSettings | None = None,
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

    folder  where last.pt (everything, for `resume`), best.pt (the weights) and training.csv go; None: nowhere
    about   what the checkpoints should say of the learner, besides its weights
    resume  go on from folder/last.pt where there is one of the same `about`; the result is the same as without the
            interruption

    The same seed, learner and machine give the same weights. It sees no test images: it is not given any.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    settings, validation = settings or LearnerSettings(), validation or Validation()
    chosen = choose_device(device)
    prepare(chosen)
    learner.to(chosen)
    train_bank, validation_bank = train_bank.to(chosen), validation_bank.to(chosen)
    labels = train_bank.labels
    batches = (batches_from(settings.batches) if settings.batches else learner.batches).fitted(train_bank)
    learner.check_batches(batches)
    sampler = EpisodeSampler(
        validation_bank, min(validation.way, validation_bank.classes), validation.shot, validation.query, seed=0
    )
    precision = training_precision(settings.precision, chosen)
    if settings.steps == 0:
        _save(folder, "best.pt", learner, {"step": 0}, about)
        return Trained(0, math.nan, 0.0, pd.DataFrame(columns=_HISTORY))
    optimizer = _optimizer(learner, settings)
    schedule = _schedule(optimizer, settings)

    torch.manual_seed(seed)
    history: list[dict[str, float]] = []
    first, earlier, best = 0, 0.0, {"step": 0, "accuracy": -1.0}
    if folder is not None and resume and (folder / "last.pt").exists():
        state = checkpoints.load(folder / "last.pt")
        if state["about"] == (about or {}):
            learner.load_state_dict(state["learner"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            _set_random_state(state["random"])
            first, earlier, best, history = state["step"], state["seconds"], state["best"], state["history"]
    best_weights = checkpoints.load(folder / "best.pt")["learner"] if first and folder else _copied(learner)

    began = time.perf_counter()
    total, counted = torch.zeros((), device=chosen), 0
    learner.train()
    if hasattr(learner.backbone, "precision"):
        learner.backbone.precision = precision
    bar = tqdm(
        total=settings.steps,
        initial=first,
        desc=learner.name or type(learner).__name__,
        unit="step",
        disable=not progress,
    )
    for step in range(first + 1, settings.steps + 1):
        indices = batches.indices(train_bank, seed, step - 1)
        loss = learner.loss(train_bank.batch(indices), labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
        counted += 1
        if step % settings.validate_every == 0 or step == settings.steps:
            mean_loss = total.item() / counted
            if not torch.isfinite(total):
                raise InputError(
                    f"the loss of {learner.name} is no number any more at step {step}: lower learning_rate"
                )
            data = EmbeddedBank(learner, validation_bank, precision)
            accuracy = run_episodes(learner, data, sampler, validation.episodes).percent
            seconds = earlier + time.perf_counter() - began
            history.append(
                {"step": step, "loss": mean_loss, "accuracy": accuracy.mean, "ci95": accuracy.ci95, "seconds": seconds}
            )
            total, counted = torch.zeros((), device=chosen), 0
            if accuracy.mean > best["accuracy"]:
                best, best_weights = {"step": step, "accuracy": accuracy.mean}, _copied(learner)
                _save(folder, "best.pt", learner, best, about)
            _save(
                folder,
                "last.pt",
                learner,
                best,
                about,
                step=step,
                seconds=seconds,
                history=history,
                optimizer=optimizer.state_dict(),
                schedule=schedule.state_dict(),
                random=_random_state(),
            )
        if step % _SHOW_EVERY == 0 or step == settings.steps:
            bar.update(step - bar.n)
            shown = {"loss": f"{(total.item() / counted if counted else history[-1]['loss']):.3f}"}
            if history:
                shown["validation"] = f"{history[-1]['accuracy']:.1f} %"
            bar.set_postfix(shown)
    bar.close()
    seconds = earlier + time.perf_counter() - began
    learner.load_state_dict(best_weights)
    table = pd.DataFrame(history, columns=_HISTORY)
    if folder is not None:
        table.round(4).to_csv(folder / "training.csv", index=False)
    return Trained(best["step"], best["accuracy"], seconds, table)


def _optimizer(learner: Learner, settings: LearnerSettings) -> Optimizer:
    """Weight decay holds for weight matrices and kernels, not for biases, norms and temperatures."""
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    return AdamW(groups, settings.learning_rate)


def _schedule(optimizer: Optimizer, settings: LearnerSettings) -> LRScheduler:
    if settings.schedule == "one-cycle":
        # one step more than there are, since the scheduler steps after the last one too
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1)
    if settings.schedule == "halving":
        return StepLR(optimizer, settings.halve_every, gamma=0.5)
    return ConstantLR(optimizer, factor=1.0)


def _copied(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}


def _save(folder: Path | None, name: str, learner: Learner, best: dict, about: dict | None, **more: Any) -> None:
    if folder is not None:
        checkpoints.save(folder / name, {"about": about or {}, "learner": _copied(learner), "best": best, **more})


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
