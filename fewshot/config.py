"""The configuration of a run: the settings of a preset, checked, with every default filled in."""

import logging
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

import baselines
from episodes.batches import batches_from
from episodes.datasets import find_source, full_name
from episodes.errors import InputError, unknown_name
from episodes.reading import ReadingOptions
from fewshot.augmentation import find_augmentation
from fewshot.backbones import FEATURES, find_backbone
from fewshot.files import in_utf8, read_text
from fewshot.learners.registry import checked_options, find_learner, missing, split_backbone, suite_learners

_ARGUMENTS = "the arguments"  # where a value is from that no preset has

log = logging.getLogger("fewshot")


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names a {'number' if isinstance(values[0], int) else 'kind'} twice")
    return values


# every number has bounds, so that a typing error is reported before it fills the memory or never ends
Count = Annotated[int, Field(ge=1, le=10_000)]
Way = Annotated[int, Field(ge=2, le=10_000)]
Episodes = Annotated[int, Field(ge=2, le=1_000_000)]
Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Ways = Annotated[list[Way], Field(min_length=1, max_length=100), AfterValidator(_different)]
Shots = Annotated[list[Count], Field(min_length=1, max_length=100), AfterValidator(_different)]
Kind = Annotated[str, Field(min_length=1, max_length=1000)]
Protocol = Literal[
    "episodes",
    "verification",
    "retrieval",
    "generalised",
    "sessions",
    "kinds",
    "open_set",
    "domains",
    "query_gallery",
    "domain",
]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
_INNER = ("options", "per_shot", "generalised", "sessions", "kinds", "open_set", "domain")  # tables laid over tables


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Settings):
    """Which images a run is on.

    dataset   NAME, NAME:PROTOCOL (a split protocol) or a path; fallback: the data set to use if `dataset` is
              unavailable
    test      the classes of the test: those of the split 'test', or 'all' classes of the data set. 'all' leaves no base
              classes, so no learner of the run may train
    size      pixels, 0 for the data set's usual size
    held_out  the number of images of each base class, the last ones, kept from training as queries of base classes
    min_images, skip_damaged  what is left out of a folder of images: see episodes.ReadingOptions
    """

    dataset: str = "omniglot"
    fallback: str = ""
    test: Literal["test", "all"] = "test"
    size: Annotated[int, Field(ge=0, le=1024)] = 0
    held_out: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    min_images: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    skip_damaged: bool = False

    @property
    def reading(self) -> ReadingOptions:
        return ReadingOptions(self.min_images, self.skip_damaged)


class Verification(_Settings):
    """The number of positive pairs, and of negative pairs; the threshold is chosen on as many pairs of validation
    classes."""

    pairs: Episodes = 10_000


class Generalised(_Settings):
    """Episodes of `way` novel classes beside all base classes, with `query` queries a novel class and as many of base
    classes."""

    way: Count = 5
    shots: Shots = [1, 2, 5, 10, 20]
    query: Count = 15
    episodes: Episodes = 2000


class Sessions(_Settings):
    """Class-incremental sessions after the base classes: each adds `way` novel classes with `shot` support images and
    `query` queries a class.

    draws   of the novel classes, their order and their images
    order   a csv file that lists the classes of each session, with the columns session and class, in place of classes
            that are drawn; '' for none
    """

    sessions: Annotated[int, Field(ge=1, le=1000)] = 8
    way: Count = 5
    shot: Count = 5
    query: Count = 15
    draws: Episodes = 100
    order: Annotated[str, Field(max_length=10_000)] = ""


class Kinds(_Settings):
    """The kinds of episodes (see episodes.kinds.kind_names) that are measured beside `uniform`, each with every way and
    every shot; kinds that draw their ways and shots themselves are measured once."""

    kinds: Annotated[list[Kind], Field(min_length=1, max_length=100), AfterValidator(_different)] = ["dirichlet:2"]
    ways: Ways = [5]
    shots: Shots = [1, 5]
    query: Count = 15
    episodes: Episodes = 2000


