"""The kinds of episodes have the distributions of their sources: two-sample tests against plain samplers with NumPy."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, ks_2samp

from episodes import ImageBank
from episodes.draws import stream
from episodes.kinds.any_way import AnySampler, MetaDLSampler
from episodes.kinds.composition import ComposedSampler, Composition
from episodes.kinds.dirichlet import DirichletSampler, dirichlet, log_gamma
from episodes.kinds.imbalance import linear, long_tail, step
from episodes.kinds.open_set import OpenSampler
from episodes.kinds.semi import SemiSampler
from episodes.kinds.within import WithinSampler

OURS, PLAIN = 100_000, 10_000  # episodes; a plain sampler is slow
LEAST = 1e-3  # p-value of a test that passes; all draws are seeded
SIZES = [20, 35, 50, 80, 130, 200, 320, 500, 800, 1300, 14, 23]


def bank_of(sizes: list[int], groups: str | None = None) -> ImageBank:
    names = tuple(map(str, range(len(sizes))))
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    images = torch.zeros((int(offsets[-1]), 1, 1, 1), dtype=torch.uint8)
    return ImageBank(images, offsets, names, tuple(groups or names))


def composed(sampler: ComposedSampler, count: int = OURS) -> Composition:
    return sampler.compose(stream(5, torch.arange(count)))


def assert_same_counts(ours: np.ndarray, plain: np.ndarray) -> None:
    """A chi-squared test of whole numbers; rare ones, which the test cannot judge, are put together."""
    values, numbers = np.unique(np.concatenate([ours, plain]), return_counts=True)
    rare = np.isin(np.arange(int(values.max()) + 1), values[numbers < 200])
    table = np.stack([np.bincount(one, minlength=len(rare)) for one in (ours, plain)])
    together = table[:, rare].sum(1, keepdims=True)
    table = np.concatenate([table[:, ~rare], together], 1) if together.sum() >= 200 else table[:, ~rare]
    assert chi2_contingency(table[:, table.sum(0) > 0]).pvalue > LEAST


def authors_counts(shares: np.ndarray, total: int) -> list[int]:
    """Veilleux's rule: round, and while the sum is wrong, round the number nearest to a half the other way."""
    exact = [share * total for share in shares]
    while sum(map(round, exact)) != total:
        place = min(range(len(exact)), key=lambda one: abs(exact[one] % 1 - 0.5))
        exact[place] = math.floor(exact[place]) if sum(map(round, exact)) > total else math.ceil(exact[place])
    return [*map(round, exact)]


@pytest.mark.parametrize("alpha", [0.5, 2])
def test_queries_of_a_class_and_of_the_largest_class_are_as_the_authors_draw_them(alpha):
    sampler = DirichletSampler(bank_of([100] * 10), 5, 1, 15, alpha=alpha)
    ours = composed(sampler).query.numpy()
    shares = np.random.default_rng(0).dirichlet([alpha] * 5, PLAIN)
    plain = np.array([authors_counts(row, 75) for row in shares])
    for place in range(5):
        assert_same_counts(ours[:, place], plain[:, place])
    assert_same_counts(ours.max(1), plain.max(1))
    assert_same_counts((ours == 0).sum(1), (plain == 0).sum(1))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1, 2, 7.5])
def test_gamma_variates_have_their_distribution(alpha):
    keys = stream(3, torch.arange(OURS))
    ours = log_gamma(keys, torch.zeros_like(keys), alpha).numpy()
    plain = np.log(np.random.default_rng(1).gamma(alpha, size=OURS))
    assert ks_2samp(ours, plain).pvalue > LEAST


def test_shares_of_two_classes_go_together_as_in_a_dirichlet_distribution():
    shares = dirichlet(stream(3, torch.arange(OURS)), 5, 2).numpy()
    plain = np.random.default_rng(1).dirichlet([2] * 5, OURS)
    for function in (lambda one: one[:, 0] + one[:, 3], lambda one: one[:, 0] - one[:, 4], lambda one: one.min(1)):
        assert ks_2samp(function(shares), function(plain)).pvalue > LEAST


