"""Kinds of episodes: samplers by the name of the kind, one file a kind."""

import functools
from collections.abc import Callable

from episodes.bank import ImageBank
from episodes.errors import InputError, unknown_name
from episodes.kinds.dirichlet import DirichletSampler
from episodes.sampler import Sampler, sampler_of

_KINDS: dict[str, Callable[..., Sampler]] = {"uniform": sampler_of}


def kind_names() -> tuple[str, ...]:
    """The kinds of episodes as one writes them."""
    return (*_KINDS, "dirichlet:2")


def kind_sampler(kind: str, bank: ImageBank, way: int, shot: int, query: int, seed: int) -> Sampler:
    """The sampler of episodes of this kind: one of kind_names(), with another number behind `dirichlet:`.

    Raises InputError for an unknown kind, or if the bank cannot fill such episodes.
    """
    if bank.listed and kind != "uniform":
        raise InputError(f"the protocol of {bank.name} lists its episodes: it has no episodes of kind {kind}")
    return _maker(kind)(bank, way, shot, query, seed)


def _maker(kind: str) -> Callable[..., Sampler]:
    if kind in _KINDS:
        return _KINDS[kind]
    name, colon, option = kind.partition(":")
    if name == "dirichlet" and colon:
        return functools.partial(DirichletSampler, alpha=_number(option, kind))
    raise unknown_name("kind of episodes", kind, kind_names())


def _number(text: str, kind: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the kind of episodes '{kind}' needs a number behind the colon, as in dirichlet:2") from None
