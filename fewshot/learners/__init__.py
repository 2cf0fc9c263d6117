"""The learners of the suite, one file a family; `base.py` is the contract."""

from fewshot.learners import (  # noqa: F401  registers them
    baseline,
    clip,
    closed_form,
    deepemd,
    dn4,
    dynamic,
    exemplar,
    feat,
    frn,
    histogram,
    imprinted,
    maml,
    matching,
    meta_baseline,
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