class OpenSet(_Settings):
    """Episodes of `way` known classes and as many unknown ones, with `query` queries of each."""

    way: Way = 5
    shots: Shots = [1, 5]
    query: Count = 15
    episodes: Episodes = 2000


class Domains(_Settings):
    """The other data sets on which models are tested, by the names or paths that `--dataset` takes; their episodes have
    the ways, shots, queries and number of [evaluation]."""

    datasets: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=100)] = []


class QueryGallery(_Settings):
    """What is drawn of images without lists of queries, gallery and pairs (see episodes/galleries.py).

    gallery  the number of images of each class in the gallery; all others are queries
    folds    of the pairs; also of pairs that a list gives without folds
    pairs    of one class in each fold, and as many of two
    """

    gallery: Count = 5
    folds: Annotated[int, Field(ge=2, le=1000)] = 10
    pairs: Count = 300


class Domain(_Settings):
    """The images of each class and each domain that a draw takes: `shot` to train on, `query` others to test."""

    shot: Count = 5
    query: Count = 5
    draws: Episodes = 5


class Evaluation(_Settings):
    """The test protocols and their settings: every learner and training seed gets the same episodes and pairs.

    protocols: the names of one or more test protocols. 'episodes' tests every way with every shot, and so does
    'domains' on each of its data sets; 'retrieval' has no settings; each of the others has a table of its own.
    seed: the seed of all that is drawn
    """

    protocols: Annotated[list[Protocol], Field(min_length=1)] = ["episodes"]
    ways: Ways = [5, 20]
    shots: Shots = [1, 5]
    query: Count = 15
    episodes: Episodes = 10_000
    seed: Seed = 0
    verification: Verification = Verification()
    generalised: Generalised = Generalised()
    sessions: Sessions = Sessions()
    kinds: Kinds = Kinds()
    open_set: OpenSet = OpenSet()
    domains: Domains = Domains()
    query_gallery: QueryGallery = QueryGallery()
    domain: Domain = Domain()


class Validation(_Settings):
    """The episodes of validation classes by which a run chooses its checkpoint."""

    way: Way = 20
    shot: Count = 1
    query: Count = 5
    episodes: Episodes = 500


class Classification(_Settings):
    """Regularisers of a learner that classifies base classes: see fewshot/classification.py."""

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rotation: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    mixup: Literal["", "images", "maps"] = ""
    teacher: Annotated[str, Field(max_length=4096)] = ""


class Training(_Settings):
    """How one model trains. If steps is 0, the model does not train and its backbone does not change.

    weights       a file of weights that the backbone starts from; weights_trained_on: the data set that these weights
                  were trained on, such as 'ImageNet-1k'; a file of this suite says that itself
    augmentation  of the training images, by name (see fewshot/augmentation.py)
    epochs        most passes through the images, 0 for no limit: with fewer images there are fewer steps
    optimizer     muon: Muon for the kernels of convolutions, at the rate kernel_rate, and AdamW for all other weights
    schedule      one-cycle: up to learning_rate in 30 % of the steps, then down to nothing, both along a cosine;
                  halving: halved every `halve_every` steps (Snell et al. 2017);
                  milestones: learning_rate times the factor of the last milestone passed; constant
    precision     arithmetic of the backbone in training: auto is bfloat16 if the device computes in bfloat16 natively
    validate_every  steps between validations, each of which also writes a checkpoint
    batches       {classes, images} or {size}; options: the learner's own
    sizes         of the training images, in pixels, from a percentage of the steps on: {0 = 56, 70 = 84}, for a network
                  that averages its last feature map. Smaller images are faster. By default, the size of the data
    classification  regularisers of a learner that classifies base classes
    hard_from     the best.pt of an earlier training on the same images, whose neighbours make the batches hard: see
                  episodes/hard_batches.py; '' for batches that are drawn
    """

    backbone: str = "conv4"
    weights: str = ""
    weights_trained_on: Annotated[str, Field(pattern=r"\S", max_length=200)] = "unknown"
    augmentation: str = "none"
    steps: Steps = 1000
    epochs: Steps = 0
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Rate = 3e-3
    kernel_rate: Rate = 0.02
    weight_decay: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    schedule: Literal["one-cycle", "halving", "milestones", "constant"] = "one-cycle"
    halve_every: Annotated[Steps, Field(ge=1)] = 2000
    milestones: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Rate] = {}
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: Annotated[Steps, Field(ge=1)] = 250
    batches: dict[str, Annotated[int, Field(le=1_000_000)]] = {}
    options: dict[str, Any] = {}
    sizes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,2}$")], Annotated[int, Field(ge=1, le=1024)]] = {}
    classification: Classification = Classification()
    hard_from: Annotated[str, Field(max_length=4096)] = ""

    @pydantic.model_validator(mode="after")
    def _what_weights_were_trained_on_belongs_to_weights(self) -> "Training":
        if self.weights_trained_on != "unknown" and not self.weights:
            raise ValueError(
                "weights_trained_on says what weights were trained on: name their file as weights = 'FILE'"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _milestones_belong_to_their_schedule(self) -> "Training":
        if (self.schedule == "milestones") != bool(self.milestones):
            raise ValueError("schedule = 'milestones' and a table of milestones go together")
        return self

    @pydantic.model_validator(mode="after")
    def _sizes_begin_at_the_start(self) -> "Training":
        if self.sizes and "0" not in self.sizes:
            raise ValueError("sizes must say the size from the start on: {0 = ...}")
        return self


class LearnerSettings(Training):
    """The training of one learner; `per_shot` maps a test shot to the training of a model for that shot alone.

    Such a model is tested with its shot alone, and its checkpoint is chosen by validation episodes of that shot.
    """

    per_shot: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}$")], Training] = {}


