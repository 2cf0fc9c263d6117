"""Learners by name: a decorator registers them; a file or an installed package may bring more."""

import dataclasses
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from episodes.batches import Batches
from episodes.errors import InputError, unknown_name
from fewshot.backbones import gives_maps
from fewshot.learners.base import Learner, Traits, resolved

LEARNERS: dict[str, type[Learner]] = {}
_ENTRY_POINTS = "fewshot.learners"
# traits, and their names in the first form of the contract: on a class they would be overlooked
_FLAGS = (
    *(field.name for field in dataclasses.fields(Traits) if field.type is bool),
    *("trained", "supervised", "adapts", "compares", "recordable"),
)


def register(name: str) -> Callable[[type[Learner]], type[Learner]]:
    """Class decorator: makes a learner known by `name`, on the command line and in presets."""

    def decorate(cls: type[Learner]) -> type[Learner]:
        known = LEARNERS.get(name)
        # the same file may be loaded twice, as in a notebook
        if known is not None and (known.__qualname__, _source(known)) != (cls.__qualname__, _source(cls)):
            raise InputError(
                f"two learners are called '{name}': {known.__module__}.{known.__qualname__} and"
                f" {cls.__module__}.{cls.__qualname__}; rename one"
            )
        cls.name = name
        LEARNERS[name] = cls
        return cls

    return decorate


def learner_names() -> list[str]:
    """The names of the suite's learners and of those that installed packages bring."""
    return sorted({*LEARNERS, *importlib.metadata.entry_points(group=_ENTRY_POINTS).names})


def suite_learners() -> list[str]:
    """The names of the suite's own learners; 'all' stands for these, also if packages bring more."""
    return sorted(name for name, cls in LEARNERS.items() if source_of(cls) is None)


def split_backbone(spec: str) -> tuple[str, str]:
    """'prototypical:cosine@resnet12' as the learner 'prototypical:cosine' and the backbone 'resnet12', '' for none."""
    path, is_file, rest = spec.rpartition(".py:")
    learner, wanted, backbone = rest.partition("@")
    if wanted and not backbone:
        raise InputError(f"'{spec}' names no backbone after its @")
    return path + is_file + learner, backbone


def find_learner(spec: str) -> tuple[type[Learner], str]:
    """A learner's class and its variant ('' for the default one), from a specification:

    NAME, NAME:VARIANT                        a registered learner, or one of the entry-point group fewshot.learners
    path/to/file.py:CLASS, the same:VARIANT   a class in a file

    each also with @BACKBONE, which this function ignores. Raises InputError if there is no such learner. Loading a file
    runs its code, so name only files that you trust.
    """
    spec, _ = split_backbone(spec)
    path, is_file, rest = spec.partition(".py:")
    if is_file:
        name, _, variant = rest.partition(":")
        cls = _from_file(Path(f"{path}.py"), name)
    else:
        name, _, variant = spec.partition(":")
        if name.endswith(".py"):
            raise InputError(f"'{spec}' names a file without a class: write {spec}:ClassName")
        if name not in LEARNERS:
            for entry in importlib.metadata.entry_points(group=_ENTRY_POINTS, name=name):
                LEARNERS[name] = _from_package(entry)
        if name not in LEARNERS:
            raise unknown_name("learner", name, learner_names())
        cls = LEARNERS[name]
    resolved(cls, variant)
    if flags := [name for name in _FLAGS if isinstance(vars(cls).get(name), bool)]:
        raise InputError(
            f"{cls.name} sets {' and '.join(flags)} on its class, which says nothing: declare what holds in its"
            " variants = {'': Traits(...)}"
        )
    if not isinstance(cls.batches, Batches):
        raise InputError(
            f"batches of {cls.name} must be ClassBatches(...) or ShuffledBatches(...), not {cls.batches!r}"
        )
    return cls, variant


def default_options(cls: type[Learner]) -> dict[str, Any]:
    """A learner's options and their defaults: the keyword arguments of its __init__, but for the variant."""
    parameters = list(inspect.signature(cls).parameters.values())[2:]
    options = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty and parameter.name != "variant"
    }
    for name, default in options.items():
        if not isinstance(default, bool | int | float | str | list):
            raise InputError(
                f"the option {name} of {cls.name} needs a number, a string or a list as its default, not {default!r}"
            )
    return options


