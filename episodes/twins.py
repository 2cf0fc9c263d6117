"""Twins: images of data sets that are pixel for pixel the same; and near-duplicates, which look the same."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from episodes.bank import ImageBank
from episodes.pictures import recoloured

NEAR = 4  # near-duplicates differ in at most this number of the 64 bits of their hashes
_FLAT = 2.0  # grey levels: an image of a smaller standard deviation shows nothing that could be compared
_BATCH = 1024  # images hashed at once


class Place(NamedTuple):
    """An image: its split, the name of its class, its number in the class from 1, and its file, '' if unknown."""

    split: str
    class_name: str
    number: int
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file or f'image {self.number} of {self.class_name!r}'} ({self.split})"


class Twins(NamedTuple):
    """Numbers of images that equal another image pixel for pixel: of the same class, another class, another split."""

    same_class: int
    other_class: int
    other_split: int


Groups = list[list[Place]]


def twin_groups(banks: Mapping[str, ImageBank]) -> Groups:
    """The images that occur more than once; each group holds equal images, in the order of the splits."""
    groups: dict[bytes, list[Place]] = {}
    for split, bank in banks.items():
        for digest, place in zip(image_digests(bank), _places(split, bank)):
            groups.setdefault(digest, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def near_groups(banks: Mapping[str, ImageBank]) -> Groups:
    """The images that look like another image; twins of pixels are among them, once for each file.

    Two images look alike if their perceptual hashes differ in NEAR bits or fewer; a group holds images that such pairs
    connect. Images of one grey level alone are left out.
    """
    hashes, shown = (np.concatenate(parts) for parts in zip(*map(perceptual_hashes, banks.values())))
    places = [place for split, bank in banks.items() for place in _places(split, bank)]
    (used,) = np.nonzero(shown)
    values, kind = np.unique(hashes[used], return_inverse=True)
    parents = list(range(len(values)))

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = one = parents[parents[one]]
        return one

    for one, other in _near_pairs(values):
        parents[root(one)] = root(other)
    groups: dict[int, list[Place]] = {}
    for image, value in zip(used.tolist(), kind.tolist()):
        groups.setdefault(root(value), []).append(places[image])
    return [group for group in groups.values() if len(group) > 1]


def count_twins(groups: Groups, splits: Sequence[str]) -> dict[str, Twins]:
    """How many images of each split are in a group; an image with twins of several kinds counts for each kind."""
    counts = {split: [0, 0, 0] for split in splits}
    for group in groups:
        for number, one in enumerate(group):
            others = [other for place, other in enumerate(group) if place != number]
            here = [other.class_name == one.class_name for other in others if other.split == one.split]
            kinds = any(here), not all(here), len(here) < len(others)
            counts[one.split] = [count + kind for count, kind in zip(counts[one.split], kinds)]
    return {split: Twins(*numbers) for split, numbers in counts.items()}


def image_digests(bank: ImageBank) -> list[bytes]:
    """16 bytes for each image, equal for equal images."""
    images = bank.images.contiguous().numpy()
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]


def perceptual_hashes(bank: ImageBank) -> tuple[np.ndarray, np.ndarray]:
    """A hash of what each image shows, (N,) uint64, and whether it shows anything, (N,) bool.

    The bits of a hash say which of the 8 x 8 lowest frequencies of the grey image, scaled to 32 x 32 pixels, are above
    their median (the discrete cosine transform as in Zauner 2010, Implementation and Benchmarking of Perceptual Image
    Hash Functions). The mean brightness is not among them.
    """
    steps = torch.arange(32, dtype=torch.float32)
    waves = torch.cos(torch.arange(8)[:, None] * (2 * steps + 1) * math.pi / 64)
    parts = [_hashed(bank.images[start : start + _BATCH], waves) for start in range(0, len(bank), _BATCH)]
    hashes, shown = (torch.cat(part).numpy() for part in zip(*parts))
    return np.packbits(hashes, axis=1).view(np.uint64)[:, 0], shown


def _hashed(images: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
    """The bits (B, 64) of images (B, C, H, W), and whether each shows anything (B,)."""
    grey = torch.from_numpy(recoloured(images.numpy(), 1)).float()
    small = functional.interpolate(grey, (32, 32), mode="bilinear", antialias=True, align_corners=False)[:, 0]
    frequencies = (waves @ small @ waves.T).flatten(1)
    frequencies[:, 0] = -torch.inf  # the mean brightness; its bit is 0 in every hash
    return frequencies > frequencies[:, 1:].median(1, keepdim=True).values, small.flatten(1).std(1) > _FLAT


def _near_pairs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """The positions of each two of the different `values` (V,) uint64 that differ in NEAR bits or fewer.

    If the bits are cut into NEAR + 1 parts, such a pair has at least one part in common, so only values with a common
    part are compared.
    """
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    for part in np.array_split(bits, NEAR + 1, axis=1):
        _, bucket = np.unique(part, axis=0, return_inverse=True)
        order = np.argsort(bucket.ravel(), kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(bucket.ravel()[order])) + 1):
            for place, one in enumerate(members[:-1].tolist()):
                others = members[place + 1 :]
                distances = (bits[one] != bits[others]).sum(1)
                yield from ((one, int(other)) for other in others[distances <= NEAR])


def _places(split: str, bank: ImageBank) -> Iterator[Place]:
    labels = bank.labels.cpu().numpy()
    numbers = np.arange(len(bank)) - bank.offsets.cpu().numpy()[labels] + 1
    files = bank.files or [""] * len(bank)
    for label, number, file in zip(labels, numbers.tolist(), files):
        yield Place(split, bank.class_names[label], number, file)
