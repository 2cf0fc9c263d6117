"""Banks made from other banks: all splits of a data set in one."""

import numpy as np

from episodes.archives import fingerprint
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.errors import InputError


def pooled(banks: list[ImageBank]) -> ImageBank:
    """One bank of all classes of these splits of one data set, in the order of the splits; its split is 'all'."""
    first = banks[0]
    if any((bank.turns, bank.listed) != (first.turns, False) for bank in banks):
        raise InputError(
            f"the splits of {first.dataset} ({first.protocol}) differ in kind and cannot be pooled: name one of them"
        )
    names = [name for bank in banks for name in bank.class_names]
    if len(set(names)) < len(names):
        raise InputError(
            f"the splits of {first.dataset} ({first.protocol}) have the same classes and cannot be pooled: name one of"
            " them"
        )

    def whole() -> Contents:
        def fill(images: np.ndarray) -> None:
            np.concatenate([bank.images.numpy() for bank in banks], out=images)

        channels, height, width = first.images.shape[1:]
        fields = ("dataset", "protocol", "source", "turns", "fit", "inverted")
        return Contents(
            (channels, height, width),
            [size for bank in banks for size in bank.sizes.tolist()],
            names,
            [name for bank in banks for name in bank.group_names],
            fill,
            {**{name: getattr(first, name) for name in fields}, "split": "all"},
            [name for bank in banks for name in bank.files],
        )

    return cached_bank(f"{first.dataset}-all-{fingerprint([bank.checksum for bank in banks])}", whole)