class Config(_Settings):
    """A whole run. `seeds` are those of the trainings.

    `preset` is the name and version of the preset, ', changed' if arguments replaced its training steps.
    `learner` maps what `--learner` takes (NAME, NAME:VARIANT, FILE.py:CLASS, each with @BACKBONE or without) to its
    settings.
    """

    preset: Annotated[str, Field(max_length=1000)] = ""
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(_different)] = [0]
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
    protocols: list[str] | None = None,
    held_out: int | None = None,
    ways: list[int] | None = None,
    shots: list[int] | None = None,
    query: int | None = None,
    episodes: int | None = None,
    steps: int | None = None,
    min_images: int = 0,
    skip_damaged: bool = False,
    kinds: list[str] | None = None,
    others: list[str] | None = None,
) -> Config:
    """The configuration of a preset (its name, or the path of a TOML file), with every default filled in.

    learners, seeds, size, held_out     replace the preset's; the learner 'all' stands for every learner of the suite
                                        that can run here
    protocols                           the test protocols, in place of the preset's
    dataset                             replaces the preset's, without a fallback
    ways, shots, query, episodes        replace those of the preset's test episodes, and of the test protocols
                                        generalised, kinds and open_set; generalised and open_set change their way only
                                        if `ways` has one number. They replace way, shot and query of the preset's
                                        sessions if there is one of each
    kinds                               of episodes, in place of the preset's, for the test protocol kinds
    steps                               of every model that trains
    min_images, skip_damaged            what is left out of a folder of images: see episodes.ReadingOptions
    others                              other data sets, on which the test protocol `domains` tests every model; that
                                        protocol then joins the others

    A named preset has one file for characters, one for photographs and, if need be, one for features; `dataset` decides
    between them. A preset of one file is for every data set. On features, backbones, weights, augmentation and sizes do
    not count (see _on_features). A preset's table [training] holds for every learner, [learner.NAME] for that learner
    and its variants, [learner."NAME:VARIANT"] for that variant, and either with @BACKBONE for it on that backbone.
    Raises InputError for unknown names and invalid values.
    """
    path = preset_path(preset, dataset)
    table = _read_toml(path)
    table["preset"] = _versioned(preset, table.pop("version", None), path) + (", changed" if steps else "")
    training, tables, names = _learner_tables(table, path)
    specs = learners or names
    for name in filter(None, [dataset, *specs, *(kinds or []), *(others or [])]):
        if name != in_utf8(name):
            raise InputError(f"{name} is no name in UTF-8, which a run's config.toml could hold: rename it")
    table["learner"] = {}
    for spec in specs:
        table["learner"] |= _settings_of_all(spec, training, tables)
    data = _data_asked_for(dataset, size, held_out)
    data |= ({"min_images": min_images} if min_images else {}) | ({"skip_damaged": True} if skip_damaged else {})
    _checked(Config, {"data": data, **({"seeds": seeds} if seeds else {})}, _ARGUMENTS)
    _lay_over_part(table, "data", data)
    numbers = {"ways": ways, "shots": shots, "query": query, "episodes": episodes}
    tests = _tests_asked_for(protocols, kinds, numbers)
    _lay_over_part(table, "evaluation", tests)
    if seeds:
        table["seeds"] = seeds
    return _completed(_with_others(_checked(Config, table, str(path)), others), path, steps)


