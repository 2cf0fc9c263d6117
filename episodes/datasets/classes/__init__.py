"""The published splits of classes, one csv file for each data set."""

import csv
import functools
from importlib import resources


@functools.cache
def read_classes(dataset: str) -> tuple[dict[str, str], ...]:
    """The rows of one table: split, name, and wordnet_id or superclass if the table has that column."""
    with (resources.files(__name__) / f"{dataset}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))
