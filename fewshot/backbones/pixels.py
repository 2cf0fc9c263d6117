"""The pixels themselves as embeddings: what a learner has before anything is learned."""

from torch import nn

from fewshot.backbones.base import Backbone, Recipe


def pixels(channels: int, size: int) -> Backbone:
    """No network: images (B, C, H, W) become vectors (B, C * H * W)."""
    return Backbone(nn.Identity(), channels * size * size)


PIXELS = {"pixels": Recipe(pixels, "no network, the pixels in a row", "")}
