"""MAML and ANIL: their steps by hand, their gradients by finite differences, learn2learn's loop, and the promises."""

import sys

import pytest
import torch
from conftest import toy_bank
from torch import nn
from torch.nn import functional

from episodes import ClassBatches, Episodes, EpisodeSampler, InputError
from fewshot import evaluate
from fewshot.backbones import Backbone, load_weights, make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners import maml
from fewshot.learners.held_norm import HeldNorm, hold_norms
from fewshot.learners.maml import Anil, Maml

INDUCTIVE = ["second-order", "first-order"]
every_variant = pytest.mark.parametrize("variant", Maml.variants)
inductive = pytest.mark.parametrize("variant", INDUCTIVE)


class Plain(nn.Module):
    """Layers as a backbone, in whatever precision its weights have."""

    def __init__(self, *layers: nn.Module, size: int) -> None:
        super().__init__()
        self.layers, self.embedding_size = nn.Sequential(*layers), size

    def forward(self, images):
        return self.layers(images).flatten(1)


def linear() -> Plain:
    torch.manual_seed(0)
    return Plain(nn.Flatten(), nn.Linear(4, 3, bias=False), size=3).double()


def normed() -> Plain:
    torch.manual_seed(0)
    return Plain(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Tanh(), size=8).double()


def make(variant: str = "", **options):
    """A learner whose running statistics are those of images, so that adapting its network changes the scores."""
    torch.manual_seed(0)
    learner = Maml(
        make_backbone("conv4-32-linear", 1, 16), 12, variant, **{"way": 4, "steps": 3, "inner_rate": 0.02, **options}
    )
    learner.batches = ClassBatches(classes=8, images=4)  # as batch_of makes them
    norms = [block.norm for block in learner.backbone.body]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    with torch.no_grad():
        learner.backbone(toy_bank(classes=12).batch(torch.arange(96)))
    for norm in norms:
        norm.momentum = 0.1
    return learner.eval()


@pytest.fixture(scope="module")
def bank():
    return toy_bank(classes=12)


@pytest.fixture(scope="module")
def episodes(bank):
    return EpisodeSampler(bank, 4, 2, 3, seed=0).episodes(0, 3)


def scores_of(learner, bank, episodes: Episodes):
    return learner.eval().episode_scores(EmbeddedBank(learner, bank), episodes)


def batch_of(bank, classes: int = 8, images: int = 4):
    indices = ClassBatches(classes, images).indices(bank, seed=0, step=0)
    return bank.batch(indices), bank.labels[indices]


def two_steps_by_hand(weights, support, query, head_rate, inner_rate, detached=False):
    """Scores (Q, N) of the network f = A x after two steps on one image a class, from the gradients' formulas."""
    gradient_of = torch.Tensor.detach if detached else (lambda gradient: gradient)
    wanted, embedded = torch.eye(len(support), dtype=weights.dtype), support @ weights.T
    head = gradient_of(head_rate * (wanted - 1 / len(support)).T @ embedded)
    surplus = (embedded @ head.T).softmax(1) - wanted  # p_i - y_i
    by_weights = (surplus @ head).T @ support / len(support)  # mean over i of W^T (p_i - y_i) x_i^T
    by_head = surplus.T @ embedded
    head, weights = head - head_rate * gradient_of(by_head), weights - inner_rate * gradient_of(by_weights)
    return query @ weights.T @ head.T


def loss_by_hand(weights, images, learner, detached=False):
    """The training loss for one task of a class after another, the first image its support."""
    pixels = images.flatten(1).unflatten(0, (learner.way, -1))
    rates = learner.head_rate, learner.inner_rate
    scores = two_steps_by_hand(weights, pixels[:, 0], pixels[:, 1:].flatten(0, 1), *rates, detached)
    return functional.cross_entropy(scores, torch.arange(learner.way).repeat_interleave(pixels.shape[1] - 1))


