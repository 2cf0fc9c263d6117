"""Image augmentation on the device: each image of a batch gets its own random transformation, in batched operations.

Images are float32 (B, C, H, W) in [0, 1], before and after. The random numbers come from PyTorch's generator of the
images' device: the training seeds that generator, and the checkpoints hold its state. This module exists because
torchvision draws one transformation for a whole batch, and takes up to forty times as long image by image, and because
kornia's jitter refuses grey images.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from episodes.errors import unknown_name

_LUMA = (0.2989, 0.587, 0.114)  # the weights of red, green and blue in a grey image, as torchvision rounds them
_TRIES = 10  # boxes drawn for an image before it is taken whole, as in torchvision


def affine(images: Tensor, strength: float = 1.0) -> Tensor:
    """Turned, sheared, scaled and shifted (Koch et al. 2015, section 3.3), for square images on a black background.

    Rotation up to 10 degrees either way, shear up to 0.3 radians and scale 0.8 to 1.2 along each axis, shift up to 2/28
    of the side along each axis, each of these seven with probability 0.5. strength: a factor on all of them.
    """
    return warped(images, *_drawn_affine(images, strength))


def warped(images: Tensor, angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each image scaled, then sheared, then turned about its centre, then shifted; uncovered pixels are black.

    angle (B,) in radians, clockwise; shear (B, 2) in radians; scale (B, 2); shift (B, 2) in sides; pairs are x and y
    """
    return _sampled(images, _affine_grid(images, angle, shear, scale, shift))


def crop(images: Tensor, padding: float = 8 / 84) -> Tensor:
    """Shifted by whole pixels, up to `padding` of the side either way along each axis, black beyond the edges.

    The largest shift is at least 4 pixels, as the sources have it for the 32 pixels of CIFAR-100.
    """
    height, width = images.shape[2:]
    down, right = (max(4, round(padding * side)) if padding else 0 for side in (height, width))
    padded = functional.pad(images, (right, right, down, down))
    top = torch.randint(2 * down + 1, (len(images),), device=images.device)
    left = torch.randint(2 * right + 1, (len(images),), device=images.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, tops, lefts, H, W)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor) -> Tensor:
    """Mirrored left to right with probability 0.5."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)


def jitter(images: Tensor, strength: float = 0.4) -> Tensor:
    """Brightness, contrast and saturation times factors of 1 - strength to 1 + strength, in random order."""
    order = torch.rand(3, len(images), device=images.device).argsort(0)
    factors = 1 + strength * (2 * torch.rand(3, len(images), device=images.device) - 1)
    return adjusted(images, order, factors)


def adjusted(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """In step i, adjust the brightness, contrast or saturation of image b by factors[i, b], for order[i, b] 0, 1, 2.

    order, factors (steps, B). As in torchvision and Pillow, factor 0 gives black, the image's mean grey or its grey
    version, factor 1 gives the image itself, and larger factors extrapolate. Grey images have no saturation.
    """
    for kind, factor in zip(order[:, :, None, None, None], factors[:, :, None, None, None]):
        grey = _grey(images)
        base = (kind == 1) * grey.mean((2, 3), keepdim=True) + (kind == 2) * grey
        images = torch.lerp(base, images, factor).clamp_(0, 1)
    return images


def resized_crop(
    images: Tensor, scale: tuple[float, float] = (0.08, 1), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """A box of `scale` of the area with width : height of `ratio`, enlarged to the whole: RandomResizedCrop."""
    return enlarged(images, draw_boxes(images, scale, ratio))


def draw_boxes(images: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """A random box of each image: left, top, width and height (B, 4) in whole pixels, drawn as in torchvision."""
    count, height, width = len(images), *images.shape[2:]
    area = torch.empty(_TRIES, count, device=images.device).uniform_(*scale) * height * width
    shape = torch.empty(_TRIES, count, device=images.device).uniform_(*map(math.log, ratio)).exp()
    sides = torch.stack([(area * shape).sqrt(), (area / shape).sqrt()], 2).round()
    whole = sides.new_tensor([width, height])
    fits = ((sides >= 1) & (sides <= whole)).all(2)
    first = fits.byte().argmax(0), torch.arange(count, device=images.device)
    sides = torch.where(fits[first][:, None], sides[first], whole)
    corner = (torch.rand(count, 2, device=images.device) * (whole - sides + 1)).floor()
    return torch.cat([corner, sides], 1)


def enlarged(images: Tensor, boxes: Tensor) -> Tensor:
    """The box (left, top, width, height) of each image, boxes (B, 4), enlarged bilinearly to the size of the image."""
    height, width = images.shape[2:]
    left, top, across, down = boxes.split(1, 1)
    x, y = _sources(left, across, width)[:, None, :], _sources(top, down, height)[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(x, y), 3)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp_(0, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """The images at `size` x `size` pixels, without aliasing."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp_(0, 1)


