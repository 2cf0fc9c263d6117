"""Settings clamped to the data: fewer classes, images and steps if the data have fewer; each change is logged."""

import logging
from collections.abc import Callable
from typing import Any

from episodes import ImageBank, ListedEpisodes
from episodes.datasets import ALL
from fewshot.config import Config, Evaluation, Generalised, Kinds, OpenSet, QueryGallery, Sessions, Training, Validation
from fewshot.learners.registry import find_learner
from fewshot.training import clamped

log = logging.getLogger("fewshot")


def clamped_config(config: Config, banks: dict[str, ImageBank]) -> Config:
    """The configuration with no more classes and images per batch or episode than the data have; changes are logged.

    If there is no base class, in a bank 'train', nothing is trained, and only the test episodes are clamped.
    """
    evaluation = _with_tests(config.evaluation, banks["test"]) if "test" in banks else config.evaluation
    if "train" not in banks:
        return config.model_copy(update={"evaluation": evaluation})
    learners = {}
    for spec, settings in config.learner.items():
        per_shot = {shot: _with_batches(spec, one, banks["train"]) for shot, one in settings.per_shot.items()}
        learners[spec] = _with_batches(spec, settings, banks["train"]).model_copy(update={"per_shot": per_shot})
    validation = _with_validation(config.validation, banks["validation"])
    return config.model_copy(update={"learner": learners, "validation": validation, "evaluation": evaluation})


def clamped_generalised(settings: Generalised, bank: ImageBank) -> Generalised:
    """The shots that leave images for queries, or the largest shot that does; with a single image the shots stay,
    and are refused later."""
    if int(bank.sizes.min()) < 2:
        return settings
    return _changed("generalised", settings, bank, way=min(settings.way, bank.classes), **_images(settings, bank))


def clamped_kinds(settings: Kinds, bank: ImageBank) -> Kinds:
    """The ways and shots of uniform episodes that the bank can fill, or the most that it can fill; with a single class
    or image the settings stay, and are refused later."""
    if bank.classes < 2 or int(bank.sizes.min()) < 2:
        return settings
    return _changed("kinds", settings, bank, ways=_ways(settings, bank), **_images(settings, bank))


