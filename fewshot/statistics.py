"""What the accuracies of many episodes say: intervals, each over one named source of chance, and comparisons."""

import functools
from collections.abc import Mapping
from itertools import combinations
from string import ascii_lowercase
from typing import NamedTuple

import networkx
import numpy as np
import pandas as pd
import scipy  # its submodules load when first used, so that commands that need none start faster


class Estimate(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval."""

    mean: float
    ci95: float


class Interval(NamedTuple):
    """A proportion in [0, 1] and the ends of its 95 % confidence interval, which need not be symmetric."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference, the half-width of its 95 % confidence interval, and the two-sided p-value of no difference."""

    mean: float
    ci95: float
    p: float


def over_episodes(accuracies: np.ndarray) -> Estimate:
    """The papers' interval: 1.96 * std(ddof = 1) / sqrt(episodes), from the accuracies (E,) of E >= 2 episodes.

    The interval covers the choice of episodes from one fixed test set with one trained model, and nothing else: neither
    another test set nor another training run.

    >>> "{:.3f} ± {:.3f}".format(*over_episodes([0.4, 0.6, 0.8, 0.6]))  # 1.96 * 0.1633 / sqrt(4)
    '0.600 ± 0.160'
    """
    values = _vector(accuracies, "(E,) of at least 2 episodes")
    return Estimate(float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values))))


def over_seeds(means: np.ndarray) -> Estimate:
    """Student's t interval, S - 1 degrees of freedom, from the mean accuracies (S,) of S >= 2 training runs.

    The interval covers the randomness of training (initial weights, order of batches) if every run is measured on the
    same episodes: its target is the mean over ever more runs on these episodes of this test set. The interval covers
    neither other episodes nor another test set. A run is one observation however many episodes measure the run, so runs
    and episodes are never pooled. The interval is exact if the runs' means are normally distributed.
    """
    values = _vector(means, "(S,) of at least 2 training runs")
    return Estimate(float(values.mean()), _t_half_width(_standard_error(values), len(values) - 1))


