"""Meta-learning an initialisation: MAML (Finn et al. 2017), and ANIL (Raghu et al. 2020), whose head alone adapts."""

import contextlib
import functools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from episodes import ClassBatches, Episodes, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.embedding import EmbeddedBank, computing_in
from fewshot.heads import on_counted
from fewshot.learners.base import Learner, Traits
from fewshot.learners.episodic import check_shot, cut_episodes
from fewshot.learners.held_norm import hold_norms, holding
from fewshot.learners.registry import register

# Pixels of the images of the episodes that are computed at once, each with weights of its own. A CPU computes one
# episode at a time: the arithmetic fills a core, and convolutions with stacked weights are slower than separate ones.
_CHUNK = {"cpu": 0, "cuda": 1 << 23, "mps": 1 << 21}


class _MetaLearner(Learner):
    """What MAML and ANIL share: batches that are cut into tasks, and a linear head that starts at zero.

    A head whose rows start alike serves any number and any order of classes (Ye and Chao 2022, UnicornMAML: one
    learned row for all of them). A term that all rows share cancels in the softmax, so this row may as well be zero
    (the zeroing trick of Kao et al. 2022), and no row is learned. From zero, the first inner step moves the head
    alone: no gradient passes through it to the network.

    The head descends on the mean loss of the support times the number of classes, so that one rate serves any number
    of classes.
    """

    batches = ClassBatches(classes=60, images=6)
    least_steps: ClassVar[int] = 1

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        way: int = 20,
        shot: int = 1,
        steps: int = 2,
        test_steps: int = 0,
        head_rate: float = 0.05,
    ) -> None:
        """way, shot: of the tasks that a training batch is cut into, one after another; the images of a class that
        are not support are queries, and classes too few for another task are left out.

        steps: inner steps in training; test_steps: in evaluation, 0 for as many; head_rate: their size for the head.
        """
        super().__init__(backbone, classes, variant)
        self.way, self.shot, self.steps, self.test_steps = way, shot, steps, test_steps or steps
        self.head_rate = self.inner_rate = head_rate
        least = self.least_steps
        wanted = {"way": (way, 2), "shot": (shot, 1), "steps": (steps, least), "test_steps": (self.test_steps, least)}
        for option, (value, least) in wanted.items():
            if value < least:
                raise InputError(f"{self.name} needs the option {option} to be {least} or more, not {value}")

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)

    def _head_step(self, head: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The heads (..., N, D) after one more step on the cross-entropy of the M support embeddings (..., M, D).

        labels (M, N) or (..., M, N), one-hot
        W - rate dL/dW with dL/dW = N times the mean over the images i of (softmax(W f_i) - y_i) f_i^T
        """
        images, way = labels.shape[-2:]
        missing = labels - (embeddings @ head.mT).softmax(-1)
        return head + self.head_rate / (images / way) * missing.mT @ embeddings

    def _tasks(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Support (T, N * K, ...) and queries (T, N * Q, ...) of the T tasks in a batch's images or embeddings."""
        support, query = cut_episodes(values, self.batches, self.way, self.shot)
        return support.flatten(1, 2), query.flatten(1, 2)

    def _adapted(self, module: nn.Module, support: Tensor, steps: int) -> nn.Module:
        """A clone of `module` after `steps` differentiable gradient steps on a task's support.

        support (N * K, ...) is what the module maps to scores (N * K, N).
        """
        first_order = self.variant == "first-order"
        clone = _learn2learn().algorithms.MAML(module, self.inner_rate, first_order=first_order).clone()
        for _ in range(steps):
            clone.adapt(_error(clone(support)))
        return clone.module

    def _adapted_head(self, embeddings: Tensor, steps: int) -> nn.Module:
        """A linear head from zero, after `steps` steps on a task's support embeddings (N * K, D)."""
        way = len(embeddings) // self.shot
        return self._adapted(_Head(embeddings, way, self._gain(way)), embeddings, steps)

    def _gain(self, way: int) -> float:
        """The factor of embeddings that makes a step of inner_rate on the mean loss one of head_rate on the sum.

        With scores (gain W) f, the head is gain W, and a step moves gain W by gain^2 times as much as W without a gain.
        """
        return math.sqrt(way * self.head_rate / self.inner_rate)


class _Head(nn.Module):
    """Scores (B, N) of embeddings (B, D): gain W f, with W (N, D) zero."""

    def __init__(self, embeddings: Tensor, way: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(embeddings.new_zeros(way, embeddings.shape[1]))
        self.gain = gain

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.gain * embeddings @ self.weight.mT


@register("maml")
class Maml(_MetaLearner):
    """A few gradient steps on the support adapt the whole network, whose learned weights make these steps effective.

    Training cuts a batch into tasks and descends on the loss of each task's queries after the inner steps on its
    support (Finn et al. 2017, algorithm 2). The head starts at zero, so the first step's gradient for the network
    is zero: the network adapts from the second step on, and there must be two steps or more.

    second-order  the loss is differentiated through the gradients of the inner steps (equation 1)
    first-order   the gradients of the inner steps count as constants (section 5.2)
    transductive  second-order, and batch norms use the statistics of each batch, at test of all queries, as in Finn's
                  code

    Finn et al. also learn the initial weights of the head. Here the head starts at zero, because a learned head serves
    only one number of classes, in one order.

    In all variants but transductive, batch norms use the statistics of the network before it adapts, and hold these
    statistics while the network adapts: the running statistics at test; in training the statistics of the support
    images of all tasks, and gradients pass through them. So the scores of a query depend only on the support and on the
    query itself, in training too. The network trains in float32, because second derivatives need the precision.
    """

    variants: ClassVar = {
        "second-order": Traits(fits_episodes=True, paper="Finn et al. 2017"),
        "first-order": Traits(fits_episodes=True, paper="Finn et al. 2017"),
        "transductive": Traits(fits_episodes=True, transductive=True, paper="Finn et al. 2017"),
    }
    least_steps = 2
    search: ClassVar = {
        "way": [5, 10, 20],
        "steps": (2, 4),
        "head_rate": (1e-3, 1.0, "log"),
        "inner_rate": (3e-4, 0.1, "log"),
    }

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        way: int = 20,
        shot: int = 1,
        steps: int = 2,
        test_steps: int = 0,
        head_rate: float = 0.05,
        inner_rate: float = 0.003,
    ) -> None:
        """inner_rate: the size of the inner steps for the network, on the mean loss; for the others see Anil."""
        super().__init__(backbone, classes, variant, way, shot, steps, test_steps, head_rate)
        self.inner_rate = inner_rate
        hold_norms(backbone, of_batch=self.traits.transductive)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query = self._tasks(images)
        losses = []
        with computing_in(self.backbone, torch.float32):
            if not self.traits.transductive:
                embeddings = self.backbone(support.flatten(0, 1)).unflatten(0, support.shape[:2])
            with holding(self.backbone):
                for task in range(len(support)):
                    first = self.backbone(support[task]) if self.traits.transductive else embeddings[task]
                    network = nn.Sequential(self.backbone, self._adapted_head(first, 1))
                    adapted = self._adapted(network, support[task], self.steps - 1)
                    losses.append(_error(adapted(query[task])))
        return torch.stack(losses).mean()

    def episode_scores(self, data: EmbeddedBank, episodes: Episodes, mask: Tensor | None = None) -> Tensor:
        """Scores (E, Q, N), each episode with its own weights, computed for several episodes at once (see _CHUNK)."""
        return on_counted(functools.partial(self._scored, data), episodes.support, mask, episodes.query.flatten(1))

    def _scored(self, data: EmbeddedBank, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) from the numbers of the images of support (E, M) and query (E, Q)."""
        numbers, labels = torch.cat([support, query], 1), labels.expand(len(support), -1, -1)
        chunk = max(1, _CHUNK[data.device.type] // (numbers.shape[1] * data.bank.images[0, 0].numel()))
        # by default PyTorch lets a GPU round the products of float32 convolutions to TF32
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.no_grad(), exact, computing_in(self.backbone, torch.float32):
            if chunk == 1:
                return torch.stack([self._scores_of(data.bank.batch(one), own) for one, own in zip(numbers, labels)])
            with _in_plain_layout(self.backbone):
                parts = (data.bank.batch(part.flatten()).unflatten(0, part.shape) for part in numbers.split(chunk))
                return torch.cat([vmap(self._scores_of)(part, own) for part, own in zip(parts, labels.split(chunk))])

    def _scores_of(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scores (Q, N) of one episode from its images (M + Q, C, H, W), by the steps that learn2learn makes.

        labels (M, N), one-hot: of the first M images, the support
        """
        support, query, targets = images[: len(labels)], images[len(labels) :], labels.argmax(1)

        def error(body: dict[str, Tensor], head: Tensor | None) -> tuple[Tensor, Tensor]:
            """The loss of the support, and the head after its step on it."""
            embeddings = functional_call(self.backbone, body, support)
            given = embeddings.detach()
            if head is None:  # the first step, which does not change the network
                head = self._head_step(given.new_zeros(labels.shape[1], given.shape[1]), given, labels)
            return functional.cross_entropy(embeddings @ head.mT, targets), self._head_step(head, given, labels)

        body = {name: value.detach() for name, value in self.backbone.named_parameters()}
        head: Tensor | None = None
        for _ in range(self.test_steps - 1):
            gradients, head = grad(error, has_aux=True)(body, head)
            body = {name: value - self.inner_rate * gradients[name] for name, value in body.items()}
        assert head is not None, "maml makes two steps or more"
        return functional_call(self.backbone, body, query) @ head.mT


@register("anil")
class Anil(_MetaLearner):
    """As maml, but the inner steps adapt the head alone.

    The network is trained through the inner steps and does not adapt at test (Raghu et al. 2020, section 4), so images
    are embedded once; in training the batch norms see all tasks of a batch together.

    second-order  the network learns from support and queries
    first-order   inner gradients count as constants, so the network learns from the queries alone
    """

    variants = dict.fromkeys(["second-order", "first-order"], Traits(fits_episodes=True, paper="Raghu et al. 2020"))
    search: ClassVar = {"way": [5, 10, 20], "steps": (1, 8), "head_rate": (1e-3, 1.0, "log")}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query = self._tasks(self.embed(images))
        heads = [self._adapted_head(task, self.steps) for task in support]
        return torch.stack([_error(head(task)) for head, task in zip(heads, query, strict=True)]).mean()

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return on_counted(self._scored, support, mask, query)

    def _scored(self, images: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        head = images.new_zeros(len(images), labels.shape[-1], images.shape[2])
        for _ in range(self.test_steps):
            head = self._head_step(head, images, labels)
        return query @ head.mT


@contextlib.contextmanager
def _in_plain_layout(backbone: nn.Module) -> Iterator[None]:
    """Inside, a Backbone keeps the layout of its input images, because vmap cannot change the layout."""
    if not isinstance(backbone, Backbone):
        yield
        return
    usual, backbone.layout = backbone.layout, torch.contiguous_format
    try:
        yield
    finally:
        backbone.layout = usual


def _error(scores: Tensor) -> Tensor:
    """The cross-entropy of scores (N * images, N) of a task's images, class after class."""
    way = scores.shape[1]
    return functional.cross_entropy(
        scores, torch.arange(way, device=scores.device).repeat_interleave(len(scores) // way)
    )


def _learn2learn() -> ModuleType:
    try:
        import learn2learn
    except ImportError as error:
        raise InputError(
            "maml and anil need the package learn2learn, which plain pip cannot build for this Python: make"
            " .venv/ready does, with what it needs, the extra 'meta'"
        ) from error
    return learn2learn
