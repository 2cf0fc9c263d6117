"""Backbone: what every network of the suite is, and the recipes by which they are made."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from episodes.errors import InputError

# of red, green and blue in ImageNet's training images, which published networks and their weights expect
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_MAPS = "this backbone gives no feature maps: take a conv4, a resnet or wrn28_10"
NO_BLOCKS = "mixup = 'maps' mixes inside a network, and this backbone has no blocks: take a conv4, a resnet or wrn28_10"
_POOLING = nn.AdaptiveAvgPool2d  # averages over all places


class Backbone(nn.Module):
    """A network body that maps images (B, C, H, W) in [0, 1] to embeddings (B, embedding_size) in float32.

    Colour images are first standardised by ImageNet's means and deviations; grey images are not.
    precision: the arithmetic of the body alone; losses and scores are always float32.
    layout: the memory format of images and feature maps
    channels: of the images that it takes; None if unknown
    at_once: how many images an evaluation gives it at once, at most (see embedding.at_once)
    trained_on: the data set of the weights that it has from the start, '' for random weights
    published: the means and deviations of colours that its library gives for its published weights; None for ImageNet's
    map_shape: (C, H, W) of one of its `maps`; None if it gives none
    mirrored: in eval mode, an embedding is the mean of that of the image and that of its mirror image
    """

    mean: Tensor
    deviation: Tensor
    channels: int | None = None
    at_once = 1000
    trained_on = ""
    mirrored = False
    published: tuple[Sequence[float], Sequence[float]] | None = None

    def __init__(self, body: nn.Module, embedding_size: int, map_shape: tuple[int, int, int] | None = None) -> None:
        """map_shape: only of a body that computes one child after the other, and averages places by an
        AdaptiveAvgPool2d, if at all."""
        super().__init__()
        self.body = body.to(memory_format=torch.channels_last)
        self.embedding_size = embedding_size
        self.map_shape = map_shape
        self.precision = torch.float32
        self.layout = torch.channels_last
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self._over_views(self._embeddings, images, turned_back=lambda embeddings: embeddings)

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps (B, C, H, W) of images, in float32, before they are averaged over their places.

        The map of a mirror image is turned back before the mean of both is taken, so that places stay apart.
        InputError if the network gives none: networks of other libraries keep their maps to themselves.
        """
        if self.map_shape is None:
            raise InputError(NO_MAPS)
        return self._over_views(self._before_pooling, images, turned_back=lambda maps: maps.flip(3))

    def extra_repr(self) -> str:
        return "mirrored" if self.mirrored else ""

    @property
    def averages(self) -> bool:
        """Whether it averages its last feature map, so that images of every size become embeddings of one size."""
        return all(any(isinstance(layer, _POOLING) for layer in body.children()) for body in self._bodies)

    @property
    def blocks(self) -> list[tuple[nn.Module, ...]]:
        """The layers that compute one after the other, an average over all places the last; each place has the layers
        of all members of an ensemble. InputError if the network is not of this form: networks of other libraries."""
        if self.map_shape is None:
            raise InputError(NO_BLOCKS)
        return list(zip(*(_up_to_pooling(body) for body in self._bodies), strict=True))

    @property
    def _bodies(self) -> list[nn.Module]:
        """The networks that see the images: several of an ensemble."""
        return [self.body]

    def standardises(self, channels: int) -> bool:
        """Whether images with this number of channels are standardised by `mean` and `deviation`."""
        return channels == 3

    def standardise_by(self, means: Sequence[float], deviations: Sequence[float]) -> None:
        """Standardise colour images by these means and deviations of red, green and blue, instead of ImageNet's."""
        self.mean.copy_(torch.tensor(means)[:, None, None])
        self.deviation.copy_(torch.tensor(deviations)[:, None, None])

    def standardise_as_published(self) -> None:
        """Standardise colour images as the network's published weights expect it."""
        if self.published is not None:
            self.standardise_by(*self.published)

    def arithmetic(self, device: torch.device) -> torch.autocast:
        """The context in which the body computes in `precision`."""
        reduced = self.precision != torch.float32
        return torch.autocast(device.type, self.precision if reduced else torch.bfloat16, enabled=reduced)

    def _over_views(
        self, network: Callable[[Tensor], Tensor], images: Tensor, turned_back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What `network` makes of images, in float32; the mean with that of their mirror images if `mirrored` says so.

        turned_back: changes what is made of the mirror images before the mean is taken
        """
        found = self._computed(network, images).float()
        if not self.mirrored or self.training:
            return found
        return (found + turned_back(self._computed(network, images.flip(3)).float())) / 2

    def _computed(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What the body, or a part of it, makes of images (B, C, H, W) in [0, 1]."""
        if self.standardises(images.shape[1]):
            images = (images - self.mean) / self.deviation
        with self.arithmetic(images.device):
            return network(self._laid_out(images))

    def _embeddings(self, images: Tensor) -> Tensor:
        return self.body(images).flatten(1)

    def _before_pooling(self, images: Tensor) -> Tensor:
        return before_pooling(self.body, images)

    def _laid_out(self, images: Tensor) -> Tensor:
        """The images in the layout of the weights; images of one channel get fresh strides.

        The bytes of one channel are the same in both layouts, and `contiguous` leaves them as they are. A convolution
        then takes its layout from the strides of its weights. An adapted copy of the weights has lost the strides, and
        the wrong layout makes the max-pooling after the convolution several times as slow.
        """
        if self.layout == torch.channels_last and images.shape[1] == 1:
            return torch.empty_like(images, memory_format=self.layout).copy_(images)
        return images.contiguous(memory_format=self.layout)


def before_pooling(body: nn.Module, images: Tensor) -> Tensor:
    """What the children of a body make of images, one after the other, up to an average over all places."""
    for layer in _up_to_pooling(body):
        if not isinstance(layer, _POOLING):
            images = layer(images)
    return images


def _up_to_pooling(body: nn.Module) -> list[nn.Module]:
    """The children of a body up to the average over all places, that one too."""
    layers = list(body.children())
    places = [place for place, layer in enumerate(layers) if isinstance(layer, _POOLING)]
    return layers[: places[0] + 1] if places else layers


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Makes a fresh backbone for images of `channels` x `size` x `size`; what it is and who published it.

    trained_on: the data set of the weights that it has from the start, '' for random weights
    """

    make: Callable[[int, int], Backbone]
    about: str
    paper: str
    trained_on: str = ""

    def __call__(self, channels: int, size: int) -> Backbone:
        return self.make(channels, size)


def mirrored(recipe: Recipe) -> Recipe:
    """The recipe of the same network, of the same weights, whose embeddings at test average over the mirror image."""

    def make(channels: int, size: int) -> Backbone:
        backbone = recipe(channels, size)
        backbone.mirrored = True
        return backbone

    about = f"{recipe.about}; at test, the mean over an image and its mirror image"
    return Recipe(make, about, recipe.paper, recipe.trained_on)


def is_random(network: nn.Module, weights: str) -> bool:
    """Whether nothing has trained a network that has weights: it brings none, and starts from no file of `weights`."""
    return not weights and not getattr(network, "trained_on", "") and any(True for _ in network.parameters())


def check_size(network: str, size: int, halvings: int) -> None:
    """Raise InputError for images that have fewer than one pixel after the halvings."""
    if size < 2**halvings:
        times = {2: "twice", 3: "three times", 4: "four times"}[halvings]
        raise InputError(f"{network} halves an image {times}: it needs {2**halvings} pixels or more, not {size}")


def halved(size: int, times: int) -> int:
    """The side of an image of `size` pixels after so many layers of stride 2 that keep an odd pixel at the border."""
    return -(-size // 2**times)