def small_task(side: int = 2):
    """Three images of each of three classes, and their labels."""
    images = torch.randn(9, 1, side, side, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(3).repeat_interleave(3)


def of_threes(learner):
    """The learner, prepared for the batches of small_task."""
    learner.batches = ClassBatches(classes=3, images=3)
    return learner


def finite_differences(function, parameter, step: float = 1e-5):
    """The gradient of a function without arguments with respect to the entries of `parameter`."""
    gradient = torch.zeros_like(parameter)
    for place in range(parameter.numel()):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
            values.append(function().item())
            with torch.no_grad():
                parameter.view(-1)[place] -= sign * step
        gradient.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return gradient


def test_scores_are_those_of_the_steps_by_hand():
    bank = toy_bank(classes=3, size=2)
    learner = Maml(linear().float(), 3, head_rate=0.7, inner_rate=0.3).eval()
    episodes = EpisodeSampler(bank, 3, 1, 2, seed=0).episodes(0, 4)
    scores = scores_of(learner, bank, episodes)
    weights = learner.backbone.layers[1].weight.detach()
    for e in range(4):
        support, query = (bank.batch(part[e].flatten()).flatten(1) for part in (episodes.support, episodes.query))
        torch.testing.assert_close(scores[e], two_steps_by_hand(weights, support, query, 0.7, 0.3))


def test_loss_is_that_of_the_steps_by_hand():
    learner = of_threes(Maml(linear(), 3, way=3, head_rate=0.7, inner_rate=0.3))
    weights, (images, labels) = learner.backbone.layers[1].weight, small_task()
    torch.testing.assert_close(learner.loss(images, labels), loss_by_hand(weights, images, learner))


@pytest.mark.parametrize("variant", ["second-order", "transductive"])
@pytest.mark.parametrize("steps", [2, 3])
def test_gradients_of_second_order_are_the_finite_differences(variant, steps):
    learner = of_threes(Maml(normed(), 3, variant, way=3, steps=steps, head_rate=0.7, inner_rate=0.3).train())
    images, labels = small_task(side=4)
    learner.loss(images, labels).backward()
    for parameter in learner.parameters():
        expected = finite_differences(lambda: learner.loss(images, labels), parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-8)
        assert expected.abs().max() > 1e-4


def test_gradients_of_first_order_take_the_inner_ones_as_constants():
    learner = of_threes(Maml(linear(), 3, "first-order", way=3, head_rate=0.7, inner_rate=0.3))
    weights, (images, labels) = learner.backbone.layers[1].weight, small_task()
    constant, whole = (
        torch.autograd.grad(loss_by_hand(weights, images, learner, detached), weights)[0] for detached in (True, False)
    )
    learner.loss(images, labels).backward()
    torch.testing.assert_close(weights.grad, constant)
    assert not torch.allclose(constant, whole, rtol=1e-2)


@pytest.mark.parametrize(("variant", "same"), [("second-order", True), ("first-order", False)])
def test_gradients_of_anil_are_the_finite_differences_in_second_order_alone(variant, same):
    learner = of_threes(Anil(linear(), 3, variant, way=3, steps=3, head_rate=0.7))
    weights, (images, labels) = learner.backbone.layers[1].weight, small_task()
    learner.loss(images, labels).backward()
    expected = finite_differences(lambda: learner.loss(images, labels), weights)
    assert torch.allclose(weights.grad, expected, rtol=1e-5) == same


class WithHead(nn.Module):
    """A backbone and a linear head from zero, scaled so that steps of one rate equal steps of the learner's two."""

    def __init__(self, learner, way: int) -> None:
        super().__init__()
        self.backbone, self.head = learner.backbone, nn.Linear(learner.backbone.embedding_size, way, bias=False)
        nn.init.zeros_(self.head.weight)
        self.gain = (way * learner.head_rate / learner.inner_rate) ** 0.5

    def forward(self, images):
        return self.gain * self.head(self.backbone(images))


def learn2learn_scores(learner, bank, episodes: Episodes):
    """One episode after another, each step on network and head together, the first one too."""
    from learn2learn.algorithms import MAML

    way, shot = episodes.support.shape[1:]
    targets, scores = torch.arange(way).repeat_interleave(shot), []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        clone = MAML(WithHead(learner, way), learner.inner_rate).clone()
        for _ in range(learner.test_steps):
            clone.adapt(functional.cross_entropy(clone(bank.batch(support.flatten())), targets))
        scores.append(clone(bank.batch(query.flatten())).detach())
    return torch.stack(scores)


@every_variant
def test_scores_are_those_of_learn2learn(variant, bank, episodes):
    learner = make(variant)
    ours, theirs = scores_of(learner, bank, episodes), learn2learn_scores(learner, bank, episodes)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    assert torch.equal(ours.argmax(2), theirs.argmax(2))


def test_scores_of_anil_are_those_of_learn2learn(bank, episodes):
    from learn2learn.algorithms import MAML

    learner = Anil(make().backbone, 12, steps=5).eval()
    with torch.no_grad():
        support, query = (learner.embed(bank.batch(part[1].flatten())) for part in (episodes.support, episodes.query))
    head = nn.Linear(support.shape[1], 4, bias=False)
    nn.init.zeros_(head.weight)
    clone = MAML(head, learner.head_rate).clone()
    for _ in range(5):  # the loss summed over 4 classes
        clone.adapt(4 * functional.cross_entropy(clone(support), torch.arange(4).repeat_interleave(2)))
    torch.testing.assert_close(scores_of(learner, bank, episodes)[1], clone(query).detach(), rtol=1e-4, atol=1e-4)


def test_the_loss_of_anil_is_that_of_its_scores(bank):
    images, labels = batch_of(bank)
    learner = Anil(make().backbone, 12, way=4, steps=3)
    learner.batches = ClassBatches(classes=8, images=4)
    support, query = learner.embed(images).view(2, 4, 4, -1).split([1, 3], dim=2)
    scores = learner.scores(support, query.flatten(1, 2))
    targets = torch.arange(4).repeat_interleave(3).repeat(2)
    torch.testing.assert_close(learner.loss(images, labels), functional.cross_entropy(scores.flatten(0, 1), targets))


@every_variant
def test_adapting_the_network_changes_the_scores(variant, bank, episodes):
    learner = make(variant)
    scores = scores_of(learner, bank, episodes)
    learner.inner_rate = 1e-9
    assert (scores_of(learner, bank, episodes) - scores).abs().max() > 0.01 * scores.abs().max()


def assert_same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@every_variant
def test_scores_follow_the_order_of_classes_and_not_that_of_support_images(variant, bank, episodes):
    learner, order = make(variant), torch.tensor([2, 0, 3, 1])
    expected = scores_of(learner, bank, episodes)
    ordered = Episodes(episodes.classes[:, order], episodes.support[:, order], episodes.query)
    assert_same(scores_of(learner, bank, ordered), expected[:, :, order])
    flipped = Episodes(episodes.classes, episodes.support.flip(2), episodes.query)
    assert_same(scores_of(learner, bank, flipped), expected)


@every_variant
def test_the_transductive_variant_alone_looks_at_other_queries(variant, bank, episodes):
    learner = make(variant)
    alone = scores_of(learner, bank, Episodes(episodes.classes, episodes.support, episodes.query[:, :, :1]))
    among = scores_of(learner, bank, episodes).unflatten(1, (4, 3))[:, :, 0]
    independent = torch.allclose(alone, among, rtol=1e-3, atol=1e-4 * among.abs().max().item())
    assert independent != (variant == "transductive")
    assert learner.traits.transductive == (variant == "transductive")


@every_variant
def test_in_training_too_the_transductive_variant_alone_looks_at_other_queries(variant, bank):
    learner, (images, labels) = make(variant).train(), batch_of(bank)
    by_class, by_label = images.view(8, 4, 1, 16, 16), labels.view(8, 4)
    whole = learner.loss(images, labels)
    learner.batches = ClassBatches(classes=8, images=2)
    alone = [learner.loss(by_class[:, [0, q]].flatten(0, 1), by_label[:, :2].flatten()) for q in (1, 2, 3)]
    independent = torch.allclose(whole, torch.stack(alone).mean(), rtol=1e-4)
    assert independent != (variant == "transductive")


@every_variant
def test_scores_do_not_change_with_how_many_episodes_are_worked_on_at_once(variant, bank, episodes, monkeypatch):
    learner = make(variant)
    expected = scores_of(learner, bank, episodes)  # one after another
    for pixels in (45 * 256, 10**9):  # two of 20 images, of 16x16 pixels, and all three
        monkeypatch.setitem(maml._CHUNK, "cpu", pixels)
        assert_same(scores_of(learner, bank, episodes), expected)


@every_variant
def test_evaluation_changes_nothing_and_repeats_itself(variant, bank):
    learner = make(variant).train()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    first, second = (evaluate(learner, bank, way=4, shot=1, query=3, episodes=5, device="cpu") for _ in range(2))
    assert (first.values == second.values).all()
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert learner.training


@every_variant
def test_training_lowers_the_loss_and_every_parameter_gets_a_gradient(variant, bank):
    learner, (images, labels) = make(variant, steps=2).train(), batch_of(bank)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = learner.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


@inductive
def test_running_statistics_follow_the_support_images_of_all_tasks(variant, bank):
    learner, (images, labels) = make(variant).train(), batch_of(bank)
    support = images.view(8, 4, 1, 16, 16)[:, 0]
    usual = make_backbone("conv4-32-linear", 1, 16)
    usual.load_state_dict(learner.backbone.state_dict())
    usual.train()(support)
    learner.loss(images, labels)
    for name, value in usual.named_buffers():
        torch.testing.assert_close(learner.backbone.get_buffer(name), value, msg=name)


@pytest.mark.parametrize("training", [True, False])
def test_held_norms_are_batch_norms_until_they_hold(training):
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3)).train(training)
    nn.init.normal_(network[0].weight)
    images = torch.randn(4, 3, 5, 5)
    expected = network(images)
    hold_norms(network)
    assert isinstance(network[0], HeldNorm)
    torch.testing.assert_close(network.train(training)(images), expected)


