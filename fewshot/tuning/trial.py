"""One trial: a training with the settings that a search proposes, and what its validation classes say of it."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from episodes import ImageBank, InputError
from episodes.batches import batches_from
from fewshot.config import Config, LearnerSettings, Training
from fewshot.evaluation import evaluate
from fewshot.learners.base import Learner
from fewshot.models import ModelSpec
from fewshot.plan import Planned, plan
from fewshot.training import train
from fewshot.tuning.cluster import RemoteStudy
from fewshot.tuning.space import VALIDATIONS, Space
from fewshot.tuning.study import SearchFolder, code_of

FRESH_EPISODES = 2000
_FRESH_SEED = 1  # of episodes that neither chose a checkpoint nor a trial: those have the seed 0
# what bad settings may raise: a loss that is not finite, a matrix that has no inverse, a batch that fills a GPU
_FAILURES = (InputError, torch.linalg.LinAlgError, torch.cuda.OutOfMemoryError)


class _Stopped(Exception):
    """A trial whose training is not among the better half so far."""


def model_of(config: Config, asked: str, settings: Training, banks: Mapping[str, ImageBank]) -> Planned:
    """The one model of a learner with these settings; InputError if it cannot train so."""
    one = LearnerSettings(**settings.model_dump(include=set(Training.model_fields)))
    (model,) = plan(config.model_copy(update={"learner": {asked: one}}), banks)
    return model


def run_trial(
    folder: SearchFolder | RemoteStudy,
    asked: str,
    trial: Any,  # optuna.Trial, or a RemoteTrial
    space: Space,
    banks: Mapping[str, ImageBank],
    device: str,
) -> None:
    """Train the learner `asked` as `trial` proposes, and tell the study how that ended.

    The untuned start, and each trial with the best validation accuracy so far, are measured on fresh episodes too.
    """
    began, is_start = time.perf_counter(), trial.user_attrs["place"] == 0
    settings = space.start if is_start else space.settings(trial.params)
    steps: list[int] = []

    def validated(step: int, accuracy: float) -> None:
        steps.append(step)
        trial.report(accuracy, len(steps))
        stop = len(steps) < VALIDATIONS and step < settings.steps and trial.should_prune()
        if stop and not is_start:
            raise _Stopped

    accuracy: float | None = None
    about: dict[str, Any] = {}
    try:
        with _quiet():
            model = model_of(folder.search.config, asked, settings, banks)
            learner = model.spec.build(model.cls)
            trained = train(
                learner,
                banks["train"],
                banks["validation"],
                settings,
                validation=model.spec.validation,
                seed=folder.search.seed,
                device=device,
                progress=False,
                validated=validated,
            )
        if trained.collapsed:
            about["failure"] = "its training collapsed"
        else:
            accuracy = trained.best_accuracy
            best = [one.value for one in folder.finished(asked) if one.value is not None]
            if is_start or accuracy > max(best, default=-np.inf):
                about["fresh"] = _on_fresh_episodes(learner, model.spec, banks["validation"], device)
    except _Stopped:
        pass
    except _FAILURES as error:
        accuracy, about = None, {"failure": " ".join(str(error).split())}
    about |= {
        "images": _images(settings, steps[-1] if steps else 0, "failure" in about),
        "seconds": round(time.perf_counter() - began, 2),
        "code": code_of(asked),
        "settings": settings.model_dump(include=set(Training.model_fields)),
    }
    folder.tell(asked, trial, accuracy, **about)


def _images(settings: Training, validated: int, failed: bool) -> int:
    """The images of a training whose last validation was after `validated` steps; one that failed was on the way to
    its next validation, if there was one to come."""
    made = min(validated + settings.validate_every, settings.steps) if failed else validated
    return made * len(batches_from(settings.batches))


def _on_fresh_episodes(learner: Learner, spec: ModelSpec, bank: ImageBank, device: str) -> list[float]:
    """The accuracies in percent in fresh episodes of the validation classes, the same ones for all trials."""
    wanted = spec.validation
    found = evaluate(
        learner, bank, wanted.way, wanted.shot, wanted.query, episodes=FRESH_EPISODES, seed=_FRESH_SEED, device=device
    )
    return (100 * found.values).round(4).tolist()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the suite logs errors alone: failures are part of a search, and its results tell of them."""
    log = logging.getLogger("fewshot")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
