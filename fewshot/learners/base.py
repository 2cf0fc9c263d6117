"""Learner: the contract between a few-shot method and the suite."""

import contextlib
import functools
import inspect
import time
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from episodes import ClassBatches, Episodes, ImageBank, InputError, class_texts
from episodes.batches import Batches
from episodes.errors import unknown_name

_BATCH = 1000  # images embedded at once


class Learner(nn.Module):
    """A few-shot method: how it trains on base classes, and how it scores queries given a support set.

    A learner defines `loss`, and `scores` or, where it works on an episode's images or names, `episode_scores`.

    In shapes, B images, E episodes of N ways, K shots and Q queries (all classes together), D embedding size.
    Keyword arguments of __init__ after `backbone` and `classes` are the learner's options: a preset may set them.

    batches       the training batches it wants, where the preset does not say
    variants      its forms, the first the default; `self.variant` is the chosen one. A form that looks at no support
                  image is called zero-shot, and compared with nothing
    paper         who published it and when, for listings
    trained       False where there is nothing to learn: no training step is made, and `loss` is never called
    supervised    False where it trains without class labels: each training image is then a class of its own, `labels`
                  are the images' numbers in the bank and `classes` is how many images there are
    adapts        True where it fits something to each episode: a head, its weights
    transductive  True where the scores of one query depend on other queries, or the variants of which that holds;
                  tables show it. Of a learner that was made it is True or False
    text          True where it reads the names of classes, in training or in episodes, or the variants of which that
                  holds; tables show it. `class_names` are then the texts of the base classes (episodes.class_texts).
                  Of a learner that was made it is True or False
    external      True where it starts from weights that were trained on other data; tables show it. Of a learner that
                  was made it is True too where its backbone got such weights
    compares      True where a network of its own compares two images: too slow for each image with all others
    recordable    True where `loss` does the same operations on every batch and never waits for the device, which
                  `item()`, a mask in brackets and `nonzero` do, or the variants of which that holds: on a GPU its
                  kernels are then recorded once and replayed (see fewshot/recording.py). What it keeps from batch to
                  batch are tensors that change in place. Not inherited: each class says it for itself. Of a learner
                  that was made it is True or False
    images_each   how many images a class the batches of the training that is going on have, None where that is not
                  known; a batch brings class after class then
    """

    name: ClassVar[str] = ""
    batches: ClassVar[Batches] = ClassBatches(classes=60, images=4)
    variants: ClassVar[tuple[str, ...]] = ("",)
    paper: ClassVar[str] = ""
    trained: ClassVar[bool] = True
    supervised: ClassVar[bool] = True
    adapts: ClassVar[bool] = False
    transductive: bool | Collection[str] = False
    text: bool | Collection[str] = False
    external: bool = False
    compares: ClassVar[bool] = False
    recordable: bool | Collection[str] = False
    images_each: int | None = None

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        """backbone: images (B, C, H, W) to (B, backbone.embedding_size); classes: how many base classes there are."""
        super().__init__()
        if variant:
            self.check_variant(variant)
        self.variant = variant or self.variants[0]
        self.transductive = self._holds(type(self).transductive)
        self.text = self._holds(type(self).text)
        self.recordable = self._holds(vars(type(self)).get("recordable", False))
        self.backbone = backbone
        self.classes = classes
        self.class_names: tuple[str, ...] = ()

    @classmethod
    def check_variant(cls, variant: str) -> None:
        """Raise InputError where there is no such variant; a learner of open-ended variants says which there are."""
        if variant not in cls.variants:
            raise unknown_name(f"variant of {cls.name or cls.__name__}", variant, filter(None, cls.variants))

    @classmethod
    def missing(cls, backbone: str, weights: str, **options: Any) -> str:
        """Why it cannot run here with such settings, '' where it can: what is lacking, and how it is to be had.

        For learners that need more than the suite does: an optional package, a file of weights. Such a one is left out
        where all learners are asked for. backbone, weights: as a preset gives them, '' where it does not.
        """
        return ""

    def _holds(self, declared: bool | Collection[str]) -> bool:
        return declared if isinstance(declared, bool) else self.variant in declared

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss of one batch, a scalar, from images (B, C, H, W) in [0, 1] and base-class labels (B,)."""
        raise NotImplementedError

    def begin_step(self, done: float) -> None:
        """Called before each training step, with the share of them that is done, in [0, 1): where stages change."""

    @property
    def complete(self) -> bool:
        """Whether training has reached all that is to be trained: the weights of a validation before are not kept.

        For learners that train in stages; the last validation always counts.
        """
        return True

    def begin_validation(self, base: "EmbeddedBank") -> None:
        """Called before each validation, or once where no step is made: what is to be known of base classes.

        `base` has a few thousand training images, always the same ones, as many of each class.
        """

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W)."""
        return self.backbone(images)

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        """Embeddings (T, D) of T texts, of learners that read the names of classes."""
        raise NotImplementedError

    def check_batches(self, batches: Batches) -> None:
        """Raise InputError where `loss` cannot work on such batches; by default, where they are of another kind."""
        if type(batches) is not type(self.batches):
            wanted = ", ".join(f"{field} = ..." for field in vars(self.batches))
            raise InputError(f"{self.name} trains on batches of the kind {{{wanted}}}, not on {vars(batches)}")

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) of each query for each class, higher is better.

        support (E, N, K, D) and query (E, Q, D) are embeddings, of all E episodes at once. A learner that draws numbers
        for an episode takes a third argument, `keys` (see Episodes.keys), None where there are none: what it draws is
        then a function of the episode's key, and so its scores depend neither on the other episodes nor on their order.
        """
        raise NotImplementedError

    def scores_with(self, support: Tensor, query: Tensor, keys: Tensor | None) -> Tensor:
        """`scores`, which is given the episodes' `keys` (E,) where it takes them."""
        given = {"keys": keys} if "keys" in inspect.signature(self.scores).parameters else {}
        return self.scores(support, query, **given)

    def episode_scores(self, data: "EmbeddedBank", episodes: Episodes) -> Tensor:
        """Scores (E, Q, N) of whole episodes: the hook of learners that work on an episode's images or names.

        `data.embeddings` holds `embed` of every image of the split, `data.text_embeddings` `embed_texts` of the text of
        every class; `data.bank` the images themselves.
        """
        support, query = episodes.support, episodes.query.flatten(1)
        # index_select copies whole rows, an index in brackets number by number
        rows = [data.embeddings.index_select(0, images.flatten()) for images in (support, query)]
        return self.scores_with(rows[0].unflatten(0, support.shape), rows[1].unflatten(0, query.shape), episodes.keys)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """How alike embeddings a (E, A, D) and b (E, B, D) are, (E, A, B): higher where they rather show one class.

        By default the score of a for a class of which b is the one support image. Verification and retrieval use it
        (see fewshot/protocols/similarity.py, also for when that is no similarity).
        """
        return self.scores(b[:, :, None], a)

    def base_logits(self, query: Tensor) -> Tensor:
        """Logits (E, Q, classes) of queries (E, Q, D) for the base classes, on the scale of `scores`.

        Only of learners that keep something of each base class, such as its weights.
        """
        raise NotImplementedError


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
            embeddings = torch.cat([_rows(learner, self.bank.batch(part)) for part in parts])
        learner.train(was_training)
        if embeddings.is_cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - began
        return embeddings

    @functools.cached_property
    def text_embeddings(self) -> Tensor:
        """`embed_texts` of the text of each class of the bank, (classes, D), each once and not once an episode."""
        learner, was_training = self._learner, self._learner.training
        learner.eval()
        with torch.no_grad():
            embeddings = learner.embed_texts(class_texts(self.bank)).float()
        learner.train(was_training)
        return embeddings


def _rows(learner: Learner, images: Tensor) -> Tensor:
    """The embeddings of `images`, checked to be one row an image."""
    embeddings = learner.embed(images)
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != len(images):
        raise InputError(
            f"embed of {learner.name} must give a tensor (B, D), one row for each of {len(images)} images, not"
            f" {described(embeddings)}"
        )
    return embeddings.float()


def described(value: object) -> str:
    """What somebody's method gave, in a few words: a tensor by its shape and type."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"{value!r:.60}"


@contextlib.contextmanager
def computing_in(backbone: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """Inside, a Backbone computes in `precision`; backbones of another kind compute as they do."""
    usual = getattr(backbone, "precision", None)
    backbone.precision = precision
    try:
        yield
    finally:
        backbone.precision = usual


@contextlib.contextmanager
def learning_from(learner: Learner, batches: Batches) -> Iterator[None]:
    """Inside, the learner knows how many images a class the batches have."""
    learner.images_each = getattr(batches, "images", None)
    try:
        yield
    finally:
        learner.images_each = None