def meta_dataset(rng: np.random.Generator, bank: list[int]) -> tuple[int, int, list[int], list[int]]:
    """Ways, queries of a class, classes and shots of one episode, formula by formula."""
    ways = int(rng.integers(5, min(50, len(bank)) + 1))
    classes = rng.permutation(len(bank))[:ways].tolist()
    sizes = [bank[one] for one in classes]
    query = min(10, *(size // 2 for size in sizes))
    beta = 1 - rng.random()
    total = min(500, sum(math.ceil(beta * min(100, size - query)) for size in sizes))
    weights = [math.exp(rng.uniform(math.log(0.5), math.log(2))) * size for size in sizes]
    shots = [
        min(math.floor(weight / sum(weights) * (total - ways)) + 1, size - query)
        for weight, size in zip(weights, sizes)
    ]
    return ways, query, classes, shots


@pytest.fixture(scope="module")
def any_way() -> tuple[Composition, list[tuple]]:
    rng = np.random.default_rng(0)
    return composed(AnySampler(bank_of(SIZES))), [meta_dataset(rng, SIZES) for _ in range(PLAIN)]


def test_ways_and_queries_are_those_of_meta_dataset(any_way):
    ours, plain = any_way
    used = (ours.support > 0).numpy()
    assert_same_counts(used.sum(1), np.array([ways for ways, *_ in plain]))
    assert_same_counts(ours.query[:, 0].numpy(), np.array([query for _, query, *_ in plain]))
    assert bool(((ours.query == ours.query[:, :1]) | ~torch.from_numpy(used)).all())


def test_support_sets_have_the_sizes_of_meta_dataset(any_way):
    ours, plain = any_way
    shots = [shots for *_, shots in plain]
    for function, numpy_function in ((sum, lambda one: one.sum(1)), (max, lambda one: one.max(1))):
        assert ks_2samp(numpy_function(ours.support.numpy()), [function(one) for one in shots]).pvalue > LEAST
    assert ks_2samp(ours.support[:, 0].numpy(), [one[0] for one in shots]).pvalue > LEAST


@pytest.mark.parametrize("number", [0, 9, 10])
def test_a_class_of_any_size_has_the_shots_of_meta_dataset(any_way, number):
    ours, plain = any_way
    shots = [shots[classes.index(number)] for _, _, classes, shots in plain if number in classes]
    own = (ours.classes == number) & (ours.support > 0)
    assert ks_2samp(ours.support[own].numpy(), shots).pvalue > LEAST


def test_ratios_of_shots_are_those_of_meta_dataset():
    sizes = [2000] * 5
    ours = composed(AnySampler(bank_of(sizes))).support.double().numpy()
    rng = np.random.default_rng(0)
    plain = np.array([meta_dataset(rng, sizes)[3] for _ in range(PLAIN)], dtype=float)
    assert ks_2samp(*(np.abs(np.log(shots[:, 0] / shots[:, 1])) for shots in (ours, plain))).pvalue > LEAST


def test_no_episode_has_more_images_than_the_sampler_says(any_way):
    ours, _ = any_way
    sampler = AnySampler(bank_of(SIZES))
    ways = (ours.support > 0).sum(1)
    assert int(ours.support.max()) <= sampler.shot
    assert int((ways * ours.support.amax(1)).max()) <= sampler.places
    assert int(ours.support.sum(1).max()) <= 500


def test_ways_and_shots_are_those_of_metadl():
    ours = composed(MetaDLSampler(bank_of([40] * 30), query=20))
    rng = np.random.default_rng(0)
    ways, shots = rng.integers(2, 21, PLAIN), rng.integers(1, 21, PLAIN)
    own = (ours.support > 0).sum(1).numpy()
    assert_same_counts(own, ways)
    assert_same_counts(ours.support[:, 0].numpy(), shots)
    assert_same_counts(own * 21 + ours.support[:, 0].numpy(), ways * 21 + shots)


@pytest.mark.parametrize("way", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("most", [3, 5, 9, 19])
def test_imbalanced_shots_follow_the_formulas_of_the_source(way, most):
    assert linear(way, most) == np.around(np.linspace(1 - 0.49, most + 0.49, way)).astype(int).tolist()
    floor = 1 / most
    power_law = [((1 - floor) * place**2 + floor) * most for place in np.linspace(0, 1, way)]
    assert long_tail(way, most) == [math.floor(shots + 1e-9) for shots in power_law]
    assert step(way, most) == sorted(step(way, most))
    assert step(way, most).count(1) == max(1, int(0.2 * way))


def drawn_within(rng: np.random.Generator, groups: list[list[int]], way: int) -> list[int]:
    return rng.permutation(groups[rng.integers(len(groups))])[:way].tolist()


def test_groups_and_classes_within_them_are_uniform():
    letters = "aabbbcccccbaad"
    sampler = WithinSampler(bank_of([9] * len(letters), letters), 3, 1, 2)
    ours = composed(sampler).classes.numpy()
    groups = [[place for place, one in enumerate(letters) if one == letter] for letter in "abc"]
    rng = np.random.default_rng(0)
    plain = np.array([drawn_within(rng, groups, 3) for _ in range(PLAIN)])
    for place in range(3):
        assert_same_counts(ours[:, place], plain[:, place])
    assert_same_counts(ours @ [256, 16, 1], plain @ [256, 16, 1])
    assert chisquare(np.bincount([letters[one] == "a" for one in ours[:, 0]]), [OURS * 2 / 3, OURS / 3]).pvalue > LEAST


def plain_images(rng: np.random.Generator, classes: int, way: int, count: int) -> Iterator[int]:
    """Images of `count` beyond the first three of the last of `way` classes, in an order of their own each time."""
    for _ in range(PLAIN):
        chosen = rng.permutation(classes)[way - 1]
        yield int(chosen) * 12 + int(rng.permutation(12)[count])


@pytest.mark.parametrize(
    "make",
    [
        lambda bank: SemiSampler(bank, 3, 1, 2, seed=2),
        lambda bank: SemiSampler(bank, 3, 1, 2, seed=2, distractors=True),
        lambda bank: OpenSampler(bank, 3, 1, 2, seed=2),
    ],
    ids=["semi", "semi with distractors", "open"],
)
def test_unlabelled_and_unknown_images_are_uniform(make: Callable[[ImageBank], ComposedSampler]):
    (part,) = make(bank_of([12] * 8)).batches(16_000, 16_000)
    ours = (part.query if part.unlabelled is None else part.unlabelled)[:, -1].numpy()
    plain = np.fromiter(plain_images(np.random.default_rng(0), 8, 3, 4), dtype=int)
    assert_same_counts(ours, plain)
    assert_same_counts(ours // 12 * 8 + part.classes[:, 0].numpy(), np.array([*pairs(np.random.default_rng(1))]))


def pairs(rng: np.random.Generator) -> Iterator[int]:
    """The last class of the unlabelled or unknown ones and the first of the episode, which always differ."""
    for _ in range(PLAIN):
        last, first = rng.permutation(8)[:2]
        yield int(last) * 8 + int(first)