def test_weights_of_other_learners_fit(bank, tmp_path):
    torch.manual_seed(1)
    other = make_backbone("conv4-32-linear", 1, 16)
    other(bank.batch(torch.arange(30)))
    torch.save(other.body.state_dict(), tmp_path / "weights.pt")
    learner = make()
    load_weights(learner.backbone, tmp_path / "weights.pt", "conv4-32-linear")
    images = bank.batch(torch.arange(30, 40))
    torch.testing.assert_close(learner.embed(images), other.eval()(images))


@every_variant
def test_a_checkpoint_restores_the_scores(variant, bank, episodes):
    learner, again = make(variant).train(), make(variant)
    learner.loss(*batch_of(bank))
    nn.init.normal_(learner.backbone.body[0].norm.bias)
    again.load_state_dict(learner.state_dict())
    assert torch.equal(scores_of(again, bank, episodes), scores_of(learner, bank, episodes))


def test_classes_that_fill_no_task_are_left_out_and_small_batches_are_one_task(bank):
    learner, (images, labels) = make(), batch_of(bank, classes=7)
    assert learner.loss(images, labels) == learner.loss(images[:16], labels[:16])
    assert torch.equal(learner.loss(images[:12], labels[:12]), make(way=3).loss(images[:12], labels[:12]))


