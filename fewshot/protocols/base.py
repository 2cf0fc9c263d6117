"""Protocol: the interface of a test protocol, a way to test trained models.

Each test protocol has one file in this folder, and a name in fewshot/config.py. The column `protocol` of a row is
another thing: the split protocol, the way in which the classes of the data set are split.
"""

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
from fewshot.models import ModelSpec
from fewshot.records import LATER, LEAGUE, MODEL
from fewshot.statistics import Estimate
from fewshot.tables import Sheet

FIRST = ["dataset", "split", *MODEL]  # columns of the rows of every test protocol, before its own
LAST = ["eval_seconds", "protocol", "image_size", *LEAGUE, "device", "precision", "torch", *LATER]  # and after these

Row = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class NotComparable(InputError):
    """A test protocol cannot compare the scores of this learner; the protocol can test other learners."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One trained model, and the data and settings of its test.

    data           banks by split: 'test', which is measured, 'validation', 'train', and 'held_out', the images of base
                   classes that training did not use; and other data sets by name
    wanted         the settings of all test protocols
    shots          the shots that the model is for
    columns        the other columns of its rows: records.row_of, and how the model was trained
    """

    learner: Learner
    spec: ModelSpec
    data: dict[str, EmbeddedBank]
    wanted: Evaluation
    shots: tuple[int, ...]
    columns: Row

    @property
    def label(self) -> str:
        """The name of the model in messages."""
        return self.spec.label


class Protocol(abc.ABC):
    """A test protocol: a way to test trained models.

    name     the name for `--protocol` and in presets; the protocol is PROTOCOL in fewshot/protocols/NAME.py
    columns  the columns of its rows
    table    the file of its rows in a run's folder
    later    columns that the files of older versions lack, and their values there
    arrays   the file of the arrays that it keeps for each trial, '' for none
    needs_base  whether it needs base classes or validation classes beside the test classes
    by_shot  whether it tests each model with the shots that the model is for; otherwise it tests the model of the
             fewest shots alone
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    later: ClassVar[Row] = {}
    arrays: ClassVar[str] = ""
    needs_base: ClassVar[bool] = False
    by_shot: ClassVar[bool] = False

    @property
    def table(self) -> str:
        return f"{self.name}.csv"

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        """The settings, besides the seed, that the rows of a model for these shots depend on."""
        return getattr(wanted, self.name).model_dump() if hasattr(wanted, self.name) else {}

    def images(self, wanted: Evaluation, checksums: Mapping[str, str]) -> Any:
        """The checksums of the images that its rows depend on, from those of all banks."""
        return checksums["test"]

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        """Raise InputError if the banks have too few images for the trials; called before any training."""
        if self.needs_base and not {"train", "validation"} & set(banks):
            raise InputError(f"{self.name} needs classes besides those of the test, and all classes are for the test")
        if banks["test"].listed:
            name = banks["test"].name
            raise InputError(f"{name} lists its episodes, and gives no other test protocol: leave out {self.name}")

    def remarks(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> list[str]:
        """What a reader of the numbers must know of the trials that these banks allow."""
        return []

    @abc.abstractmethod
    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        """The rows of one model, and the arrays for `arrays`; NotComparable if its scores cannot be compared here."""

    @abc.abstractmethod
    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        """The tables of its rows, at least one."""

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        """For each row, why the row contradicts its arrays; '' if it does not."""
        return [""] * len(rows)

    def archives(self, arrays: Arrays) -> dict[str, Arrays]:
        """The arrays by the file that holds them; `arrays` must be there, other files are missing in older folders."""
        return {self.arrays: arrays} if self.arrays else {}

    def files(self, rows: pd.DataFrame, arrays: Arrays, run: str, made: dict[Any, str]) -> dict[str, str]:
        """The contents of other files made from the rows, by file name.

        run: the name of the run; made: texts of earlier calls for this run, for a protocol that keeps them
        """
        return {}


def with_widths(*measures: str) -> list[str]:
    """The columns of measures, each followed by the column of its half-width."""
    return [column for measure in measures for column in (measure, f"{measure}_ci95")]


def in_columns(measures: Mapping[str, Estimate]) -> dict[str, float]:
    """Each measure and its half-width, nan if it has none."""
    return {
        name: round(value, 4) if np.isfinite(value) else np.nan
        for measure, estimate in measures.items()
        for name, value in ((measure, estimate.mean), (f"{measure}_ci95", estimate.ci95))
    }
