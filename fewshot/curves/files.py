"""Curves in files beside the checkpoints: csv, or events for TensorBoard."""

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from episodes import InputError
from fewshot.curves.base import Curves
from fewshot.files import replace_text, writing

_HEAD = ["step", "seconds", "measure", "value"]


class CsvCurves(Curves):
    """curves.csv: a line for each measure, written as the training goes. A training that goes on after `step` steps
    replaces the lines after that step."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "curves.csv"
        with writing(folder):
            replace_text(self._path, "".join(",".join(line) + "\n" for line in [_HEAD, *self._until(step)]))

    def _until(self, step: int) -> list[list[str]]:
        """The whole lines of the file up to a step."""
        with contextlib.suppress(FileNotFoundError), self._path.open(encoding="utf-8", errors="replace") as file:
            lines = [line for line in csv.reader(file) if len(line) == len(_HEAD) and line[0].isdecimal()]
            return [line for line in lines if int(line[0]) <= step]
        return []

    def __enter__(self) -> Self:
        with writing(self._path.parent):
            self._file: TextIO = self._path.open("a", encoding="utf-8", newline="")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        with writing(self._path.parent):
            for name, value in measures.items():
                self._file.write(f"{step},{seconds:.2f},{name},{value:.6g}\n")
            self._file.flush()


class TensorBoardCurves(Curves):
    """Files of events, which `tensorboard --logdir RUN/checkpoints` shows, a run for each model."""

    def __init__(self, folder: Path, step: int) -> None:
        with writing(folder):
            self._writer = writer_class()(str(folder), purge_step=step + 1)

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        for name, value in measures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


def writer_class() -> Any:
    """The class that writes events; InputError if its package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--log tensorboard needs the package tensorboard: pip install 'fewshot[log]'") from error
    return SummaryWriter
