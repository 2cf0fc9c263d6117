"""The interval over episodes: the papers' formula, and that it covers what it says."""

import numpy as np
import pytest
import scipy.stats

from fewshot.statistics import over_episodes


def test_interval_by_hand():
    # mean 0.5, squared deviations 0.25 + 0.25 + 0 + 0, over 3
    estimate = over_episodes(np.array([0.0, 1.0, 0.5, 0.5]))
    assert estimate.mean == 0.5
    assert estimate.ci95 == pytest.approx(1.96 * np.sqrt(0.5 / 3) / 2)


def test_interval_is_1_96_standard_errors_of_scipy():
    values = np.random.default_rng(0).random(600)
    estimate = over_episodes(values)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.ci95 == pytest.approx(1.96 * scipy.stats.sem(values))


def test_interval_covers_the_true_mean_in_95_percent_of_experiments():
    experiments = np.random.default_rng(0).binomial(75, 0.9, size=(4000, 600)) / 75
    estimates = [over_episodes(values) for values in experiments]
    covered = np.mean([abs(estimate.mean - 0.9) <= estimate.ci95 for estimate in estimates])
    assert 0.94 <= covered <= 0.96


def test_equal_accuracies_have_no_spread():
    assert over_episodes(np.ones(10)) == (1.0, 0.0)


@pytest.mark.parametrize("values", [[], [0.5], [[0.5, 0.5], [0.5, 0.5]]], ids=["none", "one", "matrix"])
def test_an_interval_needs_two_episodes(values):
    with pytest.raises(ValueError, match="at least 2 episodes"):
        over_episodes(np.array(values))
