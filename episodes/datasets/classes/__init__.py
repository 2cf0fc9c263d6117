"""Which classes published splits put where: facts, one csv file a data set."""

import csv
import functools
from importlib import resources


@functools.cache
def read_classes(dataset: str) -> tuple[dict[str, str], ...]:
    """The rows of one table: split, name, and wordnet_id or superclass where there is one."""
    with (resources.files(__name__) / f"{dataset}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))
