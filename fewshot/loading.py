"""A trained model opened from its checkpoint."""

from pathlib import Path

from episodes import InputError
from fewshot import checkpoints
from fewshot.learners import Learner, find_learner
from fewshot.models import ModelSpec


def open_checkpoint(path: Path, learner: str = "") -> tuple[ModelSpec, Learner]:
    """What the checkpoint at `path` says of its model, and its learner with the trained weights, on the CPU.

    learner: FILE.py:CLASS or NAME, if the checkpoint's own name is not to be trusted or not found. Raises InputError if
    the file is no checkpoint or its learner is another one or cannot be built.
    """
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    if ".py:" in spec.asked and not learner:
        raise InputError(f"{path} is of the learner {spec.asked}: if you trust that file, name it with --learner")
    cls, variant = find_learner(learner or spec.asked)
    if cls.name != spec.learner or (variant and variant != spec.variant):
        raise InputError(f"{path} is of the learner {spec.asked}, not of {learner}")
    spec.check_fits(cls, path)
    built = spec.build(cls)
    checkpoints.restore(built, content, path)
    return spec, built
