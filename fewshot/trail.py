"""Trail: what a training leaves for learners that share it: the weights at its start and at each validation.

A learner that follows loads the weights of each validation, measures what it needs of base classes, and is validated as
it would be in a training of its own: its checkpoint, its best step and its rows are those of that training.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
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
        about = {"key": self.key, "trainable": _trainable(learner)}
        content = {"about": about, "learner": weights, "loss": loss, "seconds": seconds}
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            checkpoints.save(self._file(step), content)

    def leads(self, learner: Learner, steps: Sequence[int]) -> bool:
        """Whether the trail has the weights of all `steps`, began with the weights that `learner` has now, and trained
        those of them that `learner` would train."""
        if not all(self._file(step).exists() for step in (0, *steps)):
            return False
        content = checkpoints.load(self._file(0))
        start: dict[str, Tensor] = content["learner"]
        about, own = content["about"], dict(learner.named_parameters())
        return (
            about.get("key") == self.key
            and {*about.get("trainable", ())} & own.keys() == {*_trainable(learner)}
            and all(name in start and torch.equal(value.detach().cpu(), start[name]) for name, value in own.items())
        )

    def follow(self, learner: Learner, step: int) -> tuple[float, float]:
        """Give the learner the weights after `step` steps; the mean loss before, and the seconds of the training."""
        content = checkpoints.load(self._file(step))
        own = learner.state_dict()
        learner.load_state_dict({**own, **{name: content["learner"][name] for name in own.keys() & content["learner"]}})
        return content["loss"], content["seconds"]

    @contextlib.contextmanager
    def kept(self, home: Path) -> Iterator["Trail"]:
        """Inside, a trail that is followed is in the folder `home`, too, where no other process removes it."""
        own = dataclasses.replace(self, path=home / _FOLDER)
        if not self.following or own.path == self.path:
            yield self
            return
        remove_trail(home)
        try:
            with writing(own.path):
                own.path.mkdir(parents=True)
                with contextlib.suppress(FileNotFoundError):  # another process has removed it: it leads nobody
                    for file in self.path.glob("*.pt"):
                        _link(file, own.path / file.name)
            yield own
        finally:
            remove_trail(home)

    def _file(self, step: int) -> Path:
        return self.path / f"{step}.pt"


def _trainable(learner: Learner) -> list[str]:
    return [name for name, value in learner.named_parameters() if value.requires_grad]


def _link(file: Path, new: Path) -> None:
    try:
        os.link(file, new)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(file, new)


def trail_of(home: Path, name: str, key: str, following: bool = False) -> Trail:
    """The trail of the model called `name`, whose checkpoints are in the folder `home`."""
    return Trail(home / _FOLDER, name, key, following)


def remove_trail(home: Path) -> None:
    """Remove the trail of a model, when no other one will follow it."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)
