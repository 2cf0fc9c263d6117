"""Specimen: a learner under examination, made, trained a little and scored on tiny banks."""

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from episodes import ClassBatches, Episodes, EpisodeSampler, ImageBank, InputError
from episodes.batches import Batches
from fewshot.config import Training
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, resolved, scores_of_episodes
from fewshot.learners.registry import default_options, find_learner, missing, split_backbone
from fewshot.models import ModelSpec
from fewshot.training import enter_stage

BACKBONE = "conv4-32-linear"  # the quickest one that has batch norm
WAY, SHOT, QUERY, EPISODES = 5, 3, 2, 3  # of the episodes that are scored: no two sizes of a score are the same
_SIZE = 16  # pixels
_STEPS = 12  # of the training that comes before scoring
_RATE = 3e-3
# of classes: words, since some learners read them
_COLOURS = ["red", "green", "blue", "white", "black", "brown", "grey", "golden", "silver", "purple", "orange", "pink"]
_THINGS = [
    "fox",
    "owl",
    "crab",
    "ship",
    "church",
    "violin",
    "teapot",
    "barrel",
    "bridge",
    "rocket",
    "camera",
    "lemon",
    "bus",
    "hen",
    "wolf",
    "lamp",
]
_FEW = {"classes": 10, "images": 4, "size": 40}  # of a training batch, if the learner accepts them


