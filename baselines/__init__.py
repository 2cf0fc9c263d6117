"""Presets, which say how each learner is run, and the numbers that papers published."""

from pathlib import Path

import pandas as pd

_FOLDER = Path(__file__).parent


def presets() -> dict[str, dict[str, Path]]:
    """The presets by name; each is a file for data sets of characters and one for natural images."""
    folders = sorted(path for path in (_FOLDER / "presets").iterdir() if path.is_dir())
    return {folder.name: {path.stem: path for path in sorted(folder.glob("*.toml"))} for folder in folders}


def published(dataset: str, protocol: str) -> pd.DataFrame:
    """The published accuracies (percent) of one protocol, a row per method, way and shot.

    setting: inductive, or transductive where the queries are labelled together; never to be put in one column. These
    are other people's numbers, quoted; the suite's own come from runs alone.
    """
    table = pd.read_csv(_FOLDER / "published.csv", dtype={"image_size": "Int64", "arxiv": str})
    return table[(table["dataset"] == dataset) & (table["protocol"] == protocol)].reset_index(drop=True)
