"""Base and novel classes side by side: the scores of both in one label space, for generalised and sessions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from episodes import ImageBank, InputError
from fewshot.devices import exact, exact_device
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.protocols.base import NotComparable
from fewshot.protocols.similarity import rounding_of, scores_apart, scores_embeddings

_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27, "mps": 1 << 25}  # scores worked on at once
SUPPORT = 20  # training images of a base class that stand for it, at most


class BaseScores(NamedTuple):
    """The scores that a learner gives its base classes.

    of     scores (Q, classes) of embeddings (Q, D)
    width  how many numbers are computed for a query
    known  the word in tables: 'weights', or how many training images stand for a class
    """

    of: Callable[[Tensor], Tensor]
    width: int
    known: str


class Rivals(NamedTuple):
    """Base-class scores of the images of a bank, (M,) each.

    best  the highest score of a base class
    tied  how many base classes have that score
    own   the score of the image's own class; minus infinity for images of novel classes
    """

    best: Tensor
    tied: Tensor
    own: Tensor

    def of(self, images: Any) -> "Rivals":
        """Those of the images at the index `images`."""
        return Rivals(self.best[images], self.tied[images], self.own[images])


class BaseClasses(NamedTuple):
    """The base classes as rivals of novel ones, for one learner.

    novel     of the images of novel classes
    held_out  of the held-out images of base classes
    rounding  how far apart rounding may put equal scores
    known     as in BaseScores
    """

    novel: Rivals
    held_out: Rivals
    rounding: float
    known: str


def base_classes(learner: Learner, novel: EmbeddedBank, train: EmbeddedBank, held_out: EmbeddedBank) -> BaseClasses:
    """The base classes as rivals for the images of `novel` and `held_out`, which do not depend on an episode.

    train: the images that the learner was trained on; held_out: other images of the same classes. Raises NotComparable
    if the learner cannot score base and novel classes together (see check_joint).
    """
    check_joint(learner, novel.embeddings)
    base = _base_scores(learner, train)
    rounding = rounding_of(lambda a, b: learner.scores(b[:, :, None], a), novel.embeddings)
    own = held_out.bank.labels.to(novel.device)
    return BaseClasses(
        novel=_rivals(learner, base, novel.embeddings, None, rounding),
        held_out=_rivals(learner, base, held_out.embeddings, own, rounding),
        rounding=rounding,
        known=base.known,
    )


def check_joint(learner: Learner, embeddings: Tensor) -> None:
    """NotComparable if the learner cannot put base and novel classes side by side.

    embeddings (M, D): of any images
    """
    if not scores_embeddings(learner):
        raise NotComparable(f"{learner.name} scores whole episodes, and an episode has no base classes")
    if learner.traits.transductive:
        raise NotComparable(
            f"{learner.name} scores the queries of an episode together, and an episode has no queries of base classes"
        )
    if not _has_base_logits(learner) and not scores_apart(learner, embeddings):
        raise NotComparable(
            f"{learner.name} scores a class by the other classes of an episode, and keeps nothing of its base classes"
            " (base_logits): novel and base classes cannot be put side by side"
        )


def share_right(scores: Tensor, own: Tensor, rival: Rivals, rounding: float) -> Tensor:
    """How much of each query is right, (E, Q) in [0, 1]: 1 / the number of classes that share the highest score, if its
    own class is one of them, else 0.

    scores (E, Q, way) for novel classes, own (E, Q) for the query's own class, rival for the base classes
    """
    least = torch.maximum(scores.amax(2), rival.best) - rounding
    tied = (scores >= least[..., None]).sum(2) + rival.tied * (rival.best >= least)
    return exact(own >= least) / tied.to(exact_device(tied.device))


def _base_scores(learner: Learner, train: EmbeddedBank) -> BaseScores:
    """`base_logits` of the learner if it has them; else its `scores` for base classes whose support is their first
    training images, SUPPORT or as many as the smallest class has."""
    if _has_base_logits(learner):
        classes = learner.base_logits(train.embeddings[None, :1]).shape[2]
        return BaseScores(lambda query: learner.base_logits(query[None])[0], classes, "weights")
    bank = train.bank
    shot = min(SUPPORT, int(bank.sizes.min()))
    first = (bank.offsets[:-1, None] + torch.arange(shot, device=bank.offsets.device)).flatten()
    if shot * bank.classes < len(bank):
        train, first = EmbeddedBank(learner, bank.only(first)), torch.arange(len(first))
    support = train.embeddings[first.to(train.device)].view(1, bank.classes, shot, -1)
    return BaseScores(lambda query: learner.scores(support, query[None])[0], bank.classes * shot, f"{shot} images")


def _rivals(learner: Learner, base: BaseScores, embeddings: Tensor, labels: Tensor | None, rounding: float) -> Rivals:
    """The Rivals of embeddings (M, D); labels (M,): their base classes, None for images of other classes."""
    found = []
    size = max(1, _CHUNK[embeddings.device.type] // base.width)
    for images in torch.arange(len(embeddings), device=embeddings.device).split(size):
        scores = base.of(embeddings[images])
        check_finite(learner, scores)
        best = scores.amax(1)
        own = torch.full_like(best, -torch.inf) if labels is None else scores.gather(1, labels[images, None])[:, 0]
        found.append((best, (scores >= best[:, None] - rounding).sum(1), own))
    best, tied, own = (torch.cat(parts) for parts in zip(*found))
    return Rivals(best, tied, own)


def _has_base_logits(learner: Learner) -> bool:
    return type(learner).base_logits is not Learner.base_logits


def check_finite(learner: Learner, scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise InputError(f"the scores of {learner.name} are not all finite numbers")


def harmonic(novel: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Values (E,) whose mean is the harmonic mean of the means of `novel` and `base` (E,), and whose spread gives its
    interval by the delta method."""
    n, b = novel.mean(), base.mean()
    mean = 2 * n * b / (n + b) if n + b > 0 else 0.0
    slopes = (2 * b**2 / (n + b) ** 2, 2 * n**2 / (n + b) ** 2) if n + b > 0 else (0.0, 0.0)
    return mean + slopes[0] * (novel - n) + slopes[1] * (base - b)


def check_held_out(protocol: str, banks: Mapping[str, ImageBank]) -> None:
    """InputError if no images of base classes are held out of training."""
    if "held_out" not in banks:
        raise InputError(
            f"{protocol} asks about images of base classes that training has not seen, and none were held out: train"
            " with held_out = 5 in [data], or --held-out 5, into a folder of its own"
        )