def clamped_open_set(settings: OpenSet, bank: ImageBank) -> OpenSet:
    """As clamped_kinds; half of the classes are known at most, for there are as many unknown ones."""
    if bank.classes < 4 or int(bank.sizes.min()) < 2:
        return settings
    return _changed("open_set", settings, bank, way=min(settings.way, bank.classes // 2), **_images(settings, bank))


def clamped_sessions(settings: Sessions, bank: ImageBank) -> Sessions:
    """The sessions for which the bank has classes, and the queries for which these have images; settings that leave no
    session or no query, and sessions that a file lists, stay and are refused later."""
    fewest = int(bank.sizes.min())
    if settings.order or bank.classes < settings.way or fewest <= settings.shot:
        return settings
    sessions, query = min(settings.sessions, bank.classes // settings.way), min(settings.query, fewest - settings.shot)
    return _changed("sessions", settings, bank, sessions=sessions, query=query)


def clamped_query_gallery(settings: QueryGallery, bank: ImageBank) -> QueryGallery:
    """The gallery that leaves a query of each class; images with lists of their own keep the settings, and so do images
    that are too few, which are refused later."""
    fewest = int(bank.sizes.min())
    if bank.lists or fewest < 2:
        return settings
    return _changed("query_gallery", settings, bank, gallery=min(settings.gallery, fewest - 1))


def clamped_protocols(evaluation: Evaluation, bank: ImageBank) -> Evaluation:
    """The settings of each test protocol that has its own, with no more classes, images and sessions than there are."""
    clamps: dict[str, Callable[[Any, ImageBank], Any]] = {
        "generalised": clamped_generalised,
        "kinds": clamped_kinds,
        "open_set": clamped_open_set,
        "sessions": clamped_sessions,
        "query_gallery": clamped_query_gallery,
    }
    asked = [name for name in clamps if name in evaluation.protocols]
    return evaluation.model_copy(update={name: clamps[name](getattr(evaluation, name), bank) for name in asked})


def fitted(evaluation: Evaluation, bank: ImageBank) -> Evaluation:
    """The test episodes that the bank can fill: the ways and shots for which the bank has enough classes and images, or
    the most that it can fill, and as many queries; nothing is logged."""
    return evaluation.model_copy(update=_fitting(evaluation, bank))


def tell_fitted(name: str, evaluation: Evaluation, bank: ImageBank) -> None:
    """Log what `fitted` changes for the data set of this name, in one line."""
    _changed(name, evaluation, bank, **_fitting(evaluation, bank))


def with_held_out(banks: dict[str, ImageBank], count: int) -> dict[str, ImageBank]:
    """The banks with the last `count` images of each class moved from 'train' to 'held_out'; unchanged if `count` is 0
    or 'held_out' exists."""
    if not count or "held_out" in banks:
        return banks
    train, last = banks["train"].held_out(count)
    return {**banks, "train": train, "held_out": last}


def _with_batches(spec: str, settings: Training, bank: ImageBank) -> Training:
    new = clamped(settings, *find_learner(spec), bank)
    options, images = settings.options, new.batches.get("images", 0)
    if 1 < images <= options.get("shot", 0):  # some must be left for queries
        options = {**options, "shot": images - 1}
    if 0 < new.steps < settings.steps:
        passes = f"{settings.epochs} passes through {len(bank):,} images"
        log.warning("%s: %s steps, not %s: %s", spec, f"{new.steps:,}", f"{settings.steps:,}", passes)
    return _changed(
        spec, new.model_copy(update={"batches": settings.batches}), bank, batches=new.batches, options=options
    )


def _with_validation(validation: Validation, bank: ImageBank) -> Validation:
    fewest = int(bank.sizes.min())
    shot = min(validation.shot, fewest - 1)
    query = min(validation.query, fewest - shot)
    return _changed("validation", validation, bank, way=min(validation.way, bank.classes), shot=shot, query=query)


def _with_tests(evaluation: Evaluation, bank: ImageBank) -> Evaluation:
    """The test protocols that the bank can fill: the ways and shots for which the bank has enough classes and images,
    or the most that it can fill. With a single class or image the settings stay, and are refused later.

    If the data set's protocol lists its episodes, the ways and shots are those of the list.
    """
    if bank.listed:
        listed = ListedEpisodes(bank)
        ways, shots, query, episodes = [listed.way], [listed.shot], listed.query, listed.count
        log.info("test: the %d episodes that the data set lists, %d-way %d-shot", episodes, listed.way, listed.shot)
        found = {"ways": ways, "shots": shots, "query": query, "episodes": episodes, "seed": listed.seed}
        return evaluation.model_copy(update=found)
    return _changed("test", clamped_protocols(evaluation, bank), bank, **_fitting(evaluation, bank))


def _fitting(evaluation: Evaluation, bank: ImageBank) -> dict[str, Any]:
    """The ways, shots and queries that the bank can fill; those of `evaluation` if it has a single class or image."""
    if bank.classes < 2 or int(bank.sizes.min()) < 2:
        return {}
    return {"ways": _ways(evaluation, bank), **_images(evaluation, bank)}


def _ways(settings: Evaluation | Kinds, bank: ImageBank) -> list[int]:
    return [way for way in settings.ways if way <= bank.classes] or [bank.classes]


def _images(settings: Evaluation | Generalised | Kinds | OpenSet, bank: ImageBank) -> dict[str, Any]:
    """The shots that leave images of the smallest class for queries, and as many queries as there are then."""
    fewest = int(bank.sizes.min())
    shots = [shot for shot in settings.shots if shot < fewest] or [fewest - 1]
    return {"shots": shots, "query": min(settings.query, fewest - max(shots))}


def _changed(what: str, settings: Any, bank: ImageBank, **clamped: Any) -> Any:
    """The settings with the clamped values; logs which values change."""
    smallest = int(bank.sizes.argmin())
    used = "" if bank.split == ALL else f" for {bank.split}"
    there = (
        f"there are {bank.classes} classes{used}, the smallest of {int(bank.sizes[smallest])} images,"
        f" '{bank.class_names[smallest]}'"
    )
    changes = [
        f"{name} = {value}, not {getattr(settings, name)}"
        for name, value in clamped.items()
        if value != getattr(settings, name)
    ]
    if changes:
        log.warning("%s: %s: %s", what, "; ".join(changes), there)
    return settings.model_copy(update=clamped)
