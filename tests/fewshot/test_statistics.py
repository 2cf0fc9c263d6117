"""The intervals cover what they claim, as often as they claim; comparisons find true differences and no others."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from episodes import EpisodeSampler
from fewshot.statistics import all_pairs, holm, over_classes, over_episodes, over_seeds, paired, proportion, ranks

TRUTH = 60.0  # the mean accuracy of the simulations, in percent
IMAGES = 10  # of each class


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


# over_seeds


def test_interval_over_three_seeds_by_hand():
    # mean 60, squared deviations 1 + 1 + 0 over 2; 4.3027 is the t quantile of 2 degrees of freedom
    estimate = over_seeds(np.array([59.0, 60.0, 61.0]))
    assert estimate.mean == 60
    assert estimate.ci95 == pytest.approx(4.302653 / np.sqrt(3))


def test_interval_over_three_seeds_covers_the_mean_of_all_runs_in_95_percent_of_experiments():
    experiments = np.random.default_rng(1).normal(TRUTH, 0.5, size=(4000, 3))
    estimates = [over_seeds(means) for means in experiments]
    covered = np.mean([abs(estimate.mean - TRUTH) <= estimate.ci95 for estimate in estimates])
    assert 0.94 <= covered <= 0.96


def test_z_and_the_wrong_ddof_are_2_69_times_too_narrow_for_three_seeds():
    experiments = np.random.default_rng(1).normal(TRUTH, 0.5, size=(4000, 3))
    narrow = 1.96 * experiments.std(axis=1) / np.sqrt(3)
    assert over_seeds(experiments[0]).ci95 / narrow[0] == pytest.approx(2.69, abs=0.005)
    assert np.mean(abs(experiments.mean(axis=1) - TRUTH) <= narrow) < 0.8


def test_one_training_run_has_no_interval_over_seeds():
    with pytest.raises(ValueError, match="at least 2 training runs"):
        over_seeds(np.array([60.0]))


# over_classes


class Experiments(NamedTuple):
    """What each of R simulated test sets gave: the mean accuracy and the half-widths of two intervals, all (R,)."""

    means: np.ndarray
    open: np.ndarray
    papers: np.ndarray

    def coverage(self, half_widths: np.ndarray) -> float:
        return float(np.mean(abs(self.means - TRUTH) <= half_widths))


def _images(random: np.random.Generator, sets: int, total: int, within: float = 10) -> np.ndarray:
    """How many points better than the average each support image is, (sets, total * IMAGES); classes have sd 10."""
    classes = np.repeat(random.normal(0, 10, (sets, total)), IMAGES, axis=1)
    return classes + random.normal(0, within, (sets, total * IMAGES))


def _draw(total: int, way: int, count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes and support images of the suite's 1-shot episodes, both (E, way)."""
    drawn = EpisodeSampler([IMAGES] * total, way, shot=1, query=0).episodes(start, count)
    return drawn.classes.numpy(), drawn.support[:, :, 0].numpy()


def _experiments(total: int, way: int, episodes: int, blocks: int = 100) -> Experiments:
    """20 * `blocks` test sets; the episodes differ from block to block, and 3 points of an episode are its own."""
    random = np.random.default_rng(total)
    results = []
    for block in range(blocks):
        classes, support = _draw(total, way, episodes, episodes * block)
        accuracies = TRUTH + _images(random, 20, total)[:, support].mean(axis=2) + random.normal(0, 3, (20, episodes))
        results += [
            (*over_classes(values, classes, np.arange(total)), over_episodes(values).ci95) for values in accuracies
        ]
    return Experiments(*np.transpose(results))


@pytest.fixture(scope="module", params=[(20, 5), (200, 20)], ids=["5-way-of-20", "20-way-of-200"])
def experiments(request) -> Experiments:
    return _experiments(*request.param, episodes=500)


def test_open_interval_covers_the_population_in_95_percent_of_test_sets(experiments):
    assert 0.94 <= experiments.coverage(experiments.open) <= 0.96


def test_papers_interval_covers_the_population_in_less_than_half_of_the_test_sets(experiments):
    assert experiments.coverage(experiments.papers) < 0.5


@pytest.mark.parametrize(("total", "episodes"), [(20, 60), (200, 30)], ids=["60-of-20", "30-see-half-of-200"])
def test_open_interval_covers_about_as_often_where_episodes_are_too_few_to_tell_classes_apart(total, episodes):
    few = _experiments(total, 5, episodes)
    assert 0.93 <= few.coverage(few.open) <= 0.97


