"""Generalised few-shot learning: novel classes beside all base classes, in one label space."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from episodes import EpisodeSampler, ImageBank
from episodes.errors import counted
from fewshot.config import Evaluation, Generalised
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, scores_of
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.joint import (
    SUPPORT,
    BaseClasses,
    base_classes,
    check_finite,
    check_held_out,
    harmonic,
    share_right,
)
from fewshot.protocols.sheets import images_text, sheet_of, with_seeds
from fewshot.protocols.similarity import measuring
from fewshot.records import labels
from fewshot.statistics import Estimate, over_episodes
from fewshot.tables import Sheet

_IMAGES = {"cpu": 1 << 14, "cuda": 1 << 21, "mps": 1 << 18}  # images of the episodes worked on at once
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
        found = {"novel": novel, "base": base, "all": (novel + base) / 2, "harmonic": harmonic(novel, base)}
        return {name: over_episodes(values) for name, values in found.items()}


def generalise(
    learner: Learner, novel: EmbeddedBank, train: EmbeddedBank, held_out: EmbeddedBank, wanted: Generalised, seed: int
) -> tuple[list[Joint], str]:
    """How well `learner` tells all base classes and `wanted.way` novel ones apart, for each number of shots; and
    `known` of BaseClasses.

    novel     the bank from which the suite's sampler draws episodes of way * query queries
    train     the images that the learner was trained on
    held_out  other images of the same classes; every episode gets way * query queries from these images, drawn
              uniformly from all classes, with repeats
    wanted    way, shots and query of the episodes, and their number
    A query goes to the class with the highest score of all. If several classes share that score, the query counts
    as a random choice among them: 1 / their number if the query's own class is one of them, else 0. Scores that
    rounding alone may have separated are equal. Raises NotComparable if the learner cannot score base and novel classes
    together (see joint.check_joint), InputError if the banks cannot fill such episodes.
    """
    with measuring(learner, seed):
        base = base_classes(learner, novel, train, held_out)
        samplers = [EpisodeSampler(novel.bank, wanted.way, shot, wanted.query, seed) for shot in wanted.shots]
        found = [_joint(learner, novel, held_out, base, sampler, wanted.episodes) for sampler in samplers]
    return found, base.known


def _joint(
    learner: Learner,
    novel: EmbeddedBank,
    held_out: EmbeddedBank,
    base: BaseClasses,
    sampler: EpisodeSampler,
    episodes: int,
) -> Joint:
    """The shares of right answers of one number of shots."""
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
        check_finite(learner, scores)
        own = scores[:, :queries].gather(2, part.targets.expand(count, -1)[..., None])[..., 0]
        novel_right.append(share_right(scores[:, :queries], own, base.novel.of(asked), base.rounding).sum(1))
        rival = base.held_out.of(base_asked)
        base_right.append(share_right(scores[:, queries:], rival.own, rival, base.rounding).sum(1))
    shares = [torch.cat(right).cpu().numpy().astype(np.float64) / queries for right in (novel_right, base_right)]
    return Joint(sampler.shot, *shares)


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
        check_held_out(self.name, banks)
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
        f" over {row['episodes']:,} episodes of {counted(row['query'], 'query')} a novel class and as many of base"
        f" classes{seeds}"
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
