"""A few-shot learning benchmark suite: learners, training, evaluation, tables."""

from fewshot.evaluation import evaluate
from fewshot.learners import Learner, Traits, register
from fewshot.training import train

__all__ = ["Learner", "Traits", "evaluate", "register", "train"]