def traits_of(cls: type[Learner], variant: str = "") -> Traits:
    """The traits of a variant of a learner, '' for the default one; InputError if there is no such variant."""
    return resolved(cls, variant)[1]


def missing(cls: type[Learner], settings: Mapping[str, Any]) -> str:
    """Why a learner's default variant cannot run here with the settings of a preset; '' if it can run."""
    traits = traits_of(cls)
    for package in traits.needs:
        if importlib.util.find_spec(package) is None:
            return f"it needs the package {package}: pip install {package}"
    backbone = settings.get("backbone")
    if traits.maps and backbone and not gives_maps(backbone):
        return f"it compares feature maps, and the backbone {backbone} gives none"
    return f"it {lacks_weights(cls)}" if traits.external and not settings.get("weights") else ""


def lacks_weights(cls: type[Learner]) -> str:
    """The message for a learner that starts from weights of other data, if no weights are given."""
    return (
        f"needs pretrained weights: give [learner.{cls.name}] of a preset the line weights = 'FILE', a file on this"
        " machine, and a backbone that they fit"
    )


def checked_options(cls: type[Learner], options: dict[str, Any]) -> dict[str, Any]:
    """All options of a learner, `options` over the defaults; InputError for an unknown one or one of another type."""
    complete = default_options(cls)
    for name, value in options.items():
        if name not in complete:
            raise unknown_name(f"option of {cls.name}", name, complete)
        default = complete[name]
        if type(default) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise InputError(
                f"the option {name} of {cls.name} must be of type {type(default).__name__}, as its default"
                f" {default!r} is, not {value!r}"
            )
        complete[name] = value
    return complete


def source_of(cls: type[Learner]) -> Path | None:
    """The file of a learner if the learner is not part of the suite, else None."""
    source = _source(cls)
    return None if source is None or Path(__file__).parent in source.parents else source


def _source(cls: type) -> Path | None:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).resolve() if file else None


def _from_package(entry: importlib.metadata.EntryPoint) -> type[Learner]:
    package = f"the package {entry.dist.name}" if entry.dist else "an installed package"
    point = f"the entry point {entry.name} = {entry.value} of {package}"
    try:
        cls = entry.load()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{point} cannot be loaded: {type(error).__name__}: {said}") from error
    if not (inspect.isclass(cls) and issubclass(cls, Learner)):
        raise InputError(f"{point} is no learner: it must name a class derived from fewshot.Learner")
    cls.name = cls.__dict__.get("name") or entry.name
    if lacking := _lacking(cls):
        raise InputError(f"{point} is not a whole learner: it lacks {' and '.join(lacking)}")
    return cls


def _from_file(path: Path, name: str) -> type[Learner]:
    if not path.is_file():
        raise InputError(f"there is no learner file {path}")
    module_name = f"fewshot_learner_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # it is None for names that do not end in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == spec.origin]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        raise InputError(
            f"the learner file {path} cannot be loaded: {type(error).__name__} in line {line}: {error}"
        ) from error
    cls = getattr(module, name, None)
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Learner) and value.__module__ == module_name
    ]
    if cls is None:
        raise InputError(f"{path} has no class {name}: it has {', '.join(own) or 'no learner at all'}")
    if not (inspect.isclass(cls) and issubclass(cls, Learner)):
        raise InputError(f"{name} in {path} is no learner: derive it from fewshot.Learner")
    cls.name = cls.__dict__.get("name") or name
    if lacking := _lacking(cls):
        raise InputError(f"{name} in {path} is not a whole learner: it lacks {' and '.join(lacking)}")
    return cls


def _lacking(cls: type[Learner]) -> list[str]:
    """The methods that a learner must define and this one does not."""
    scores = cls.scores is not Learner.scores or cls.episode_scores is not Learner.episode_scores
    trains = any(traits_of(cls, variant).trains for variant in cls.variants)
    loss = not trains or cls.loss is not Learner.loss
    return [name for name, there in {"loss": loss, "scores": scores}.items() if not there]
