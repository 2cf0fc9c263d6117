"""N-way K-shot episodes: the accuracy of a model in each of many, with every way and every shot."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from episodes import EpisodeSampler, ImageBank
from episodes.sampler import sampler_of
from fewshot import class_records, shown, tables
from fewshot.comparison import compare, summary
from fewshot.comparison import sheets as comparison_sheets
from fewshot.config import Evaluation
from fewshot.confusion import count_answers
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.protocols.base import Arrays, Protocol, Row, Task
from fewshot.record_files import Damaged, unlike_episodes
from fewshot.records import COLUMNS, array_name
from fewshot.statistics import Estimate, over_classes

log = logging.getLogger("fewshot")


class EpisodeProtocol(Protocol):
    """Every way with every shot.

    episodes.npz keeps the accuracies of all episodes, confusion.npz counts of answers, shown.npz what a report shows.
    """

    name = "episodes"
    columns = tuple(COLUMNS)
    later: ClassVar[Row] = {"ci95_open": np.nan, "imported": ""}
    table = "results.csv"
    arrays = "episodes.npz"
    by_shot = True

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        return {**wanted.model_dump(include={"ways", "query", "episodes"}), "shots": list(shots)}

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        _samplers(wanted, banks["test"], wanted.shots)

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        data, rows, arrays = task.data["test"], [], {}
        every = [(one.way, one.shot) for one in _samplers(task.wanted, data.bank, task.wanted.shots)]
        for sampler in _samplers(task.wanted, data.bank, task.shots):
            result = run_episodes(task.learner, data, sampler, task.wanted.episodes)
            log.info("%s: %d-way %d-shot %.2f ± %.2f", task.label, sampler.way, sampler.shot, *result.percent)
            cell = task.columns["model"], sampler.way, sampler.shot
            arrays[array_name(*cell)] = result.values
            arrays |= class_records.to_arrays(*cell, count_answers(sampler, result.answers), data.bank)
            if cell[1:] == shown.cell_of(every):
                arrays |= shown.to_arrays(cell, task.learner, data, result.answers)
            row = {
                "way": sampler.way,
                "shot": sampler.shot,
                "query": sampler.query,
                "episodes": task.wanted.episodes,
                "accuracy": round(result.percent.mean, 4),
                "ci95": round(result.percent.ci95, 4),
                "ci95_open": round(open_interval(result, data.bank).ci95, 4),
                "eval_seconds": round(result.seconds, 2),
            }
            rows.append(row)
        return rows, arrays

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[tables.Sheet]:
        return tables.sheets(rows, arrays)

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        found = unlike_episodes(rows, dict(arrays))
        return [why or _unlike_kept(row, arrays) for why, (_, row) in zip(found, rows.iterrows())]

    def archives(self, arrays: Arrays) -> dict[str, Arrays]:
        counts = {name: array for name, array in arrays.items() if class_records.is_count(name)}
        kept = {name: array for name, array in arrays.items() if name not in counts and shown.is_shown(name)}
        own = {name: array for name, array in arrays.items() if name not in counts and name not in kept}
        return {self.arrays: own, class_records.FILE: counts, shown.FILE: kept}

    def files(self, rows: pd.DataFrame, arrays: Arrays, run: str, made: dict[Any, str]) -> dict[str, str]:
        pairs = tables.differences(rows, arrays)
        beside = compare(rows, run=run)
        classes = class_records.class_tables(rows, arrays, made)
        return {
            "differences.csv": pairs.to_csv(index=False, float_format="%.6g"),
            "comparison.md": tables.markdown(comparison_sheets(beside, every=True)) or f"{summary(beside)}\n",
            **({"classes.csv": classes} if classes else {}),
        }


PROTOCOL = EpisodeProtocol()


def open_interval(result: Accuracies, test: ImageBank) -> Estimate:
    """The interval for another test set, in percent; nan if the data set lists its episodes.

    Turned copies of one class count as one class.
    """
    if test.listed:
        return Estimate(result.percent.mean, math.nan)
    return over_classes(100 * result.values, result.classes, np.arange(test.classes) // test.turns)


def _unlike_kept(row: pd.Series, arrays: Arrays) -> str:
    """Why what was kept of its answers contradicts a row, '' if it does not or nothing was kept."""
    try:
        class_records.answers_of(row, arrays)
        shown.kept_of(row, arrays)
    except Damaged as error:
        return str(error)
    return ""


def _samplers(wanted: Evaluation, test: ImageBank, shots: Sequence[int]) -> list[EpisodeSampler]:
    """The test episodes of each way and shot."""
    return [sampler_of(test, way, shot, wanted.query, wanted.seed) for way in wanted.ways for shot in shots]
