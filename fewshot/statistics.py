"""What the accuracies of many episodes say."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval."""

    mean: float
    ci95: float


def over_episodes(accuracies: np.ndarray) -> Estimate:
    """The papers' interval: 1.96 * std(ddof = 1) / sqrt(episodes), from the accuracies (E,) of E >= 2 episodes.

    It covers the choice of episodes from one fixed test set with one trained model, and nothing else: neither another
    test set nor another training run.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs the accuracies (E,) of at least 2 episodes, not an array {values.shape}")
    return Estimate(float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values))))
