"""Conv-4, the four convolutions of most papers on few-shot learning, in its published widths."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone, Recipe, check_size, halved
from fewshot.backbones.pooling import max_pool

_FEW = 3  # channels of images: so few that the moments of patches cost less than passes over a feature map


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, 2x2 max-pooling, ReLU.

    The papers write the ReLU before the pooling; the maximum of ReLUs is the ReLU of the maximum, and this order
    takes it of a quarter of the values. With a stride of 2 and no pooling the convolution itself halves the image.
    """

    def __init__(self, channels: int, width: int, relu: bool = True, pool: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, stride, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = relu
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        convolution, norm = self.convolution, self.norm
        plain = type(norm) is nn.BatchNorm2d  # a replaced norm, such as HeldNorm, has rules of its own
        cheap = images.shape[1] <= _FEW and convolution.stride == (1, 1)
        if plain and (cheap or not norm.training):
            means, variances = self._measured(images) if norm.training else _running(norm)
            weight, bias = self._folded(means, variances)
            features = functional.conv2d(images, weight, bias, convolution.stride, padding=1)
        else:
            features = norm(convolution(images))
        if self.pool:
            features = max_pool(features)
        return functional.relu(features) if self.relu else features

    def _measured(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the convolution of `images`, (C,) each, which the norm's running ones follow.

        They are w . m and w' C w, with the mean m and the covariance C of all patches: no pass over the feature map,
        the largest of all, forward or backward. They are cheap to compute if a patch has few numbers, and more exact
        than float32 sums over the map.
        """
        norm, weight, bias = self.norm, self.convolution.weight, self.convolution.bias
        running_mean, running_var = _running(norm)
        assert bias is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        with _in_full_precision(images.device):
            mean, covariance = patch_moments(images.to(weight.dtype))
            flat = weight.flatten(1)
            means = flat @ mean + bias
            variances = (flat @ covariance * flat).sum(1)
            with torch.no_grad():
                count = images.numel() / images.shape[1]
                norm.num_batches_tracked += 1
                running_mean.lerp_(means, norm.momentum)
                running_var.lerp_(variances * count / (count - 1), norm.momentum)
            return means, variances

    def _folded(self, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of one convolution that equals the convolution followed by the norm with these statistics."""
        norm, weight, bias = self.norm, self.convolution.weight, self.convolution.bias
        assert bias is not None
        with _in_full_precision(weight.device):
            scale = norm.weight * torch.rsqrt(variances + norm.eps)
            return weight * scale[:, None, None, None], norm.bias + (bias - means) * scale


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The running mean and variance (C,) of a norm; only a norm that was made without them has none."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def patch_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (9 C,) and covariance (9 C, 9 C) over the 3x3 patches around all pixels of `images` (B, C, H, W).

    Beyond the border there are zeros. A patch is in the order of a convolution's weights.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, [1] * 4).transpose(0, 1)
    shifted = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    patches = torch.stack(shifted, 1).flatten(3).flatten(0, 1)  # (9 C, B, H W)
    mean = patches.mean(2).mean(1)  # first a sum for each image: one long float32 sum would lose digits
    centred = (patches - mean[:, None, None]).transpose(0, 1)
    return mean, (centred @ centred.mT).mean(0) / (height * width)


def _in_full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside, autocast is off; the device 'meta', which computes only shapes, has no autocast."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()


def conv4(
    channels: int,
    size: int,
    widths: Sequence[int] = (64, 64, 64, 64),
    last_relu: bool = True,
    poolings: int = 4,
    average: bool = False,
) -> Backbone:
    """Conv-4 (Vinyals et al. 2016, Snell et al. 2017): four blocks; 28x28 images become 64 numbers, 84x84 ones 1,600.

    last_relu: False is the form for cosine classifiers (Gidaris and Komodakis 2018), whose embeddings may point
    anywhere.
    poolings: how many blocks halve the image; with three, 42x42 images become 1,600 numbers.
    average: the last feature map over its places, so that images of every size become `widths[-1]` numbers
    """
    check_size("Conv-4" if poolings == 4 else "Conv-4 with three poolings", size, poolings)
    inputs = [channels, *widths[:-1]]
    blocks = [ConvBlock(inputs[i], widths[i], relu=last_relu or i < 3, pool=i < poolings) for i in range(len(widths))]
    side = size // 2**poolings
    body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1)) if average else nn.Sequential(*blocks)
    return Backbone(body, widths[-1] * (1 if average else side**2), (widths[-1], side, side))


def strided_conv4(channels: int, size: int) -> Backbone:
    """The network of Finn et al. 2017 for Omniglot: strides of two instead of poolings, and 64 means over all places.

    It costs about a quarter of Conv-4, which matters if each episode has weights of its own.
    """
    blocks = [ConvBlock(inputs, 64, pool=False, stride=2) for inputs in (channels, 64, 64, 64)]
    side = halved(size, 4)
    return Backbone(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1)), 64, (64, side, side))


def _recipes() -> dict[str, Recipe]:
    forms: dict[str, tuple[dict[str, Any], str, str]] = {
        "conv4": ({}, "four 3x3 convolutions of 64 channels, each pooled", "Vinyals et al. 2016"),
        "conv4-32": ({"widths": [32] * 4}, "conv4 of 32 channels", "Finn et al. 2017"),
        "conv4-128": (
            {"widths": [64, 64, 128, 128]},
            "conv4 of 64, 64, 128 and 128 channels",
            "Gidaris and Komodakis 2018",
        ),
        "conv4-512": (
            {"widths": [96, 192, 384, 512]},
            "conv4 of 96, 192, 384 and 512 channels",
            "Bertinetto et al. 2019",
        ),
        "conv4-3pool": ({"poolings": 3}, "conv4 whose last block does not pool, for natural images of 32 to 42 px", ""),
        "conv4-average": (
            {"poolings": 3, "average": True},
            "conv4 whose last block does not pool, averaged to 64 numbers",
            "Tian et al. 2020",
        ),
    }
    recipes = {}
    for name, (options, about, paper) in forms.items():
        recipes[name] = Recipe(functools.partial(conv4, **options), about, paper)
        linear = functools.partial(conv4, **options, last_relu=False)
        recipes[f"{name}-linear"] = Recipe(linear, f"{name} without the last ReLU", "Gidaris and Komodakis 2018")
    about = "conv4 that halves by strides instead of poolings, and takes means at the end"
    return {**recipes, "conv4-strided": Recipe(strided_conv4, about, "Finn et al. 2017")}


CONV4: dict[str, Recipe] = _recipes()
