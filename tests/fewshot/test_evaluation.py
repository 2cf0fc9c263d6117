"""Evaluation: the accuracies of a naive loop, whatever the chunks, and nothing left behind."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import toy_bank

from episodes import Episodes, EpisodeSampler, ImageBank, InputError
from episodes.kinds import kind_sampler
from fewshot import Learner, Traits, evaluate, evaluation
from fewshot.backbones import make_backbone
from fewshot.learners.base import scores_of
from fewshot.learners.registry import LEARNERS, traits_of


class Pixels(torch.nn.Module):
    """The pixels themselves, as a backbone."""

    embedding_size = 256

    def forward(self, images):
        return images.flatten(1)


class Constant(Learner):
    """Knows nothing."""

    def loss(self, images, labels):
        return torch.zeros(())

    def scores(self, support, query):
        return query.new_zeros(len(query), query.shape[1], support.shape[1])


class Perfect(Constant):
    """Knows the class of each query: the hook gives whole episodes."""

    def episode_scores(self, data, episodes):
        query = data.bank.labels[episodes.query.flatten(1)]
        return (query[:, :, None] == episodes.classes[:, None]).float()


class Nearest(Constant):
    """Compares the pixels of the images, which it takes from the bank."""

    def episode_scores(self, data, episodes):
        support = data.bank.batch(episodes.support.flatten()).view(*episodes.support.shape, -1).mean(2)
        query = data.bank.batch(episodes.query.flatten()).view(len(support), -1, support.shape[2])
        return -torch.cdist(query, support)


@pytest.fixture(scope="module")
def bank():
    return toy_bank(12, 8)


def make(name: str = "prototypical", variant: str = ""):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone("conv4", 1, 16), 12, variant)


# Before training these learners predict one class for nearly every query, since their heads use inner products, or in
# feat what attention adds to all prototypes; any support set rebuilds the small maps of frn about as well; the
# directions that simpleshot compares are nearly equal, and two classes differ by no more than float32 resolves (1e-7).
GUESSING = {"anil", "baseline", "baseline++", "feat", "frn", "ridge", "svm", "simpleshot"}
FITTING = {"baseline", "baseline++", "svm"}  # the loop fits a head for each query, in many steps


def taught(name: str):
    """A learner that can tell classes apart: as it was made, or trained for a few steps if it guesses untrained."""
    learner = make(name)
    if name in GUESSING:
        base = toy_bank(12, 8, seed=6)
        learner.stage = len(learner.stages)
        learner.batches = learner.batches.fitted(base)
        optimizer = torch.optim.AdamW(learner.parameters(), 3e-3)
        for step in range(30):
            indices = learner.batches.indices(base, seed=0, step=step)
            optimizer.zero_grad()
            learner.loss(base.batch(indices), base.labels[indices]).backward()
            optimizer.step()
    return learner


def accuracies(learner, bank, episodes: int = 30, **more) -> np.ndarray:
    return evaluate(learner, bank, **{"way": 5, "shot": 2, "query": 3, **more}, episodes=episodes, device="cpu").values


@torch.no_grad()
def naive(learner, bank, way, shot, query, episodes, seed) -> list[float]:
    learner.eval()
    sampler, shares = EpisodeSampler(bank, way, shot, query, seed), []
    for number in range(episodes):
        episode = sampler.episodes(number, 1)
        support = learner.embed(bank.batch(episode.support.flatten())).view(1, way, shot, -1)
        right = 0
        for target in range(way):
            for image in episode.query[0, target]:
                scores = scores_of(learner, support, learner.embed(bank.batch(image[None]))[None], episode.keys)
                right += int(scores[0, 0].argmax()) == target
        shares.append(right / (way * query))
    return shares


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, cls in LEARNERS.items()
        if cls.episode_scores is Learner.episode_scores and not traits_of(cls).transductive
    ],
)
def test_accuracies_equal_a_loop_over_single_queries(name):
    hard = toy_bank(12, 8, seed=5)
    noisy = (
        hard.images.float() * 0.3 + torch.rand(hard.images.shape, generator=torch.Generator().manual_seed(0)) * 170
    ).byte()
    hard = type(hard)(noisy, hard.offsets, hard.class_names, hard.group_names)
    learner = taught(name)
    values = accuracies(learner, hard, episodes=20, seed=7)
    first = 1 if name in FITTING else 5  # episodes of 15 queries each
    assert values[:first].tolist() == naive(learner, hard, 5, 2, 3, first, 7)
    assert 0.22 < values.mean() < 1  # hard enough that a slip would show


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_accuracies_do_not_depend_on_the_chunks(bank, monkeypatch, chunk):
    expected = accuracies(make("npair"), bank)
    monkeypatch.setitem(evaluation._CHUNK, "cpu", chunk)
    assert np.array_equal(accuracies(make("npair"), bank), expected)


def test_more_episodes_begin_with_the_same_ones(bank):
    assert np.array_equal(accuracies(make(), bank, 40)[:25], accuracies(make(), bank, 25))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_learner_is_as_before(bank, training):
    learner = make().train(training)
    accuracies(learner, bank)
    assert all(module.training == training for module in learner.modules())


def test_a_second_evaluation_gives_the_same(bank):
    learner = make("imprinted", "finetune")
    assert np.array_equal(accuracies(learner, bank), accuracies(learner, bank))


def test_a_learner_that_knows_nothing_is_right_once_in_way(bank):
    values = accuracies(Constant(Pixels(), 12), bank, way=4)
    assert values.tolist() == [0.25] * 30


def test_a_learner_that_knows_everything_is_always_right(bank):
    assert accuracies(Perfect(Pixels(), 12), bank).tolist() == [1.0] * 30


def test_a_learner_may_take_the_images_of_whole_episodes(bank):
    values = accuracies(Nearest(Pixels(), 12), bank)
    assert np.array_equal(values, accuracies(LEARNERS["prototypical"](Pixels(), 12), bank))
    assert values.mean() > 0.9


def test_percent_is_the_mean_with_its_interval(bank):
    result = evaluate(make(), bank, 5, 1, 3, episodes=50, device="cpu")
    assert result.percent.mean == pytest.approx(100 * result.values.mean())
    assert result.percent.ci95 == pytest.approx(196 * result.values.std(ddof=1) / np.sqrt(50))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"way": 13}, "12"),
        ({"shot": 6}, "6 shots and 3 queries need 9 images a class"),
        ({"query": 7}, "2 shots and 7 queries need 9 images a class"),
        ({"device": "cudo"}, "unknown device 'cudo': did you mean 'cuda'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_an_input_error(bank, wish, message):
    with pytest.raises(InputError, match=message):
        evaluate(make(), bank, **{"way": 5, "shot": 2, "query": 3, "episodes": 3, "device": "cpu", **wish})


@pytest.mark.parametrize("episodes", [-1, 0, 1])
def test_too_few_episodes_are_an_input_error(bank, episodes):
    with pytest.raises(InputError, match="episodes"):
        assert evaluate(make(), bank, 5, 1, 3, episodes=episodes, device="cpu").percent


@pytest.fixture(scope="module")
def listed() -> ImageBank:
    """Three listed episodes of four classes with a support image and two queries, hard to tell apart."""
    bank = toy_bank(12, 3)
    noise = torch.randint(0, 226, bank.images.shape, generator=torch.Generator().manual_seed(0))
    images = (bank.images * 0.1 + noise).byte()
    return dataclasses.replace(bank, images=images, group_names=tuple("aaaabbbbcccc"), listed=True)


def shares_of_nearest_pixels(bank: ImageBank) -> list[float]:
    """The accuracy in each group: the first image of a class is the support, the others are queries."""
    pixels = bank.images.view(3, 4, 3, -1).float() / 255
    shares = []
    for group in pixels:
        answers = [[int((image - group[:, 0]).square().sum(1).argmin()) for image in drawn[1:]] for drawn in group]
        shares.append(sum(answer == place for place, two in enumerate(answers) for answer in two) / 8)
    return shares


@pytest.mark.parametrize("chunk", [1, 24, 1 << 20])
def test_all_listed_episodes_are_taken_in_order(listed, monkeypatch, chunk):
    monkeypatch.setitem(evaluation._CHUNK, "cpu", chunk)
    values = accuracies(LEARNERS["prototypical"](Pixels(), 12), listed)
    assert values.tolist() == shares_of_nearest_pixels(listed)
    assert len(set(values)) > 1  # so that their order shows


def share_of_nearest_means(bank: ImageBank, episode: Episodes) -> float:
    """The accuracy in one episode, class by class, with the images that count alone."""
    pixels = bank.images.flatten(1).double() / 255
    masks = torch.ones_like(episode.support[0], dtype=torch.bool) if episode.mask is None else episode.mask[0]
    means = torch.stack([pixels[images[own]].mean(0) for images, own in zip(episode.support[0], masks)])
    answers = torch.cdist(pixels[episode.query.flatten()], means).argmin(1)
    return float((answers == episode.targets.flatten()).double().mean())


@pytest.mark.parametrize("kind", ["dirichlet:2", "any", "any:metadl", "imbalance:linear", "within", "semi"])
@pytest.mark.parametrize("chunk", [1, 400, 1 << 20])
def test_accuracies_of_every_kind_of_episodes_are_those_of_single_episodes(monkeypatch, kind, chunk):
    monkeypatch.setitem(evaluation._CHUNK, "cpu", chunk)
    bank = toy_bank(12, 14)
    noise = torch.randint(0, 226, bank.images.shape, generator=torch.Generator().manual_seed(0))
    bank = dataclasses.replace(bank, images=(bank.images * 0.1 + noise).byte(), group_names=tuple("aaaaaabbbbbb"))
    sampler = kind_sampler(kind, bank, 5, 2, 3, 1)
    values = accuracies(LEARNERS["prototypical"](Pixels(), 12), bank, 40, sampler=sampler)
    expected = {int(part.numbers): share_of_nearest_means(bank, part) for part in sampler.batches(40, 1)}
    assert values == pytest.approx([expected[number] for number in range(40)])
    assert len(set(values)) > 1  # so that their order shows


def test_all_episodes_of_a_list_are_taken(tmp_path):
    bank = dataclasses.replace(toy_bank(2, 2), files=("0", "1", "2", "3"))
    rows = [f"{name},{row}" for name in "xyz" for row in ("0,class 0,support", "2,class 1,support", "3,class 1,query")]
    (tmp_path / "list.csv").write_text("\n".join(["episode,file,label,role", *rows]), encoding="utf-8")
    sampler = kind_sampler(f"listed:{tmp_path / 'list.csv'}", bank, 5, 2, 3, 1)
    assert accuracies(Perfect(torch.nn.Identity(), 2), bank, sampler=sampler).tolist() == [1, 1, 1]


@pytest.mark.parametrize("wish", [{"way": 50}, {"shot": 9, "query": 40}, {"episodes": 2}, {"seed": 5}])
def test_listed_episodes_are_taken_whatever_is_asked_for(listed, wish):
    values = accuracies(LEARNERS["prototypical"](Pixels(), 12), listed, **wish)
    assert values.tolist() == shares_of_nearest_pixels(listed)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_the_classes_of_the_episodes_are_those_of_the_sampler(bank, monkeypatch, chunk):
    monkeypatch.setitem(evaluation._CHUNK, "cpu", chunk)
    result = evaluate(Constant(Pixels(), 12), bank, 5, 2, 3, episodes=30, seed=4, device="cpu")
    assert np.array_equal(result.classes, EpisodeSampler(bank, 5, 2, 3, seed=4).episodes(0, 30).classes.numpy())


def test_the_classes_of_listed_episodes_are_those_of_the_groups(listed):
    result = evaluate(Constant(Pixels(), 12), listed, episodes=30, device="cpu")
    assert result.classes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


class Centred(Constant):
    """Subtracts the mean of the queries, so that each query's score depends on the others."""

    def scores(self, support, query):
        return -torch.cdist(query - query.mean(1, keepdim=True), support.mean(2) - support.mean((1, 2))[:, None])


