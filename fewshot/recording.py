"""The gradients of training batches: computed one operation after the other, or replayed from a recording on a GPU."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from episodes import InputError
from fewshot.backbones import Backbone
from fewshot.classification import RegularisedLoss
from fewshot.embedding import described
from fewshot.learners.base import Learner
from fewshot.learners.faults import place_of

_WARM = 3  # batches before the recording, in which libraries choose their kernels and take their memory

log = logging.getLogger("fewshot")

Work = Callable[[], Tensor]
Gradients = Callable[[Tensor, Tensor], Tensor]


def gradients_of(learner: Learner | RegularisedLoss, device: torch.device) -> Gradients:
    """A function of images (B, C, H, W) and labels (B,), batches of few different shapes, that leaves the gradients of
    the loss in the weights of `learner` and returns the loss: a scalar, detached.

    On a GPU it replays a recording if the learner trains in one stage, its backbone is one of the suite's, and the
    first batches show that a step can be recorded. `grad` of the weights is then memory of the recording: it must not
    be set to None.
    """
    if device.type == "cuda" and not learner.stages and isinstance(learner.backbone, Backbone):
        return Recorded(learner, record_on_gpu)
    return functools.partial(computed, learner)


def _author(learner: Learner | RegularisedLoss) -> Learner:
    return learner.learner if isinstance(learner, RegularisedLoss) else learner


def computed(learner: Learner | RegularisedLoss, images: Tensor, labels: Tensor) -> Tensor:
    """The loss, detached; its gradients are left in the weights. InputError if the loss has none."""
    loss = learner.loss(images, labels)
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
        given = f"{loss!r:.60}" if isinstance(loss, Tensor) and loss.ndim == 0 else described(loss)
        raise InputError(
            f"the loss of {learner.name}{place_of(_author(learner), 'loss')} must be a scalar tensor that depends on"
            f" the weights, not {given}"
        )
    learner.zero_grad(set_to_none=True)
    try:
        loss.backward()
    except RuntimeError as error:
        if place := place_of(_author(learner), "loss"):
            said = " ".join(str(error).split())
            raise InputError(f"the loss of {learner.name}{place} cannot be differentiated: {said}") from error
        raise
    return loss.detach()


class Recorded:
    """Gradients by a recording that is made after a few batches, and replayed batch after batch.

    A Conv-4 step has some 250 small kernels: launched one by one from Python they take longer than they run. `record`
    makes the recording (see record_on_gpu). The first batches are watched: a step is recorded if all of them did the
    same operations, and none waited for a value. Other learners train operation by operation. A warning says so if the
    recording fails in spite of that.
    """

    def __init__(
        self, learner: Learner | RegularisedLoss, record: Callable[[Work], tuple[Tensor, Callable[[], None]]]
    ) -> None:
        self._learner, self._record = learner, record
        self._watched: list[Operations] = []
        self._one_by_one = False
        self._replay: Callable[[], None] | None = None
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if images.shape != self._shape:  # a recording is of one shape: another size of images begins again
            self._shape, self._watched, self._replay = images.shape, [], None
        if len(self._watched) < _WARM:
            with Operations() as operations:
                loss = _aside(functools.partial(computed, self._learner, images, labels), images.device)
            self._watched.append(operations)
            return loss
        if self._replay is None and not self._one_by_one:
            self._begin(images, labels)
        if self._replay is None:
            return computed(self._learner, images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        return self._loss.clone()  # the next replay writes over it

    def _begin(self, images: Tensor, labels: Tensor) -> None:
        if obstacle := obstacle_to_recording(self._watched):
            self._one_by_one = True
            log.info("%s trains operation by operation: %s", self._learner.name, obstacle)
            return
        self._images, self._labels = images.clone(), labels.clone()
        try:
            self._loss, self._replay = self._record(
                functools.partial(computed, self._learner, self._images, self._labels)
            )
        except (RuntimeError, InputError) as error:
            self._one_by_one = True
            cause = error.__context__ or error  # what happened inside, not that the recording was broken off
            said = " ".join(str(cause).split())[:200]
            log.warning("%s cannot be recorded on this GPU, and trains slower for it: %s", self._learner.name, said)


def record_on_gpu(work: Work) -> tuple[Tensor, Callable[[], None]]:
    """Record the kernels of `work` in a CUDA graph without running them: the result of `work`, and a replay function.

    Each replay reads the memory of the tensors that `work` read, and writes to the memory of the tensors it made.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=_side_stream(current.device)):
            result = work()
    finally:
        torch.cuda.set_stream(current)  # a recording that is broken off leaves its own stream behind
    return result, graph.replay


def _aside(work: Work, device: torch.device) -> Tensor:
    """`work` on the stream of the recording, as PyTorch asks for the warm-up before a recording."""
    if device.type != "cuda":
        return work()
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = work()
    current.wait_stream(side)
    return result


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


class Operations(TorchDispatchMode):
    """Inside, notes every operation, forward and backward, as a recording of it would hold it.

    done     name and arguments of each, of tensors only their shapes
    waiting  the names of the operations for which the CPU waits for a GPU: their result or its shape depends on values,
             or they copy between CPU and GPU
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, ...]] = []
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        self.done.append((str(function), *(one.shape if isinstance(one, Tensor) else one for one in leaves)))
        result = function(*args, **(kwargs or {}))
        devices = {one.device.type for one in [*leaves, *tree_leaves(result)] if isinstance(one, Tensor)}
        if _waits(function, leaves) or len(devices) > 1:
            self.waiting.append(function.overloadpacket.__name__)
        return result


def obstacle_to_recording(watched: Sequence[Operations]) -> str:
    """Why a step cannot be recorded, in a few words, from the operations of several batches; '' if it can."""
    if waiting := dict.fromkeys(name for operations in watched for name in operations.waiting):
        return f"a GPU would be waited for in {', '.join(waiting)}"
    first, *others = (operations.done for operations in watched)
    for other in others:
        if first != other:
            changed = next((f"{one[0]} and {two[0]}" for one, two in zip(first, other) if one != two), "their number")
            return f"the operations change from batch to batch: {changed}"
    return ""


# a Python number becomes a tensor on the CPU first; solvers check whether they succeeded
_COPIED_OR_CHECKED = ("lift_fresh", "_linalg_check_errors")


def _waits(function: Any, leaves: list[Any]) -> bool:
    """Whether the CPU waits for a GPU in an operation on these arguments."""
    name = function.overloadpacket.__name__
    if name.startswith(("index", "_index")):  # any of them might be by a mask, and is only then of unknown shape
        return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in leaves[1:])
    unknown = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return name in _COPIED_OR_CHECKED or bool(unknown & {*function.tags})
