"""The search space: what all learners share, and the options that a learner's class declares in `search`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from episodes import ImageBank, InputError
from episodes.batches import batches_from
from episodes.errors import unknown_name
from fewshot.config import Training
from fewshot.learners.base import Learner
from fewshot.learners.registry import checked_options, default_options

# (low, high) or (low, high, "log"), both ends included, or a list of choices
Range: TypeAlias = tuple[Any, ...] | list[Any]

VALIDATIONS = 4  # of a training: after each quarter of its steps
# SGD is left out: its rates are of another scale
_OPTIMIZERS = [name for name in get_args(Training.model_fields["optimizer"].annotation) if name != "sgd"]
_SETTINGS: dict[str, Range] = {
    "optimizer": _OPTIMIZERS,
    "learning_rate": (5e-4, 5e-2, "log"),
    "kernel_rate": (5e-3, 1e-1, "log"),  # of Muon
    "weight_decay": (1e-5, 1e-1, "log"),
}
_BATCHES: dict[str, Range] = {"batch": (64, 512, "log"), "images": (2, 12)}


class Ranges(NamedTuple):
    """What Optuna chooses from: the distribution of each value, and the values of the first trial."""

    distributions: dict[str, BaseDistribution]
    start: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """The settings that a search chooses for one learner, and what it leaves as `start` has it.

    start   the untuned settings, at the budget
    budget  images of a training: a batch of more images leaves fewer steps
    bank    the base classes, which limit the batches
    ranges  of each value by its name: settings of Training, options of the learner, `batch` (the images of a batch)
            and, for ClassBatches, `images` (of a class: a batch has batch / images classes)
    """

    start: Training
    budget: int
    bank: ImageBank
    ranges: Mapping[str, Range]

    @classmethod
    def of(cls, learner: type[Learner], untuned: Training, budget: int, bank: ImageBank) -> "Space":
        """The space around the untuned settings of a learner; InputError if its class declares an invalid range."""
        start = _at_budget(untuned, budget, bank)
        return cls(start, budget, bank, _fitted(_ranges(learner, start), start, budget, bank))

    @property
    def in_optuna(self) -> Ranges:
        """The ranges as Optuna has them, and in each the value that is nearest to the start."""
        own = values_of(self.start)
        start = {name: _nearest(one, own[name]) for name, one in self.ranges.items()}
        return Ranges({name: _distribution(one) for name, one in self.ranges.items()}, start)

    def settings(self, values: Mapping[str, Any]) -> Training:
        """The settings of a trial from the value of each range; numbers have three significant digits."""
        values = {name: float(f"{one:.3g}") if type(one) is float else one for name, one in values.items()}
        chosen = {name: one for name, one in values.items() if name in _SETTINGS}
        options = {name: one for name, one in values.items() if name not in {**_SETTINGS, **_BATCHES}}
        chosen |= {"options": {**self.start.options, **options}, "batches": self._batches(values)}
        return _at_budget(self.start.model_copy(update=chosen), self.budget, self.bank)

    def _batches(self, values: Mapping[str, Any]) -> dict[str, int]:
        if "images" in values:
            return {"classes": max(2, values["batch"] // values["images"]), "images": values["images"]}
        return {"size": values["batch"]}


def values_of(settings: Training) -> dict[str, Any]:
    """The values of settings by the names that ranges have."""
    batches = batches_from(settings.batches)
    return {**settings.model_dump(), **settings.options, **vars(batches), "batch": len(batches)}


def _at_budget(settings: Training, budget: int, bank: ImageBank) -> Training:
    """The settings with as many steps as the budget of images allows, and their validations spread over them."""
    batches = batches_from(settings.batches).fitted(bank)
    steps = budget // len(batches)
    if steps < 1:
        raise InputError(f"a budget of {budget:,} images is less than one batch of {len(batches):,}: raise --budget")
    spread = {"steps": steps, "validate_every": -(-steps // VALIDATIONS), "epochs": 0}
    return settings.model_copy(update={**spread, "batches": dict(vars(batches))})


def _ranges(learner: type[Learner], start: Training) -> dict[str, Range]:
    """The shared ranges that apply here, some narrowed by the class, and its own options."""
    batches = batches_from(start.batches)
    shared = {name: one for name, one in _SETTINGS.items() if name in Training.model_fields}
    shared |= {name: one for name, one in _BATCHES.items() if name == "batch" or hasattr(batches, name)}
    options = default_options(learner)
    for name, one in learner.search.items():
        if name not in {**options, **_SETTINGS, **_BATCHES}:
            raise unknown_name(f"option in search of {learner.name}", name, [*options, *_SETTINGS, *_BATCHES])
        _check(learner, name, one, name in options)
    return {**shared, **{name: one for name, one in learner.search.items() if name in shared or name in options}}


def _fitted(ranges: dict[str, Range], start: Training, budget: int, bank: ImageBank) -> dict[str, Range]:
    """The ranges with batches that leave a step for each validation, and classes of images that the bank has."""
    fitted = {"batch": _within(ranges["batch"], 2, budget // VALIDATIONS)}
    if "images" in ranges:  # the support needs some of a class, and the queries one more
        fitted["images"] = _within(ranges["images"], start.options.get("shot", 0) + 1, int(bank.sizes.min()))
    return {**ranges, **fitted}


def _within(given: Range, least: int, most: int) -> Range:
    """The part of a range from `least` to `most`, or its nearest end; a list of choices is left alone."""
    if isinstance(given, list):
        return given
    low, high = (min(max(end, least), most) for end in given[:2])
    return (low, high, *given[2:])


def _check(learner: type[Learner], name: str, given: Range, is_option: bool) -> None:
    """InputError if a class declares what is no range, or a range of values that its option does not take."""
    numbers = isinstance(given, tuple) and len(given) >= 2 and all(type(one) in (int, float) for one in given[:2])
    ordered = numbers and given[0] <= given[1] and given[2:] in ((), ("log",)) and not (given[2:] and given[0] <= 0)
    if not (ordered or (isinstance(given, list) and given)):
        raise InputError(
            f"search of {learner.name} gives {name} = {given!r}: write (low, high), (low, high, 'log') or a list"
        )
    for value in (given if isinstance(given, list) else given[:2]) if is_option else ():
        checked_options(learner, {name: value})


def _distribution(given: Range) -> BaseDistribution:
    if isinstance(given, list):
        return CategoricalDistribution(given)
    low, high, log = given[0], given[1], len(given) > 2
    return IntDistribution(low, high, log=log) if _whole(given) else FloatDistribution(low, high, log=log)


def _nearest(given: Range, value: Any) -> Any:
    """The value of a range that is nearest to `value`: of a list, the value itself or else the first choice."""
    if isinstance(given, list):
        return value if value in given else given[0]
    inside = min(max(value, given[0]), given[1])
    return int(inside) if _whole(given) else float(inside)


def _whole(given: Range) -> bool:
    """Whether a range from low to high is of whole numbers."""
    return all(type(end) is int for end in given[:2])