class Declared(Centred):
    """The same learner, declared transductive."""

    variants: ClassVar = {"": Traits(transductive=True)}


class Drawn(Constant):
    """Draws its scores."""

    variants: ClassVar = {"": Traits(transductive=True)}

    def scores(self, support, query):
        return torch.rand(len(query), query.shape[1], support.shape[1])


class Scored(Constant):
    """Gives invalid scores."""

    wrong = staticmethod(lambda scores: scores)

    def scores(self, support, query):
        return self.wrong(super().scores(support, query))


def test_a_learner_that_looks_at_other_queries_must_say_so(bank):
    with pytest.raises(InputError, match="set transductive = True"):
        accuracies(Centred(Pixels(), 12), bank)
    assert accuracies(Declared(Pixels(), 12), bank).mean() > 0.5


def test_a_learner_that_draws_numbers_gets_the_same_ones_each_time(bank):
    state = torch.get_rng_state()
    first = accuracies(Drawn(Pixels(), 12), bank)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert (accuracies(Drawn(Pixels(), 12), bank) == first).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda scores: scores[:, :1], r"must have the shape \(E, Q, N\)"),
        (lambda scores: scores.transpose(1, 2), r"must have the shape \(E, Q, N\)"),
        (lambda scores: scores / 0, "not all finite"),
    ],
)
def test_scores_that_are_no_scores_are_refused(bank, monkeypatch, wrong, message):
    monkeypatch.setattr(Scored, "wrong", staticmethod(wrong))
    with pytest.raises(InputError, match=message):
        accuracies(Scored(Pixels(), 12), bank)