def _uneven_coverage(total: int, turns: int, way: int, episodes: int, shape: float, sets: int) -> float:
    """How often the open interval covers, over `sets` test sets of classes whose difficulties are gamma distributed:
    skewness 2 / sqrt(shape), sd 10; `turns` classes in a row are equally difficult, and 3 points an episode's own."""
    random, clusters, covered = np.random.default_rng(0), np.arange(total) // turns, []
    classes, _ = _draw(total, way, episodes)
    for _ in range(sets):
        difficulty = 10 * (random.gamma(shape, shape**-0.5, clusters[-1] + 1) - shape**0.5)
        values = TRUTH - difficulty[clusters[classes]].mean(axis=1) + random.normal(0, 3, episodes)
        mean, half = over_classes(values, classes, clusters)
        covered.append(abs(mean - TRUTH) <= half)
    return float(np.mean(covered))


@pytest.mark.parametrize(
    ("case", "low", "high"),
    [
        ((10, 1, 2, 500, 4.0), 0.91, 0.97),
        ((10, 1, 2, 500, 1.0), 0.895, 0.97),
        ((5, 1, 4, 500, 4.0), 0.935, 0.97),
        ((1692, 4, 5, 1000, 1.0), 0.93, 0.97),
        ((20, 1, 19, 500, 100.0), 0.93, 0.968),
    ],
    ids=["2-way-of-10", "2-way-of-10-very-uneven", "4-way-of-5", "1000-see-1692", "19-way-of-20"],
)
def test_open_interval_covers_with_few_unevenly_difficult_classes_and_with_nearly_all_ways(case, low, high):
    assert low <= _uneven_coverage(*case, sets=600) <= high


def _standard_error(ci95: float, classes: int) -> float:
    return ci95 / scipy.stats.t.ppf(0.975, classes - 1)


def test_open_interval_is_that_of_a_mean_over_classes_where_classes_add_up():
    half = np.random.default_rng(3).normal(0, 10, 10)
    skill = np.concatenate([half, -half])  # without skewness, which makes the interval wider
    classes, _ = _draw(20, 5, 20_000)
    estimate = over_classes(skill[classes].mean(axis=1), classes, np.arange(20))
    assert _standard_error(estimate.ci95, 20) == pytest.approx(scipy.stats.sem(skill), rel=0.02)


def test_open_interval_agrees_with_leaving_each_class_out():
    random = np.random.default_rng(4)
    classes, support = _draw(12, 4, 20_000)
    # the hardest class decides an episode's accuracy, so the difficulties of classes do not add up
    values = _images(random, 1, 12)[0][support].min(axis=1)
    without = np.array([values[(classes != number).all(axis=1)].mean() for number in range(12)])
    jackknife = np.sqrt(11 / 12 * np.sum((without - without.mean()) ** 2))
    skewness = scipy.stats.skew(without, bias=False)
    estimate = over_classes(values, classes, np.arange(12))
    wider = 1 + 1.08 * skewness**2 / 12
    assert _standard_error(estimate.ci95, 12) == pytest.approx(wider * jackknife, rel=0.02)


def test_open_interval_agrees_with_a_bootstrap_of_classes_with_their_images():
    random = np.random.default_rng(5)
    classes, support = _draw(30, 5, 20_000)
    images = _images(random, 1, 30)
    values = images[0][support].mean(axis=1)
    means = []
    for _ in range(2000):  # each a test set of 30 classes drawn with replacement, and 1,000 episodes on it
        resampled = images.reshape(30, IMAGES)[random.integers(30, size=30)].ravel()
        means.append(resampled[support[random.integers(20_000, size=1000)]].mean())
    bootstrap = np.sqrt((np.var(means) - values.var() / 1000) * 30 / 29)
    estimate = over_classes(values, classes, np.arange(30))
    assert _standard_error(estimate.ci95, 30) == pytest.approx(bootstrap, rel=0.05)


def test_resampling_the_images_too_would_count_them_twice():
    random = np.random.default_rng(6)
    classes, support = _draw(30, 5, 2000)
    truth = (10**2 + 30**2 / IMAGES) / 30  # the variance of the mean over 30 classes of 10 images, which vary by 30
    opened, two_stage = [], []
    for images in _images(random, 200, 30, within=30):
        estimate = over_classes(images[support].mean(axis=1), classes, np.arange(30))
        opened.append(_standard_error(estimate.ci95, 30) ** 2)
        chosen = random.integers(30, size=(200, 30, 1)), random.integers(IMAGES, size=(200, 30, IMAGES))
        two_stage.append(images.reshape(30, IMAGES)[chosen].mean(axis=(1, 2)).var())
    assert np.mean(opened) == pytest.approx(truth, rel=0.15)
    assert np.mean(two_stage) > 1.3 * truth


