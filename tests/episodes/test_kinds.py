"""Every kind of episodes: pinned for good, the same in any parts and on any device, without repeats, and as it says."""

import dataclasses
import hashlib

import pytest
import torch
from conftest import refusal

from episodes import Episodes, EpisodeSampler, ImageBank, InputError, Sampler
from episodes.draws import stream
from episodes.kinds import composition, kind_names, kind_sampler
from episodes.kinds.dirichlet import DirichletSampler, shared_out
from episodes.kinds.imbalance import SHAPES, ImbalanceSampler
from episodes.kinds.open_set import OpenSampler
from episodes.kinds.semi import UNLABELLED

SIZES = [19, 24, 17, 40, 18, 22, 31, 17, 25, 20, 60, 23]
GROUPS = "aaaaabbbbbcc"
WAY, SHOT, QUERY, SEED = 3, 2, 4, 11
DRAWN = {  # digests of the first 60 episodes: a change to one of these would change every published number of the kind
    "dirichlet:2": "ec9ea85001a4816c",
    "dirichlet:0.5": "99c4c33fc29cfd8f",
    "any": "e7d4d3ec27ad37cd",
    "any:metadl": "f7f80292e4833789",
    "imbalance:linear": "e4fc8120f68fe69d",
    "imbalance:step": "f3de0dd09816d1e9",
    "imbalance:long-tail": "c8b31e2d511e93b0",
    "within": "a3503d7a10150988",
    "semi": "00bebe15d81e3a76",
    "semi:distractors": "eae144016b33feec",
    "open": "789df13463c3845d",
}
KINDS = sorted(DRAWN)


