"""Augmentation: each image for itself, exact if it can be, and equal to torchvision's with the same numbers."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional

from episodes import InputError
from fewshot.augmentation import (
    AUGMENTATIONS,
    adjusted,
    affine,
    affine_elastic,
    crop,
    draw_boxes,
    enlarged,
    find_augmentation,
    flip,
    jitter,
    resized_crop,
    strokes,
    warped,
)

RANDOM = [name for name in AUGMENTATIONS if name != "none"]


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def images(request) -> torch.Tensor:
    """Images of noise, so that no two transformations look alike."""
    return torch.rand(12, request.param, 21, 21, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_dtype_and_range_stay(name, images):
    for batch in (images, images.round(), torch.ones_like(images)):
        augmented = find_augmentation(name)(batch)
        assert augmented.shape == batch.shape
        assert augmented.dtype == torch.float32
        assert ((augmented >= 0) & (augmented <= 1)).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_images_that_come_in_stay_as_they_are(name, images):
    before = images.clone()
    find_augmentation(name)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_seed_decides(name, images):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(find_augmentation(name)(images))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (name == "none")


@pytest.mark.parametrize("name", RANDOM)
def test_each_image_of_a_batch_gets_its_own_transformation(name, images):
    augmented = find_augmentation(name)(images[:1].expand_as(images))
    assert len(augmented.flatten(1).unique(dim=0)) > 8


@pytest.mark.parametrize("name", RANDOM)
def test_all_channels_are_moved_alike(name):
    grey = torch.rand(6, 1, 15, 15).expand(6, 3, 15, 15)
    augmented = find_augmentation(name)(grey)
    torch.testing.assert_close(augmented, augmented[:, :1].expand_as(grey), atol=2e-4, rtol=0)  # luma sums to 0.9999


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", RANDOM)
def test_the_memory_format_does_not_matter(name, memory_format):
    images = torch.rand(4, 3, 12, 12)
    torch.manual_seed(1)
    expected = find_augmentation(name)(images)
    torch.manual_seed(1)
    torch.testing.assert_close(find_augmentation(name)(images.contiguous(memory_format=memory_format)), expected)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_everything_is_on_the_device_of_the_images(name):
    # tensors of this device have shapes and no numbers; an operation with a CPU tensor fails here as on a GPU
    assert find_augmentation(name)(torch.empty(4, 3, 28, 28, device="meta")).shape == (4, 3, 28, 28)


def test_none_is_the_identity(images):
    assert torch.equal(find_augmentation("none")(images), images)


@pytest.mark.parametrize(
    "vanishing",
    [
        lambda images: affine(images, strength=0),
        lambda images: crop(images, padding=0),
        lambda images: jitter(images, strength=0),
        lambda images: resized_crop(images, scale=(1, 1), ratio=(1, 1)),
    ],
    ids=["affine", "crop", "jitter", "resized-crop"],
)
def test_nothing_happens_where_the_magnitudes_vanish(vanishing, images):
    torch.testing.assert_close(vanishing(images), images, atol=1e-5, rtol=0)


def test_crop_and_flip_move_whole_pixels(images):
    side, most = 21, 4  # of small images, four pixels
    moved = torch.cat([find_augmentation("crop")(images) for _ in range(60)])
    windows = pad(images, [most] * 4).unfold(2, side, 1).unfold(3, side, 1)  # (B, C, top, left, side, side)
    both = torch.stack([windows, windows.flip(5)], 4).movedim(1, 4)  # (B, top, left, mirrored, C, side, side)
    seen = set()
    for place, result in enumerate(moved):
        matches = (both[place % len(images)] == result).flatten(3).all(3).nonzero().tolist()
        assert len(matches) == 1
        seen.add(tuple(matches[0]))
    assert len(seen) > 150  # of 9 x 9 shifts, mirrored and not: 720 draws miss few of them


def test_crop_pads_8_of_84_pixels():
    spots = crop(torch.ones(2000, 1, 84, 84))
    black = {(spots[:, 0] == 0).all(2).sum(1).max().item(), (spots[:, 0] == 0).all(1).sum(1).max().item()}
    assert black == {8}


def test_half_of_the_images_are_mirrored():
    images = torch.tensor([0.0, 1.0]).expand(2000, 1, 2, 2)
    assert flip(images)[:, 0, 0, 0].mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("kind", "adjust"),
    list(enumerate([functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation])),
    ids=["brightness", "contrast", "saturation"],
)
def test_adjusted_is_what_torchvision_makes(kind, adjust, factor, channels):
    images = torch.rand(5, channels, 9, 9)
    ours = adjusted(images, torch.full((1, 5), kind), torch.full((1, 5), factor))
    torch.testing.assert_close(ours, adjust(images, factor))


def test_adjusted_takes_each_image_in_its_own_order():
    steps = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
    orders = torch.tensor(list(itertools.permutations(range(3)))).T  # (steps, images)
    images, factors = torch.rand(6, 3, 9, 9), 0.6 + 0.8 * torch.rand(3, 6)
    expected = []
    for image, order, by in zip(images, orders.T, factors.T):
        for kind, factor in zip(order, by):
            image = steps[kind](image, factor.item())
        expected.append(image)
    torch.testing.assert_close(adjusted(images, orders, factors), torch.stack(expected))


def test_jitter_changes_the_mean_by_at_most_its_strength():
    means = jitter(torch.full((2000, 3, 2, 2), 0.5)).mean((1, 2, 3))
    assert means.min().item() == pytest.approx(0.3, abs=0.01)
    assert means.max().item() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("angle", "shift", "scale", "shear"),
    [
        (10, (0, 0), 1.0, (0, 0)),
        (-90, (0, 0), 1.0, (0, 0)),
        (0, (3, -2), 1.0, (0, 0)),
        (0, (0, 0), 0.8, (0, 0)),
        (0, (0, 0), 1.0, (15, 0)),
        (7, (1, 2), 1.2, (-17, 0)),
    ],
)
def test_warped_is_what_torchvision_makes(angle, shift, scale, shear, images):
    """torchvision's shear along x has the opposite sign, and its shear along y is a combination of ours."""
    expected = functional.affine(
        images, angle, shift, scale, [-shear[0], 0], interpolation=functional.InterpolationMode.BILINEAR
    )
    count = len(images)
    ours = warped(
        images,
        torch.full((count,), math.radians(angle)),
        torch.deg2rad(torch.tensor(shear, dtype=torch.float32)).expand(count, 2),
        torch.full((count, 2), scale),
        torch.tensor(shift).expand(count, 2) / 21,
    )
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_warped_along_y_is_warped_along_x_of_the_transposed_image(images):
    count = len(images)
    still, shear = torch.zeros(count), torch.tensor([0.3, -0.1]).expand(count, 2)
    scale, shift = torch.tensor([0.8, 1.1]).expand(count, 2), torch.tensor([0.1, 0.05]).expand(count, 2)
    ours = warped(images, still, shear, scale, shift)
    transposed = warped(images.mT, still, shear.flip(1), scale.flip(1), shift.flip(1)).mT
    torch.testing.assert_close(ours, transposed, atol=1e-5, rtol=0)