def test_open_interval_does_not_depend_on_the_order_of_episodes_or_the_names_of_classes():
    random = np.random.default_rng(7)
    classes, support = _draw(20, 5, 500)
    values = _images(random, 1, 20)[0][support].mean(axis=1)
    clusters = np.arange(20) // 2
    order, names = random.permutation(500), random.permutation(20)
    renamed = np.empty_like(clusters)
    renamed[names] = clusters[::-1].max() - clusters
    expected = over_classes(values, classes, clusters)
    assert over_classes(values[order], names[classes[order]], renamed) == pytest.approx(expected)


def test_copies_of_one_class_count_as_one_where_the_clusters_say_so():
    skill = np.random.default_rng(8).normal(0, 10, 20)
    copies = np.repeat(np.arange(20), 4)
    classes, _ = _draw(80, 5, 20_000)
    values = skill[copies[classes]].mean(axis=1)
    together = over_classes(values, classes, copies)
    apart = over_classes(values, classes, np.arange(80))
    assert _standard_error(together.ci95, 20) == pytest.approx(scipy.stats.sem(skill), rel=0.03)
    assert together.ci95 > 1.9 * apart.ci95


def test_open_interval_is_not_narrower_than_the_papers_and_of_the_same_mean():
    random = np.random.default_rng(9)
    for _ in range(200):
        classes, _ = _draw(20, 5, 10, int(random.integers(10_000)))
        values = random.random(10)  # independent of the classes
        opened, papers = over_classes(values, classes, np.arange(20)), over_episodes(values)
        assert opened.mean == papers.mean
        assert opened.ci95 >= papers.ci95


def test_open_interval_scales_with_the_units():
    classes, support = _draw(20, 5, 500)
    shares = 0.6 + _images(np.random.default_rng(10), 1, 20)[0][support].mean(axis=1) / 100
    percent = over_classes(100 * shares, classes, np.arange(20))
    assert percent == pytest.approx(100 * np.array(over_classes(shares, classes, np.arange(20))))


def test_equal_accuracies_have_no_spread_over_classes():
    classes, _ = _draw(20, 5, 10)
    assert over_classes(np.ones(10), classes, np.arange(20)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("way", "clusters"), [(10, np.arange(10)), (5, np.zeros(10))], ids=["way-is-all-classes", "one-cluster"]
)
def test_open_interval_is_nan_where_episodes_say_nothing_about_classes(way, clusters):
    classes, _ = _draw(10, way, 50)
    values = np.random.default_rng(11).random(50)
    mean, half_width = over_classes(values, classes, clusters)
    assert mean == values.mean()
    assert np.isnan(half_width)


@pytest.mark.parametrize(
    ("classes", "clusters", "message"),
    [
        (np.zeros((3, 1), int), np.arange(2), "4 accuracies"),
        (np.zeros(4, int), np.arange(2), "4 accuracies"),
        (np.zeros((4, 1), int), np.zeros((2, 2)), "4 accuracies"),
        (np.full((4, 1), 2), np.arange(2), "from 0 to 1"),
        (np.full((4, 1), -1), np.arange(2), "from 0 to 1"),
    ],
    ids=["fewer-episodes", "no-ways", "matrix-of-clusters", "class-too-high", "negative-class"],
)
def test_classes_must_fit_accuracies_and_clusters(classes, clusters, message):
    with pytest.raises(ValueError, match=message):
        over_classes(np.arange(4.0), classes, clusters)


# proportion


def test_no_successes_give_the_closed_form_of_clopper_and_pearson():
    # (1 - high)^n = 0.025
    assert proportion(0, 400) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 400)))


def test_successes_and_failures_mirror_each_other():
    estimate, low, high = proportion(13, 400)
    assert proportion(387, 400) == pytest.approx((1 - estimate, 1 - high, 1 - low))


def test_exact_interval_covers_every_proportion_at_least_95_percent_of_the_time():
    counts = np.arange(401)
    _, low, high = np.transpose([proportion(count, 400) for count in counts])
    truths = np.linspace(0.001, 0.999, 333)[:, None]
    coverage = np.where((low <= truths) & (truths <= high), scipy.stats.binom.pmf(counts, 400, truths), 0).sum(axis=1)
    assert coverage.min() >= 0.95


