"""Learners that share one training: they differ at test alone, so one of them trains and the others follow its weights
(see fewshot/trail.py)."""

from collections.abc import Sequence

from fewshot.backbones import MIRRORED
from fewshot.learners.base import Learner
from fewshot.models import ModelSpec
from fewshot.plan import Planned
from fewshot.provenance import key_of, learner_code, packages

# methods in which learners of one training may differ
_AT_TEST = {
    "__init__",
    "embed",
    "embed_texts",
    "scores",
    "episode_scores",
    "similarity",
    "base_logits",
    "begin_validation",
}
_OWN = {"asked", "learner", "variant", "source", "packages", "settings"}  # fields of a ModelSpec that may differ


def leaders_of(models: Sequence[Planned]) -> dict[str, str]:
    """The models that can follow another one, each with the name of the first model of its training."""
    first: dict[str, str] = {}
    found = {}
    for model in models:
        if key := training_key(model.cls, model.spec):
            leader = first.setdefault(key, model.spec.name)
            if leader != model.spec.name:
                found[model.spec.name] = leader
    return found


def training_key(cls: type[Learner], spec: ModelSpec) -> str:
    """A key that is equal for models of one training; '' if no other model can share the training of this one.

    A class that declares `one_training` promises that its loss, and what the loss calls, reads nothing of the learner
    but its weights: neither the variant nor the options. The promise holds for subclasses that change only how a
    support set is used; Trail.leads compares their weights. Without it, models share a training if they are equal but
    for mirror images, which no training sees.
    """
    if not spec.settings.steps or cls.train is not Learner.train:
        return ""
    promising = _promising(cls)
    settings = spec.settings.model_dump(exclude={"options"} if promising else set())
    settings["backbone"] = spec.settings.backbone.removesuffix(MIRRORED)
    if promising:
        own = {
            "loss": f"{promising.__module__}.{promising.__qualname__}",
            "source": learner_code(promising),
            "packages": packages(promising, settings["backbone"]),
        }
    else:
        own = spec.model_dump(mode="json", include={"learner", "variant", "source", "packages"})
    return key_of({**own, "settings": settings, **spec.model_dump(mode="json", exclude=_OWN)})


def _promising(cls: type[Learner]) -> type[Learner] | None:
    """The class whose promise of `one_training` holds for `cls`; None if there is none."""
    owner = next(one for one in cls.__mro__ if "loss" in vars(one))
    own = [name for name, value in vars(owner).items() if callable(value) and name not in _AT_TEST]
    changed = [name for name in own if getattr(cls, name) is not getattr(owner, name)]
    return None if changed or cls.stages or not vars(owner).get("one_training") else owner