class Specimen:
    """One learner in one variant, with its default options, on one backbone.

    train_bank, test_bank  classes that are easy to tell apart; enough of them for the batches that it asks for
    results                the results of its checks, by their names
    """

    def __init__(self, cls: type[Learner], variant: str = "", backbone: str = BACKBONE) -> None:
        cls.name = cls.__dict__.get("name") or cls.__name__
        self.cls, self.backbone = cls, backbone
        self.variant, self.traits = resolved(cls, variant)
        wanted = {**_FEW, **vars(cls.batches)}
        images = max(wanted["images"] + 2, 12)
        self.train_bank = _bank(max(wanted["classes"], -(-wanted["size"] // images), 10), images, seed=1, split="train")
        self.test_bank = _bank(8, 12, seed=2, split="test")
        self.results: dict[str, Any] = {}

    def __str__(self) -> str:
        return ":".join(filter(None, [self.cls.name, self.variant]))

    @property
    def missing(self) -> str:
        """Why the learner cannot run here, '' if it can."""
        return missing(self.cls, {"backbone": self.backbone})

    def build(self, seed: int = 0) -> Learner:
        """A fresh learner with its default options."""
        settings = Training(backbone=self.backbone, options=default_options(self.cls))
        return ModelSpec.of(self.cls, self.train_bank, settings, variant=self.variant, seed=seed).build(self.cls)

    @functools.cached_property
    def batches(self) -> Batches:
        """The smallest training batches that the learner accepts, of a few that are tried."""
        learner, usual = self.build(), self.cls.batches
        fewer = {name: min(number, _FEW[name]) for name, number in vars(usual).items()}
        attempts: list[Batches] = [dataclasses.replace(usual, **fewer)]
        if isinstance(usual, ClassBatches):  # few classes, of which as many images as usual
            attempts.append(ClassBatches(fewer["classes"], usual.images))
        for batches in attempts:
            with contextlib.suppress(InputError):
                learner.check_batches(batches)
                return batches
        return usual

    @functools.cached_property
    def stages(self) -> tuple[float, ...]:
        """The shares of the training at which the checks compute the loss: 0, and the start of each further stage."""
        return tuple(dict.fromkeys([0.0, *self.build().stages]))

    def batch(
        self, bank: ImageBank | None = None, step: int = 0, batches: Batches | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of one training batch, as the trainer makes them."""
        bank = bank or self.train_bank
        indices = _indices(batches or self.batches, bank, step)
        return bank.batch(indices), bank.labels[indices] if self.traits.uses_labels else indices

    def train(self, learner: Learner, steps: int = _STEPS, seed: int = 0, bank: ImageBank | None = None) -> Learner:
        """The learner after `steps` steps on changing batches; the same for one seed, if the learner keeps its promise.

        This method does not use the suite's trainer, which scores validation episodes in between: wrong scores must
        fail the checks of the scores alone.
        """
        seed_all(seed)
        self.begin(learner)
        optimizer = optimizer_of(learner)
        for step in range(steps):
            enter_stage(learner, step / steps)
            descend(optimizer, learner.loss(*self.batch(bank, step)))
        return learner

    def begin(self, learner: Learner) -> None:
        """What the trainer does before the first step."""
        learner.batches = self.batches
        learner.train()

    def ready(self) -> Learner:
        """A new learner that can score: trained a little, or untrained if its training fails."""
        learner = self.build()
        if self._weights is not None:
            learner.load_state_dict(self._weights)
        return learner

    @functools.cached_property
    def _weights(self) -> dict[str, Tensor] | None:
        if not self.traits.trains:
            return None
        try:
            weights = copy.deepcopy(self.train(self.build()).state_dict())
        except Exception:  # the checks of the loss tell what is wrong with the loss
            return None
        return weights if all(value.isfinite().all() for value in weights.values()) else None

    @functools.cached_property
    def expected(self) -> Tensor:
        """The scores (E, Q, N) of the usual episodes, which those of changed ones are compared with."""
        return self.scores(self.ready(), self.episodes())

    def episodes(self, shot: int = SHOT, way: int = WAY, start: int = 0) -> Episodes:
        """Three episodes of the test bank: copies, so that a learner that writes into them harms nobody else."""
        return _drawn(self.test_bank, shot, way, start).each(torch.clone)

    @torch.no_grad()
    def scores(self, learner: Learner, episodes: Episodes, bank: ImageBank | None = None, seed: int | None = 0) -> Any:
        """The scores of `episodes` as an evaluation asks for them.

        seed: of PyTorch's global generator, None to let it go on
        """
        learner.eval()
        if seed is not None:
            seed_all(seed)
        return scores_of_episodes(learner, EmbeddedBank(learner, bank or self.test_bank), episodes)


def specimens(what: str | type[Learner], backbone: str = BACKBONE) -> list[Specimen]:
    """A learner in all its variants, or in the one that is named: a class, or what find_learner takes, whose @BACKBONE
    overrides `backbone`."""
    if isinstance(what, str):
        cls, variant = find_learner(what)
        backbone = split_backbone(what)[1] or backbone
    else:
        cls, variant = what, ""
    return [Specimen(cls, one, backbone) for one in ([variant] if variant else cls.variants)]


def seed_all(seed: int) -> None:
    """torch.manual_seed, but on the CPU alone if there is no GPU: noting the seed for a GPU takes five milliseconds."""
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def optimizer_of(learner: Learner) -> torch.optim.Optimizer:
    return torch.optim.AdamW(learner.parameters(), _RATE, weight_decay=0.0)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def permuted(bank: ImageBank, order: Tensor) -> ImageBank:
    """The bank with image `order[i]` in place i, and class borders that have nothing to do with classes."""
    cuts = torch.arange(1, bank.classes).square()  # rising, and of all distances
    offsets = torch.cat([bank.offsets[:1], cuts * (len(bank) - 1) // int(cuts[-1] + 1), bank.offsets[-1:]])
    return dataclasses.replace(bank, images=bank.images[order], offsets=offsets)


def moved_borders(bank: ImageBank) -> ImageBank:
    """The bank with every second class border one image earlier."""
    offsets = bank.offsets.clone()
    offsets[1:-1:2] -= 1
    return dataclasses.replace(bank, offsets=offsets)


def one_by_one(episodes: Episodes) -> Iterator[Episodes]:
    """Each episode by itself."""
    for place in range(len(episodes)):
        yield episodes.each(lambda part: part[place : place + 1])  # noqa: B023 (called at once)


def _names() -> Iterator[str]:
    """'red fox', 'red owl' and so on; never the same again."""
    for number in itertools.count(1):
        mark = [] if number == 1 else [str(number)]
        for words in itertools.product(_COLOURS, _THINGS):
            yield " ".join([*words, *mark])


@functools.lru_cache(maxsize=64)
def _drawn(bank: ImageBank, shot: int, way: int, start: int) -> Episodes:
    return EpisodeSampler(bank, way, shot, QUERY, seed=0).episodes(start, EPISODES)


@functools.lru_cache(maxsize=64)
def _indices(batches: Batches, bank: ImageBank, step: int) -> Tensor:
    return batches.indices(bank, seed=0, step=step)


@functools.lru_cache(maxsize=8)
def _bank(classes: int, images: int, seed: int, split: str) -> ImageBank:
    """Grey images: each class a random pattern of coarse blocks, its images the pattern with noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 1, 4, 4, generator=generator)
    patterns = patterns.repeat_interleave(_SIZE // 4, 3).repeat_interleave(_SIZE // 4, 4)
    noise = torch.rand(classes, images, 1, _SIZE, _SIZE, generator=generator)
    pixels = ((0.7 * patterns + 0.3 * noise) * 255).byte().flatten(0, 1)
    names = tuple(itertools.islice(_names(), classes))
    offsets = torch.arange(classes + 1) * images
    return ImageBank(pixels, offsets, names, names, dataset="check", protocol="random", split=split)
