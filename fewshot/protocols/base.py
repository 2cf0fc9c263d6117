"""Protocol: what a way to test trained models is to the suite; one file each, and a name in fewshot/config.py."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from episodes import ImageBank, InputError
from fewshot.config import Evaluation
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.records import LATER, LEAGUE, MODEL
from fewshot.statistics import Estimate
from fewshot.tables import Sheet

FIRST = ["dataset", "split", *MODEL]  # columns of the rows of protocols, before their own
LAST = ["eval_seconds", "protocol", "image_size", *LEAGUE, "device", "precision", "torch", *LATER]  # and after these

Row = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class NotComparable(InputError):
    """A protocol cannot put the scores of a learner side by side; other learners can be tested by it."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One trained model and what it is tested on.

    data           banks by split: 'test', which is measured, 'validation', 'train', and 'held_out', the images of base
                   classes that were kept from training
    wanted         the settings of all protocols
    shots          those that the model is for
    columns        what else its rows say: records.row_of, and how it was trained
    label          what messages call the model
    """

    learner: Learner
    data: dict[str, EmbeddedBank]
    wanted: Evaluation
    shots: tuple[int, ...]
    columns: Row
    label: str


class Protocol(abc.ABC):
    """A way to test trained models.

    name     what `--protocol` and presets call it, and its file, fewshot/protocols/NAME.py, whose PROTOCOL it is
    columns  of its rows
    table    the file of its rows in a run's folder
    later    columns that the files of older versions lack, and their values there
    arrays   the file of what it keeps of each trial, '' for none
    by_shot  whether it tests each model with the shots that the model is for; otherwise it tests the model of the
             fewest shots alone
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    later: ClassVar[Row] = {}
    arrays: ClassVar[str] = ""
    by_shot: ClassVar[bool] = False

    @property
    def table(self) -> str:
        return f"{self.name}.csv"

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        """What its rows depend on, of the settings besides the seed, for a model that is for these shots."""
        return getattr(wanted, self.name).model_dump() if hasattr(wanted, self.name) else {}

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        """Raise InputError if the images cannot give what it draws, so that it is told before any training."""
        if banks["test"].listed:
            name = banks["test"].name
            raise InputError(f"{name} lists its episodes, and gives no other protocol: leave out {self.name}")

    @abc.abstractmethod
    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        """The rows of one model, and what `arrays` is to keep; NotComparable if its scores mean nothing here."""

    @abc.abstractmethod
    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        """The tables of its rows, at least one."""

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        """For each row why it contradicts its arrays, '' if it does not."""
        return [""] * len(rows)

    def files(self, rows: pd.DataFrame, arrays: Arrays, run: str) -> dict[str, str]:
        """Other files that are made of its rows, by name; run: the name of the run."""
        return {}


def with_widths(*measures: str) -> list[str]:
    """The columns of measures, each with that of its half-width."""
    return [column for measure in measures for column in (measure, f"{measure}_ci95")]


def in_columns(measures: Mapping[str, Estimate]) -> dict[str, float]:
    """Each measure and its half-width, nan if it has none."""
    return {
        name: round(value, 4) if np.isfinite(value) else np.nan
        for measure, estimate in measures.items()
        for name, value in ((measure, estimate.mean), (f"{measure}_ci95", estimate.ci95))
    }