def _versioned(preset: str, version: object, path: Path) -> str:
    """The name of a preset with its version, if its file gives one: 'quick 2'."""
    name = os.fsencode(Path(preset).stem).decode(errors="replace")  # the locale may not be UTF-8
    if version is None:
        return name
    if type(version) is not int or not 0 < version < 10**9:
        raise InputError(f"in {path}: version = {version!r} is invalid, write a whole number from 1 on")
    return f"{name} {version}"


def _learner_tables(table: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]:
    """Takes the parts about learners out of a preset's table: [training], [learner.*] by name, and the names of the
    learners that the preset runs.

    A mistake in the table of a learner that this run does not use is refused, too.
    """
    training, tables, names = table.pop("training", {}), table.pop("learner", {}), table.pop("learners", None)
    if not (isinstance(tables, dict) and all(isinstance(one, dict) for one in (training, *tables.values()))):
        raise InputError(f"in {path}, training and learner must be tables")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"in {path}, learners must be a list of names")
    for name, settings in tables.items():
        _checked(LearnerSettings, {**training, **settings}, f"{path} [learner.{name}]")
        if ".py:" not in name:
            find_learner(name)
    return training, tables, list(tables) if names is None else names


def _lay_over_part(table: dict[str, Any], name: str, own: dict[str, Any]) -> None:
    """Lays the arguments `own` over the part `name` of a preset's table; a part that is no table is refused later."""
    if own and isinstance(table.get(name, {}), dict):
        table[name] = _laid_over(table.get(name, {}), own)


def _data_asked_for(dataset: str | None, size: int | None, held_out: int | None) -> dict[str, Any]:
    """The table [data] of the arguments that were given; a data set that was named has no fallback."""
    data: dict[str, Any] = {}
    if dataset:
        data |= {"dataset": dataset, "fallback": ""}
    if size:
        data["size"] = size
    if held_out is not None:
        data["held_out"] = held_out
    return data


def _tests_asked_for(protocols: list[str] | None, kinds: list[str] | None, numbers: dict[str, Any]) -> dict[str, Any]:
    """The table [evaluation] of the arguments that were given; InputError for invalid values.

    numbers: ways, shots, query and episodes, None if not given
    """
    given = {name: value for name, value in numbers.items() if value is not None}
    one_way: dict[str, Any] = {name: given[name] for name in ("shots", "query", "episodes") if name in given}
    if len(given.get("ways", ())) == 1:
        one_way["way"] = given["ways"][0]
    sessions: dict[str, Any] = {"query": given["query"]} if "query" in given else {}
    sessions |= {name: given[f"{name}s"][0] for name in ("way", "shot") if len(given.get(f"{name}s", ())) == 1}
    domain = {name: value for name, value in sessions.items() if name != "way"}
    of_kinds = given | ({"kinds": kinds} if kinds else {})
    parts = {"generalised": one_way, "sessions": sessions, "kinds": of_kinds, "open_set": one_way, "domain": domain}
    tests = given | ({"protocols": protocols} if protocols is not None else {})
    tests |= {name: table for name, table in parts.items() if table}
    _checked(Evaluation, tests, _ARGUMENTS)
    return tests


