"""Feature maps compared place by place: a prototype for each place, and cosines (after Lifchitz et al. 2019)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import InputError
from fewshot.augmentation import warped
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import EpisodicLearner, by_class, split_episodes
from fewshot.learners.maps import map_shape
from fewshot.learners.registry import register
from fewshot.masks import class_means

_TRAITS = Traits(maps=True, paper="after Lifchitz et al. 2019")


@register("aligned")
class Aligned(EpisodicLearner):
    """A query goes to the class whose support has the most similar descriptors at the same places.

    The score of a class is tau times the mean over the places p of the feature maps, and over the support images s of
    the class, of cos(f_p(query), f_p(s)), with a learned tau. Dense classification (Lifchitz et al. 2019, section 3.1)
    compares each place with one weight vector of a class; here each place has a descriptor of its own, so that the
    layout of a character counts. The training is by episodes.

    If the backbone is an ensemble, each member has descriptors and a loss of its own, and scores are the mean over the
    members.

    views  at test, a descriptor is the mean over `views` slightly distorted copies of the image, always the same
           distortions, the first of which is none
    """

    variants: ClassVar = {"": _TRAITS, "views": _TRAITS}
    search: ClassVar = {"scale": (3.0, 50.0, "log"), "turns": [False, True], "mirrored": [False, True]}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        turns: bool = False,
        scale: float = 10.0,
        views: int = 9,
        mirrored: bool = False,
    ) -> None:
        """scale: the initial value of tau; views: of the variant of that name; shot, turns: see EpisodicLearner.

        mirrored: each class of a training batch is mirrored left to right with probability 0.5. A mirrored character is
        another character, so that there are twice as many base classes.
        """
        super().__init__(backbone, classes, variant, shot, turns)
        if not 1 <= views <= 1000:
            raise InputError(f"aligned needs views of 1 to 1000, not {views}")
        self.views, self.mirrored = views if self.variant == "views" else 1, mirrored
        self.members = getattr(backbone, "members", 1)
        channels, height, width = map_shape(self)
        self.channels, self.places = channels // self.members, height * width
        self.scale = nn.Parameter(torch.tensor(scale))

    def embed(self, images: Tensor) -> Tensor:
        """Descriptors of length 1 / sqrt(places), (B, members * C * places): a product is a mean of cosines."""
        total = self._descriptors(images)
        if not self.training and self.views > 1:
            for view in _distortions(self.views - 1).to(images):
                total = total + self._descriptors(_distorted(images, view))
        return total / (1 if self.training else self.views)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        parts = self.embed(self._mirrored(images) if self.mirrored else images).chunk(self.members, 1)
        return torch.stack([self._loss_of_member(part) for part in parts]).mean()

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.scale * query @ class_means(support, mask).mT / self.members

    def _loss_of_member(self, embeddings: Tensor) -> Tensor:
        support, query, targets = split_episodes(embeddings, self.batches, self.shot, self.turns)
        logits = self.scale * query @ class_means(support, None).mT
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _mirrored(self, images: Tensor) -> Tensor:
        classes = by_class(images, self.batches)
        chosen = torch.rand(len(classes), 1, 1, 1, 1, device=images.device) < 0.5
        return torch.where(chosen, classes.flip(4), classes).flatten(0, 1)

    def _descriptors(self, images: Tensor) -> Tensor:
        maps = self.backbone.maps(images).unflatten(1, (self.members, self.channels))
        return (functional.normalize(maps, dim=2) / self.places**0.5).flatten(1)


def _distortions(count: int) -> Tensor:
    """Angle, two shears, two scales and two shifts (count, 7), as `warped` takes them; always the same for a count.

    The angle is up to 8 degrees either way, the shears up to 0.1 radians, the scales 0.9 to 1.1, the shifts up to
    1.5/28 of the side.
    """
    limits = torch.tensor([math.radians(8), 0.1, 0.1, 0.1, 0.1, 1.5 / 28, 1.5 / 28])
    drawn = 2 * torch.rand(count, 7, generator=torch.Generator().manual_seed(0)) - 1
    return limits * drawn + torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])


def _distorted(images: Tensor, view: Tensor) -> Tensor:
    """All images (B, C, H, W) distorted by the same seven numbers `view` (7,)."""
    angle, shear, scale, shift = view.expand(len(images), 7).split([1, 2, 2, 2], 1)
    return warped(images, angle.squeeze(1), shear, scale, shift)
