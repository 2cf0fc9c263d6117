"""Open-set recognition: does a query show one of the classes of the episode at all, or a class that is not in it?"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from episodes import Episodes, ImageBank
from episodes.errors import counted
from episodes.kinds.open_set import OpenSampler
from fewshot.config import Evaluation
from fewshot.devices import exact
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import checked_scores
from fewshot.learners.base import Learner
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, measure_sheet, with_seeds
from fewshot.protocols.similarity import ROUNDING, measuring, rounding_of, scores_embeddings
from fewshot.protocols.ties import TiedRanks, expected_precisions, tie_levels, tied_ranks
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import Sheet

_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 21, "mps": 1 << 18}  # images of the episodes worked on at once
_PAIRS = 1 << 23  # pairs of a known and an unknown query compared at once
RECALL = 0.95  # the share of known queries at which false positives are counted
_HEADINGS = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR at 95 %", "oscr": "OSCR"}
_NOTE = (
    "Open set: a query is of a class of the episode, or of a class that is not in the episode, and the largest of the"
    " learner's scores of the query tells which: the score itself, not its softmax. Known classes are the positive ones"
    " of AUROC and AUPR; FPR at 95 % is the share of unknown queries that pass if 95 % of the known ones do, and the"
    " lowest is best; OSCR is the area under correct answers against false positives. Each is the mean over episodes,"
    " with the 95 % interval for another test set of as many classes with images of their own, for this one trained"
    " model"
)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSet:
    """How well a learner tells the queries of known classes from those of unknown ones in each of E episodes, each (E,)
    float64 in [0, 1].

    auroc  area under the ROC curve: how often a known query scores higher than an unknown one
    aupr   average precision with the known queries as the positive ones; half of all queries are known
    fpr95  the share of unknown queries that pass at the highest threshold that 95 % of the known ones pass
    oscr   area under the curve of Dhamija et al. 2018, "Reducing network agnostophobia", section 4: the share of known
           queries that pass a threshold and get the right class, against the share of unknown queries that pass it

    Queries with equal scores, up to rounding, count as expected under a random order, and so do classes.
    """

    auroc: np.ndarray
    aupr: np.ndarray
    fpr95: np.ndarray
    oscr: np.ndarray


def recognise(learner: Learner, data: EmbeddedBank, sampler: OpenSampler, episodes: int) -> tuple[OpenSet, np.ndarray]:
    """The measures in episodes 0 .. `episodes` - 1, and the known and unknown classes of each, (E, 2 way).

    The score of a query is the largest of the scores that the learner gives it (Vaze et al. 2022, "Open-set
    recognition: a good closed-set classifier is all you need?").
    """
    found, classes = [], []
    with measuring(learner, sampler.seed):
        for part in sampler.batches(episodes, max(1, _CHUNK[data.device.type] // (sampler.places + sampler.queries))):
            scores = checked_scores(learner, data, part)
            found.append(measures(exact(scores), part.targets, _rounding(learner, data, scores)))
            classes.append(_classes(part, data.bank))
    whole = (torch.cat(parts).cpu().numpy() for parts in zip(*found))
    return OpenSet(*whole), torch.cat(classes).cpu().numpy()


def measures(scores: Tensor, labels: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """auroc, aupr, fpr95 and oscr of OpenSet, (E,) each, from scores (E, Q, N) and labels (E, Q), N if unknown.

    Each episode has the same number of known queries. rounding (E,): how far apart equal scores may be
    """
    labels, rounding = labels.to(scores.device), rounding.to(scores.device)
    known, best = labels < scores.shape[2], scores.amax(2)
    levels = tie_levels(best, rounding)
    tied = scores >= (best - rounding[:, None])[..., None]
    own = tied.gather(2, labels.clamp_max(scores.shape[2] - 1)[..., None])[..., 0]
    right = (own.double() / tied.sum(2))[known].view(len(scores), -1)  # a random choice among the tied classes
    above = _above(levels[known].view(len(scores), -1), levels[~known].view(len(scores), -1))
    ranks, count = tied_ranks(levels, known, levels.shape[1], rounding=1), right.shape[1]
    return (
        above.mean(1),
        expected_precisions(ranks).sum(1) / count,
        _passed(ranks, count) / (levels.shape[1] - count),
        (right * above).mean(1),
    )


def _passed(ranks: TiedRanks, count: int) -> Tensor:
    """How many unknown queries stand before the known one that completes 95 % of the `count` known ones, (E,).

    If that one is tied with others, the order of all that are tied is random: of the u tied unknown ones,
    u * j / (k + 1) are expected before the j-th of the k tied known ones.
    """
    needed = math.ceil(RECALL * count * (1 - 1e-9))  # 0.95 * 20 is 19, less its rounding
    rank = (ranks.before + ranks.right >= needed).int().argmax(1, keepdim=True)
    size, right, place, before = (part.gather(1, rank)[:, 0] for part in ranks)
    return rank[:, 0] + 1 - place - before + (size - right) * (needed - before) / (right + 1)


def _above(known: Tensor, unknown: Tensor) -> Tensor:
    """The share of the unknown queries (E, U) that each known one (E, K) scores higher than, ties counting half."""
    size = max(1, _PAIRS // (known.shape[1] * unknown.shape[1]))
    found = [
        ((one[:, :, None] > other[:, None]).double() + (one[:, :, None] == other[:, None]).double() / 2).mean(2)
        for one, other in zip(known.split(size), unknown.split(size))
    ]
    return torch.cat(found)


def _rounding(learner: Learner, data: EmbeddedBank, scores: Tensor) -> Tensor:
    """How far apart rounding may put equal scores of each episode, (E,), as in Similarity; of a learner that scores
    whole episodes in proportion to the largest score of the episode."""
    if scores_embeddings(learner):
        found = rounding_of(lambda a, b: learner.scores(b[:, :, None], a), data.embeddings)
        return torch.full((len(scores),), found, dtype=torch.float64)
    return ROUNDING * exact(scores.abs().amax((1, 2)))


def _classes(part: Episodes, bank: ImageBank) -> Tensor:
    """The classes of the queries of each episode, known and unknown ones, (E, 2 way)."""
    of_queries = bank.labels.to(part.query.device)[part.query]
    return torch.stack([one.unique() for one in of_queries])


class OpenSetProtocol(Protocol):
    """Episodes with as many unknown classes as known ones."""

    name = "open_set"
    columns = (*FIRST, "way", "shot", "query", "episodes", *with_widths(*_HEADINGS), *LAST)

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        _samplers(wanted, banks["test"])

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        wanted, data = task.wanted.open_set, task.data["test"]
        clusters = np.arange(data.bank.classes) // data.bank.turns
        rows = []
        for sampler in _samplers(task.wanted, data.bank):
            found, classes = recognise(task.learner, data, sampler, wanted.episodes)
            estimates: dict[str, Estimate] = {
                name: over_classes(100 * values, classes, clusters) for name, values in vars(found).items()
            }
            rows.append({**wanted.model_dump(), "shot": sampler.shot, **in_columns(estimates)})
        return rows, {}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)


PROTOCOL = OpenSetProtocol()


def _samplers(wanted: Evaluation, bank: ImageBank) -> list[OpenSampler]:
    own = wanted.open_set
    return [OpenSampler(bank, own.way, shot, own.query, wanted.seed) for shot in own.shots]


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    made = []
    for shot, cell in rows.groupby("shot"):
        row = cell.iloc[0]
        text = (
            f"{images_text(rows)}: percent, over {row['episodes']:,} {row['way']}-way {shot}-shot episodes with as many"
            f" unknown classes, {counted(row['query'], 'query')} a class{seeds}"
        )
        made.append(measure_sheet(cell, f"Open set, {shot}-shot", text, _HEADINGS, note, lowest=("fpr95",)))
    return made