def _with_others(config: Config, names: list[str] | None) -> Config:
    """The configuration with the test protocol `domains` on these data sets, if there are any."""
    if not names:
        return config
    protocols = [one for one in PROTOCOLS if one in (*config.evaluation.protocols, "domains")]
    domains = _checked(Domains, {"datasets": names}, _ARGUMENTS)
    evaluation = config.evaluation.model_copy(update={"protocols": protocols, "domains": domains})
    return config.model_copy(update={"evaluation": evaluation})


def _completed(config: Config, path: Path, steps: int | None) -> Config:
    """The configuration with the full names of data sets, and with every learner's batches, options and steps."""
    if not config.data.dataset:
        raise InputError(f"{path} names no data set: name one, or a folder of images, with --dataset")
    names = {"dataset": config.data.dataset, "fallback": config.data.fallback}
    data = config.data.model_copy(update={key: full_name(name) for key, name in names.items() if name})
    if not config.learner:
        raise InputError(f"{path} names no learner: add learners = [...], or name some with --learner")
    settings = {spec: _complete(spec, _with_steps(one, steps)) for spec, one in config.learner.items()}
    domains = Domains(datasets=list(map(full_name, config.evaluation.domains.datasets)))
    evaluation = config.evaluation.model_copy(update={"domains": domains})
    complete = config.model_copy(update={"data": data, "evaluation": evaluation, "learner": settings})
    if data.test == "all":
        _check_untrained(complete, path)
    return _on_features(complete) if find_source(data.dataset)[0].features else complete


def _check_untrained(config: Config, path: Path) -> None:
    """InputError if the run would need base classes, which a run has none of if all classes are for the test."""
    trained = [
        spec for spec, one in config.learner.items() if any(part.steps for part in (one, *one.per_shot.values()))
    ]
    if trained:
        raise InputError(
            f"in {path}, test = 'all' leaves no classes to train {trained[0]} on: set steps = 0, or leave out test"
        )
    if config.data.held_out:
        raise InputError(f"in {path}, test = 'all' leaves no base classes to hold images out of: leave out held_out")


def _on_features(config: Config) -> Config:
    """The configuration for a data set of features: backbone 'features', without weights, augmentation and size.

    A line of the log says if that changes the preset. InputError if a learner was asked for with another backbone.
    """
    plain = {"backbone": FEATURES, "weights": "", "augmentation": "none"}
    learners = {}
    for spec, settings in config.learner.items():
        if split_backbone(spec)[1] not in ("", FEATURES):
            raise InputError(
                f"{spec} cannot run on {config.data.dataset}, which holds features and not images: leave out the"
                " backbone"
            )
        per_shot = {shot: one.model_copy(update=plain) for shot, one in settings.per_shot.items()}
        learners[spec] = settings.model_copy(update={**plain, "per_shot": per_shot})
    changed = config.model_copy(update={"data": config.data.model_copy(update={"size": 0}), "learner": learners})
    if changed != config:
        log.info("%s holds features: backbones, weights, augmentation and sizes do not count", config.data.dataset)
    return changed


def _with_steps(settings: LearnerSettings, steps: int | None) -> LearnerSettings:
    """The settings with `steps` steps for models that train; a model that does not train keeps 0 steps."""
    if steps is None:
        return settings

    def changed(one: Training) -> dict[str, Any]:
        return {"steps": steps} if one.steps else {}

    per_shot = {shot: one.model_copy(update=changed(one)) for shot, one in settings.per_shot.items()}
    return settings.model_copy(update={**changed(settings), "per_shot": per_shot})


