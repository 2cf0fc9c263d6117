"""2x2 max-pooling of feature maps."""

import torch
from torch import Tensor
from torch.nn import functional


def max_pool(maps: Tensor) -> Tensor:
    """The maxima (B, C, H // 2, W // 2) of the 2x2 squares of `maps` (B, C, H, W).

    Without gradients, a CPU compares whole rows of channels if the channels of a pixel lie side by side in its memory.
    That takes half the time of functional.max_pool2d, which also notes the place of each maximum.
    """
    height, width = (side // 2 for side in maps.shape[2:])
    trains = torch.is_grad_enabled() and maps.requires_grad
    side_by_side = maps.device.type == "cpu" and maps.stride(1) == 1
    if trains or not side_by_side or not height * width or torch.compiler.is_compiling():
        return functional.max_pool2d(maps, 2)
    pixels = maps.permute(0, 2, 3, 1)[:, : 2 * height, : 2 * width]
    left, right = pixels.unflatten(2, (width, 2)).unbind(3)
    upper, lower = torch.maximum(left, right).unflatten(1, (height, 2)).unbind(2)
    return torch.maximum(upper, lower).permute(0, 3, 1, 2)
