"""The embeddings of a split by a learner, computed once for each image."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from episodes import FeatureBank, ImageBank, InputError, class_texts
from fewshot.backbones.base import Backbone
from fewshot.devices import placed

if TYPE_CHECKING:
    from fewshot.learners.base import Learner

_BATCH = 1000  # images embedded at once, unless the backbone takes fewer
_BATCH_OF_CPU = 128  # on a CPU: Conv-4 takes twice as long at 84 pixels with the feature maps of 1,000


class EmbeddedBank:
    """`bank` with the learner's `embeddings` (N, D) of all its images, computed on first use, in eval mode and float32.

    precision: the arithmetic of the backbone; float32 for every number that is reported.
    """

    def __init__(self, learner: "Learner", bank: ImageBank, precision: torch.dtype = torch.float32) -> None:
        check_channels(getattr(getattr(learner, "backbone", None), "channels", None), bank.images.shape[1], bank.name)
        self.bank = bank
        self._learner = learner
        self._precision = precision

    @property
    def device(self) -> torch.device:
        """The device of the learner and of the embeddings; a bank that is too large for it stays on the CPU."""
        return next((parameter.device for parameter in self._learner.parameters()), self.bank.device)

    @functools.cached_property
    def embeddings(self) -> Tensor:
        with _in_eval_mode(self._learner), computing_in(self._learner.backbone, self._precision):
            parts = in_batches(self._embed, self.bank, self.device, at_once(self._learner.backbone, self.device))
            embeddings = torch.cat(list(parts))
        if embeddings.is_cuda:
            torch.cuda.synchronize()
        return embeddings

    @property
    def width(self) -> int:
        """The size D of the embeddings, 0 before first use."""
        return self.embeddings.shape[1] if "embeddings" in vars(self) else 0

    def rows(self, images: Tensor) -> Tensor:
        """The embeddings (M, D) of the images numbered `images` (M,), float32.

        Embeddings of images are computed once for the whole split. Features are looked up in their file, and the
        learner embeds them again each time, so that memory does not grow with the file.
        """
        if "embeddings" not in vars(self) and isinstance(self.bank, FeatureBank):
            with _in_eval_mode(self._learner), torch.no_grad():
                return self._embed(self.bank.batch(images))
        # index_select copies whole rows; an index in brackets copies number by number
        return self.embeddings.index_select(0, images)

    def _embed(self, images: Tensor) -> Tensor:
        return _rows(self._learner, images)

    @functools.cached_property
    def text_embeddings(self) -> Tensor:
        """`embed_texts` of the text of each class of the bank, (classes, D), computed once and not once per episode."""
        with _in_eval_mode(self._learner), torch.no_grad():
            return self._learner.embed_texts(class_texts(self.bank)).float()


def embedded(learner: "Learner", bank: ImageBank) -> EmbeddedBank:
    """The bank on the device of the learner, with the learner's embeddings."""
    data = EmbeddedBank(learner, bank)
    data.bank = placed(bank, data.device)
    return data


def at_once(backbone: nn.Module, device: torch.device) -> int:
    """How many images an evaluation on `device` gives the backbone at once."""
    most: int = getattr(backbone, "at_once", _BATCH)
    return min(most, _BATCH_OF_CPU) if device.type == "cpu" else most


@torch.no_grad()
def in_batches(
    embed: Callable[[Tensor], Tensor], bank: ImageBank, device: torch.device, size: int = _BATCH_OF_CPU
) -> Iterator[Tensor]:
    """What `embed` makes of the images of `bank` (B, C, H, W), in order and in batches of `size`, on `device`.

    The bits of an embedding may depend on its batch: only the same batches give the same bits.
    """
    # by default PyTorch lets a GPU round the products of float32 convolutions to TF32
    exact = {"enabled": True, "deterministic": True, "allow_tf32": False}
    for part in torch.arange(len(bank), device=device).split(size):
        with torch.backends.cudnn.flags(**exact):
            yield embed(bank.batch(part))


def check_channels(wanted: int | None, there: int, name: str) -> None:
    """InputError if images have `there` channels and a model takes `wanted`; None if the latter is unknown."""
    if wanted is None or wanted == there:
        return
    colours = {1: "grey", 3: "rgb"}
    advice = f": name the data set with :{colours[wanted]} behind it" if wanted in colours else ""
    raise InputError(
        f"the model takes images of {wanted} {'channel' if wanted == 1 else 'channels'}, and those of {name} have"
        f" {there}{advice}"
    )


@contextlib.contextmanager
def computing_in(backbone: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """Inside, a Backbone computes in `precision`; backbones of other classes are unchanged."""
    if not isinstance(backbone, Backbone):
        yield
        return
    usual, backbone.precision = backbone.precision, precision
    try:
        yield
    finally:
        backbone.precision = usual


def described(value: object) -> str:
    """A value that a learner's method returned, in a few words: a tensor by its shape and type."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"{value!r:.60}"


@contextlib.contextmanager
def _in_eval_mode(learner: "Learner") -> Iterator[None]:
    was_training = learner.training
    learner.eval()
    try:
        yield
    finally:
        learner.train(was_training)


def _rows(learner: "Learner", images: Tensor) -> Tensor:
    """The embeddings of `images`, checked to be one row an image."""
    embeddings = learner.embed(images)
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != len(images):
        raise InputError(
            f"embed of {learner.name} must give a tensor (B, D), one row for each of {len(images)} images, not"
            f" {described(embeddings)}"
        )
    return embeddings.float()
