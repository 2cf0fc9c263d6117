"""Presets, which say how each learner is run, and the numbers that papers published."""

from pathlib import Path

import pandas as pd

from baselines.published import NOT_RUNNABLE, best, published, why_not_runnable

__all__ = ["NOT_RUNNABLE", "best", "papers", "presets", "published", "why_not_runnable"]

_FOLDER = Path(__file__).parent


def presets() -> dict[str, dict[str, Path]]:
    """The presets by name; each is a file for data sets of characters, one for natural images, and in some presets
    one for features, or one file for every data set."""
    folders = sorted(path for path in (_FOLDER / "presets").iterdir() if path.is_dir())
    return {folder.name: {path.stem: path for path in sorted(folder.glob("*.toml"))} for folder in folders}


def papers() -> pd.DataFrame:
    """The title and the venue of each paper of a learner of which published.csv has no number, or a shorter title."""
    return pd.read_csv(_FOLDER / "papers.csv")
