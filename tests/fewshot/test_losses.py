"""The losses: against values worked by hand, naive loops and a library, and with gradients that stay finite."""

import itertools
import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.losses import NPairsLoss
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_triplets_indices
from torch.nn import functional

from fewshot.losses import (
    MINING,
    contrastive,
    contrastive_terms,
    histogram,
    instance,
    mined,
    n_pair,
    nca,
    pair_cross_entropy,
    squared_distances,
    triplet,
    triplet_pairs,
)


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
    # their loss takes the first two images of a class as its pair, and normalises by default
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
        lambda e, t: triplet(e, t, 0.2),
        lambda e, t: triplet(e, t, 0.2, "random"),
        lambda e, t: triplet_pairs(e, t, 1.0, "all"),
        histogram,
        nca,
    ],
    ids=["contrastive", "pair_cross_entropy", "n_pair", "triplet", "random", "triplet_pairs", "histogram", "nca"],
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
        lambda e, t: triplet(e, t, 3.0),
        lambda e, t: triplet_pairs(e, t, 3.0, "all"),
        lambda e, t: histogram(e, t, 7),
        nca,
    ],
    ids=["contrastive", "pair_cross_entropy", "n_pair", "triplet", "triplet_pairs", "histogram", "nca"],
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


def triplets_of(labels: torch.Tensor):
    """Every anchor, positive and negative, by a loop."""
    numbers = range(len(labels))
    for a, p, n in itertools.product(numbers, numbers, numbers):
        if a != p and labels[a] == labels[p] != labels[n]:
            yield a, p, n


RULES = {
    "all": lambda near, far, margin: True,
    "semi-hard": lambda near, far, margin: near < far < near + margin,
    "hard": lambda near, far, margin: far < near,
    "margin": lambda near, far, margin: far + margin < near,
}


def chosen_by(mining: str, squared: torch.Tensor, labels: torch.Tensor, margin: float) -> set[tuple[int, int, int]]:
    anchors, positives, chosen, _ = mined(squared, labels, mining, margin)
    return {(int(anchors[row]), int(positives[row]), int(n)) for row, n in chosen.nonzero().tolist()}


@pytest.mark.parametrize("mining", RULES)
@pytest.mark.parametrize("margin", [0.5, 4.0])
def test_mining_chooses_what_its_rule_says(mining, margin, embeddings, labels):
    squared = squared_distances(embeddings, embeddings)
    expected = {
        (a, p, n)
        for a, p, n in triplets_of(labels)
        if RULES[mining](float(squared[a, p]), float(squared[a, n]), margin)
    }
    assert chosen_by(mining, squared, labels, margin) == expected
    assert expected


def test_random_mining_chooses_one_negative_for_each_pair_and_each_in_its_turn(embeddings, labels):
    squared = squared_distances(embeddings, embeddings)
    seen = set()
    torch.manual_seed(0)
    for _ in range(200):
        chosen = chosen_by("random", squared, labels, 1.0)
        assert len(chosen) == len({(a, p) for a, p, _ in chosen}) == 10  # 2 + 6 + 2 ordered pairs
        seen |= chosen
    assert seen == set(triplets_of(labels))
    torch.manual_seed(1)
    first = chosen_by("random", squared, labels, 1.0)
    torch.manual_seed(1)
    assert chosen_by("random", squared, labels, 1.0) == first


def test_triplet_by_hand():
    # a and p are 1 apart, n is 2 from a and 1 from p; squared 1, 4 and 1
    points, labels = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1])
    # anchored at a: 3.5 + 1 - 4, at p: 3.5 + 1 - 1
    assert triplet(points, labels, 3.5, "all").item() == pytest.approx((0.5 + 3.5) / 2)
    assert triplet(points, labels, 2.0, "all").item() == pytest.approx(2.0)  # what adds nothing is not counted
    assert triplet(points, labels, 3.5, "semi-hard").item() == pytest.approx(0.5)  # p's negative is as near
    # (d+)^2 = 1; anchored at a max(0, 2.5 - 2)^2, at p (2.5 - 1)^2
    assert triplet_pairs(points, labels, 2.5, "all").item() == pytest.approx((1.25 + 3.25) / 2)


@pytest.mark.parametrize("mining", [rule for rule in MINING if rule != "random"])
def test_triplet_losses_equal_naive_loops(mining, embeddings, labels):
    margin, squares, pairs = 3.0, [], []
    for a, p, n in triplets_of(labels):
        near, far = math.dist(embeddings[a], embeddings[p]), math.dist(embeddings[a], embeddings[n])
        if RULES[mining](near**2, far**2, margin) and margin + near**2 - far**2 > 0:
            squares.append(margin + near**2 - far**2)
        if RULES[mining](near, far, 1.0):
            pairs.append(max(0.0, 1.0 - far) ** 2 + near**2)
    assert triplet(embeddings, labels, margin, mining).item() == pytest.approx(sum(squares) / max(1, len(squares)))
    assert triplet_pairs(embeddings, labels, 1.0, mining).item() == pytest.approx(sum(pairs) / max(1, len(pairs)))