@pytest.mark.parametrize("wish", [{"query": 0}, {"episodes": 1}])
def test_too_little_for_an_accuracy_is_refused(bank, wish):
    with pytest.raises(InputError, match="at least 2 episodes and 1 query"):
        accuracies(make(), bank, **{"episodes": 5, **wish})


class Hungry(Constant):
    """Scores as nearest class means do, and has memory for a few episodes at once; `sizes` notes what it is given."""

    most = 4

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.sizes = []

    def scores(self, support, query):
        self.sizes.append(len(support))
        if len(support) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return -torch.cdist(query, support.mean(2))


def test_where_memory_runs_out_half_as_many_episodes_are_scored_at_once(bank, monkeypatch):
    monkeypatch.setattr(Hungry, "most", 1000)
    expected = accuracies(Hungry(Pixels(), 12), bank, 40)
    monkeypatch.setattr(Hungry, "most", 4)
    monkeypatch.setitem(evaluation._CHUNK, "cpu", 16 * (10 + 15))
    learner = Hungry(Pixels(), 12)
    assert np.array_equal(accuracies(learner, bank, 40), expected)
    checked = learner.sizes[2:]  # after the two looks at the first episode
    assert checked[:3] == [16, 8, 4]
    assert set(checked[3:]) == {4}  # no part is tried that is known to be too large


def test_an_episode_that_no_memory_holds_is_told(bank, monkeypatch):
    monkeypatch.setattr(Hungry, "most", 0)
    with pytest.raises(InputError, match="the memory of the GPU does not hold one episode of"):
        accuracies(Hungry(Pixels(), 12), bank)


class Wide(torch.nn.Module):
    """Embeddings as long as the feature maps of a ResNet-12."""

    embedding_size = 16_384

    def forward(self, images):
        return images.flatten(1).repeat(1, 64)


def test_of_long_embeddings_fewer_episodes_are_scored_at_once(bank):
    learner = Hungry(Wide(), 12)
    learner.most = 1000
    accuracies(learner, bank, 400)
    images = max(learner.sizes) * (10 + 15)
    assert images * Wide.embedding_size * 4 <= 1 << 28  # bytes
