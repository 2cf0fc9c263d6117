"""Encoders that no learner of a run trains: each image goes through such an encoder once, for all learners."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from episodes import FeatureBank, ImageBank
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner


class SharedOutputs:
    """The outputs of backbones for the batches of banks, kept for the next learner that has an equal backbone.

    threads: how many threads compute an output, also inside `one_thread`
    """

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._known: dict[tuple[str, str, int], Tensor] = {}

    def embedded(self, learner: Learner, bank: ImageBank) -> EmbeddedBank:
        """The bank with the learner's embeddings, as EmbeddedBank has them; features need no sharing."""
        return EmbeddedBank(learner, bank) if isinstance(bank, FeatureBank) else _SharedBank(learner, bank, self)

    @contextlib.contextmanager
    def replayed(self, backbone: nn.Module, batch: tuple[str, str, int], images: Tensor) -> Iterator[None]:
        """Inside, the backbone's output for the tensor `images` itself, which is the batch called `batch`, is computed
        only if it is not known. The output for any other tensor, such as mirrored images, is computed as usual."""
        compute = backbone.forward

        def replay(given: Tensor) -> Tensor:
            if given is not images:
                return compute(given)
            if batch not in self._known:
                self._known[batch] = compute(given)
            return self._known[batch]

        vars(backbone)["forward"] = replay
        try:
            yield
        finally:
            del vars(backbone)["forward"]


def one_thread() -> threadpool_limits:
    """The context in which heads are fitted and scored: the threads of two cores wait for each other longer than they
    work on the few images of an episode, and many times as long if another program needs a core."""
    return threadpool_limits(1)


class _SharedBank(EmbeddedBank):
    """An EmbeddedBank that takes what it can from the outputs of earlier learners."""

    def __init__(self, learner: Learner, bank: ImageBank, outputs: SharedOutputs) -> None:
        super().__init__(learner, bank)
        self._outputs = outputs
        self._asked = 0  # the number of batches that were asked for, since `embeddings` asks for them in order

    @functools.cached_property
    def embeddings(self) -> Tensor:
        bar = tqdm(total=len(self.bank), desc="embedding", unit="image", disable=None, leave=False)
        with threadpool_limits(self._outputs.threads), bar as self._bar:
            return super().embeddings

    @functools.cached_property
    def _backbone(self) -> str:
        return _digest(self._learner.backbone)

    def _embed(self, images: Tensor) -> Tensor:
        batch = self._backbone, self.bank.checksum, self._asked
        self._asked += 1
        with self._outputs.replayed(self._learner.backbone, batch, images):
            found = super()._embed(images)
        self._bar.update(len(images))
        return found


def _digest(module: nn.Module) -> str:
    """A digest of a module's structure, weights and buffers: equal modules give equal outputs in eval mode."""
    digest = hashlib.sha256(repr(module).encode())
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
