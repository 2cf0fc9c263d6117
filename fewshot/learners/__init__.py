"""The learners of the suite, one file a family; `base.py` is the contract."""

from fewshot.learners import (  # noqa: F401  registers them
    baseline,
    clip,
    closed_form,
    dynamic,
    exemplar,
    histogram,
    imprinted,
    maml,
    matching,
    metric,
    nca,
    nearest_pixel,
    npair,
    openclip,
    prototypical,
    relation,
    scikit_learn,
    siamese,
    simpleshot,
    triplet,
)
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import find_learner, learner_names, register

__all__ = ["Learner", "Traits", "find_learner", "learner_names", "register"]
