"""Twins: images of a data set that are pixel for pixel the same."""

from typing import NamedTuple

import numpy as np

from episodes.bank import ImageBank
from episodes.inspection import image_digests


class Place(NamedTuple):
    """An image: its split, the name of its class, and its number in the class, from 1 in the order of file names."""

    split: str
    class_name: str
    number: int

    def __str__(self) -> str:
        return f"image {self.number} of '{self.class_name}' ({self.split})"


def twin_groups(banks: dict[str, ImageBank]) -> list[list[Place]]:
    """The images that occur more than once; each group holds equal images, in the order of the splits."""
    groups: dict[bytes, list[Place]] = {}
    for split, bank in banks.items():
        labels = bank.labels.cpu().numpy()
        numbers = np.arange(len(bank)) - bank.offsets.cpu().numpy()[labels] + 1
        for digest, label, number in zip(image_digests(bank), labels, numbers):
            groups.setdefault(bytes(digest), []).append(Place(split, bank.class_names[label], int(number)))
    return [group for group in groups.values() if len(group) > 1]
