"""The losses: against values worked by hand, naive loops and a library, and with gradients that stay finite."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import NPairsLoss
from torch.nn import functional

from fewshot.losses import contrastive, contrastive_terms, n_pair, pair_cross_entropy, squared_distances


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return random(8, 5)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])


def test_squared_distances_by_hand():
    a, b = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 2.0], [0.0, 1.0]])
    assert squared_distances(a, b).tolist() == [[25, 5, 1], [8, 0, 2]]


def test_squared_distances_equal_the_square_of_cdist_with_leading_dimensions():
    a, b = random(2, 3, 4, 6), random(2, 3, 5, 6, seed=1)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b) ** 2)


def test_squared_distances_are_never_negative():
    points = (1000 + 1e-3 * random(20, 3)).float()
    assert (squared_distances(points, points) >= 0).all()


@pytest.mark.parametrize(
    ("distance", "same", "term"),
    [(0.5, True, 0.25), (2.0, True, 4.0), (0.5, False, 0.49), (1.2, False, 0.0), (3.0, False, 0.0), (0.0, False, 1.44)],
)
def test_contrastive_terms_are_t_d2_plus_1_minus_t_hinge2(distance, same, term):
    value = contrastive_terms(torch.tensor([distance]), torch.tensor([same]), margin=1.2)
    assert value.item() == pytest.approx(term, abs=1e-6)


def test_contrastive_by_hand():
    # positive pair: d = 1. negative pairs: (0, 2) d = 2, (1, 2) d = 1, of which the one nearest counts
    points = torch.tensor([[0.0], [1.0], [2.0]])
    assert contrastive(points, torch.tensor([0, 0, 1]), margin=1.5).item() == pytest.approx(1 + 0.5**2)


def test_contrastive_equals_a_naive_loop(embeddings, labels):
    margin, positive, negative = 4.0, [], []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            distance = math.dist(embeddings[i], embeddings[j])
            if labels[i] == labels[j]:
                positive.append(distance**2)
            else:
                negative.append(max(0.0, margin - distance) ** 2)
    nearest = sorted(negative, reverse=True)[: len(positive)]
    expected = sum(positive) / len(positive) + sum(nearest) / len(nearest)
    assert contrastive(embeddings, labels, margin).item() == pytest.approx(expected, rel=1e-12)
    expected = sum(positive) / len(positive) + sum(negative) / len(negative)
    assert contrastive(embeddings, labels, margin, nearest=False).item() == pytest.approx(expected, rel=1e-12)


def test_pair_cross_entropy_by_hand():
    logits = torch.tensor([[9.0, 2.0, -1.0], [9.0, 9.0, 0.5], [9.0, 9.0, 9.0]])  # only pairs above the diagonal count
    positive = math.log(1 + math.exp(-2.0))
    negative = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(0.5))) / 2
    value = pair_cross_entropy(logits, torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx((positive + negative) / 2, rel=1e-6)


def test_pair_cross_entropy_equals_a_naive_loop(labels):
    logits, terms = random(8, 8), {True: [], False: []}
    for i in range(8):
        for j in range(i + 1, 8):
            same = bool(labels[i] == labels[j])
            terms[same].append(math.log(1 + math.exp(-logits[i, j] if same else logits[i, j])))
    expected = sum(sum(kind) / len(kind) for kind in terms.values()) / 2
    assert pair_cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_n_pair_by_hand():
    anchors, positives = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # f_0 . f+ = (1, 0), f_1 . f+ = (2, 2)
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert n_pair(anchors, positives).item() == pytest.approx(expected, rel=1e-6)
    # |f|^2 of anchors 1 and 4, of positives 2 and 1: mean 2
    assert n_pair(anchors, positives, 0.5).item() == pytest.approx(expected + 0.5 * 2, rel=1e-6)


def test_n_pair_equals_a_naive_loop():
    anchors, positives = random(6, 4), random(6, 4, seed=1)
    terms = [
        math.log(1 + sum(math.exp(a @ positives[j] - a @ positives[i]) for j in range(6) if j != i))
        for i, a in enumerate(anchors)
    ]
    assert n_pair(anchors, positives).item() == pytest.approx(sum(terms) / 6, rel=1e-12)


def test_n_pair_equals_pytorch_metric_learning():
    pairs = random(7, 2, 5)
    reference = NPairsLoss(embedding_regularizer=None)
    # theirs takes the first two images of a class as its pair, and normalises unless told not to
    reference.distance.normalize_embeddings = False
    expected = reference(pairs.flatten(0, 1), torch.arange(7).repeat_interleave(2))
    torch.testing.assert_close(n_pair(pairs[:, 0], pairs[:, 1]), expected)


def test_n_pair_is_stable_for_long_embeddings():
    anchors = 1e3 * random(4, 3).float()
    assert n_pair(anchors, anchors.flip(0)).isfinite()


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda e, t: contrastive(e, t, 1.2),
        lambda e, t: pair_cross_entropy(-squared_distances(e, e), t),
        lambda e, t: n_pair(e[0::2], e[1::2], 0.1),
    ],
    ids=["contrastive", "pair_cross_entropy", "n_pair"],
)
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]], ids=["both", "no negative", "no positive"]
)
def test_loss_and_gradient_are_finite(loss, labels, duplicates):
    points = random(4, 3).float()
    if duplicates:
        points[1:3] = points[0]
    points.requires_grad_()
    value = loss(points, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert points.grad.isfinite().all()


def test_a_kind_of_pair_that_is_missing_adds_nothing():
    points = torch.tensor([[0.0], [1.0]])
    assert contrastive(points, torch.tensor([0, 0]), margin=1.2).item() == pytest.approx(1)
    assert contrastive(points, torch.tensor([0, 1]), margin=1.2).item() == 0  # as many negative ones as positive ones
    logits = torch.full((2, 2), 2.0)
    assert pair_cross_entropy(logits, torch.tensor([0, 0])).item() == pytest.approx(math.log(1 + math.exp(-2)) / 2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda e, t: contrastive(e, t, 4.0),
        lambda e, t: pair_cross_entropy(e @ e.T, t),
        lambda e, t: n_pair(e[0::2], e[1::2], 0.1),
    ],
    ids=["contrastive", "pair_cross_entropy", "n_pair"],
)
def test_gradients_equal_finite_differences(loss, embeddings, labels):
    assert torch.autograd.gradcheck(lambda points: loss(points, labels), embeddings.requires_grad_())


def test_softmax_over_minus_squared_distances_is_the_prototypical_likelihood():
    query, prototypes, targets = random(5, 4), random(3, 4, seed=1), torch.tensor([0, 1, 2, 0, 1])
    terms = []
    for point, target in zip(query, targets.tolist()):
        weights = [math.exp(-(math.dist(point, prototype) ** 2)) for prototype in prototypes]
        terms.append(-math.log(weights[target] / sum(weights)))
    value = functional.cross_entropy(-squared_distances(query, prototypes), targets)
    assert value.item() == pytest.approx(sum(terms) / 5, rel=1e-9)