@pytest.mark.parametrize(("successes", "trials"), [(5, 4), (-1, 4), (0, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="must"):
        proportion(successes, trials)


# paired


def _copies(seed: int, experiments: int, episodes: int, points: float) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies (experiments, E) of two learners, the first `points` better: episodes have sd 10, each learner's own
    luck in them 5."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(TRUTH, 10, (experiments, episodes))
    first, second = difficulty + random.normal(0, 5, (2, experiments, episodes))
    return first + points, second


def test_paired_interval_covers_the_true_difference_in_95_percent_of_experiments():
    differences = [paired(*both) for both in zip(*_copies(12, 4000, 50, points=1))]
    covered = np.mean([abs(difference.mean - 1) <= difference.ci95 for difference in differences])
    assert 0.94 <= covered <= 0.96


def test_paired_test_finds_no_difference_between_two_copies_95_percent_of_the_time():
    nothing = np.mean([paired(*both).p > 0.05 for both in zip(*_copies(13, 4000, 50, points=0))])
    assert 0.94 <= nothing <= 0.96


def test_paired_test_finds_one_point_that_the_unpaired_test_misses():
    first, second = _copies(14, 1000, 1000, points=1)
    found = np.mean([paired(*both).p < 0.05 for both in zip(first, second)])
    unpaired = np.mean(scipy.stats.ttest_ind(first, second, axis=1).pvalue < 0.05)
    assert found > 0.9, f"paired {found:.1%}, unpaired {unpaired:.1%}"
    assert unpaired < 0.6, f"paired {found:.1%}, unpaired {unpaired:.1%}"


def test_paired_test_is_that_of_scipy():
    first, second = np.random.default_rng(15).random((2, 30))
    test = scipy.stats.ttest_rel(first, second)
    low, high = test.confidence_interval(0.95)
    assert paired(first, second) == pytest.approx(((low + high) / 2, (high - low) / 2, test.pvalue))


def test_identical_copies_do_not_differ():
    values = np.random.default_rng(16).random(30)
    assert paired(values, values.copy()) == (0, 0, 1)


def test_the_same_difference_in_every_episode_is_no_chance():
    assert paired(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])) == (0.5, 0, 0)


def test_a_paired_comparison_needs_the_same_episodes():
    with pytest.raises(ValueError, match="not 3 and 2"):
        paired(np.arange(3), np.arange(2))


# holm, all_pairs, ranks


def test_holm_by_hand():
    # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not fall below the one before
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_a_single_test_as_it_is():
    assert holm(np.array([0.03])) == pytest.approx([0.03])


def test_holm_never_makes_a_p_value_smaller_and_stays_at_most_1():
    p = np.random.default_rng(17).random(100)
    assert (holm(p) >= p).all()
    assert holm(p).max() == 1


def test_holm_keeps_the_order_of_p_values():
    p = np.random.default_rng(18).random(100) ** 4
    assert (np.diff(holm(p)[np.argsort(p)]) >= 0).all()


