"""A few-shot learning benchmark suite: learners, training, evaluation, tables."""

from fewshot.evaluation import evaluate
from fewshot.learners import Learner, register
from fewshot.training import train

__all__ = ["Learner", "evaluate", "register", "train"]
