"""How an icon set draws: in outlines, or with filled shapes, as its own pixels tell.

Few titles of sets say it ('Heroicons v1 Outline'), but filled shapes keep their inside if a pixel is taken off every
border, and outlines vanish. On the sets of @iconify/json the two kinds lie far apart, and all titles that have one of
the words agree with the pixels.
"""

from collections.abc import Sequence

import numpy as np
import scipy

STYLES = ("outline", "solid")
_OUTLINE, _SOLID = 0.3, 0.45  # the ink that is left: at most of outlines, at least of filled shapes; none in between


def styles(images: np.ndarray, sets: Sequence[str]) -> dict[str, str]:
    """The style of each set by its prefix, one of STYLES; a set between the two styles has none.

    images (N, H, W) uint8, ink bright on dark, 32x32 pixels; sets (N,): the prefix of the set of each image. A set is
    judged by the median of `fullness` over its images.
    """
    full, names = fullness(images), np.asarray(sets)
    medians = {one: float(np.median(full[names == one])) for one in dict.fromkeys(sets)}
    outlines = {one: "outline" for one, median in medians.items() if median <= _OUTLINE}
    return outlines | {one: "solid" for one, median in medians.items() if median >= _SOLID}


def fullness(images: np.ndarray) -> np.ndarray:
    """The share of the ink of each image (N, H, W) that stays if each pixel becomes the darkest of its 3x3 neighbours,
    (N,) in [0, 1]; 0 for an image without ink."""
    left = scipy.ndimage.minimum_filter(images, size=(1, 3, 3), mode="constant")
    ink = images.sum((1, 2), dtype=np.int64)
    return left.sum((1, 2), dtype=np.int64) / np.maximum(ink, 1)