def test_holm_errs_in_5_percent_of_families_where_there_is_nothing_to_find():
    families = np.random.default_rng(19).random((4000, 10))
    assert np.mean([holm(p).min() <= 0.05 for p in families]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(np.array([0.5, p]))


def _learners(noise: float = 1, **means: float) -> dict[str, np.ndarray]:
    """Accuracies (100,) with exactly these means and exactly uncorrelated deviations of sd 1, the last one's `noise`.

    Two of sd 1 differ with a standard error of 0.141: one pair is told apart from 0.28 on.
    """
    random = np.random.default_rng(20)
    basis, _ = np.linalg.qr(np.column_stack([np.ones(100), random.normal(size=(100, len(means)))]))
    deviations = dict(zip(means, basis[:, 1:].T * np.sqrt(99)))
    deviations[list(means)[-1]] *= noise
    return {name: mean + deviations[name] for name, mean in means.items()}


def test_all_pairs_compares_every_two_learners_once():
    learners = _learners(a=1.0, b=2.0, c=3.0)
    pairs = all_pairs(learners)
    assert list(zip(pairs["first"], pairs["second"])) == [("a", "b"), ("a", "c"), ("b", "c")]
    expected = [paired(learners[first], learners[second]) for first, second in zip(pairs["first"], pairs["second"])]
    assert pairs[["difference", "ci95", "p"]].to_numpy() == pytest.approx(np.array(expected))
    assert pairs["p_holm"].to_numpy() == pytest.approx(holm(pairs["p"].to_numpy()))


def test_one_learner_makes_no_pairs():
    pairs = all_pairs(_learners(a=1.0))
    assert list(pairs.columns) == ["first", "second", "difference", "ci95", "p", "p_holm"]
    assert pairs.empty


def _places(table) -> dict[str, tuple[float, str]]:
    return {name: (row["rank"], row["group"]) for name, row in table.iterrows()}


def test_learners_told_apart_have_ranks_and_letters_of_their_own():
    table = ranks(_learners(worst=1.0, best=3.0, middle=2.0))
    assert _places(table) == {"best": (1, "a"), "middle": (2, "b"), "worst": (3, "c")}
    assert list(table.index) == ["best", "middle", "worst"]
    assert table["mean"].to_numpy() == pytest.approx([3, 2, 1])


def test_learners_not_told_apart_share_the_mean_of_their_ranks_and_a_letter():
    table = ranks(_learners(a=3.0, b=2.9, c=1.0, d=0.9, e=0.8))
    assert _places(table) == {"a": (1.5, "a"), "b": (1.5, "a"), "c": (4, "b"), "d": (4, "b"), "e": (4, "b")}


def test_a_learner_like_two_that_are_not_alike_has_both_letters():
    table = ranks(_learners(a=0.6, b=0.3, c=0.0))
    assert _places(table) == {"a": (1.5, "a"), "b": (1.5, "ab"), "c": (3, "b")}


def test_letters_follow_who_is_told_apart_and_not_the_order_of_means():
    # c varies too much to be told apart from either
    table = ranks(_learners(a=2.0, b=1.0, c=0.5, noise=9))
    assert _places(table) == {"a": (1.5, "a"), "b": (3, "b"), "c": (1.5, "ab")}


def test_all_that_share_a_letter_with_the_best_are_best_and_none_ranks_above_it():
    # the best varies too much to be told apart from either of two that are told apart
    table = ranks(_learners(second=1.0, third=0.5, first=1.1, noise=9))
    assert dict(table["group"]) == {"first": "ab", "second": "a", "third": "b"}
    assert table["best"].all()
    assert list(table["rank"]) == [2, 2, 2]


def test_the_first_rank_is_that_of_the_best_and_of_what_shares_a_letter_with_it():
    random = np.random.default_rng(23)
    deviations = random.uniform(0.2, 4, 12)
    table = ranks({f"learner {i}": random.normal(i / 4, deviation, 100) for i, deviation in enumerate(deviations)})
    shared = [bool(set(group) & set(table["group"].iloc[0])) for group in table["group"]]
    assert 1 < sum(shared) < 12
    assert list(table["best"]) == list(table["rank"] == table["rank"].min()) == shared


def test_ranks_add_up_as_if_there_were_no_ties():
    random = np.random.default_rng(21)
    table = ranks({f"learner {i}": random.normal(i / 20, 1, 100) for i in range(9)})
    assert table["rank"].sum() == 45
    assert table["rank"].nunique() < 9


def test_learners_share_a_letter_exactly_where_they_are_not_told_apart():
    random = np.random.default_rng(22)
    learners = {f"learner {i}": random.normal(i / 10, 1, 100) for i in range(9)}
    groups = ranks(learners)["group"]
    pairs = all_pairs(learners)
    alike = [bool(set(groups[first]) & set(groups[second])) for first, second in zip(pairs["first"], pairs["second"])]
    assert alike == list(pairs["p_holm"] > 0.05)
    assert any(alike)
    assert not all(alike)


def test_a_smaller_level_tells_fewer_learners_apart():
    learners = _learners(a=0.6, b=0.0)
    assert list(ranks(learners)["group"]) == ["a", "b"]
    assert list(ranks(learners, level=1e-6)["group"]) == ["a", "a"]


def test_ranks_do_not_depend_on_the_order_of_learners():
    learners = _learners(a=0.6, b=0.3, c=0.0) | {"copy of a": _learners(a=0.6, b=0.3, c=0.0)["a"]}
    assert ranks(dict(reversed(learners.items()))).equals(ranks(learners))


def test_one_learner_is_the_best():
    assert _places(ranks(_learners(a=1.0))) == {"a": (1, "a")}


def test_letters_go_on_after_z():
    table = ranks(_learners(**{f"learner {i}": float(-i) for i in range(28)}))
    assert list(table["group"][24:]) == ["y", "z", "a'", "b'"]