def _settings_of_all(
    spec: str, training: dict[str, Any], tables: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What `spec` stands for, each with its settings: itself, or all learners of the suite that can run with theirs."""
    if spec != "all":
        return {spec: _settings_of(spec, training, tables)}
    every = {name: _settings_of(name, training, tables) for name in suite_learners()}
    for name, settings in list(every.items()):
        if why := missing(find_learner(name)[0], settings):
            log.warning("%s is left out: %s", name, why)
            del every[name]
    return every


def _settings_of(spec: str, training: dict[str, Any], tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of `spec` from all tables that name it, the most specific last; per_shot is laid over the rest."""
    learner, backbone = split_backbone(spec)
    _, variant = find_learner(learner)
    names = dict.fromkeys([learner.removesuffix(f":{variant}"), learner])
    if backbone:
        names |= dict.fromkeys([f"{name}@{backbone}" for name in names])
    levels = [training, *(tables.get(name, {}) for name in names), {"backbone": backbone} if backbone else {}]
    merged = _laid_over(*levels)
    shots = merged.get("per_shot")
    if isinstance(shots, dict) and all(isinstance(one, dict) for one in shots.values()):
        common = {name: value for name, value in merged.items() if name != "per_shot"}
        merged["per_shot"] = {shot: _laid_over(common, one) for shot, one in shots.items()}
    return merged


def _laid_over(*levels: dict[str, Any]) -> dict[str, Any]:
    """The values of the last level that has them; options and models per shot are laid over each other in turn.

    An empty table takes away what earlier levels had.
    """
    merged: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            before = merged.get(name)
            inner = name in _INNER or name.isdecimal()
            merged[name] = (
                _laid_over(before, value) if inner and value and type(before) is type(value) is dict else value
            )
    return merged


def read_config(path: Path) -> Config:
    """The complete configuration that a run has written; InputError if the file cannot be read."""
    return _checked(Config, _read_toml(path), str(path))


def evaluation_from(table: dict[str, Any]) -> Evaluation:
    """The test protocols of a command's arguments; InputError for invalid values."""
    return _checked(Evaluation, table, _ARGUMENTS)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not TOML, too many digits, nested too deep
        raise InputError(f"{path} cannot be read as TOML: {error}") from error


def _complete(spec: str, settings: LearnerSettings) -> LearnerSettings:
    """The settings with the learner's own batches and options spelled out, those of its models per shot too."""
    cls, _ = find_learner(spec)

    def complete(one: Training) -> dict[str, Any]:
        find_backbone(one.backbone)
        find_augmentation(one.augmentation)
        batches = batches_from(one.batches) if one.batches else cls.batches
        return {"batches": dict(vars(batches)), "options": checked_options(cls, one.options)}

    per_shot = {shot: one.model_copy(update=complete(one)) for shot, one in settings.per_shot.items()}
    return settings.model_copy(update={**complete(settings), "per_shot": per_shot})


def preset_path(preset: str, dataset: str | None) -> Path:
    if preset.endswith(".toml"):
        if not Path(preset).is_file():
            raise InputError(f"there is no preset file {preset}")
        return Path(preset)
    known = baselines.presets()
    if preset not in known:
        raise unknown_name("preset", preset, known)
    source = find_source(dataset)[0] if dataset is not None else None
    kind = "natural" if source is not None and source.natural else "characters"
    files = known[preset]
    if len(files) == 1:
        return next(iter(files.values()))
    return files["features" if source is not None and source.features and "features" in files else kind]


def _checked(model: type[BaseModel], table: dict[str, Any], where: str) -> Any:
    try:
        return model.model_validate(table)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # of a whole table
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"in {where}{f' [{place}]' if place else ''}: {first['ctx']['error']}") from error
        *parents, name = [part for part in first["loc"] if isinstance(part, str) and part != "[key]"]
        place = f"{where} [{'.'.join(parents)}]" if parents else where
        if first["type"] == "extra_forbidden":
            raise InputError(f"in {place}: {unknown_name('key', str(name), _keys(model, parents))}") from error
        raise InputError(f"in {place}: {name} = {first['input']!r} is invalid: {_lowered(first['msg'])}") from error


def _keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys of the table that `parents` lead to from the table of `model`: learner, npair, per_shot, 5."""
    names = iter(parents)
    for name in names:
        kind: Any = model.model_fields[name].annotation
        if get_origin(kind) is dict:  # a table of tables: the next of the parents is one of its own names
            next(names)
            kind = get_args(kind)[1]
        model = kind
    keys = list(model.model_fields)
    return [*keys, "learners", "training", "version"] if model is Config else keys


def _lowered(message: str) -> str:
    return message[0].lower() + message[1:]
