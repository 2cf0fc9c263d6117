"""Episodes never change, do not depend on batch or device, have no repeats, and are uniform."""

import dataclasses

import pytest
import torch
from conftest import toy_bank
from scipy.stats import chisquare

from episodes import EpisodeSampler, ImageBank, InputError, ListedEpisodes, draws, sampler
from episodes.sampler import Episodes, sampler_of

EVEN = [20] * 50
UNEVEN = [5, 9, 6, 30, 7, 5, 12]
MASK = 2**64 - 1


def fields(episodes: Episodes) -> list[torch.Tensor]:
    return [episodes.classes, episodes.support, episodes.query]


def same(one: Episodes, other: Episodes) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(fields(one), fields(other)))


def joined(parts: list[Episodes]) -> Episodes:
    return Episodes(*(torch.cat(tensors) for tensors in zip(*map(fields, parts))))


def reference_mix(word: int) -> int:
    """SplitMix64's output function as its authors print it."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def reference_draw(key: int, slot: int, size: int, count: int) -> list[int]:
    """A Fisher-Yates shuffle with a real table; each random word gives two steps, its upper half first."""
    table = list(range(size))
    for step in range(count):
        word = reference_mix(key + (slot * 65536 + 1 + step // 2) * 0x9E3779B97F4A7C15 & MASK)
        half = word & 0xFFFFFFFF if step % 2 else word >> 32
        target = step + (half * (size - step) >> 32)
        table[step], table[target] = table[target], table[step]
    return table[:count]


def reference_episode(sizes: list[int], way: int, images: int, seed: int, number: int) -> tuple[list, list]:
    """(classes, images of each class) of one episode."""
    key = reference_mix(reference_mix(seed & MASK) + number * 0x9E3779B97F4A7C15 & MASK)
    classes = reference_draw(key, 0, len(sizes), way)
    drawn = [
        [sum(sizes[:one]) + image for image in reference_draw(key, slot, sizes[one], images)]
        for slot, one in enumerate(classes, start=1)
    ]
    return classes, drawn


@pytest.mark.parametrize(
    ("sizes", "way", "shot", "query", "seed", "start", "classes", "support", "queries"),
    [
        (
            EVEN,
            *(5, 1, 3, 0, 0),
            [[44, 24, 22, 32, 5], [32, 15, 35, 47, 21]],
            [[[892], [491], [452], [642], [112]], [[655], [306], [717], [945], [439]]],
            [
                [[897, 888, 896], [499, 493, 490], [451, 458, 456], [644, 655, 652], [118, 115, 102]],
                [[649, 647, 645], [312, 319, 313], [704, 711, 714], [940, 948, 943], [432, 425, 426]],
            ],
        ),
        (
            UNEVEN,
            *(3, 2, 3, 2024, 10),
            [[0, 2, 3], [2, 4, 6]],
            [[[3, 1], [14, 18], [44, 43]], [[14, 19], [56, 55], [73, 65]]],
            [[[0, 2, 4], [16, 17, 15], [41, 31, 20]], [[15, 16, 17], [51, 52, 53], [64, 67, 66]]],
        ),
    ],
    ids=["even", "uneven"],
)
def test_golden_vectors(sizes, way, shot, query, seed, start, classes, support, queries):
    drawn = EpisodeSampler(sizes, way, shot, query, seed).episodes(start, 2)
    assert drawn.classes.tolist() == classes
    assert drawn.support.tolist() == support
    assert drawn.query.tolist() == queries


def test_mix_agrees_with_published_splitmix64_outputs():
    counters = 1234567 + torch.arange(1, 6) * draws._GOLDEN
    assert [word & MASK for word in draws.mix(counters).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1, -1, -(2**40), 2**63 - 1, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize(("way", "shot", "query"), [(1, 1, 0), (4, 2, 3), (7, 1, 4)])
def test_episodes_agree_with_a_plain_python_shuffle(seed, way, shot, query):
    drawn = EpisodeSampler(UNEVEN, way, shot, query, seed).episodes(3, 12)
    images = torch.cat([drawn.support, drawn.query], dim=2)
    for row in range(12):
        expected = reference_episode(UNEVEN, way, shot + query, seed, 3 + row)
        assert (drawn.classes[row].tolist(), images[row].tolist()) == expected


def test_far_episode_numbers_agree_with_a_plain_python_shuffle():
    drawn = EpisodeSampler(EVEN, 5, 5, 15, seed=3).episodes(10**12, 1)
    images = torch.cat([drawn.support, drawn.query], dim=2)
    assert (drawn.classes[0].tolist(), images[0].tolist()) == reference_episode(EVEN, 5, 20, 3, 10**12)


@pytest.mark.parametrize(
    "sizes",
    [[2**15] * 3, [2**16] * 3, [40, 70_000, 2**15, 40], [3] * 2**15, [3] * 40_000],
    ids=["as large as 16 bits hold", "larger", "unequal", "as many classes as 16 bits hold", "more"],
)
def test_large_classes_and_many_agree_with_a_plain_python_shuffle(sizes):
    drawn = EpisodeSampler(sizes, 3, 1, 2, seed=5).episodes(0, 20)
    images = torch.cat([drawn.support, drawn.query], dim=2)
    for row in range(20):
        expected = reference_episode(sizes, 3, 3, 5, row)
        assert (drawn.classes[row].tolist(), images[row].tolist()) == expected


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("part", [1, 7, 50])
def test_episodes_do_not_depend_on_batch_size_or_order(sizes, part):
    tasks = EpisodeSampler(sizes, 5, 1, 4, seed=9)
    parts = {start: tasks.episodes(start, min(part, 1050 - start)) for start in reversed(range(1000, 1050, part))}
    assert same(joined([parts[start] for start in sorted(parts)]), tasks.episodes(1000, 50))


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("chunk", [1, 26, 175, 1249])
def test_episodes_do_not_depend_on_the_chunks_they_are_worked_out_in(sizes, chunk, monkeypatch):
    tasks = EpisodeSampler(sizes, 5, 1, 4, seed=9)
    whole = tasks.episodes(1000, 50)
    monkeypatch.setattr(sampler, "CHUNK", chunk)
    assert same(tasks.episodes(1000, 50), whole)


def test_shards_together_are_the_whole():
    tasks = EpisodeSampler(EVEN, 5, 1, 4, seed=9)
    assert same(joined([*tasks.batches(103, 25)]), tasks.episodes(0, 103))
    assert [len(part) for part in tasks.batches(103, 25)] == [25, 25, 25, 25, 3]


def test_the_key_of_an_episode_is_that_of_its_seed_and_number_alone():
    keys = EpisodeSampler(EVEN, 5, 1, 4, seed=9).episodes(0, 103).keys
    parts = [part.keys for part in EpisodeSampler(UNEVEN, 3, 2, 1, seed=9).batches(103, 25)]
    assert torch.equal(torch.cat(parts), keys)
    assert torch.equal(keys, draws.stream(9, torch.arange(103)))
    drawn = [draws.words(keys, purpose, 3) for purpose in (0, 1)]
    drawn += [draws.words(EpisodeSampler(EVEN, 5, 1, 4, seed=10).episodes(0, 103).keys, 0, 3)]
    assert len(torch.stack(drawn).unique()) == 3 * 103 * 3
    assert torch.equal(draws.words(keys[7:8], 1, 3), drawn[1][7:8])


def test_no_episodes_are_empty_tensors():
    none = EpisodeSampler(EVEN, 5, 1, 4).episodes(7, 0)
    assert [tuple(field.shape) for field in fields(none)] == [(0, 5), (0, 5, 1), (0, 5, 4)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_episodes_are_the_same_on_cuda(sizes):
    tasks = EpisodeSampler(sizes, 5, 1, 4, seed=-9)
    on_cuda = tasks.episodes(1000, 500, "cuda")
    assert on_cuda.support.device.type == "cuda"
    assert same(on_cuda, tasks.episodes(1000, 500))


def test_a_bank_and_its_sizes_give_the_same_episodes():
    bank = toy_bank(classes=9, images=6)
    assert same(EpisodeSampler(bank, 5, 1, 4).episodes(0, 20), EpisodeSampler([6] * 9, 5, 1, 4).episodes(0, 20))


@pytest.mark.parametrize(("sizes", "way", "shot", "query"), [(EVEN, 20, 5, 15), (UNEVEN, 7, 2, 3), ([1, 1], 2, 1, 0)])
def test_nothing_is_repeated_and_every_image_belongs_to_its_class(sizes, way, shot, query):
    drawn = EpisodeSampler(sizes, way, shot, query, seed=4).episodes(0, 400)
    images = torch.cat([drawn.support, drawn.query], dim=2)
    assert bool((drawn.classes.sort(dim=1).values.diff(dim=1) > 0).all())
    assert bool((images.sort(dim=2).values.diff(dim=2) > 0).all())
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    assert torch.equal(labels[images], drawn.classes[..., None].expand_as(images))


def test_targets_are_the_positions_of_the_queries_classes():
    drawn = EpisodeSampler(UNEVEN, 3, 1, 4).episodes(0, 6)
    labels = torch.arange(len(UNEVEN)).repeat_interleave(torch.tensor(UNEVEN))
    assert torch.equal(drawn.classes[:, drawn.targets], labels[drawn.query.flatten(1)])


@pytest.fixture(scope="module")
def many() -> Episodes:
    """60,000 episodes over seven classes of five images."""
    return EpisodeSampler([5] * 7, way=3, shot=2, query=3, seed=2).episodes(0, 60_000)


def assert_uniform(outcomes: torch.Tensor, possible: int) -> None:
    counts = outcomes.unique(return_counts=True)[1]
    assert len(counts) == possible
    assert chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("position", range(3))
def test_classes_are_uniform(many, position):
    assert_uniform(many.classes[:, position], 7)


def test_ordered_sets_of_classes_are_uniform(many):
    assert_uniform(many.classes @ torch.tensor([49, 7, 1]), 7 * 6 * 5)


@pytest.mark.parametrize("way", range(3))
def test_orders_of_the_images_of_a_class_are_uniform(many, way):
    images = torch.cat([many.support, many.query], dim=2)[:, way] % 5
    assert_uniform(images @ 5 ** torch.arange(5), 120)


@pytest.mark.parametrize("last", range(3))
def test_pairs_of_support_and_query_image_are_uniform(many, last):
    assert_uniform(many.support[:, 0, 0] % 5 * 5 + many.query[:, 0, last] % 5, 5 * 4)


def test_images_of_two_classes_are_independent(many):
    assert_uniform(many.support[:, 0, 0] % 5 * 5 + many.support[:, 1, 0] % 5, 25)


def test_neighbouring_episodes_are_independent(many):
    first = many.classes[:, 0] * 5 + many.support[:, 0, 0] % 5
    assert_uniform(first[0::2] * 35 + first[1::2], 35 * 35)


def test_neighbouring_seeds_are_independent():
    first, second = (EpisodeSampler([5] * 7, 1, 1, 0, seed).episodes(0, 30_000).support.flatten() for seed in (0, 1))
    assert_uniform(first * 35 + second, 35 * 35)


def test_images_of_uneven_classes_are_uniform_in_each_class():
    images = EpisodeSampler(UNEVEN, 1, 1, 4, seed=1).episodes(0, 60_000).query[:, 0, -1]
    for first, size in zip(torch.tensor([0, *UNEVEN]).cumsum(0).tolist(), UNEVEN):
        assert_uniform(images[(images >= first) & (images < first + size)], size)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fewer_shots_are_the_first_of_more(sizes):
    few, more = (EpisodeSampler(sizes, 3, shot, 2, seed=5).episodes(0, 40) for shot in (1, 3))
    assert torch.equal(few.classes, more.classes)
    assert torch.equal(few.support, more.support[..., :1])


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fewer_ways_are_the_first_of_more(sizes):
    few, more = (EpisodeSampler(sizes, way, 1, 4, seed=5).episodes(0, 40) for way in (2, 7))
    assert all(torch.equal(a, b[:, :2]) for a, b in zip(fields(few), fields(more)))


def test_seeds_and_numbers_give_episodes_of_their_own():
    drawn = [EpisodeSampler(EVEN, 5, 1, 15, seed).episodes(0, 100) for seed in (0, 1, -1, 2**32, 2**63)]
    assert len(joined(drawn).support.flatten(1).unique(dim=0)) == 500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 21}, "21-way episodes need 21 classes, but toy .*train has 20"),
        ({"shot": 3, "query": 6}, "3 shots and 6 queries need 9 images a class, but class 'class 0' .* has 8"),
        ({"way": 0}, "way must be at least 1, not 0"),
        ({"shot": 0}, "shot must be at least 1, not 0"),
        ({"query": -1}, "query must be at least 0, not -1"),
    ],
)
def test_impossible_episodes_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        EpisodeSampler(toy_bank(classes=20, images=8), **{"way": 5, "shot": 1, "query": 2, **settings})


def test_the_smallest_class_is_the_one_named():
    with pytest.raises(InputError, match="class 2 of the data set has 3"):
        EpisodeSampler([9, 9, 3, 4], way=2, shot=1, query=4)


@pytest.mark.parametrize(("start", "count"), [(-1, 5), (0, -1)])
def test_episodes_before_the_first_are_refused(start, count):
    with pytest.raises(InputError, match="numbered from 0"):
        EpisodeSampler(EVEN, 5, 1).episodes(start, count)


def listed_bank(groups: str = "aaaabbbbcccc", images: int = 3) -> ImageBank:
    """A bank whose protocol lists an episode a group; one letter a class, its group."""
    return dataclasses.replace(toy_bank(len(groups), images), group_names=tuple(groups), listed=True)


def test_listed_episodes_are_one_a_group():
    listed = ListedEpisodes(listed_bank())
    assert (listed.count, listed.way, listed.shot, listed.query) == (3, 4, 1, 2)
    drawn = listed.episodes(0, 3)
    assert len(drawn) == 3
    assert [tuple(field.shape) for field in fields(drawn)] == [(3, 4), (3, 4, 1), (3, 4, 2)]
    assert {field.dtype for field in fields(drawn)} == {torch.int64}
    assert drawn.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_listed_episodes_hold_every_class_once_and_in_order():
    assert ListedEpisodes(listed_bank()).episodes(0, 3).classes.flatten().tolist() == [*range(12)]


def test_the_first_image_of_a_listed_class_is_its_support_and_the_others_are_queries():
    drawn = ListedEpisodes(listed_bank()).episodes(0, 3)
    assert torch.equal(drawn.support, 3 * drawn.classes[..., None])
    assert torch.equal(drawn.query, 3 * drawn.classes[..., None] + torch.tensor([1, 2]))


def test_listed_episodes_in_parts_are_the_whole():
    listed = ListedEpisodes(listed_bank("aabbccddee"))
    assert same(joined([*listed.batches(5, 2)]), listed.episodes(0, 5))
    assert [len(part) for part in listed.batches(5, 2)] == [2, 2, 1]
    assert same(listed.episodes(3, 1), Episodes(*(field[3:4] for field in fields(listed.episodes(0, 5)))))


def test_no_listed_episodes_are_empty_tensors():
    none = ListedEpisodes(listed_bank()).episodes(3, 0)
    assert [tuple(field.shape) for field in fields(none)] == [(0, 4), (0, 4, 1), (0, 4, 2)]


def test_listed_episodes_are_as_before_whatever_was_done_to_those_of_an_earlier_call():
    listed, expected = ListedEpisodes(listed_bank()), ListedEpisodes(listed_bank()).episodes(0, 3)
    for field in fields(listed.episodes(0, 3)):
        field.zero_()
    assert same(listed.episodes(0, 3), expected)


@pytest.mark.parametrize(("start", "count"), [(0, 4), (2, 2), (3, 1), (4, 0), (-1, 1), (2, -1)])
def test_episodes_that_are_not_listed_are_refused(start, count):
    with pytest.raises(InputError, match=f"3 episodes are listed: there are no {count} from number {start} on"):
        ListedEpisodes(listed_bank()).episodes(start, count)


@pytest.mark.parametrize("groups", ["aaaabbbb" + "ccc", "aaabbbbb", "aabbaabb", "abab", "abb"])
def test_groups_that_are_no_episodes_are_refused(groups):
    with pytest.raises(InputError, match=r"the groups of toy \(random\) train are no episodes"):
        ListedEpisodes(listed_bank(groups))


@pytest.mark.parametrize("sizes", [[2, 2, 3, 2], [3, 2, 2, 2], [1, 2, 3, 3]])
def test_listed_classes_of_different_sizes_are_refused(sizes):
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    bank = listed_bank("aabb", images=3)
    bank = dataclasses.replace(bank, images=bank.images[: sum(sizes)], offsets=offsets)
    with pytest.raises(InputError, match="are no episodes: they differ in their classes or images"):
        ListedEpisodes(bank)


def test_listed_classes_without_a_query_are_refused():
    with pytest.raises(InputError, match="are no episodes"):
        ListedEpisodes(listed_bank(images=1))


def test_a_bank_that_lists_its_episodes_is_sampled_by_the_list_whatever_is_asked_for():
    chosen = sampler_of(listed_bank(), way=50, shot=7, query=9, seed=3)
    assert same(chosen.episodes(0, 3), ListedEpisodes(listed_bank()).episodes(0, 3))


def test_a_bank_that_lists_no_episodes_is_sampled_as_asked():
    bank = dataclasses.replace(listed_bank(), listed=False)
    chosen = sampler_of(bank, 5, 1, 2, seed=3)
    assert same(chosen.episodes(0, 20), EpisodeSampler(bank, 5, 1, 2, seed=3).episodes(0, 20))
