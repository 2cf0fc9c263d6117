"""Trail: what a training leaves for learners that share it: the weights at its start and at each validation.

A learner that follows loads the weights of each validation, measures what it needs of base classes, and is validated as
it would be in a training of its own: its checkpoint, its best step and its rows are those of that training.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewshot import checkpoints
from fewshot.files import writing
from fewshot.learners.base import Learner

_FOLDER = "trail"


@dataclasses.dataclass
class Trail:
    """The weights of one training step by step, in the folder `path`.

    name       of the model that trains
    key        of all that its training depends on: see shared_training.training_key
    following  whether this learner follows the trail, instead of leaving it
    """

    path: Path
    name: str
    key: str
    following: bool = False

    def leave(self, learner: Learner, step: int, loss: float = 0.0, seconds: float = 0.0) -> None:
        """Keep the weights after `step` steps; loss: the mean since the last validation."""
        weights = {name: value.detach().cpu() for name, value in learner.state_dict().items()}
        content = {"about": {"key": self.key}, "learner": weights, "loss": loss, "seconds": seconds}
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            checkpoints.save(self._file(step), content)

    def leads(self, learner: Learner, steps: Sequence[int]) -> bool:
        """Whether the trail has the weights of all `steps`, and began with the weights that `learner` has now."""
        if not all(self._file(step).exists() for step in (0, *steps)):
            return False
        content = checkpoints.load(self._file(0))
        start: dict[str, Tensor] = content["learner"]
        return content["about"].get("key") == self.key and all(
            name in start and torch.equal(value.detach().cpu(), start[name])
            for name, value in learner.named_parameters()
        )

    def follow(self, learner: Learner, step: int) -> tuple[float, float]:
        """Give the learner the weights after `step` steps; the mean loss before, and the seconds of the training."""
        content = checkpoints.load(self._file(step))
        own = learner.state_dict()
        learner.load_state_dict({**own, **{name: content["learner"][name] for name in own.keys() & content["learner"]}})
        return content["loss"], content["seconds"]

    def _file(self, step: int) -> Path:
        return self.path / f"{step}.pt"


def trail_of(home: Path, name: str, key: str, following: bool = False) -> Trail:
    """The trail of the model called `name`, whose checkpoints are in the folder `home`."""
    return Trail(home / _FOLDER, name, key, following)


def remove_trail(home: Path) -> None:
    """Remove the trail of a model, when no other one will follow it."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)
