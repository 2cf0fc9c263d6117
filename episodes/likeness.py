"""Drawings that look the same, whatever their size, place and brightness: found among a hundred million pairs.

All arithmetic that decides is exact in whole numbers, so that every machine finds the same drawings.
"""

import numpy as np
from PIL import Image

SIDE = 24  # pixels of the square that drawings are compared in
_INK = 32  # grey level of what counts as drawn
_SCALE = 2048  # a vector of this length has products that float32 holds exactly, in any order of summation
_BLOCK = 512


def shapes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is compared of images (N, H, W) uint8: vectors (N, SIDE * SIDE) float32 of whole numbers, and whether each
    image shows anything, (N,) bool.

    A vector is the drawing, cut to its ink, scaled to SIDE pixels on its longer side, smoothed, without its mean and
    scaled to the length 2048: the product of two vectors over 2048^2 is the correlation of their pixels.
    """
    small = np.stack([_framed(image) for image in images]) if len(images) else np.zeros((0, SIDE, SIDE), np.int64)
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]).reshape(len(images), SIDE * SIDE)
    centred = smooth.shape[1] * smooth - smooth.sum(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1, keepdims=True).astype(np.float64))
    vectors = np.rint(_SCALE * centred / np.maximum(lengths, 1)).astype(np.float32)
    return vectors, lengths[:, 0] > 0


def distinct(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Which drawings to keep, (N,) bool, so that no two have a correlation above `threshold`: in the order of `vectors`
    (N, D), as `shapes` gives them, each is kept that is not like one kept before."""
    limit = threshold * _SCALE**2
    kept = np.empty_like(vectors)
    keep = np.zeros(len(vectors), bool)
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        unlike = (block @ kept[:count].T <= limit).all(1)
        among = block @ block.T > limit
        for place in np.flatnonzero(unlike):
            if not (among[place, :place] & keep[start : start + place]).any():
                keep[start + place] = True
                kept[count] = block[place]
                count += 1
    return keep


def _framed(image: np.ndarray) -> np.ndarray:
    """The ink of an image (H, W) in the middle of a square of SIDE pixels, (SIDE, SIDE) int64."""
    framed = np.zeros((SIDE, SIDE), np.int64)
    drawn = image > _INK
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    if len(rows):
        cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = (max(1, round(side * SIDE / max(cut.shape))) for side in cut.shape)
        scaled = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BOX))
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        framed[top : top + height, left : left + width] = scaled
    return framed
