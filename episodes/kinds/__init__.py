"""Kinds of episodes: samplers by the name of the kind, one file a kind."""

import functools
from collections.abc import Callable
from pathlib import Path

from episodes.bank import ImageBank
from episodes.errors import InputError, unknown_name
from episodes.kinds.any_way import AnySampler, MetaDLSampler
from episodes.kinds.dirichlet import DirichletSampler
from episodes.kinds.imbalance import SHAPES, ImbalanceSampler
from episodes.kinds.listed import ListedSampler
from episodes.kinds.semi import SemiSampler
from episodes.kinds.within import WithinSampler
from episodes.sampler import Sampler, sampler_of

_KINDS: dict[str, Callable[..., Sampler]] = {
    "uniform": sampler_of,
    "any": AnySampler,
    "any:metadl": MetaDLSampler,
    **{f"imbalance:{shape}": functools.partial(ImbalanceSampler, shape=shape) for shape in SHAPES},
    "within": WithinSampler,
    "semi": SemiSampler,
    "semi:distractors": functools.partial(SemiSampler, distractors=True),
}


def kind_names() -> tuple[str, ...]:
    """The kinds of episodes as one writes them; another number may stand behind `dirichlet:`."""
    uniform, *others = _KINDS
    return (uniform, "dirichlet:2", *others, "listed:FILE.csv")


def kind_sampler(kind: str, bank: ImageBank, way: int, shot: int, query: int, seed: int) -> Sampler:
    """The sampler of episodes of this kind, one of kind_names().

    Raises InputError for an unknown kind, or if the bank cannot fill such episodes.
    """
    if bank.listed and kind != "uniform":
        raise InputError(f"the split protocol of {bank.name} lists its episodes: it has no episodes of kind {kind}")
    return _maker(kind)(bank, way, shot, query, seed)


def check_kind(kind: str) -> None:
    """InputError for a kind of episodes that there is not, whatever the bank."""
    _maker(kind)


def _maker(kind: str) -> Callable[[ImageBank, int, int, int, int], Sampler]:
    """What makes a sampler of this kind from a bank, way, shot, query and seed."""
    name, colon, option = kind.partition(":")
    if kind in _KINDS:
        return _KINDS[kind]
    if name == "dirichlet" and colon:
        return functools.partial(DirichletSampler, alpha=_number(option, kind))
    if name == "listed" and option:
        return lambda bank, _way, _shot, _query, seed: ListedSampler(bank, Path(option), seed)
    raise unknown_name("kind of episodes", kind, kind_names())


def _number(text: str, kind: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the kind of episodes '{kind}' needs a number behind the colon, as in dirichlet:2") from None