def bank_of(sizes=SIZES, groups=GROUPS, files=()) -> ImageBank:
    """A bank of tiny images with classes of these sizes; one letter a class, its group."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    names = tuple(f"class {number}" for number in range(len(sizes)))
    images = torch.zeros((int(offsets[-1]), 1, 1, 1), dtype=torch.uint8)
    return ImageBank(images, offsets, names, tuple(groups), dataset="toy", split="test", files=files)


def sampler_of(kind: str, way=WAY, shot=SHOT, query=QUERY, seed=SEED) -> Sampler:
    if kind == "open":
        return OpenSampler(bank_of(), way, shot, query, seed)
    return kind_sampler(kind, bank_of(), way, shot, query, seed)


def plain(parts: list[Episodes]) -> dict[int, tuple]:
    """What each episode holds, by its number, without places that only fill a tensor."""
    episodes = {}
    for part in parts:
        labels = part.targets.expand(len(part), -1)
        for row, number in enumerate(part.numbers.tolist()):
            mask = torch.ones_like(part.support[row], dtype=torch.bool) if part.mask is None else part.mask[row]
            assert number not in episodes
            episodes[number] = (
                part.classes[row].tolist(),
                [images[own].tolist() for images, own in zip(part.support[row], mask)],
                part.query[row].flatten().tolist(),
                labels[row].tolist(),
                [] if part.unlabelled is None else part.unlabelled[row].tolist(),
                int(part.keys[row]),
            )
    return episodes


def drawn(kind: str, count: int = 60, size: int = 1000) -> dict[int, tuple]:
    return plain([*sampler_of(kind).batches(count, size)])


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_never_change(kind):
    episodes = sorted(drawn(kind).items())
    assert hashlib.blake2b(repr(episodes).encode(), digest_size=8).hexdigest() == DRAWN[kind]


def test_every_kind_has_its_digest():
    assert {*kind_names()} - {"uniform", "listed:FILE.csv"} <= {*DRAWN}


def test_uniform_is_the_sampler_of_always():
    parts = [*kind_sampler("uniform", bank_of(), WAY, SHOT, QUERY, SEED).batches(60, 7)]
    assert plain(parts) == plain([EpisodeSampler(SIZES, WAY, SHOT, QUERY, SEED).episodes(0, 60)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 60])
def test_episodes_do_not_depend_on_the_size_of_parts(kind, size):
    parts = [*sampler_of(kind).batches(60, size)]
    assert max(map(len, parts)) <= size
    assert plain(parts) == drawn(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_together_are_the_whole(kind):
    sampler = sampler_of(kind)
    shards = [plain([*sampler.numbered(torch.arange(first, 60, 3), 8)]) for first in range(3)]
    assert shards[0] | shards[1] | shards[2] == drawn(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_do_not_depend_on_how_they_are_worked_out(kind, monkeypatch):
    expected = drawn(kind)
    for name, value in (("_BLOCK", 16), ("_SLICES", 1), ("CHUNK", 50)):
        monkeypatch.setattr(composition, name, value)
    assert drawn(kind) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_episodes_are_the_same_on_cuda(kind):
    parts = [*sampler_of(kind).batches(60, 1000, "cuda")]
    assert parts[0].support.device.type == "cuda"
    assert plain([part.to("cpu") for part in parts]) == drawn(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_episodes_are_no_parts(kind):
    assert [*sampler_of(kind).batches(0, 10)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_parts_keep_the_promises_of_a_sampler(kind):
    sampler = sampler_of(kind)
    for part in sampler.batches(300, 50):
        count, way, shot = part.support.shape
        queries = part.query[0].numel()
        assert part.classes.shape == (count, way)
        assert way <= sampler.way
        assert shot <= sampler.shot
        assert way * shot <= sampler.places
        assert queries <= sampler.queries
        assert part.targets.shape[-1] == queries
        assert torch.equal(part.keys, stream(SEED, part.numbers))
        assert {field.dtype for name, field in vars(part).items() if field is not None and name != "mask"} == {
            torch.int64
        }
        if part.mask is not None:
            assert bool(part.mask[..., 0].all())
            assert bool((part.mask[..., 1:] <= part.mask[..., :-1]).all())


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_repeated_and_all_are_of_their_classes(kind):
    of_image = bank_of().labels.tolist()
    for classes, support, query, labels, unlabelled, _ in drawn(kind, 200).values():
        assert len({*classes}) == len(classes)
        assert [{of_image[image] for image in images} for images in support] == [{one} for one in classes]
        for image, label in zip(query, labels):
            assert classes.index(of_image[image]) == label if label < len(classes) else of_image[image] not in classes
        images = sum(support, query + unlabelled)
        assert len({*images}) == len(images)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"within"}))
def test_classes_and_images_are_the_first_of_the_uniform_episode(kind):
    episodes = drawn(kind)
    for number in range(20):
        classes, support, query, labels, _, _ = episodes[number]
        uniform = EpisodeSampler([*SIZES], len(classes), 17, 0, SEED).episodes(number, 1)
        assert uniform.classes[0].tolist() == classes
        for place, images in enumerate(support):
            own = images + [image for image, label in zip(query, labels) if label == place]
            assert own[:17] == uniform.support[0, place, : len(own)].tolist()


def test_seeds_give_episodes_of_their_own():
    for kind in KINDS:
        first, second = (plain([*sampler_of(kind, seed=seed).batches(20, 20)]) for seed in (0, 1))
        assert all(first[number] != second[number] for number in range(20))


# dirichlet


@pytest.mark.parametrize("alpha", [0.01, 0.5, 2, 100])
@pytest.mark.parametrize("size", [20, 100])
def test_dirichlet_queries_are_so_many_in_all_and_none_twice(alpha, size):
    sampler = DirichletSampler(bank_of([size] * 12), 5, 1, 15, alpha=alpha)
    queries = sampler.compose(stream(0, torch.arange(2000))).query
    assert bool((queries.sum(1) == 75).all())
    assert int(queries.min()) >= 0
    assert int(queries.max()) <= size - 1


def test_greater_alphas_are_nearer_to_balance():
    keys = stream(0, torch.arange(5000))
    spreads = [
        float(DirichletSampler(bank_of([100] * 12), 5, 1, 15, alpha=alpha).compose(keys).query.double().std(1).mean())
        for alpha in (0.3, 1, 2, 10, 1000)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1


@pytest.mark.parametrize(
    ("shares", "room", "counts"),
    [
        ([0.5, 0.3, 0.2], [9, 9, 9], [5, 3, 2]),
        ([0.46, 0.31, 0.23], [9, 9, 9], [5, 3, 2]),  # 4.6, 3.1, 2.3: the largest fraction goes up
        ([0.49, 0.44, 0.07], [9, 9, 9], [5, 4, 1]),  # 4.9, 4.4, 0.7
        ([0.9, 0.06, 0.04], [4, 9, 9], [4, 4, 2]),  # 9 of 10; five go on as 3 and 2
        ([1, 0, 0], [4, 3, 9], [4, 3, 3]),
    ],
)
def test_queries_are_shared_out_by_the_largest_fractions(shares, room, counts):
    assert shared_out(10, torch.tensor([shares], dtype=torch.float64), torch.tensor([room])).tolist() == [counts]


def test_an_episode_without_room_left_keeps_no_other_from_its_queries():
    shares = torch.tensor([[0.5, 0.5, 0], [0.1, 0.2, 0.7]], dtype=torch.float64)
    assert shared_out(9, shares, torch.tensor([[3, 3, 3], [3, 3, 3]])).tolist() == [[3, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize("kind", ["dirichlet:2", "dirichlet:0.5", "within", "any", "any:metadl"])
def test_classes_may_have_no_more_images_than_an_episode_takes(kind):
    """Such as those of Omniglot, whose 20 images are five shots and 15 queries."""
    made = kind_sampler(kind, bank_of([8] * 12), WAY, 2, 6, SEED)
    assert sum(len(part) for part in made.batches(200, 200)) == 200


# any


def test_any_has_the_ways_of_meta_dataset_and_a_mask():
    parts = [*sampler_of("any").batches(500, 500)]
    assert {part.classes.shape[1] for part in parts} == {*range(5, 13)}
    assert all(part.mask is not None for part in parts)
    assert {part.query.shape[2] for part in parts} <= {8, 9, 10}


def test_metadl_needs_no_mask():
    parts = [*sampler_of("any:metadl").batches(3000, 3000)]
    assert {part.support.shape[1:] for part in parts} == {(way, shot) for way in range(2, 13) for shot in range(1, 14)}
    assert all(part.mask is None and part.query.shape[2] == QUERY for part in parts)


# imbalance


@pytest.mark.parametrize(
    ("shape", "shots"), [("linear", [1, 3, 5, 7, 9]), ("step", [1, 9, 9, 9, 9]), ("long-tail", [1, 1, 3, 5, 9])]
)
def test_five_shots_become_one_to_nine(shape, shots):
    (part,) = ImbalanceSampler(bank_of([40] * 12), 5, 5, 2, shape=shape).batches(30, 30)
    assert part.mask.sum(2).tolist() == [shots] * 30
    assert part.query.shape == (30, 5, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", [2, 5, 20])
@pytest.mark.parametrize("most", [3, 9, 39])
def test_shots_of_every_shape_rise_from_one_to_the_most(shape, way, most):
    shots = SHAPES[shape](way, most)
    assert (len(shots), shots[0], shots[-1]) == (way, 1, most)
    assert shots == sorted(shots)


# within, semi, open


def test_all_classes_are_of_one_group_and_small_groups_are_left_out():
    groups = [{GROUPS[one] for one in classes} for classes, *_ in drawn("within", 200).values()]
    assert {len(own) for own in groups} == {1}
    assert set.union(*groups) == {"a", "b"}


@pytest.mark.parametrize(("kind", "others"), [("semi", 0), ("semi:distractors", WAY)])
def test_unlabelled_images_are_of_the_classes_and_of_distractors(kind, others):
    of_image = bank_of().labels.tolist()
    for classes, _, _, _, unlabelled, _ in drawn(kind).values():
        shown = [of_image[image] for image in unlabelled]
        assert {shown.count(one) for one in classes} == {UNLABELLED}
        assert len({*shown} - {*classes}) == others
        assert len(shown) == UNLABELLED * (WAY + others)


def test_half_of_the_queries_of_an_open_episode_are_unknown():
    for _, _, query, labels, _, _ in drawn("open").values():
        assert sorted(labels) == labels == [place for place in (0, 1, 2) for _ in range(QUERY)] + [3] * 3 * QUERY
        assert len({bank_of().labels[image].item() for image in query}) == 2 * WAY


# names and errors


@pytest.mark.parametrize("kind", [*kind_names()][:-1])
def test_every_kind_is_found_by_its_name(kind):
    assert len(next(iter(kind_sampler(kind, bank_of(), 3, 2, 3, 0).batches(4, 4)))) <= 4


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("dirichlet", {}, "unknown kind of episodes 'dirichlet': did you mean 'dirichlet:2'"),
        ("dirichlet:two", {}, "needs a number behind the colon"),
        ("dirichlet:0", {}, "alpha of a Dirichlet distribution must be between 0.01 and 1000, not 0"),
        ("dirichlet:nan", {}, "must be between 0.01 and 1000, not nan"),
        ("imbalance", {}, "unknown kind of episodes 'imbalance'"),
        ("listed:", {}, "unknown kind of episodes 'listed:'"),
        ("dirichlet:2", {"query": 40}, "2 shots and 40 queries need 42 images a class, but class 'class 2'"),
        ("imbalance:linear", {"shot": 1}, "3 ways of 1 shot cannot be imbalanced: that takes two ways"),
        ("imbalance:step", {"shot": 9}, "step shots of 1 to 17 and 4 queries need 21 images a class"),
        ("within", {"way": 6}, "no group of toy test has 6 classes, the largest has 5: ask for fewer ways"),
        ("semi", {"query": 14}, "2 shots, 14 queries and 5 unlabelled images need 21 images a class"),
        ("semi:distractors", {"way": 7}, "need 14 classes, but toy test has 12"),
        ("open", {"way": 7}, "7 known and 7 unknown classes need 14 classes, but toy test has 12"),
        ("any:metadl", {"query": 17}, "episodes of any way with 17 queries need 18 images a class"),
        ("any:metadl", {"query": 0}, "query must be at least 1, not 0"),
    ],
)
def test_impossible_kinds_are_refused(kind, settings, message):
    assert message in refusal(lambda: sampler_of(kind, **settings))


@pytest.mark.parametrize("kind", ["any", "any:metadl", "dirichlet:2"])
def test_too_few_classes_are_refused(kind):
    with pytest.raises(InputError, match="but toy test has 1"):
        kind_sampler(kind, bank_of([20], "a"), 5, 1, 1, 0)


def test_a_bank_without_groups_has_no_episodes_within_groups():
    with pytest.raises(InputError, match="toy test has no groups of classes"):
        kind_sampler("within", dataclasses.replace(bank_of(), group_names=("",) * 12), 3, 1, 1, 0)


def test_a_protocol_that_lists_its_episodes_has_no_other_kinds():
    bank = dataclasses.replace(bank_of([3] * 12, "aaaabbbbcccc"), listed=True)
    assert kind_sampler("uniform", bank, 5, 1, 1, 0).count == 3
    with pytest.raises(InputError, match="lists its episodes: it has no episodes of kind within"):
        kind_sampler("within", bank, 5, 1, 1, 0)
