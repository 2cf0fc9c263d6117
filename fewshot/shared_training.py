"""Learners that share one training: they differ at test alone, so one of them trains and the others follow its weights
(see fewshot/trail.py)."""

from collections.abc import Sequence

from fewshot.learners.base import Learner
from fewshot.models import ModelSpec
from fewshot.plan import Planned
from fewshot.provenance import key_of

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
    """A key that is equal for models of one training; '' if nothing is known of the training that others could share.

    A class that declares `one_training` promises that neither its loss nor what the loss calls reads the variant or the
    options. The promise holds for subclasses that change only how a support set is used.
    """
    owner = next(one for one in cls.__mro__ if "loss" in vars(one))
    own = [name for name, value in vars(owner).items() if callable(value) and name not in _AT_TEST]
    changed = [name for name in own if getattr(cls, name) is not getattr(owner, name)]
    if not vars(owner).get("one_training") or changed or cls.stages or cls.train is not Learner.train:
        return ""
    if not spec.settings.steps:
        return ""
    settings = spec.settings.model_dump(exclude={"options"})
    about = spec.model_dump(mode="json", exclude=_OWN)
    return key_of({"loss": f"{owner.__module__}.{owner.__qualname__}", "settings": settings, **about})
