"""Generalised few-shot learning: novel classes beside all base classes, in one label space."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from episodes import EpisodeSampler, ImageBank, InputError
from fewshot.config import Evaluation, Generalised
from fewshot.devices import exact, exact_device
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, scores_of
from fewshot.protocols.base import FIRST, LAST, Arrays, NotComparable, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, sheet_of, with_seeds
from fewshot.protocols.similarity import measuring, rounding_of, scores_apart, scores_embeddings
from fewshot.records import labels
from fewshot.statistics import Estimate, over_episodes
from fewshot.tables import Sheet

_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27, "mps": 1 << 25}  # scores worked on at once
_IMAGES = {"cpu": 1 << 14, "cuda": 1 << 21, "mps": 1 << 18}  # images of the episodes worked on at once
SUPPORT = 20  # training images of a base class that stand for it, at most
_SPLITS = ("test", "train", "held_out")
_HEADINGS = {
    "harmonic": "harmonic mean of novel and base",
    "novel": "queries of novel classes",
    "base": "queries of base classes",
    "all": "all queries",
}
_NOTE = (
    "Generalised: a query may be of any class, base or novel, and the queries of base classes are images that training"
    " has not seen. The learner scores base classes by their trained weights if it has some, else by up to"
    f" {SUPPORT} training images of each. ± is the 95 % interval over the episodes: it covers which episodes are drawn"
    " for this one trained model"
)


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

    def of(self, images: Tensor) -> "Rivals":
        return Rivals(self.best[images], self.tied[images], self.own[images])


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """Shares of right answers among base and novel classes together, (E,) in [0, 1], with `shot` shots.

    novel, base: of the queries of novel classes, and of as many queries of base classes
    """

    shot: int
    novel: np.ndarray
    base: np.ndarray

    @property
    def percent(self) -> dict[str, Estimate]:
        """novel, base, all and harmonic, in percent with the 95 % interval over episodes.

        harmonic: the harmonic mean of the two means, its interval by the delta method.
        """
        novel, base = 100 * self.novel, 100 * self.base
        n, b = novel.mean(), base.mean()
        mean = 2 * n * b / (n + b) if n + b > 0 else 0.0
        slopes = (2 * b**2 / (n + b) ** 2, 2 * n**2 / (n + b) ** 2) if n + b > 0 else (0.0, 0.0)
        trials = mean + slopes[0] * (novel - n) + slopes[1] * (base - b)
        found = {"novel": novel, "base": base, "all": (novel + base) / 2, "harmonic": trials}
        return {name: over_episodes(values) for name, values in found.items()}


def check_generalised(learner: Learner, embeddings: Tensor) -> None:
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


def generalise(
    learner: Learner, novel: EmbeddedBank, train: EmbeddedBank, held_out: EmbeddedBank, wanted: Generalised, seed: int
) -> tuple[list[Joint], str]:
    """How well `learner` tells all base classes and `wanted.way` novel ones apart, for each number of shots; and
    `known` of BaseScores.

    novel     the bank from which the suite's sampler draws episodes of way * query queries
    train     the images that the learner was trained on
    held_out  other images of the same classes; every episode gets way * query queries from these images, drawn
              uniformly from all classes, with repeats
    wanted    way, shots and query of the episodes, and their number
    A query goes to the class with the highest score of all. If several classes share that score, the query counts
    as a random choice among them: 1 / their number if the query's own class is one of them, else 0. Scores that
    rounding alone may have separated are equal. Raises NotComparable if the learner cannot score base and novel classes
    together (see check_generalised), InputError if the banks cannot fill such episodes.
    """
    with measuring(learner, seed):
        check_generalised(learner, novel.embeddings)
        samplers = [EpisodeSampler(novel.bank, wanted.way, shot, wanted.query, seed) for shot in wanted.shots]
        base = _base_scores(learner, train)
        rounding = rounding_of(lambda a, b: learner.scores(b[:, :, None], a), novel.embeddings)
        rivals = (
            _rivals(learner, base, novel.embeddings, None, rounding),
            _rivals(learner, base, held_out.embeddings, held_out.bank.labels.to(novel.device), rounding),
        )
        found = [_joint(learner, novel, held_out, rivals, rounding, sampler, wanted.episodes) for sampler in samplers]
    return found, base.known


def _joint(
    learner: Learner,
    novel: EmbeddedBank,
    held_out: EmbeddedBank,
    rivals: tuple[Rivals, Rivals],
    rounding: float,
    sampler: EpisodeSampler,
    episodes: int,
) -> Joint:
    """The shares of right answers of one number of shots; rivals: of both banks' images; rounding: as in
    Similarity."""
    of_novel, of_base = rivals
    queries = sampler.way * sampler.query
    base_sampler = EpisodeSampler(held_out.bank, way=1, shot=1, query=0, seed=sampler.seed)
    chunk = max(1, _IMAGES[novel.device.type] // (sampler.way * sampler.shot + 2 * queries))
    novel_right, base_right = [], []
    for start in range(0, episodes, chunk):
        count = min(chunk, episodes - start)
        part = sampler.episodes(start, count, novel.device)
        asked = part.query.flatten(1)  # (E, queries)
        base_asked = base_sampler.episodes(start * queries, count * queries, novel.device).support.view(count, queries)
        query = torch.cat([novel.embeddings[asked], held_out.embeddings[base_asked]], 1)
        scores = scores_of(learner, novel.embeddings[part.support], query, part.keys)  # (E, 2 * queries, way)
        _check_finite(learner, scores)
        own = scores[:, :queries].gather(2, part.targets.expand(count, -1)[..., None])[..., 0]
        novel_right.append(_share(scores[:, :queries], own, of_novel.of(asked), rounding).sum(1))
        rival = of_base.of(base_asked)
        base_right.append(_share(scores[:, queries:], rival.own, rival, rounding).sum(1))
    shares = [torch.cat(right).cpu().numpy().astype(np.float64) / queries for right in (novel_right, base_right)]
    return Joint(sampler.shot, *shares)


def _share(scores: Tensor, own: Tensor, rival: Rivals, rounding: float) -> Tensor:
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
    """The Rivals of embeddings (M, D); labels (M,): their base classes, None for images of other classes.

    Rivals do not depend on the episode, so they are computed once.
    """
    found = []
    size = max(1, _CHUNK[embeddings.device.type] // base.width)
    for images in torch.arange(len(embeddings), device=embeddings.device).split(size):
        scores = base.of(embeddings[images])
        _check_finite(learner, scores)
        best = scores.amax(1)
        own = torch.full_like(best, -torch.inf) if labels is None else scores.gather(1, labels[images, None])[:, 0]
        found.append((best, (scores >= best[:, None] - rounding).sum(1), own))
    best, tied, own = (torch.cat(parts) for parts in zip(*found))
    return Rivals(best, tied, own)


def _has_base_logits(learner: Learner) -> bool:
    return type(learner).base_logits is not Learner.base_logits


def _check_finite(learner: Learner, scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise InputError(f"the scores of {learner.name} are not all finite numbers")


class GeneralisedProtocol(Protocol):
    """Episodes of novel classes beside all base classes."""

    name = "generalised"
    needs_base = True
    columns = (
        *FIRST,
        *("way", "shot", "query", "episodes", "base_classes", "base_known"),
        *with_widths("novel", "base", "all", "harmonic"),
        *LAST,
    )

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        if "held_out" not in banks:
            raise InputError(
                "generalised asks about images of base classes that training has not seen, and none were held out:"
                " train with held_out = 5 in [data], or --held-out 5, into a folder of its own"
            )
        for shot in wanted.generalised.shots:
            EpisodeSampler(banks["test"], wanted.generalised.way, shot, wanted.generalised.query, wanted.seed)

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        wanted = task.wanted.generalised
        test, train, held_out = (task.data[split] for split in _SPLITS)
        found, known = generalise(task.learner, test, train, held_out, wanted, task.wanted.seed)
        about = {**wanted.model_dump(), "base_classes": train.bank.classes, "base_known": known}
        return [{**about, "shot": joint.shot, **in_columns(joint.percent)} for joint in found], {}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)


PROTOCOL = GeneralisedProtocol()


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    row = rows.iloc[0]
    common = (
        f"{images_text(rows)}: accuracy in percent among {row['base_classes']:,} base and {row['way']} novel classes,"
        f" over {row['episodes']:,} episodes of {row['query']} queries a novel class and as many of base classes{seeds}"
    )
    shots = sorted(rows["shot"].unique())
    rows = rows.assign(label=labels(rows))
    made = []
    for measure, text in _HEADINGS.items():
        columns = {f"{shot}-shot": rows[rows["shot"] == shot].set_index("label") for shot in shots}
        cells = {name: (one[measure], one[f"{measure}_ci95"]) for name, one in columns.items()}
        title = f"Generalised, {text}"
        made.append(sheet_of(title, f"{common}, {text}", pd.Index(rows["label"].unique()), cells, note))
    return made
