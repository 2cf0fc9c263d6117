"""Time to an accuracy: trainings on Omniglot from nothing, validated in 5-way 1-shot episodes on the way."""

import copy
import itertools
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from episodes import ClassBatches, ImageBank, load_dataset
from episodes.batches import batches_from
from fewshot.backbones import Backbone
from fewshot.config import Training, Validation, load_config
from fewshot.devices import choose_device, prepare
from fewshot.evaluation import evaluate
from fewshot.learners import find_learner
from fewshot.learners.prototypical import Prototypical
from fewshot.models import ModelSpec
from fewshot.performance import peers
from fewshot.training import clamped, train

LEARNERS = ("siamese", "prototypical", "imprinted", "npair")
VALIDATIONS = 12  # of a training, spread over its steps
_VALIDATION = Validation(way=5, shot=1, query=5, episodes=500)
# what the preset quick gave these learners before Muon, in its version 2
_ADAMW: Mapping[str, dict[str, Any]] = {
    "siamese": {"steps": 1200, "batches": {"classes": 60, "images": 4}, "options": {"margin": 1.2}},
    "prototypical": {"steps": 850, "batches": {"classes": 60, "images": 6}, "options": {"shot": 1}},
    "imprinted": {"steps": 600, "batches": {"size": 512}, "learning_rate": 2e-2},
    "npair": {"steps": 1200, "batches": {"classes": 120, "images": 2}, "options": {"regularisation": 0.002}},
}


def contenders(learner: str) -> tuple[str, ...]:
    """The preset quick as it is, with AdamW as it was before, and the plain loop, which knows one learner."""
    return ("fewshot", "fewshot, AdamW", *(["plain loop"] if learner == "prototypical" else []))


def time_to(contender: str, name: str, data: str | None, steps: int, effort: object) -> dict[str, Any]:
    """Train `name` as `contender` does, in at most `steps` steps.

    `history` has the images seen, the seconds so far, validations included, and the accuracy in percent.
    """
    base, held_out = (load_dataset("omniglot:vinyals", split, data=data) for split in ("train", "validation"))
    prepare(choose_device("cpu"))
    settings = _settings(name, base, steps, before=contender != "fewshot")
    train_as = _plainly if contender == "plain loop" else _ours
    history = train_as(name, base, held_out, settings)
    counted = f"{settings.steps:,} steps of {len(batches_from(settings.batches)):,} images"
    return {"samples": [history[-1][1]], "counted": counted, "history": history}


def _settings(name: str, base: ImageBank, most: int, before: bool) -> Training:
    settings = next(iter(load_config("quick", [name]).learner.values()))
    if before:
        muon_off = {"optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.0}
        settings = settings.model_copy(update={**muon_off, **_ADAMW[name]})
    cls, variant = find_learner(name)
    steps = min(settings.steps, most)
    settings = settings.model_copy(update={"steps": steps, "validate_every": max(1, steps // VALIDATIONS)})
    return clamped(settings, cls, variant, base)


def _ours(name: str, base: ImageBank, held_out: ImageBank, settings: Training) -> list[list[float]]:
    cls, variant = find_learner(name)
    torch.manual_seed(0)
    learner = ModelSpec.of(cls, base, settings, variant=variant).build(cls)
    size, history, began = len(batches_from(settings.batches)), [], time.perf_counter()

    def note(step: int, accuracy: float) -> None:
        history.append([step * size, round(time.perf_counter() - began, 3), round(accuracy, 3)])

    train(learner, base, held_out, settings, validation=_VALIDATION, device="cpu", progress=False, validated=note)
    return history


def _plainly(name: str, base: ImageBank, held_out: ImageBank, settings: Training) -> list[list[float]]:
    """The loop of the papers' repositories with the same settings; the suite measures the accuracy for it."""
    batches = batches_from(settings.batches)
    assert isinstance(batches, ClassBatches), "the plain loss takes class after class"
    cls, variant = find_learner(name)
    torch.manual_seed(0)
    backbone = ModelSpec.of(cls, base, settings, variant=variant).build(cls).backbone
    network = peers.plain_network(backbone, base.images.shape[1]).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps + 1)
    history, began = [], time.perf_counter()
    for step, (images, _) in enumerate(itertools.islice(peers.loader_of(base, batches), settings.steps), start=1):
        loss = peers.plain_loss(network, images, batches.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % settings.validate_every == 0:
            accuracy = _accuracy(network, backbone.embedding_size, held_out)
            history.append([step * len(batches), round(time.perf_counter() - began, 3), round(accuracy, 3)])
    return history


def _accuracy(network: nn.Module, size: int, held_out: ImageBank) -> float:
    """In percent, of a copy: the suite's backbone changes the memory format of the network that it gets."""
    learner = Prototypical(Backbone(copy.deepcopy(network), size), held_out.classes)
    found = evaluate(learner, held_out, 5, 1, _VALIDATION.query, _VALIDATION.episodes, device="cpu")
    return 100 * float(found.values.mean())