def test_no_triplet_gives_zero_and_a_gradient_of_zero():
    points = torch.tensor([[0.0], [0.1], [9.0]], requires_grad=True)
    loss = triplet(points, torch.tensor([0, 0, 1]), 0.2, "hard")
    loss.backward()
    assert loss.item() == 0
    assert points.grad.tolist() == [[0], [0], [0]]


def test_histogram_by_hand():
    # cosines: the positive pair 0, the negative ones 1 and -1; with two bins the nodes are -1, 0 and 1
    points, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 0, 1, 2])
    # negative pairs: (0,2) 1, (0,3) 0, (1,2) 0, (1,3) -1, (2,3) 0: h- = 1/5, 3/5, 1/5; cumulative h+ = 0, 1, 1
    assert histogram(points, labels, bins=2).item() == pytest.approx(3 / 5 + 1 / 5)


def test_histogram_shares_a_similarity_between_its_two_nodes():
    angle = math.acos(0.25)
    points = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)], [-1.0, 0.0]])
    # h+ = 0, 3/4, 1/4 of the pair at 0.25; negative pairs at -1 and -0.25: h- = (1 + 1/4)/2, (3/4)/2, 0
    value = histogram(points, torch.tensor([0, 0, 1]), bins=2)
    assert value.item() == pytest.approx(0.375 * 0.75)


def test_histogram_is_the_share_of_wrong_order_where_bins_are_fine(embeddings, labels):
    cosines = functional.normalize(embeddings, dim=1) @ functional.normalize(embeddings, dim=1).T
    pairs = list(itertools.combinations(range(8), 2))
    same = [float(cosines[i, j]) for i, j in pairs if labels[i] == labels[j]]
    different = [float(cosines[i, j]) for i, j in pairs if labels[i] != labels[j]]
    wrong = sum(n > p for n in different for p in same) / (len(same) * len(different))
    assert histogram(embeddings, labels, bins=20_000).item() == pytest.approx(wrong, abs=0.01)


@pytest.mark.parametrize("bins", [2, 9, 100])
def test_histogram_equals_a_naive_loop(embeddings, labels, bins):
    step = 2 / bins
    shares = {True: [0.0] * (bins + 1), False: [0.0] * (bins + 1)}
    for i, j in itertools.combinations(range(8), 2):
        kind = shares[bool(labels[i] == labels[j])]
        cosine = float(functional.cosine_similarity(embeddings[i], embeddings[j], dim=0))
        for r in range(bins + 1):
            node = -1 + r * step
            if node - step <= cosine <= node:
                kind[r] += (cosine - (node - step)) / step
            elif node < cosine <= node + step:
                kind[r] += (node + step - cosine) / step
    positive, negative = ([share / sum(kind) for share in kind] for kind in (shares[True], shares[False]))
    expected = sum(negative[r] * sum(positive[: r + 1]) for r in range(bins + 1))
    assert histogram(embeddings, labels, bins).item() == pytest.approx(expected, rel=1e-9)


def test_histogram_takes_similarities_at_both_ends():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert histogram(points, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(0)  # all told apart
    # positive pairs at -1; of the four negative pairs two are at 1 and two at -1
    assert histogram(points, torch.tensor([0, 1, 0, 1])).item() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_nca_equals_a_naive_loop(embeddings, labels, temperature):
    terms = []
    for i in range(8):
        weights = [math.exp(-(math.dist(embeddings[i], embeddings[j]) ** 2) / temperature) for j in range(8)]
        own = sum(weights[j] for j in range(8) if j != i and labels[j] == labels[i])
        if own:
            terms.append(-math.log(own / (sum(weights) - weights[i])))
    assert len(terms) == 7  # the last one is alone in its class
    assert nca(embeddings, labels, temperature).item() == pytest.approx(sum(terms) / 7, rel=1e-9)


def test_nca_is_stable_for_long_embeddings(labels):
    points = (1e3 * random(8, 3)).float().requires_grad_()
    loss = nca(points, labels)
    loss.backward()
    assert loss.isfinite()
    assert points.grad.isfinite().all()


def test_nca_by_hand():
    points, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    first = -math.log(math.exp(-1) / (math.exp(-1) + math.exp(-9)))
    second = -math.log(math.exp(-1) / (math.exp(-1) + math.exp(-4)))
    assert nca(points, labels).item() == pytest.approx((first + second) / 2, rel=1e-5)  # the third one is alone


def test_instance_by_hand():
    embeddings, own = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    others = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    expected = -math.log(math.exp(1.2) / (math.exp(1.2) + 1 + math.exp(-2)))
    assert instance(embeddings, own, others, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_instance_equals_a_naive_loop():
    embeddings, own, others = random(5, 3), random(5, 3, seed=1), random(7, 3, seed=2)
    terms = []
    for i in range(5):
        mine = math.exp(embeddings[i] @ own[i] / 0.7)
        rest = sum(math.exp(embeddings[i] @ other / 0.7) for other in others)
        terms.append(-math.log(mine / (mine + rest)))
    assert instance(embeddings, own, others, 0.7).item() == pytest.approx(sum(terms) / 5, rel=1e-9)


def test_instance_against_all_others_is_the_softmax_over_all_images():
    vectors, embeddings = random(6, 3), random(6, 3, seed=1)
    expected = functional.cross_entropy(embeddings @ vectors.T / 0.5, torch.arange(6))
    terms = [instance(embeddings[i : i + 1], vectors[i : i + 1], vectors[torch.arange(6) != i], 0.5) for i in range(6)]
    torch.testing.assert_close(torch.stack(terms).mean(), expected)


def test_gradients_of_instance_equal_finite_differences():
    inputs = [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(5, 3), (5, 3), (7, 3)])]
    assert torch.autograd.gradcheck(lambda *inputs: instance(*inputs, 0.5), inputs)


