"""The colour forms of a data set, words behind its name: NAME:grey, NAME:rgb, NAME:inverted."""

import numpy as np

from episodes.bank import Contents, ImageBank, cached_bank
from episodes.errors import InputError
from episodes.features import FeatureBank
from episodes.pictures import recoloured

CHANNELS = {"grey": 1, "rgb": 3}
_WORDS = (*CHANNELS, "inverted")
_TOGETHER = 4096  # images converted at once


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """The name without the words for its colour form, and these words in one order; InputError if two contradict."""
    words: list[str] = []
    rest, _, last = name.rpartition(":")
    while rest and last in _WORDS:
        words.append(last)
        name = rest
        rest, _, last = name.rpartition(":")
    if len(set(words)) < len(words) or {"grey", "rgb"} <= set(words):
        raise InputError(f"the images of {name} cannot be {' and '.join(reversed(words))}: name each form once")
    return name, tuple(word for word in _WORDS if word in words)


def channels_of(words: tuple[str, ...], channels: int) -> int:
    """The channels of images that have `channels` of them by nature."""
    return next((CHANNELS[word] for word in words if word in CHANNELS), channels)


def in_form(bank: ImageBank, words: tuple[str, ...]) -> ImageBank:
    """The images of a bank in another colour form, as a bank of its own, whose split protocol names the form too.

    A bank that has this form already is returned unchanged.
    """
    if words and isinstance(bank, FeatureBank):
        raise InputError(f"{bank.source} holds features, which have no colours: leave out :{' and :'.join(words)}")
    channels, inverted = channels_of(words, bank.images.shape[1]), "inverted" in words
    if channels == bank.images.shape[1] and not inverted:
        return bank

    def whole() -> Contents:
        def fill(images: np.ndarray) -> None:
            for start in range(0, len(images), _TOGETHER):
                part = bank.images[start : start + _TOGETHER].numpy()
                images[start : start + _TOGETHER] = recoloured(part, channels, inverted)

        kept = ("dataset", "split", "source", "turns", "listed", "fit", "lists")
        about = {name: getattr(bank, name) for name in kept}
        about["protocol"] = " ".join(filter(None, [bank.protocol, *words]))
        about["inverted"] = bank.inverted if bank.inverted is None else bank.inverted != inverted
        height, width = bank.images.shape[2:]
        return Contents(
            (channels, height, width), bank.sizes.tolist(), bank.class_names, bank.group_names, fill, about, bank.files
        )

    return cached_bank(f"{bank.dataset[:40]}-{bank.split}-{'-'.join(words)}-{bank.checksum}", whole)
