"""The other data sets on which a run tests its models: opened as these models take images, and compared with what the
models are trained on."""

import functools
import logging
from typing import NamedTuple

from episodes import FeatureBank, ImageBank, InputError, class_texts, load_dataset
from episodes.datasets import find_source, forms, full_name, split_to_test, splits
from episodes.reading import EVERYTHING, ReadingOptions
from episodes.twins import image_digests
from fewshot import outside
from fewshot.clamping import tell_fitted
from fewshot.config import Config, Domains
from fewshot.embedding import check_channels

log = logging.getLogger("fewshot")
_TOLD = 5  # names of classes in one line of the log, at most


class Shared(NamedTuple):
    """What a data set shares with the training classes: the names of classes, and how many of its images equal a
    training image pixel for pixel."""

    classes: list[str]
    images: int


def with_other_data(
    config: Config, banks: dict[str, ImageBank], data: str | None = None
) -> tuple[Config, dict[str, ImageBank]]:
    """The banks, and a bank for each data set of the test protocol `domains` under its name; the configuration has
    these names.

    The images get the size and the channels of those in `banks`, and the name of a data set says if its colours change.
    A bank has the test classes of its data set, or all classes if that is a folder without splits. The log says which
    names and episodes change, and what a data set shares with the training classes. InputError if a data set cannot be
    opened, or if its images do not fit the models.
    """
    asked = config.evaluation.domains.datasets
    if "domains" not in config.evaluation.protocols or not asked:
        return config, banks
    names = [_in_colours_of(banks["test"], name) for name in asked]
    found = {name: _opened(name, banks["test"], config, data) for name in names}
    for name, bank in found.items():
        tell_fitted(name, config.evaluation, bank)
        if "train" in banks:
            _tell_shared(name, bank, shared_with(banks["train"], bank))
    evaluation = config.evaluation.model_copy(update={"domains": Domains(datasets=names)})
    return config.model_copy(update={"evaluation": evaluation}), {**banks, **found}


def reading_of(name: str, config: Config) -> ReadingOptions:
    """What is left out of the data set `name` of a run: of several data sets, the settings are for folders alone."""
    others = config.evaluation.domains.datasets if "domains" in config.evaluation.protocols else []
    own = find_source(name)[0].own
    return config.data.reading if own or not any(find_source(other)[0].own for other in others) else EVERYTHING


@functools.lru_cache(maxsize=64)  # for all models of a run; banks are compared by identity
def shared_with(train: ImageBank, bank: ImageBank) -> Shared:
    """What the classes and images of `bank` share with those of `train`; features count as no images."""
    known = {outside.plain(text) for text in class_texts(train)}
    classes = [text for text in class_texts(bank) if outside.plain(text) in known]
    if isinstance(bank, FeatureBank) or train.images.shape[1:] != bank.images.shape[1:]:
        return Shared(classes, 0)
    seen = set(image_digests(train))
    return Shared(classes, sum(digest in seen for digest in image_digests(bank)))


def _in_colours_of(own: ImageBank, name: str) -> str:
    """The full name of a data set, with the word that gives its images the channels of `own`."""
    source, (plain, words) = find_source(name)[0], forms.split_name(name)
    if source.features != isinstance(own, FeatureBank):
        kinds = ("features", "images") if source.features else ("images", "features")
        raise InputError(f"{name} holds {kinds[0]}, and {own.name} holds {kinds[1]}: test on data sets of one kind")
    channels = own.images.shape[1]
    word = next((word for word, count in forms.CHANNELS.items() if count == channels), "")
    if source.features or source.channels == channels:
        return full_name(name)
    if not word or set(words) & set(forms.CHANNELS):
        check_channels(channels, source.channels, name)
    changed = full_name(":".join([plain, *words, word]))
    log.info("%s: its images become %s, as the models take them: %s", name, {"rgb": "RGB"}.get(word, word), changed)
    return changed


def _opened(name: str, own: ImageBank, config: Config, data: str | None) -> ImageBank:
    source = find_source(name)[0]
    size = None if source.features else own.images.shape[2]
    reading = config.data.reading if source.own else EVERYTHING
    return load_dataset(name, split_to_test(name, reading), data=data, size=size, options=reading)


def _tell_shared(name: str, bank: ImageBank, shared: Shared) -> None:
    if shared.classes:
        told = len(shared.classes), bank.classes, splits.listed(shared.classes, _TOLD)
        log.warning("%s: %d of its %d classes have the name of a training class: %s", name, *told)
    if shared.images:
        log.warning("%s: %d of its %d images are also training images, pixel for pixel", name, shared.images, len(bank))
