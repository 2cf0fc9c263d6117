"""Generated images in the shapes of the data sets that the papers use, so that nothing needs to be downloaded."""

import dataclasses

import torch

from episodes import ImageBank


@dataclasses.dataclass(frozen=True)
class Shape:
    """`classes` classes of `images` images each, of `channels` x `size` x `size`."""

    name: str
    classes: int
    images: int
    channels: int
    size: int

    @property
    def total(self) -> int:
        return self.classes * self.images


CHARACTERS = Shape("Omniglot", 1692, 20, 1, 28)  # its test classes, each in four turns
PHOTOGRAPHS = Shape("miniImageNet", 20, 600, 3, 84)


def generated_bank(shape: Shape, seed: int = 0) -> ImageBank:
    """Each class a random pattern, its images the pattern with noise: neither easy nor hopeless to tell apart."""
    generator = torch.Generator().manual_seed(seed)
    pixels = shape.channels * shape.size**2
    words = torch.randint(-(2**63), 2**63 - 1, (-(-shape.total * pixels // 8),), generator=generator)
    images = words.view(torch.uint8)[: shape.total * pixels].view(shape.classes, shape.images, pixels)
    patterns = torch.randint(0, 64, (shape.classes, 1, pixels), generator=generator, dtype=torch.uint8)
    images = (images >> 1).add_(patterns).view(-1, shape.channels, shape.size, shape.size)
    names = tuple(map(str, range(shape.classes)))
    offsets = torch.arange(shape.classes + 1) * shape.images
    return ImageBank(images, offsets, names, names, dataset="generated", protocol=shape.name, split="test")