def test_it_trains_and_scores_in_float32_whatever_the_backbone_computes_in(bank, episodes):
    learner, batch = make(), batch_of(bank)
    expected = learner.loss(*batch), scores_of(learner, bank, episodes)
    learner.backbone.precision = torch.bfloat16
    assert torch.equal(learner.loss(*batch), expected[0])
    assert torch.equal(scores_of(learner, bank, episodes), expected[1])
    assert (learner.backbone.precision, learner.backbone.layout) == (torch.bfloat16, torch.channels_last)


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (Maml, {"steps": 1}, "maml needs the option steps to be 2 or more, not 1"),
        (Maml, {"test_steps": 1}, "maml needs the option test_steps to be 2 or more, not 1"),
        (Anil, {"steps": 0}, "anil needs the option steps to be 1 or more, not 0"),
        (Anil, {"way": 1}, "anil needs the option way to be 2 or more, not 1"),
        (Anil, {"shot": 0}, "anil needs the option shot to be 1 or more, not 0"),
    ],
)
def test_options_that_make_no_task_are_told(cls, options, said):
    with pytest.raises(InputError, match=said):
        cls(linear(), 3, **options)


@pytest.mark.parametrize("cls", [Maml, Anil])
def test_batches_without_queries_are_told(cls):
    with pytest.raises(InputError, match=r"with shot = 2 needs batches of more images a class, not 2"):
        cls(linear(), 3, shot=2).check_batches(ClassBatches(5, 2))


def test_norms_that_cannot_be_held_are_told():
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(InputError, match=r"the batch norm body.1 is a BatchNorm2d whose statistics cannot be held"):
        Maml(Backbone(body, 2), 3)


@pytest.mark.parametrize("cls", [Maml, Anil])
def test_a_missing_learn2learn_is_told(cls, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(InputError, match="need the package learn2learn"):
        of_threes(cls(linear(), 3, way=3)).loss(*small_task())
