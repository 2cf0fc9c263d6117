"""What a run is made of: settings as they stand in a preset, checked, with every default filled in."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

import baselines
from episodes.batches import batches_from
from episodes.datasets import resolve
from episodes.errors import InputError, unknown_name
from fewshot.backbones import BACKBONES
from fewshot.learners.registry import checked_options, find_learner

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Settings):
    """dataset: NAME or NAME:PROTOCOL; fallback: what to run on where that cannot be had; size: pixels, 0 as usual."""

    dataset: str = "omniglot"
    fallback: str = ""
    size: Annotated[int, Field(ge=0)] = 0


class Evaluation(_Settings):
    """The test protocols: every way with every shot, on the same episodes for every learner and training seed."""

    ways: Annotated[list[Count], Field(min_length=1)] = [5, 20]
    shots: Annotated[list[Count], Field(min_length=1)] = [1, 5]
    query: Count = 15
    episodes: Annotated[int, Field(ge=2)] = 10_000
    seed: Seed = 0


class Validation(_Settings):
    """The episodes of validation classes by which a run chooses its checkpoint."""

    way: Count = 20
    shot: Count = 1
    query: Count = 5
    episodes: Annotated[int, Field(ge=2)] = 500


class Training(_Settings):
    """How one learner trains. Where steps is 0 it does not: its backbone stays as initialised.

    schedule      one-cycle: up to learning_rate in 30 % of the steps, then down to nothing, both along a cosine;
                  halving: halved every `halve_every` steps (Snell et al. 2017); constant
    precision     arithmetic of the backbone in training: auto is bfloat16 where the device computes in it natively
    validate_every  steps between validations, each of which also writes a checkpoint
    """

    backbone: str = "conv4"
    steps: Annotated[int, Field(ge=0)] = 1000
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["one-cycle", "halving", "constant"] = "one-cycle"
    halve_every: PositiveInt = 2000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: PositiveInt = 250


class LearnerSettings(Training):
    """The training of one learner, with the batches it gets and its own options."""

    batches: dict[str, int] = {}
    options: dict[str, Any] = {}


class Config(_Settings):
    """A whole run. `seeds` are those of the trainings.

    `learner` maps what `--learner` takes (NAME, NAME:VARIANT, FILE.py:CLASS) to its settings.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    data: Data = Data()
    evaluation: Evaluation = Evaluation()
    validation: Validation = Validation()
    learner: dict[str, LearnerSettings] = {}


def load_config(
    preset: str,
    learners: list[str] | None = None,
    dataset: str | None = None,
    seeds: list[int] | None = None,
    size: int | None = None,
) -> Config:
    """The configuration of a preset (its name, or the path of a TOML file), with every default filled in.

    learners, seeds, size: instead of the preset's own; dataset: instead of the preset's, and then without fallback.
    A preset's table [training] holds for every learner, [learner.NAME] for that one and its variants,
    [learner."NAME:VARIANT"] for that variant. Raises InputError for names and values that there are not.
    """
    path = _preset_path(preset)
    table = _read_toml(path)
    training, tables, names = table.pop("training", {}), table.pop("learner", {}), table.pop("learners", None)
    if not (isinstance(tables, dict) and all(isinstance(one, dict) for one in (training, *tables.values()))):
        raise InputError(f"in {path}, training and learner must be tables")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"in {path}, learners must be a list of names")
    for name, settings in tables.items():  # a slip in a table that this run does not use is a slip all the same
        _checked(LearnerSettings, {**training, **settings}, f"{path} [learner.{name}]")
        if ".py:" not in name:
            find_learner(name)
    specs = learners or (list(tables) if names is None else names)
    table["learner"] = {spec: _settings_of(spec, training, tables) for spec in specs}
    chosen = {**({"dataset": dataset, "fallback": ""} if dataset else {}), **({"size": size} if size else {})}
    if chosen and isinstance(table.get("data", {}), dict):
        table["data"] = {**table.get("data", {}), **chosen}
    if seeds:
        table["seeds"] = seeds
    config = _checked(Config, table, str(path))
    wanted = {key: getattr(config.data, key) for key in ("dataset", "fallback")}
    data = config.data.model_copy(update={key: ":".join(resolve(name)) for key, name in wanted.items() if name})
    if not config.learner:
        raise InputError(f"{path} names no learner: add learners = [...], or name some with --learner")
    settings = {spec: _complete(spec, one) for spec, one in config.learner.items()}
    return config.model_copy(update={"data": data, "learner": settings})


def _settings_of(spec: str, training: dict[str, Any], tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tables that hold for `spec`, the most special one last; options are merged one by one."""
    _, variant = find_learner(spec)
    levels = [training, tables.get(spec.removesuffix(f":{variant}"), {}), tables.get(spec, {})]
    merged = {name: value for level in levels for name, value in level.items()}
    options = [level["options"] for level in levels if isinstance(level.get("options"), dict)]
    return {**merged, **({"options": {k: v for one in options for k, v in one.items()}} if options else {})}


def read_config(path: Path) -> Config:
    """The configuration a run has written, complete as it stands; InputError where it cannot be read."""
    return _checked(Config, _read_toml(path), str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error


def _complete(spec: str, settings: LearnerSettings) -> LearnerSettings:
    """The settings with the learner's own batches and options spelled out."""
    cls, _ = find_learner(spec)
    if settings.backbone not in BACKBONES:
        raise unknown_name("backbone", settings.backbone, BACKBONES)
    batches = batches_from(settings.batches) if settings.batches else cls.batches
    return settings.model_copy(
        update={"batches": dict(vars(batches)), "options": checked_options(cls, settings.options)}
    )


def _preset_path(preset: str) -> Path:
    if preset.endswith(".toml"):
        if not Path(preset).is_file():
            raise InputError(f"there is no preset file {preset}")
        return Path(preset)
    known = baselines.presets()
    if preset not in known:
        raise unknown_name("preset", preset, known)
    return known[preset]


def _checked(model: type[BaseModel], table: dict[str, Any], where: str) -> Any:
    try:
        return model.model_validate(table)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        *parents, name = first["loc"]
        table = ".".join(map(str, parents))
        place = f"{where} [{table}]" if table else where
        if first["type"] == "extra_forbidden":
            raise InputError(f"in {place}: {unknown_name('key', str(name), _keys(model, parents))}") from error
        raise InputError(f"in {place}: {name} = {first['input']!r} will not do, {_lowered(first['msg'])}") from error


def _keys(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """The keys a table may have: the fields of the settings at the end of `parents`."""
    keys = list(model.model_fields)
    if parents:
        inner = LearnerSettings if parents[0] == "learner" else model.model_fields[parents[0]].annotation
        keys = list(inner.model_fields)
    elif model is Config:
        keys += ["learners", "training"]
    return keys


def _lowered(message: str) -> str:
    return message[0].lower() + message[1:]
