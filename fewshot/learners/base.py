"""Learner: the contract between a few-shot method and the suite."""

import contextlib
import functools
import time
from collections.abc import Collection, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from episodes import ClassBatches, Episodes, ImageBank, InputError
from episodes.batches import Batches
from episodes.errors import unknown_name

_BATCH = 1000  # images embedded at once


class Learner(nn.Module):
    """A few-shot method: how it trains on base classes, and how it scores queries given a support set.

    A learner defines `loss`, and `scores` or, where it works on an episode's images or names, `episode_scores`.

    In shapes, B images, E episodes of N ways, K shots and Q queries (all classes together), D embedding size.
    Keyword arguments of __init__ after `backbone` and `classes` are the learner's options: a preset may set them.

    batches       the training batches it wants, where the preset does not say
    variants      its forms, the first the default; `self.variant` is the chosen one
    paper         who published it and when, for listings
    trained       False where there is nothing to learn: no training step is made, and `loss` is never called
    supervised    False where it trains without class labels: each training image is then a class of its own, `labels`
                  are the images' numbers in the bank and `classes` is how many images there are
    adapts        True where it fits something to each episode: a head, its weights
    transductive  True where the scores of one query depend on other queries, or the variants of which that holds;
                  tables show it. Of a learner that was made it is True or False
    text          True where it reads the names of classes; `class_names` are then those of the base classes
    """

    name: ClassVar[str] = ""
    batches: ClassVar[Batches] = ClassBatches(classes=60, images=4)
    variants: ClassVar[tuple[str, ...]] = ("",)
    paper: ClassVar[str] = ""
    trained: ClassVar[bool] = True
    supervised: ClassVar[bool] = True
    adapts: ClassVar[bool] = False
    transductive: bool | Collection[str] = False
    text: ClassVar[bool] = False

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        """backbone: images (B, C, H, W) to (B, backbone.embedding_size); classes: how many base classes there are."""
        super().__init__()
        if variant:
            self.check_variant(variant)
        self.variant = variant or self.variants[0]
        declared = type(self).transductive
        self.transductive = declared if isinstance(declared, bool) else self.variant in declared
        self.backbone = backbone
        self.classes = classes
        self.class_names: tuple[str, ...] = ()

    @classmethod
    def check_variant(cls, variant: str) -> None:
        """Raise InputError where there is no such variant; a learner of open-ended variants says which there are."""
        if variant not in cls.variants:
            raise unknown_name(f"variant of {cls.name or cls.__name__}", variant, filter(None, cls.variants))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss of one batch, a scalar, from images (B, C, H, W) in [0, 1] and base-class labels (B,)."""
        raise NotImplementedError

    def begin_step(self, done: float) -> None:
        """Called before each training step, with the share of them that is done, in [0, 1): where stages change."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W)."""
        return self.backbone(images)

    def check_batches(self, batches: Batches) -> None:
        """Raise InputError where `loss` cannot work on such batches; by default, where they are of another kind."""
        if type(batches) is not type(self.batches):
            wanted = ", ".join(f"{field} = ..." for field in vars(self.batches))
            raise InputError(f"{self.name} trains on batches of the kind {{{wanted}}}, not on {vars(batches)}")

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) of each query for each class, higher is better.

        support (E, N, K, D) and query (E, Q, D) are embeddings, of all E episodes at once.
        """
        raise NotImplementedError

    def episode_scores(self, data: "EmbeddedBank", episodes: Episodes) -> Tensor:
        """Scores (E, Q, N) of whole episodes: the hook of learners that adapt to each episode from its images.

        `data.embeddings` holds `embed` of every image of the split; `data.bank` the images themselves.
        """
        support, query = episodes.support, episodes.query.flatten(1)
        # index_select copies whole rows, an index in brackets number by number
        rows = [data.embeddings.index_select(0, images.flatten()) for images in (support, query)]
        return self.scores(rows[0].unflatten(0, support.shape), rows[1].unflatten(0, query.shape))


class EmbeddedBank:
    """`bank`, and on first use the learner's `embeddings` (N, D) of all its images, in eval mode and float32.

    precision: the arithmetic of the backbone; float32 for every number that is reported.
    seconds: what the embedding took, 0 as long as nobody asked for it.
    """

    def __init__(self, learner: Learner, bank: ImageBank, precision: torch.dtype = torch.float32) -> None:
        self.bank = bank
        self._learner = learner
        self._precision = precision
        self.seconds = 0.0

    @property
    def device(self) -> torch.device:
        """Where the learner is, and so the embeddings: not the bank, where that is too large."""
        return next((parameter.device for parameter in self._learner.parameters()), self.bank.device)

    @functools.cached_property
    def embeddings(self) -> Tensor:
        learner, was_training = self._learner, self._learner.training
        began = time.perf_counter()
        learner.eval()
        # by default PyTorch lets a GPU round the products of float32 convolutions to TF32
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.no_grad(), computing_in(learner.backbone, self._precision), exact:
            parts = torch.arange(len(self.bank), device=self.device).split(_BATCH)
            embeddings = torch.cat([learner.embed(self.bank.batch(part)).float() for part in parts])
        learner.train(was_training)
        if embeddings.is_cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - began
        return embeddings


@contextlib.contextmanager
def computing_in(backbone: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """Inside, a Backbone computes in `precision`; backbones of another kind compute as they do."""
    usual = getattr(backbone, "precision", None)
    backbone.precision = precision
    try:
        yield
    finally:
        backbone.precision = usual
