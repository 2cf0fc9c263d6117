"""Wide ResNet 28-10, the widest network that papers on few-shot learning use."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.functional import relu

from fewshot.backbones.base import Backbone, Recipe, check_size, halved


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a 1x1 shortcut if the shape changes.

    Names are those of the PyTorch code in common use (and of S2M2, Mangla et al. 2020), so that its weights fit.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = None if channels == width else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        active = relu(self.bn1(images))
        shortcut = images if self.convShortcut is None else self.convShortcut(active)
        return self.conv2(relu(self.bn2(self.conv1(active)))) + shortcut


def wide_resnet(channels: int, size: int, depth: int = 28, factor: int = 10) -> Backbone:
    """Wide ResNet (Zagoruyko and Komodakis 2016) for small images: 64 * factor numbers, averaged over the image."""
    check_size(f"Wide ResNet {depth}-{factor}", size, 2)
    blocks = (depth - 4) // 6
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(channels, widths[0], 3, padding=1, bias=False))
    for i, stride in enumerate([1, 2, 2]):
        first = WideBlock(widths[i], widths[i + 1], stride)
        rest = [WideBlock(widths[i + 1], widths[i + 1], 1) for _ in range(blocks - 1)]
        layers[f"block{i + 1}"] = nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))
    body = nn.Sequential(layers)
    body.add_module("bn1", nn.BatchNorm2d(widths[-1]))
    body.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1)])
    for convolution in body.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    side = halved(size, 2)
    return Backbone(body, widths[-1], (widths[-1], side, side))


WIDE_RESNETS: dict[str, Recipe] = {
    "wrn28_10": Recipe(wide_resnet, "28 layers of up to 640 channels, averaged", "Zagoruyko and Komodakis 2016")
}
