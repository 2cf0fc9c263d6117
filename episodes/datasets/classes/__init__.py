"""The published splits of classes, one csv file for each data set."""

import csv
import functools
import io
from importlib import resources


@functools.cache
def read_classes(dataset: str) -> tuple[dict[str, str], ...]:
    """The rows of one table: split, name, and wordnet_id or superclass if the table has that column."""
    text = (resources.files(__name__) / f"{dataset}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(io.StringIO(text)))
