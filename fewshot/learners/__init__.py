"""The learners of the suite, one file a family; `base.py` is the contract."""

from fewshot.learners import (  # noqa: F401  registers them
    baseline,
    bd_cspn,
    clip,
    clip_adapter,
    closed_form,
    deepemd,
    dn4,
    dynamic,
    exemplar,
    feat,
    frn,
    histogram,
    imprinted,
    label_propagation,
    laplacianshot,
    maml,
    matching,
    meta_baseline,
    metric,
    nca,
    nearest_pixel,
    npair,
    openclip,
    prototypical,
    pt_map,
    query_clustering,
    relation,
    scikit_learn,
    siamese,
    simpleshot,
    soft_kmeans,
    text_probes,
    tim,
    tip_adapter,
    transductive_finetuning,
    triplet,
)
from fewshot.learners.base import Learner, Traits
from fewshot.learners.registry import find_learner, learner_names, register

__all__ = ["Learner", "Traits", "find_learner", "learner_names", "register"]
