"""A few-shot learning benchmark suite: learners, training, evaluation, tables; a classifier of one's own pictures."""

from typing import TYPE_CHECKING, Any

from fewshot.evaluation import evaluate
from fewshot.learners import Learner, Traits, register
from fewshot.training import train

if TYPE_CHECKING:
    from fewshot.classifier import Classifier
    from fewshot.loading import load

__all__ = ["Classifier", "Learner", "Traits", "evaluate", "load", "register", "train"]


def __getattr__(name: str) -> Any:
    """`load` and `Classifier` are imported when first used: their modules take a while to load."""
    if name == "load":
        from fewshot.loading import load

        return load
    if name == "Classifier":
        from fewshot.classifier import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
