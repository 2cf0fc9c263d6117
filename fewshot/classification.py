"""Regularisers of a classifier of base classes: smoothed targets, turned images, mixed images, a teacher."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes.errors import InputError
from fewshot import checkpoints
from fewshot.config import Classification
from fewshot.learners.base import Learner
from fewshot.models import ModelSpec

_TEACHER_TEMPERATURE, _TEACHER_SHARE = 4.0, 0.5  # Tian et al. 2020: scripts/run_distill.sh of the authors' code


class RegularisedLoss(nn.Module):
    """The training loss of a learner that classifies base classes, with the regularisers of `settings`.

    The learner has `class_logits`, the logits (B, classes) of what its backbone makes of B images. Modules that only
    the training needs are here, so that the learner and its weights are the same as without regularisers.

    smoothing  of the targets: the right class has 1 - smoothing + smoothing / classes
    rotation   weight of the cross-entropy by which a linear layer tells by how many quarters an image is turned
               (Gidaris et al. 2018). The second half of each batch is turned at random, by no quarter to three
    mixup      'images' (Zhang et al. 2018): each image and its target are mixed with another of the batch, by shares
               from Beta(2, 2); 'maps' (Verma et al. 2019, S2M2 of Mangla et al. 2020): images are mixed before a block
               of the network that is drawn for each image. Turned images are not mixed
    teacher    the checkpoint of a learner that the same base classes trained: half of the loss is then the divergence
               from its predictions at temperature 4 (Tian et al. 2020)
    """

    def __init__(self, learner: Learner, settings: Classification) -> None:
        super().__init__()
        self.learner, self.settings, self._class_logits = learner, settings, _class_logits(learner)
        self.turns = nn.Linear(learner.backbone.embedding_size, 4) if settings.rotation else None
        self._blocks = learner.backbone.blocks if settings.mixup == "maps" else []
        self._teacher = _teacher(learner, Path(settings.teacher)) if settings.teacher else None

    @property
    def name(self) -> str:
        return self.learner.name

    @property
    def stages(self) -> tuple[float, ...]:
        return self.learner.stages

    @property
    def backbone(self) -> nn.Module:
        return self.learner.backbone

    @property
    def own(self) -> nn.ModuleList:
        """The modules that are not the learner's."""
        return nn.ModuleList(filter(None, [self.turns]))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of images (B, C, H, W) and labels (B,), a scalar."""
        count = len(images) // 2 if self.turns is not None else 0
        images, quarters = _turned(images, count)
        mixing = _Mixing(len(images), len(images) - count, images.device)
        if self.settings.mixup == "images":
            images = mixing.mixed(images, mixing.shares)
        with mixing.inside(self._blocks):
            features = self.learner.backbone(images)
        logits = self._class_logits(features)
        loss = self._cross_entropy(logits, labels)
        if self.settings.mixup:
            loss = torch.lerp(self._cross_entropy(logits, labels[mixing.partners]), loss, mixing.shares)
        loss = loss.mean()
        if self._teacher is not None:
            loss = torch.lerp(loss, _divergence(logits, self._teacher(images)), _TEACHER_SHARE)
        if self.turns is not None:
            loss = loss + self.settings.rotation * functional.cross_entropy(self.turns(features), quarters)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.settings.smoothing)


def _turned(images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The images, the last `count` of them turned at random; by how many quarters each one (B,)."""
    quarters = torch.randint(4, (len(images),), device=images.device)
    quarters = quarters * (torch.arange(len(images), device=images.device) >= len(images) - count)
    for quarter in range(1, 4) if count else ():
        chosen = (quarters == quarter)[:, None, None, None]
        images = torch.where(chosen, images.rot90(quarter, (2, 3)), images)
    return images, quarters


class _Mixing:
    """For the first `count` images of a batch, the image that each is mixed with, `partners` (B,), and its own share
    (B,); the shares of the other images are 1."""

    def __init__(self, images: int, count: int, device: torch.device) -> None:
        rest = torch.arange(count, images, device=device)
        self.partners = torch.cat([torch.rand(count, device=device).argsort(), rest])
        drawn = torch.rand(3, count, device=device).sort(0).values[1]  # the median of three is of Beta(2, 2)
        self.shares = torch.cat([drawn, torch.ones(len(rest), device=device)])

    def mixed(self, maps: Tensor, shares: Tensor) -> Tensor:
        """maps (B, C, H, W), each mixed with its partner's; `shares` (B,) are their own."""
        return torch.lerp(maps[self.partners], maps, shares.to(maps.dtype)[:, None, None, None])

    @contextlib.contextmanager
    def inside(self, blocks: Sequence[Sequence[nn.Module]]) -> Iterator[None]:
        """Inside, each image is mixed before one of the `blocks` (see Backbone.blocks) that is drawn for it."""
        place = torch.randint(max(1, len(blocks)), self.shares.shape, device=self.shares.device)
        hooks = []
        for number, side_by_side in enumerate(blocks):
            shares = torch.where(place == number, self.shares, 1.0)
            hooks += [
                block.register_forward_pre_hook(lambda _, inputs, shares=shares: self.mixed(inputs[0], shares))
                for block in side_by_side
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _class_logits(learner: Learner) -> Callable[[Tensor], Tensor]:
    """The method `class_logits` of the learner; InputError if it has none, or a loss that does not come from it."""
    class_logits: Callable[[Tensor], Tensor] | None = getattr(learner, "class_logits", None)
    author = next(cls for cls in type(learner).mro() if "loss" in vars(cls))
    if class_logits is None or "class_logits" not in vars(author):  # another loss would be replaced silently
        raise InputError(
            f"{learner.name} does not train as a classifier of base classes alone: leave out its table"
            " `classification`, which only such learners use"
        )
    return class_logits


def _teacher(learner: Learner, path: Path) -> Callable[[Tensor], Tensor]:
    """The logits of images by the checkpoint `path`, which must be of the learner's class and number of classes."""
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    refused = InputError(f"{path} is no checkpoint of {learner.name}, which its teacher must be")
    if spec.learner != learner.name:
        raise refused
    teacher = spec.build(type(learner))
    try:
        teacher.load_state_dict(content["learner"])
    except RuntimeError as error:
        raise refused from error
    teacher.to(next(learner.parameters()).device).eval().requires_grad_(requires_grad=False)
    class_logits = _class_logits(teacher)
    return lambda images: class_logits(teacher.backbone(images))


def _divergence(logits: Tensor, of_teacher: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of softened predictions, times the squared temperature (Hinton et al. 2015)."""
    soft, target = (functional.log_softmax(one / _TEACHER_TEMPERATURE, 1) for one in (logits, of_teacher))
    return functional.kl_div(soft, target, reduction="batchmean", log_target=True) * _TEACHER_TEMPERATURE**2
