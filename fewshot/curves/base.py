"""Curves: takes the measures of a training while it goes on."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self


class Curves:
    """Takes the measures of a training step by step: `loss` (the mean since the last validation) and `learning_rate`
    every few steps, `accuracy` and `ci95` (in percent, on validation classes) at each validation.

    Curves themselves keep nothing; they are a context that closes their files.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def add(self, step: int, seconds: float, measures: Mapping[str, float]) -> None:
        """Add measures at a step; seconds: of the training so far."""
