"""Checks of a data set: whether its images are intact, and a picture of an episode."""

import warnings
from pathlib import Path

import numpy as np
import torch

from episodes.bank import ImageBank
from episodes.errors import InputError
from episodes.features import FeatureBank
from episodes.sampler import sampler_of

_WHITE, _GAP = 255, 3  # pixels between the images of a picture
_LONGEST = 28  # characters of a class name that are written beside its images


def intact(bank: ImageBank) -> bool:
    """Whether the prepared images are unchanged since the bank was written: their checksum is computed again."""
    return bank.compute_checksum() == bank.checksum


def draw_episode(
    bank: ImageBank, path: Path, way: int = 5, shot: int = 1, query: int = 5, seed: int = 0, number: int = 0
) -> None:
    """Write a picture of episode `number` of `seed`: a row a class, its support images and then its queries.

    path: the suffix decides the format, .png .pdf .svg ... Raises InputError if the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and few commands need it

    if isinstance(bank, FeatureBank):
        raise InputError(f"{bank.name} holds features, which make no picture: name a data set of images")
    if query < 1:
        raise InputError(f"a picture of an episode needs 1 query a class or more, not {query}")
    episode = sampler_of(bank, way, shot, query, seed).episodes(number, 1)
    way, shot = episode.support.shape[1:]
    height, width = bank.images.shape[2:]
    parts = {"support": episode.support[0], "queries": episode.query[0]}
    tiles = [_tiled(bank.images[indices.cpu()]) for indices in parts.values()]
    between = np.full((len(tiles[0]), width // 4, *tiles[0].shape[2:]), _WHITE, np.uint8)
    sheet = np.concatenate([tiles[0], between, tiles[1]], axis=1)
    inches = max(1.0, 64 / width) / 72  # for a pixel
    figure = Figure(figsize=(2.4 + inches * sheet.shape[1], 0.8 + inches * len(sheet)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, vmin=0, vmax=255, cmap="gray", interpolation="nearest")
    axes.spines[:].set_visible(False)
    starts = (0, tiles[0].shape[1] + between.shape[1])
    for start, tile, (name, indices) in zip(starts, tiles, parts.items()):
        axes.text(start + tile.shape[1] / 2, -_GAP, f"{name}, {indices.shape[1]} a class", ha="center", va="bottom")
    axes.set_xticks([])
    names = [_shortened(bank.class_names[index]) for index in episode.classes[0].tolist()]
    axes.set_yticks((np.arange(way) + 0.5) * (height + _GAP) - _GAP / 2, names, parse_math=False)
    axes.tick_params(length=0)
    figure.suptitle(
        f"{bank.name}, {height}x{width} pixels: {way}-way {shot}-shot episode {number} of seed {seed}", parse_math=False
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of letters that the font lacks and shows as boxes
            figure.savefig(path, dpi=144, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise InputError(f"the picture {path} cannot be written: {error}") from error


def _tiled(images: torch.Tensor) -> np.ndarray:
    """Images (rows, columns, C, H, W) as one picture with white gaps, (H', W') or (H', W', 3)."""
    rows, columns, channels, height, width = images.shape
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), _WHITE, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = images[row, column].permute(1, 2, 0).numpy()
    return sheet if channels == 3 else sheet[:, :, 0]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
