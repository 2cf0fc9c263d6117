"""Features as their own embeddings: the backbone of data sets that hold features and not images."""

from torch import Tensor, nn

from episodes.errors import InputError
from fewshot.backbones.base import Backbone, Recipe

FEATURES = "features"


class FeaturesBackbone(Backbone):
    """No network and no weights: features (B, D, 1, 1) become embeddings (B, D), unchanged.

    scale: the factor of cosines between features of images and of texts, to which CLIP's training is bounded
    """

    scale = 100.0

    def standardises(self, channels: int) -> bool:
        return False

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).float()


def features(channels: int, size: int) -> Backbone:
    return FeaturesBackbone(nn.Identity(), channels)


RECIPE = Recipe(features, "no network, features that were computed before; of files of features alone", "")


def check_takes(name: str, size: int) -> None:
    """InputError if the backbone `name` takes images and is given features, whose size is 1, or the other way round."""
    if size == 1 and name != FEATURES:
        raise InputError(f"the backbone {name} takes images, and the data set holds features: take @{FEATURES}")
    if size > 1 and name == FEATURES:
        raise InputError(
            f"the backbone {FEATURES} takes a file of features, and the data set holds images: 'fewshot embed' makes"
            " features of images"
        )
