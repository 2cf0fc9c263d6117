"""Learner: the contract between a few-shot method and the suite."""

import abc
from typing import ClassVar

from torch import Tensor, nn

from episodes import ClassBatches, Episodes
from episodes.batches import Batches
from episodes.errors import unknown_name
from fewshot.embedding import EmbeddedBank


class Learner(nn.Module, abc.ABC):
    """A few-shot method: how it trains on base classes, and how it scores queries given a support set.

    In shapes, B images, E episodes of N ways, K shots and Q queries (all classes together), D embedding size.
    Keyword arguments of __init__ after `backbone` and `classes` are the learner's options: a preset may set them.

    batches       the training batches it wants, where the preset does not say
    variants      its forms, the first the default; `self.variant` is the chosen one
    transductive  True where the scores of one query depend on other queries; tables show it
    paper         who published it, for listings
    """

    name: ClassVar[str] = ""
    batches: ClassVar[Batches] = ClassBatches(classes=60, images=4)
    variants: ClassVar[tuple[str, ...]] = ("",)
    transductive: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        """backbone: images (B, C, H, W) to (B, backbone.embedding_size); classes: how many base classes there are."""
        super().__init__()
        if variant and variant not in self.variants:
            raise unknown_name(f"variant of {self.name or type(self).__name__}", variant, self.variants)
        self.variant = variant or self.variants[0]
        self.backbone = backbone
        self.classes = classes

    @abc.abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss of one batch, a scalar, from images (B, C, H, W) in [0, 1] and base-class labels (B,)."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W)."""
        return self.backbone(images)

    @abc.abstractmethod
    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) of each query for each class, higher is better.

        support (E, N, K, D) and query (E, Q, D) are embeddings, of all E episodes at once.
        """

    def episode_scores(self, data: EmbeddedBank, episodes: Episodes) -> Tensor:
        """Scores (E, Q, N) of whole episodes: the hook of learners that adapt to each episode from its images.

        `data.embeddings` holds `embed` of every image of the split; `data.bank` the images themselves.
        """
        query = data.embeddings[episodes.query.flatten(1)]
        return self.scores(data.embeddings[episodes.support], query)
