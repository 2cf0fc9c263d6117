"""The networks that turn images into embeddings."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes.errors import InputError, unknown_name


class Backbone(nn.Module):
    """A network body that maps images (B, C, H, W) to embeddings (B, embedding_size) in float32.

    precision: the arithmetic of the body alone; losses and scores are always float32.
    """

    def __init__(self, body: nn.Module, embedding_size: int) -> None:
        super().__init__()
        self.body = body.to(memory_format=torch.channels_last)
        self.embedding_size = embedding_size
        self.precision = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        reduced = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision if reduced else torch.bfloat16, enabled=reduced):
            features = self.body(images.contiguous(memory_format=torch.channels_last))
        return features.flatten(1).float()


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, 2x2 max-pooling, ReLU.

    The papers write the ReLU before the pooling; the maximum of ReLUs is the ReLU of the maximum, and this order
    takes it of a quarter of the values.
    """

    def __init__(self, channels: int, width: int, relu: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = relu

    def forward(self, images: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.norm(self.convolution(images)), 2)
        return functional.relu(pooled) if self.relu else pooled


def conv4(channels: int, size: int, width: int = 64, last_relu: bool = True) -> Backbone:
    """Conv-4 (Vinyals et al. 2016, Snell et al. 2017): four blocks; 28x28 images become 64 numbers.

    last_relu: False is the form for cosine classifiers (Gidaris and Komodakis 2018), whose embeddings may point
    anywhere.
    """
    if size < 16:
        raise InputError(f"Conv-4 halves an image four times: it needs 16 pixels or more, not {size}")
    widths = [channels, width, width, width, width]
    blocks = [ConvBlock(widths[i], widths[i + 1], relu=last_relu or i < 3) for i in range(4)]
    return Backbone(nn.Sequential(*blocks), width * (size // 16) ** 2)


BACKBONES: dict[str, Callable[[int, int], Backbone]] = {
    "conv4": conv4,
    "conv4-linear": lambda channels, size: conv4(channels, size, last_relu=False),
}


def make_backbone(name: str, channels: int, size: int) -> Backbone:
    """A fresh backbone for images of `channels` x `size` x `size`, by its name."""
    if name not in BACKBONES:
        raise unknown_name("backbone", name, BACKBONES)
    return BACKBONES[name](channels, size)