def _sources(start: Tensor, length: Tensor, side: int) -> Tensor:
    """The source coordinates (B, side) of `side` pixels, -1 to 1 over the image, clamped to the box's edge pixels."""
    centres = (torch.arange(side, device=start.device) + 0.5) / side * length - 0.5
    inside = torch.minimum(centres.clamp_min(0), length - 1)
    return (2 * (start + inside) + 1) / side - 1


def _grey(images: Tensor) -> Tensor:
    """The grey images (B, 1, H, W) of colour or grey images."""
    if images.shape[1] == 1:
        return images
    return (images.new_tensor(_LUMA) @ images.flatten(2)).unflatten(1, (1, *images.shape[2:]))


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The matrices (B, 2, 2) of the rows a b and c d, each (B,)."""
    return torch.stack([a, b, c, d], 1).unflatten(1, (2, 2))


def affine_elastic(images: Tensor, strength: float = 1.0, points: int = 5, largest: float = 0.04) -> Tensor:
    """As `affine`, and then distorted elastically (Simard et al. 2003), in one interpolation.

    Each of points x points places of an image is displaced by normal numbers, and bicubic interpolation displaces the
    pixels between the places. The standard deviation, in sides, is one for each image: uniform from 0 to `largest`
    times `strength`, which is also a factor on the affine part.
    """
    grid = _affine_grid(images, *_drawn_affine(images, strength))
    places = torch.randn(len(images), 2, points, points, device=images.device)
    places *= 2 * largest * strength * torch.rand(len(images), 1, 1, 1, device=images.device)
    field = functional.interpolate(places, size=images.shape[2:], mode="bicubic", align_corners=True)
    return _sampled(images, grid + field.permute(0, 2, 3, 1))


def strokes(images: Tensor, strength: float = 0.5) -> Tensor:
    """Bright strokes made wider or narrower: mixed with their dilation or erosion by up to 1/28 of the side each way.

    The share of the dilation or erosion in the mixture is uniform from 0 to `strength`; either has probability 0.5.
    """
    reach = max(1, round(images.shape[3] / 28))
    wider = functional.max_pool2d(images, 2 * reach + 1, stride=1, padding=reach)
    narrower = -functional.max_pool2d(-images, 2 * reach + 1, stride=1, padding=reach)
    share = strength * (2 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1)
    return torch.lerp(images, torch.where(share > 0, wider, narrower), share.abs())


def _drawn_affine(images: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angle (B,), shear (B, 2), scale (B, 2) and shift (B, 2), as `warped` takes them, drawn as `affine` says."""
    limits = images.new_tensor([math.radians(10), 0.3, 0.3, 0.2, 0.2, 2 / 28, 2 / 28]) * strength
    drawn = 2 * torch.rand(len(images), 7, device=images.device) - 1
    chosen = torch.rand(len(images), 7, device=images.device) < 0.5
    angle, shear, scale, shift = (limits * drawn * chosen).split([1, 2, 2, 2], 1)
    return angle.squeeze(1), shear, 1 + scale, shift


def _affine_grid(images: Tensor, angle: Tensor, shear: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The source (B, H, W, 2) of each pixel of the images that `warped` makes: x and y, -1 to 1 over the image."""
    one, sheared = torch.ones_like(angle), shear.tan()
    turn = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    forward = turn @ _matrices(one, sheared[:, 0], sheared[:, 1], one) * scale[:, None]
    # the inverse maps each pixel to its source; inv would check its result and make the CPU wait for the GPU
    inverse = torch.linalg.inv_ex(forward).inverse
    back = torch.cat([inverse, inverse @ (-2 * shift[:, :, None])], 2)  # the grid's coordinates go from -1 to 1
    return functional.affine_grid(back, list(images.shape), align_corners=False)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    """The images at the sources `grid` (B, H, W, 2) of their pixels, between pixels bilinearly, black beyond edges."""
    return functional.grid_sample(images, grid, align_corners=False).clamp_(0, 1)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    # characters: Koch et al. 2015
    "affine": affine,
    # characters: elastic distortions as in Simard et al. 2003, and pens of other widths
    "affine-elastic": affine_elastic,
    "strokes": lambda images: strokes(affine_elastic(images)),
    # natural images: Gidaris and Komodakis 2018; with colours, Lee et al. 2019 (MetaOptNet); Chen et al. 2019 (A Closer
    # Look at Few-shot Classification)
    "crop": lambda images: flip(crop(images)),
    "crop-jitter": lambda images: flip(jitter(crop(images))),
    "resized-crop": lambda images: flip(jitter(resized_crop(images))),
}


def find_augmentation(name: str) -> Callable[[Tensor], Tensor]:
    """The augmentation of that name."""
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
