"""Which models a run trains and tests: each learner with each training seed, and with its own model for some shots."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from episodes import ImageBank, InputError
from episodes.batches import batches_from
from fewshot import outside, provenance
from fewshot.config import Config, LearnerSettings, Training
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import find_learner, traits_of
from fewshot.models import ModelSpec
from fewshot.pretraining import begun_by, by_published_means, outside_fields
from fewshot.training import give_weights, objective_of


@dataclasses.dataclass(frozen=True)
class Planned:
    """A model of a run, and what it is tested with.

    cls    the class of its learner
    spec   what its checkpoints say of it
    shots  the shots of its test episodes
    first  whether the model has the fewest shots of its learner and seed; test protocols without shots test such models
    """

    cls: type[Learner]
    spec: ModelSpec
    shots: tuple[int, ...]
    first: bool

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which finds the class by its name: the class of a file is not importable."""
        return _found, (self.spec, self.shots, self.first)


def _found(spec: ModelSpec, shots: tuple[int, ...], first: bool) -> Planned:
    return Planned(find_learner(spec.asked)[0], spec, shots, first)


def plan(config: Config, banks: Mapping[str, ImageBank]) -> list[Planned]:
    """All models of a run; InputError if two have one name, or if one cannot train on its batches or with its
    regularisers, or has no weights.

    banks: by split; without 'train' and 'validation' the models are for the images of 'test' and train on nothing.
    """
    models = [
        model for asked in config.learner for seed in config.seeds for model in _models_of(asked, seed, config, banks)
    ]
    asked_by_row: dict[tuple[str, ...], str] = {}
    for model in models:
        spec = model.spec
        first = asked_by_row.setdefault(spec.row[:3], spec.asked)
        if first != spec.asked:
            raise InputError(f"{first} and {spec.asked} are both called {spec.label}: leave out or rename one")
        if spec.seed == config.seeds[0]:
            learner = spec.build(model.cls)
            learner.check_batches(batches_from(spec.settings.batches))
            give_weights(learner, spec.settings, _shown(banks))
            objective_of(learner, spec.settings, _shown(banks))
    return models


def _models_of(asked: str, seed: int, config: Config, banks: Mapping[str, ImageBank]) -> list[Planned]:
    """The models of one learner and seed: one for each shot that has its own settings, after one for all others."""
    cls, variant = find_learner(asked)
    settings, every = config.learner[asked], config.evaluation.shots
    found = []
    for single, shots in shots_by_model(settings, every):
        chosen = settings.per_shot[str(single)] if single else settings
        validation = config.validation.model_copy(update={"shot": single}) if single else config.validation
        spec = ModelSpec.of(
            cls,
            _shown(banks),
            chosen,
            asked=asked,
            variant=variant,
            seed=seed,
            shot=single,
            min_images=config.data.min_images,
            skip_damaged=config.data.skip_damaged,
            held_out=config.data.held_out,
            validation=validation,
            weights=_digest(chosen.weights),
            **_seen_by(traits_of(cls, variant), chosen, config, banks),
            published_means=by_published_means(chosen),
            source=provenance.learner_code(cls),
            code=provenance.suite_code(),
            packages=provenance.packages(cls, chosen.backbone),
        )
        found.append(Planned(cls, spec, shots, first=min(every) in shots))
    return found


def shots_by_model(settings: LearnerSettings, every: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """The shots that each model of a learner is tested with, the model of all others first; and the one shot that the
    model is for, 0 if it has the settings of all."""
    own = [shot for shot in every if str(shot) in settings.per_shot]
    rest = tuple(shot for shot in every if shot not in own)
    return [*([(0, rest)] if rest else []), *((shot, (shot,)) for shot in own)]


def _shown(banks: Mapping[str, ImageBank]) -> ImageBank:
    """Images as the models of a run get them."""
    return banks["train" if "train" in banks else "test"]


def _seen_by(traits: Traits, settings: Training, config: Config, banks: Mapping[str, ImageBank]) -> dict[str, Any]:
    """The fields of a ModelSpec that say which data the model has seen."""
    fields = outside_fields(settings, _shown(banks))
    fields["trained_on"] = outside.joined(fields["trained_on"], traits.trained_on)
    if "train" not in banks:
        return {"dataset": fields["trained_on"] or "none", "classes": 1, "class_names": (), **fields}
    base = banks["train"]
    teachers = map(_digest, (settings.hard_from, settings.classification.teacher))
    starts_from = begun_by(settings.weights, base) if settings.weights else ""
    return {
        "dataset": config.data.dataset,
        "data": [base.checksum, banks["validation"].checksum, *filter(None, teachers)],
        "base_weights": bool(starts_from),
        "starts_from": starts_from,
        **fields,
    }


def _digest(weights: str) -> str:
    """A digest of a file of weights, '' for none: another file of the same name makes another training."""
    if not weights:
        return ""
    if not Path(weights).is_file():
        raise InputError(f"there is no file of weights {weights}")
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
