"""Pictures from outside as the pixels that a model takes: paths, Pillow images, arrays or tensors."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from episodes import InputError
from episodes.archives import ImageFiles
from episodes.pictures import Picture, cores, prepared
from fewshot.models import ModelSpec

Images: TypeAlias = "Sequence[str | os.PathLike | Picture | Image.Image | np.ndarray] | np.ndarray | Tensor"


def pixels_of(images: Images, spec: ModelSpec) -> Tensor:
    """The pixels (B, C, H, W) uint8 of B pictures, prepared as the model's training images were.

    Pictures are resized, become grey or RGB and are inverted if the model's were:

    a sequence of    paths of image files, Pillow images, or arrays (H, W) or (H, W, C)
    an array         (B, H, W) or (B, H, W, C) with C = 1, 3 or 4, uint8, or floats in [0, 1]

    A tensor (B, C, H, W), uint8 or floats in [0, 1], is taken as prepared already, as ImageBank.batch gives it. Floats
    are rounded to the 256 levels of a bank. Raises InputError for anything else, or for a file that cannot be read.
    """
    if isinstance(images, Tensor):
        return _prepared_already(images, spec)
    if isinstance(images, str | os.PathLike | Image.Image):
        raise InputError(f"images are a sequence, and one {type(images).__name__} is none: give a list of it")
    pictures = list(images)
    if not pictures:
        raise InputError("there are no images: give at least one")
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata in images that it can read
        made = list(pool.map(lambda picture: _picture_pixels(picture, spec), pictures))
    return torch.from_numpy(np.stack(made))


def try_pixels(picture: Picture, spec: ModelSpec) -> Tensor | InputError:
    """The pixels (C, H, W) of one file, or why it cannot be read."""
    try:
        return torch.from_numpy(_picture_pixels(picture, spec))
    except InputError as error:
        return error


def file_picture(path: str | os.PathLike) -> Picture:
    """The image file at `path`, not decoded yet."""
    path = Path(path)
    return Picture(ImageFiles(path.parent, ""), path.name)


def _picture_pixels(picture: Any, spec: ModelSpec) -> np.ndarray:
    """(C, H, W) uint8 of one picture."""

    def prepare(image: Image.Image) -> np.ndarray:
        return prepared(image, spec.size, spec.channels, spec.fit, spec.inverted)

    if isinstance(picture, str | os.PathLike):
        if not os.path.exists(picture):
            raise InputError(f"there is no image {os.fspath(picture)}")
        picture = file_picture(picture)
    if isinstance(picture, Picture):
        return np.ascontiguousarray(picture.source.image(picture.key, prepare))
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"an image is a path, a Pillow image or an array, not {type(picture).__name__}")
    try:
        return np.ascontiguousarray(prepare(picture))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads a file when its pixels are asked for
        raise InputError(f"a Pillow image cannot be decoded ({error}): replace its file") from error


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise InputError(f"an array of one image is (H, W) or (H, W, C) with C = 1, 3 or 4, not {pixels.shape}")
    return Image.fromarray(_levels(torch.from_numpy(np.ascontiguousarray(pixels))).numpy())


def _prepared_already(images: Tensor, spec: ModelSpec) -> Tensor:
    wanted = (spec.channels, spec.size, spec.size)
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted or not len(images):
        raise InputError(
            f"tensors of images are (B, {', '.join(map(str, wanted))}) for this model, not {tuple(images.shape)}: give"
            " paths, Pillow images or arrays, which are resized"
        )
    return _levels(images.detach().cpu())


def _levels(values: Tensor) -> Tensor:
    """uint8 unchanged, and floats in [0, 1] in 256 levels."""
    if values.dtype == torch.uint8:
        return values
    if not values.is_floating_point() or not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("pixels are uint8, or floats from 0 to 1: divide others by their largest possible value")
    return (values * 255).round().byte()
