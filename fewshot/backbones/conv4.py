"""Conv-4, the four convolutions of most papers on few-shot learning, in its published widths."""

import functools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone, Recipe, check_size


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, 2x2 max-pooling, ReLU.

    The papers write the ReLU before the pooling; the maximum of ReLUs is the ReLU of the maximum, and this order
    takes it of a quarter of the values.
    """

    def __init__(self, channels: int, width: int, relu: bool = True, pool: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = relu
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.convolution(images))
        if self.pool:
            features = functional.max_pool2d(features, 2)
        return functional.relu(features) if self.relu else features


def conv4(
    channels: int, size: int, widths: Sequence[int] = (64, 64, 64, 64), last_relu: bool = True, poolings: int = 4
) -> Backbone:
    """Conv-4 (Vinyals et al. 2016, Snell et al. 2017): four blocks; 28x28 images become 64 numbers, 84x84 ones 1,600.

    last_relu: False is the form for cosine classifiers (Gidaris and Komodakis 2018), whose embeddings may point
    anywhere.
    poolings: how many blocks halve the image; with three, 42x42 images become 1,600 numbers.
    """
    check_size("Conv-4" if poolings == 4 else "Conv-4 with three poolings", size, poolings)
    inputs = [channels, *widths[:-1]]
    blocks = [ConvBlock(inputs[i], widths[i], relu=last_relu or i < 3, pool=i < poolings) for i in range(len(widths))]
    return Backbone(nn.Sequential(*blocks), widths[-1] * (size // 2**poolings) ** 2)


def _recipes() -> dict[str, Recipe]:
    forms = {
        "conv4": ({}, "four 3x3 convolutions of 64 channels, each pooled", "Vinyals et al. 2016"),
        "conv4-32": ({"widths": [32] * 4}, "conv4 of 32 channels", "Finn et al. 2017"),
        "conv4-128": (
            {"widths": [64, 64, 128, 128]},
            "conv4 of 64, 64, 128 and 128 channels",
            "Gidaris and Komodakis 2018",
        ),
        "conv4-3pool": ({"poolings": 3}, "conv4 whose last block does not pool, for natural images of 32 to 42 px", ""),
    }
    recipes = {}
    for name, (options, about, paper) in forms.items():
        recipes[name] = Recipe(functools.partial(conv4, **options), about, paper)
        linear = functools.partial(conv4, **options, last_relu=False)
        recipes[f"{name}-linear"] = Recipe(linear, f"{name} without the last ReLU", "Gidaris and Komodakis 2018")
    return recipes


CONV4: dict[str, Recipe] = _recipes()
