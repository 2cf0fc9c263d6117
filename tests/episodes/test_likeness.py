"""Drawings that look the same: found at any size, place and brightness, by arithmetic that is exact."""

import numpy as np
import pytest

from episodes.likeness import distinct, shapes

RANDOM = np.random.default_rng(0)


def picture(seed: int, side: int = 40) -> np.ndarray:
    """A square of 64 pixels with a drawing of `side` pixels in its corner, of blocks that differ from seed to seed."""
    blocks = np.random.default_rng(seed).integers(0, 2, (5, 5)).astype(np.uint8) * 255
    blocks[0, 0] = blocks[-1, -1] = 255  # the ink reaches the borders of the drawing
    image = np.zeros((64, 64), np.uint8)
    image[:side, :side] = blocks.repeat(side // 5, 0).repeat(side // 5, 1)
    return image


def test_size_place_and_brightness_do_not_matter():
    first = picture(0)
    moved, dimmed, smaller = np.roll(first, (9, 14), (0, 1)), first // 3, picture(0, 20)
    vectors, shown = shapes(np.stack([first, moved, dimmed, smaller, picture(1)]))
    correlations = vectors @ vectors[0] / 2048**2
    assert shown.all()
    assert correlations[:4].min() > 0.97
    assert correlations[4] < 0.8
    assert distinct(vectors, 0.93).tolist() == [True, False, False, False, True]


def test_an_empty_and_a_full_square_show_nothing():
    vectors, shown = shapes(np.stack([np.zeros((64, 64), np.uint8), picture(0)]))
    assert shown.tolist() == [False, True]
    assert not vectors[0].any()


def test_no_two_of_the_kept_are_alike_and_each_other_is_like_a_kept_one():
    images = np.stack([picture(seed) for seed in RANDOM.integers(0, 300, 1300)])
    images = np.maximum(images, RANDOM.integers(0, 30, images.shape).astype(np.uint8))
    vectors, _ = shapes(images)
    keep = distinct(vectors, 0.9)
    alike = vectors.astype(np.float64) @ vectors.T.astype(np.float64) > 0.9 * 2048**2
    expected = np.zeros(len(images), bool)
    for place in range(len(images)):  # one by one, as the docstring has it
        expected[place] = not alike[place, :place][expected[:place]].any()
    assert np.array_equal(keep, expected)
    assert 100 < keep.sum() < 300


def test_products_are_exact_in_any_order_of_summation():
    vectors, _ = shapes(np.stack([picture(seed) for seed in range(20)]))
    exact = vectors.astype(np.int64) @ vectors.T.astype(np.int64)
    order = RANDOM.permutation(vectors.shape[1])
    for product in (vectors @ vectors.T, vectors[:, order] @ vectors[:, order].T):
        assert np.array_equal(product.astype(np.int64), exact)


@pytest.mark.parametrize("count", [0, 1])
def test_few_drawings(count):
    vectors, shown = shapes(np.stack([picture(0)] * count) if count else np.zeros((0, 64, 64), np.uint8))
    assert len(shown) == count
    assert distinct(vectors, 0.9).tolist() == [True] * count
