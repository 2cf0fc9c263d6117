"""ResNets: the ResNet-12 of MetaOptNet with its DropBlock, and ResNet-10 and ResNet-18."""

import functools
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.backbones.base import Backbone, Recipe, check_size, halved
from fewshot.backbones.pooling import max_pool


class DropBlock(nn.Module):
    """Zeroes squares of feature maps in training (Ghiasi et al. 2018), more of them as training goes on.

    As in MetaOptNet (Lee et al. 2019), each channel of each image has its own squares, the share of zeros rises from
    zero to `rate` over `steps` batches, and the rest is scaled so that the batch as a whole keeps its expectation.
    size: of the squares; the squares are never larger than the feature map
    """

    step: Tensor

    def __init__(self, rate: float, size: int, steps: int = 40_000) -> None:
        super().__init__()
        self.rate, self.size, self.steps = rate, size, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))  # in checkpoints, for an exact resume

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        self.step += 1
        height, width = features.shape[2:]
        size = min(self.size, height, width)
        corners = height - size + 1, width - size + 1
        # as many squares as zero the wanted share if the squares do not overlap
        rate = self.rate * (self.step / self.steps).clamp_max(1)
        chance = rate / size**2 * (height * width) / (corners[0] * corners[1])
        begins = torch.rand(*features.shape[:2], *corners, device=features.device) < chance
        zeroed = functional.max_pool2d(functional.pad(begins.to(features.dtype), [size - 1] * 4), size, stride=1)
        kept = 1 - zeroed
        return features * kept / kept.mean(dtype=torch.float32).clamp_min(1e-6)


class Block12(nn.Module):
    """Three 3x3 convolutions with a 1x1 shortcut, LeakyReLU, 2x2 max-pooling, `drop`.

    Names are those of MetaOptNet's code, so that weights trained with it fit. LeakyReLU is monotonic, so
    pooling first gives the same result from a quarter of the values, as in ConvBlock.
    """

    def __init__(self, channels: int, width: int, drop: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3(channels, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3(width, width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv3(width, width), nn.BatchNorm2d(width)
        self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.drop = drop

    def forward(self, images: Tensor) -> Tensor:
        features = functional.leaky_relu(self.bn1(self.conv1(images)), 0.1)
        features = functional.leaky_relu(self.bn2(self.conv2(features)), 0.1)
        features = self.bn3(self.conv3(features)) + self.downsample(images)
        return self.drop(functional.leaky_relu(max_pool(features), 0.1))


def resnet12(channels: int, size: int, pool: bool = True) -> Backbone:
    """ResNet-12 of MetaOptNet (Lee et al. 2019): four blocks of 64, 160, 320 and 640 channels.

    pool: average the last feature map to 640 numbers; MetaOptNet itself takes all of it, 16,000 numbers at 84x84
    Dropout and DropBlock are those of MetaOptNet: 0.1, in squares of 5 (84x84) or 2 (its CIFAR data sets).
    """
    check_size("ResNet-12", size, 4)
    squares = 5 if size >= 64 else 2
    drops = [nn.Dropout(0.1), nn.Dropout(0.1), DropBlock(0.1, squares), DropBlock(0.1, squares)]
    widths = [channels, 64, 160, 320, 640]
    layers = {f"layer{i + 1}": nn.Sequential(Block12(widths[i], widths[i + 1], drops[i])) for i in range(4)}
    body = nn.Sequential(OrderedDict(layers))
    for convolution in body.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="leaky_relu")
    if pool:
        body.append(nn.AdaptiveAvgPool2d(1))
    side = size // 16
    return Backbone(body, 640 if pool else 640 * side**2, (640, side, side))


def resnet(channels: int, size: int, blocks: int) -> Backbone:
    """ResNet (He et al. 2016) of four stages of `blocks` basic blocks: 512 numbers, averaged over the image.

    Images of 128 pixels or more enter through the 7x7 convolution of stride 2 and the max-pooling of the paper, as in
    A Closer Look at Few-shot Classification (Chen et al. 2019) at 224; smaller ones through a 3x3 convolution of
    stride 1 alone, as in SimpleShot (Wang et al. 2019, src/models/ResNet.py of mileyan/simple_shot) at 84.
    """
    check_size(f"ResNet-{8 * blocks + 2}", size, 3)
    from torchvision.models.resnet import BasicBlock, ResNet  # takes two seconds, which other networks do without

    body = ResNet(BasicBlock, [blocks] * 4)
    body.fc = nn.Identity()
    if size < 128:
        body.conv1, body.maxpool = _conv3(channels, 64), nn.Identity()
    else:
        body.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    side = halved(size, 3 if size < 128 else 5)
    return Backbone(body, 512, (512, side, side))


def _conv3(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1, bias=False)


RESNETS: dict[str, Recipe] = {
    "resnet12": Recipe(
        resnet12, "four residual blocks of up to 640 channels, with DropBlock, averaged", "Lee et al. 2019"
    ),
    "resnet12-flat": Recipe(
        functools.partial(resnet12, pool=False), "resnet12 with all of its last feature map", "Lee et al. 2019"
    ),
    "resnet10": Recipe(
        functools.partial(resnet, blocks=1), "four basic blocks of up to 512 channels", "Chen et al. 2019"
    ),
    "resnet18": Recipe(
        functools.partial(resnet, blocks=2), "eight basic blocks of up to 512 channels", "He et al. 2016"
    ),
}
