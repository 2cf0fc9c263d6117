"""The gradients of training batches: computed one operation after the other, or replayed from a recording on a GPU."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from episodes import InputError
from fewshot.backbones import Backbone
from fewshot.learners.base import Learner, described
from fewshot.learners.faults import place_of

_WARM = 3  # batches before the recording, in which libraries choose their kernels and take their memory

log = logging.getLogger("fewshot")

Work = Callable[[], Tensor]
Gradients = Callable[[Tensor, Tensor], Tensor]


def gradients_of(learner: Learner, device: torch.device) -> Gradients:
    """A function of images (B, C, H, W) and labels (B,), all batches of one shape, that leaves the gradients of the
    loss in the weights of `learner` and returns the loss: a scalar, detached.

    On a GPU it replays a recording where the learner is `recordable`. `grad` of the weights is then memory of the
    recording: it must not be set to None.
    """
    if device.type == "cuda" and recordable(learner):
        return Recorded(learner, record_on_gpu)
    return functools.partial(computed, learner)


def recordable(learner: Learner) -> bool:
    """Whether the learner's own class promises it, and the backbone is one of the suite's."""
    return vars(type(learner)).get("recordable", False) and isinstance(learner.backbone, Backbone)


def computed(learner: Learner, images: Tensor, labels: Tensor) -> Tensor:
    """The loss, detached; its gradients are left in the weights. InputError where it has none."""
    loss = learner.loss(images, labels)
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        given = f"{loss!r:.60}" if isinstance(loss, Tensor) and loss.ndim == 0 else described(loss)
        raise InputError(
            f"the loss of {learner.name}{place_of(learner, 'loss')} must be a scalar tensor that depends on the"
            f" weights, not {given}"
        )
    learner.zero_grad(set_to_none=True)
    try:
        loss.backward()
    except RuntimeError as error:
        if where := place_of(learner, "loss"):
            said = " ".join(str(error).split())
            raise InputError(f"the loss of {learner.name}{where} cannot be differentiated: {said}") from error
        raise
    return loss.detach()


class Recorded:
    """Gradients by a recording that is made after a few batches, and replayed batch after batch.

    A Conv-4 step has some 250 small kernels: launched one by one from Python they take longer than they run. `record`
    makes the recording (see record_on_gpu). A learner that cannot be recorded trains operation by operation, and a
    warning says so.
    """

    def __init__(self, learner: Learner, record: Callable[[Work], tuple[Tensor, Callable[[], None]]]) -> None:
        self._learner, self._record = learner, record
        self._warmed = 0
        self._step: Gradients = self._warm_up

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._step(images, labels)

    def _warm_up(self, images: Tensor, labels: Tensor) -> Tensor:
        self._warmed += 1
        if self._warmed == _WARM:
            self._step = self._begin
        return _aside(functools.partial(computed, self._learner, images, labels), images.device)

    def _begin(self, images: Tensor, labels: Tensor) -> Tensor:
        self._images, self._labels = images.clone(), labels.clone()
        try:
            self._loss, self._replay = self._record(
                functools.partial(computed, self._learner, self._images, self._labels)
            )
            self._step = self._replayed
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            log.warning("%s cannot be recorded on this GPU, and trains slower for it: %s", self._learner.name, said)
            self._step = functools.partial(computed, self._learner)
        return self._step(images, labels)

    def _replayed(self, images: Tensor, labels: Tensor) -> Tensor:
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        return self._loss.clone()  # the next replay writes over it


def record_on_gpu(work: Work) -> tuple[Tensor, Callable[[], None]]:
    """Record the kernels of `work` in a CUDA graph, which runs none of them: its result, and what replays them.

    Each replay works on the memory of the tensors that `work` saw, and writes to that of those it made.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return result, graph.replay


def _aside(work: Work, device: torch.device) -> Tensor:
    """`work` on a stream of its own, as PyTorch asks of what goes before a recording."""
    if device.type != "cuda":
        return work()
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = work()
    current.wait_stream(side)
    return result


class Operations(TorchDispatchMode):
    """Inside, notes every operation, forward and backward, as a recording of it would hold it.

    done     name and arguments of each, of tensors only their shapes
    waiting  the names of those whose result, or its shape, depends on values, so that a GPU is waited for
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, ...]] = []
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        self.done.append((str(function), *(one.shape if isinstance(one, Tensor) else one for one in leaves)))
        indexing = function.overloadpacket.__name__.startswith(("index", "_index"))
        masks = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in leaves[1:])
        if masks if indexing else {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*function.tags}:
            self.waiting.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))