PLAIN = {"normalize_embeddings": False}
# their miner's rule, and its margin as a share of ours, for each of our rules with the same triplets
MINED = {"semi-hard": ("semihard", 1), "hard": ("hard", 1), "margin": ("all", -1)}


def theirs_triplets(mining: str, distance, margin: float):
    """The triplets of their miner; for 'all' every triplet, since their miner leaves out those beyond the margin."""
    if mining == "all":
        return lambda e, t: get_all_triplets_indices(t)
    kind, sign = MINED[mining]
    return miners.TripletMarginMiner(margin=sign * margin, distance=distance, type_of_triplets=kind)


def theirs_triplet(mining: str):
    """Their triplet loss on squared distances; by default it is the mean over triplets whose term is above 0."""
    squared = distances.LpDistance(power=2, **PLAIN)
    loss = losses.TripletMarginLoss(margin=0.8, distance=squared)
    miner = theirs_triplets(mining, squared, 0.8)
    return lambda e, t: loss(e, t, miner(e, t))


def theirs_triplet_pairs(mining: str):
    """Their contrastive loss of the two pairs of each triplet, with squared terms."""
    loss = losses.ContrastiveLoss(0, 0.8, distance=distances.LpDistance(**PLAIN), reducer=reducers.DoNothingReducer())
    miner = theirs_triplets(mining, distances.LpDistance(**PLAIN), 0.8)

    def value(e, t):
        parts = loss(e, t, miner(e, t))
        return sum(parts[kind]["losses"].square().mean() for kind in ("pos_loss", "neg_loss"))

    return value


def theirs_contrastive(e, t):
    """All pairs, squared: positive margin 0, mean over the pairs of each kind."""
    loss = losses.ContrastiveLoss(0, 1.2, distance=distances.LpDistance(**PLAIN), reducer=reducers.DoNothingReducer())
    parts = loss(e, t)
    return sum(parts[kind]["losses"].square().sum() / len(parts[kind]["losses"]) for kind in ("pos_loss", "neg_loss"))


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # in their histogram loss
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *((lambda e, t, m=mining: triplet(e, t, 0.8, m), theirs_triplet(mining)) for mining in ["all", *MINED]),
        *((lambda e, t, m=m: triplet_pairs(e, t, 0.8, m), theirs_triplet_pairs(m)) for m in ["all", *MINED]),
        (lambda e, t: histogram(e, t, 50), losses.HistogramLoss(n_bins=50)),
        (nca, losses.NCALoss(distance=distances.LpDistance(power=2, **PLAIN))),
        (lambda e, t: contrastive(e, t, 1.2, nearest=False), theirs_contrastive),
        (lambda e, t: n_pair(e[0::2], e[1::2]), losses.NPairsLoss(distance=distances.DotProductSimilarity(**PLAIN))),
    ],
    ids=[
        *(f"{form}-{mining}" for form in ("triplet", "triplet_pairs") for mining in ["all", *MINED]),
        *("histogram", "nca", "contrastive", "n_pair"),
    ],
)
def test_values_and_gradients_are_those_of_pytorch_metric_learning(ours, theirs):
    labels = torch.arange(6).repeat_interleave(2)  # pairs: what n_pair takes, and every loss can
    values, gradients = [], []
    for loss in (ours, theirs):
        points = random(12, 4).float().mul(0.6).requires_grad_()
        value = loss(points, labels)
        (gradient,) = torch.autograd.grad(value, points)
        values.append(value.detach())
        gradients.append(gradient)
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    assert gradients[0].abs().max() > 1e-3
