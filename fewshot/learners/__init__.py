"""The learners of the suite, one file a family; `base.py` is the contract."""

from fewshot.learners import imprinted, maml, nearest_pixel, npair, prototypical, siamese  # noqa: F401  registers them
from fewshot.learners.base import Learner
from fewshot.learners.registry import find_learner, learner_names, register

__all__ = ["Learner", "find_learner", "learner_names", "register"]