def over_classes(accuracies: np.ndarray, classes: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The open interval: what another test set of as many classes, each with its own images, would have given.

    accuracies (E,)   of E >= 2 episodes that drew their classes uniformly; the interval has their units
    classes (E, N)    the classes of each episode, as positions in `clusters`, without repeats in an episode
    clusters (C,)     a label for each of the C test classes, drawn by an episode or not: classes of one label depend
                      on each other, as the rotations of one character do; np.arange(C) if none do

    The papers' interval takes the test set as given, though its few classes and images come back in episode after
    episode (Lafargue et al. 2024, arXiv 2409.02850, who draw tasks without replacement until the images are used up,
    so that tasks are independent; this keeps all episodes instead). A mean over episodes of N out of C classes is to
    those classes what a random forest of subsamples is to its data. So its variance is the infinitesimal jackknife of
    Wager and Athey (2018), less its Monte Carlo noise (Wager, Hastie and Efron 2014), here summed over G clusters g:

        V = G / (G - 1) * ((C - 1) / (C - N))^2 * (sum_g (sum_e z_eg d_e)^2 - sum_ge (z_eg d_e)^2) / (E (E - 1))

    with z_eg the number of classes of cluster g in episode e, less its expectation, and d_e the accuracy less the
    mean. The whole variance is V, at least 0, plus s^2 / E, the variance of drawing the episodes. If every class is a
    cluster and E is large, V is the jackknife over the means of the episodes without each class. A class is drawn with
    its images, so V includes the variance of the images: a bootstrap that resampled the images of the classes as well
    would count that variance twice.

    The half-width takes three things into account. V is uncertain: with the noise left in, it is a scaled chi-square
    of G - 1 degrees of freedom, so the half-width w solves E[2 Phi(-w / S)] = 5 %, with

        S^2 = max(0, (G - 1) B / chi2_{G-1} - noise) + s^2 / E

    and B is V with its noise: a generalised interval (Weerahandi 1993) for a variance that is a difference. This is
    Student's t interval of G - 1 degrees of freedom if the noise is small; if it hides the variance, that variance
    is taken for neither 0 nor B. The classes' difficulties are skewed: w is multiplied by 1 + a g^2 / G, g the skewness
    of the clusters' sums and a = (z^4 + 2 z^2 - 3) / 18 = 1.08, the term of skewness in Hall's (1988) expansion of how
    often a symmetric t interval covers. The half-width is at least that of `over_episodes`.

    How often it covers is simulated in results/README.md: 92 to 97 % of the time if the difficulties are moderately
    uneven, down to 5 classes, and also if way is close to C or a class has few episodes. The interval covers less if
    very few classes are very hard (10 exponential difficulties: 92 %), for the test set may then hold none of those: no
    interval from the accuracies can know of them. Interactions of classes make the interval wider (Efron and Stein
    1981).

    The half-width is nan if the episodes say nothing of other classes: there is one cluster, or N = C and so every
    episode holds all classes.
    ValueError for shapes that do not fit, or classes that are not among the C.
    """
    values = _vector(accuracies, "(E,) of at least 2 episodes")
    classes, clusters = np.asarray(classes), np.asarray(clusters)
    counts, expected = _cluster_counts(classes, clusters, len(values))
    squares = (counts**2).sum(axis=1) - 2 * (counts @ expected) + expected @ expected  # (E,), sum of z_eg^2 over g
    mean = float(values.mean())
    if not squares.any():
        return Estimate(mean, float("nan"))
    episodes, way = classes.shape
    total, groups = len(clusters), len(expected)
    deviations = values - mean  # they add up to 0, so that counts may stand for z in the covariances
    scale = groups / (groups - 1) * ((total - 1) / (total - way)) ** 2 / (episodes * (episodes - 1))
    noise = scale * squares @ deviations**2
    sums = deviations @ counts
    bound = float(scale * sums @ sums)
    half_width = _hidden_half_width(bound, float(noise), float(values.var(ddof=1) / episodes), groups - 1)
    return Estimate(mean, float(max(half_width * _skewness_factor(sums), over_episodes(values).ci95)))


def proportion(successes: int, trials: int) -> Interval:
    """The exact binomial interval of Clopper and Pearson (1934): `successes` in `trials` >= 1 independent trials.

    The interval covers the true probability at least 95 % of the time, mostly more. ValueError for impossible counts.

    >>> "{:.4f}, from {:.4f} to {:.4f}".format(*proportion(31, 400))
    '0.0775, from 0.0533 to 0.1082'
    """
    test = scipy.stats.binomtest(successes, trials)
    interval = test.proportion_ci(confidence_level=0.95, method="exact")
    return Interval(float(test.statistic), float(interval.low), float(interval.high))


def proportions(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval of `proportion` for many counts (M,): (M,) each; 0 and 1 if there were no trials."""
    failures = trials - successes
    with np.errstate(invalid="ignore"):  # of a beta distribution without failures or successes, replaced below
        low = scipy.special.betaincinv(successes, failures + 1, 0.025)
        high = scipy.special.betaincinv(successes + 1, failures, 0.975)
    return np.where(successes > 0, low, 0.0), np.where(failures > 0, high, 1.0)


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """`first` minus `second`, the accuracies (E,) of two learners in the same E >= 2 episodes: the paired t test.

    The difficulty of an episode cancels in the difference. The interval covers the choice of episodes for these two
    trained models and these test images: another training run or other classes may reverse the difference. ValueError
    for unequal lengths.
    """
    values, others = (_vector(accuracies, "(E,) of at least 2 episodes") for accuracies in (first, second))
    if len(values) != len(others):
        raise ValueError(f"a paired comparison needs the same episodes, not {len(values)} and {len(others)} of them")
    differences = values - others
    mean, error, degrees = differences.mean(), _standard_error(differences), len(values) - 1
    # scipy.stats.ttest_rel has nan for identical copies
    p = 2 * scipy.special.stdtr(degrees, -abs(mean) / error) if error > 0 else mean == 0
    return Difference(float(mean), _t_half_width(error, degrees), float(p))


def unpaired(first: np.ndarray, second: np.ndarray) -> Difference:
    """The mean of `first` minus that of `second`, accuracies (E,) and (F,) in different episodes: Welch's t test.

    The interval covers the choice of both sets of episodes, for these trained models and these test images.
    """
    samples = [_vector(accuracies, "(E,) of at least 2 episodes") for accuracies in (first, second)]
    mean = samples[0].mean() - samples[1].mean()
    variances = np.array([_standard_error(values) ** 2 for values in samples])
    error = float(np.sqrt(variances.sum()))
    if error == 0:
        return Difference(float(mean), 0.0, float(mean == 0))
    degrees = error**4 / sum(one**2 / (len(values) - 1) for one, values in zip(variances, samples))
    p = 2 * scipy.special.stdtr(degrees, -abs(mean) / error)
    return Difference(float(mean), _t_half_width(error, degrees), float(p))


def holm(p_values: np.ndarray) -> np.ndarray:
    """The p-values (T,) of T tests, adjusted by Holm's (1979) step-down method, in their order.

    To call those below 5 % significant makes any error at all in at most 5 % of such families of tests, however the
    tests depend on each other. ValueError if a p-value is not in [0, 1].

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values (T,) must lie between 0 and 1, not {p_values}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def all_pairs(accuracies: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Every two learners compared by `paired`, from the accuracies (E,) of each in the same episodes.

    One row a pair, in the order given: first, second, difference (first minus second) and ci95 in the units of the
    accuracies, p, and p_holm, which Holm's method adjusts for the number of pairs; ci95 is that of each pair alone.
    """
    rows = [(one, other, *paired(accuracies[one], accuracies[other])) for one, other in combinations(accuracies, 2)]
    pairs = pd.DataFrame(rows, columns=["first", "second", "difference", "ci95", "p"])
    return pairs.assign(p_holm=holm(pairs["p"].to_numpy(np.float64)))


def ranks(accuracies: Mapping[str, np.ndarray], level: float = 0.05) -> pd.DataFrame:
    """The learners, best first, as far as the accuracies (E,) of each in the same episodes tell them apart.

    Two learners are told apart if p_holm of `all_pairs` is at most `level`. Index: the learner; columns:

    mean     in the units of the accuracies; equal means stand in the order of their names
    rank     the learners not told apart from the best share the mean of their places, then the learners not told apart
             from the best of the rest, and so on, as in Meta-Dataset (Triantafillou et al. 2020): no learner ranks
             above the best, though being alike is not transitive (a like b, a like c, but b better than c)
    best     whether it is not told apart from the best
    group    letters, 'a' with the best: learners that share a letter cannot be told apart, learners that share none can
             (the compact letter display of Piepho 2004)
    """
    means = {name: float(np.mean(values)) for name, values in accuracies.items()}
    names = sorted(means, key=lambda name: (-means[name], name))
    pairs = all_pairs({name: accuracies[name] for name in names})
    alike = networkx.Graph(pairs.loc[pairs["p_holm"] > level, ["first", "second"]].itertuples(index=False, name=None))
    alike.add_nodes_from(names)
    return pd.DataFrame(
        {
            "mean": [means[name] for name in names],
            "rank": tied_ranks(alike, names),
            "best": [name == names[0] or alike.has_edge(name, names[0]) for name in names],
            "group": _letters(alike, names),
        },
        index=pd.Index(names, name="learner"),
    )


def tied_ranks(alike: networkx.Graph, names: list[str]) -> list[float]:
    """The rank of each of the `names`, best first: the mean place of the best that is left and of those alike to it.

    alike: has an edge between two names that cannot be told apart
    """
    places: dict[str, float] = {}
    left = list(names)
    while left:
        tied = [name for name in left if name == left[0] or alike.has_edge(name, left[0])]
        places |= dict.fromkeys(tied, len(places) + (len(tied) + 1) / 2)
        left = [name for name in left if name not in places]
    return [places[name] for name in names]


def _vector(accuracies: np.ndarray, need: str) -> np.ndarray:
    """`accuracies` as float64; ValueError if they are not one row of at least two."""
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs the accuracies {need}, not an array {values.shape}")
    return values


def _standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of independent `values` (n,)."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _t_half_width(standard_error: float, degrees: float) -> float:
    """Half of the 95 % interval of a mean whose standard error was estimated with `degrees` degrees of freedom."""
    return float(scipy.special.stdtrit(degrees, 0.975) * standard_error)


def _hidden_half_width(bound: float, noise: float, known: float, degrees: int) -> float:
    """Half of the 95 % interval of a mean of variance bound - noise + known, in expectation.

    bound: an estimate with `degrees` degrees of freedom; noise, known: known variances, of which noise is a part of
    what `bound` estimates. See over_classes for the equation; the chi-square is averaged over its 2,000 quantiles.
    """
    if bound + known == 0:
        return 0.0
    variances = np.maximum(bound * degrees / _chi_squares(degrees) - noise, 0) + known
    spread = np.sqrt(np.maximum(variances, np.finfo(np.float64).tiny))

    def missed(half: float) -> float:
        return 2 * scipy.special.ndtr(-half / spread).mean() - 0.05

    highest = scipy.special.stdtrit(degrees, 0.99) * (np.sqrt(bound) + np.sqrt(known))  # misses at most 4 %
    return float(scipy.optimize.brentq(missed, 0, highest))


@functools.lru_cache(maxsize=16)
def _chi_squares(degrees: int) -> np.ndarray:
    """The quantiles of a chi-square variable in the middle of each of 2,000 equally likely parts."""
    return scipy.special.chdtri(degrees, (np.arange(2000) + 0.5) / 2000)


def _skewness_factor(sums: np.ndarray) -> float:
    """How much wider a t interval must be for the skewness of its values (G,), which add up to 0, to the order of 1 / G
    (Hall 1988), with the skewness that is corrected for few values (Joanes and Gill 1998, G_1)."""
    size, largest = len(sums), np.abs(sums).max()
    if size < 3 or largest == 0:
        return 1.0
    z, scaled = scipy.special.ndtri(0.975), sums / largest
    skewness = np.mean(scaled**3) / np.mean(scaled**2) ** 1.5 * np.sqrt(size * (size - 1)) / (size - 2)
    return 1 + (z**4 + 2 * z**2 - 3) / 18 * float(skewness) ** 2 / size


def _cluster_counts(
    classes: np.ndarray, clusters: np.ndarray, episodes: int
) -> tuple["scipy.sparse.csr_array", np.ndarray]:
    """How many classes each episode has of each cluster, (E, G), sparse, and how many it has on average, (G,)."""
    if classes.ndim != 2 or len(classes) != episodes or clusters.ndim != 1:
        raise ValueError(
            f"{episodes} accuracies need the classes (E, N) of as many episodes and the clusters (C,) of the classes,"
            f" not arrays {classes.shape} and {clusters.shape}"
        )
    if classes.min() < 0 or classes.max() >= len(clusters):
        raise ValueError(f"classes must be numbered from 0 to {len(clusters) - 1}, the last that has a cluster")
    _, labels, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    places = np.indices(classes.shape)[0].ravel(), labels[classes].ravel()
    counts = scipy.sparse.csr_array((np.ones(classes.size), places), shape=(episodes, len(sizes)))  # repeats add up
    return counts, classes.shape[1] * sizes / len(clusters)


def _letters(alike: networkx.Graph, names: list[str]) -> list[str]:
    """The letters of each learner: one for each largest set that are all alike, in the order of their best members."""
    sets = sorted(sorted(map(names.index, clique)) for clique in networkx.find_cliques(alike))
    letters = [ascii_lowercase[i % 26] + "'" * (i // 26) for i in range(len(sets))]  # a, b, ..., z, a', b', ...
    return ["".join(letter for letter, held in zip(letters, sets) if i in held) for i in range(len(names))]