def test_a_hundred_and_twenty_eighth_of_the_characters_stays_as_it_is():
    images = torch.rand(1, 1, 9, 9).expand(20_000, 1, 9, 9)
    same = (affine(images) - images).abs().amax((1, 2, 3)) < 1e-4
    assert same.float().mean().item() == pytest.approx(1 / 128, abs=0.003)  # seven components, each with 0.5


def test_enlarged_is_what_torchvision_makes(images):
    boxes = draw_boxes(images, (0.08, 1), (3 / 4, 4 / 3))
    expected = [
        functional.resized_crop(image[None], top, left, height, width, [21, 21], antialias=False)[0]
        for image, (left, top, width, height) in zip(images, boxes.int().tolist())
    ]
    torch.testing.assert_close(enlarged(images, boxes), torch.stack(expected), atol=1e-4, rtol=0)


def test_boxes_lie_inside_and_have_the_areas_and_shapes_asked_for():
    left, top, width, height = draw_boxes(torch.empty(20_000, 1, 84, 84), (0.08, 1), (3 / 4, 4 / 3)).T
    assert ((left >= 0) & (top >= 0) & (left + width <= 84) & (top + height <= 84)).all()
    area, shape = width * height / 84**2, width / height
    assert area.min().item() == pytest.approx(0.08, abs=0.005)
    assert area.max().item() == 1
    assert 0.7 < shape.min().item() < 0.77
    assert 1.3 < shape.max().item() < 1.4
    assert left.min().item() == 0
    assert (left + width).max().item() == 84
    # boxes with areas near 1 fit only if their ratios are near 1, so fewer such boxes are taken than drawn
    assert 0.4 < area.mean().item() < 0.54


def test_a_box_that_cannot_fit_is_the_whole_image():
    assert draw_boxes(torch.empty(5, 1, 10, 10), (0.9, 1), (3, 4)).tolist() == [[0, 0, 10, 10]] * 5


def test_unknown_augmentation_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown augmentation 'crops': did you mean 'crop'"):
        find_augmentation("crops")


def test_an_elastic_distortion_of_no_displacement_is_affine(images):
    torch.manual_seed(3)
    expected = affine(images, 0.7)
    torch.manual_seed(3)
    torch.testing.assert_close(affine_elastic(images, 0.7, largest=0.0), expected)


def test_an_elastic_distortion_bends_lines_and_keeps_them_whole():
    image = torch.zeros(1, 1, 56, 56)
    image[:, :, 10:46, 27:30] = 1
    bent = affine_elastic(image.expand(40, -1, -1, -1), strength=0.0 + 1e-9, largest=4e7)  # no affine part
    places = torch.arange(56.0)
    rows = bent[:, 0, 16:40]
    assert (rows.amax(2) > 0.5).float().mean() > 0.97
    centres = (rows * places).sum(2) / rows.sum(2).clamp_min(1e-6)
    assert (centres.amax(1) - centres.amin(1)).mean() > 1
    assert (centres.diff(dim=1).abs() < 2.5).float().mean() > 0.97


@pytest.mark.parametrize(("size", "reach"), [(28, 1), (56, 2), (14, 1)])
def test_strokes_become_wider_or_narrower_by_a_28th_of_the_side(size, reach):
    image = torch.zeros(200, 1, size, size)
    middle = slice(size // 2 - 3, size // 2 + 3)
    image[:, :, :, middle] = 1
    changed = strokes(image)
    outer, inner = changed[:, 0, 0, middle.start - reach], changed[:, 0, 0, middle.start]
    assert (changed[:, 0, :, : middle.start - reach] == 0).all()
    assert ((outer == 0) | (inner == 1)).all()
    assert 60 < (outer > 0).sum() < 140
    assert 0.4 < outer.max() <= 0.5
    assert 0.5 <= inner.min() < 0.6
    assert (changed[:, 0, 0, size // 2] == 1).all()
