"""Each transductive head against its paper's equations, written plainly: one episode, one image, one class a time."""

import itertools
import math

import pytest
import torch
from embedded import Given, learner_of
from torch import Tensor
from torch.nn import functional

from fewshot.learners.base import scores_of, takes
from fewshot.learners.query_clustering import k_means
from fewshot.learners.registry import LEARNERS

SIZE, EPISODES, QUERY = 12, 3, 4  # of the embeddings; episodes; queries of a class
HEADS = (
    *("soft-kmeans", "bd-cspn", "laplacianshot", "laplacianshot:plain", "label-propagation", "query-clustering"),
    *("tim", "tim:alpha", "pt-map", "transductive-finetuning"),
)
every_head = pytest.mark.parametrize("spec", HEADS)


def make(spec: str, **options):
    """The head in float64, with a mean of base classes that is not zero."""
    name, _, variant = spec.partition(":")
    learner = learner_of(name, SIZE, variant, **options).double().eval()
    if "mean" in dict(learner.named_buffers()):
        learner.mean.copy_(torch.linspace(0.2, 0.8, SIZE))
    return learner


def episodes_of(way: int, shot: int, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Support (E, N, K, D) and query (E, Q, D), not negative, of classes that overlap."""
    generator = torch.Generator().manual_seed(way + shot)
    centres = torch.rand(EPISODES, way, 1, SIZE, generator=generator, dtype=torch.float64)
    noise = torch.randn(EPISODES, way, shot + QUERY, SIZE, generator=generator, dtype=torch.float64)
    images = functional.relu(centres + spread * noise)
    return images[:, :, :shot], images[:, :, shot:].flatten(1, 2)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return unit(a) @ unit(b)


def square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum()


def centred(learner, support: Tensor, query: Tensor) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The images of each class and the queries, less the mean of base classes and of length one."""
    classes = [[unit(x - learner.mean) for x in images] for images in support]
    return classes, [unit(x - learner.mean) for x in query]


def mean(rows: list[Tensor]) -> Tensor:
    return sum(rows) / len(rows)


# ---- the heads, from support (N, K, D) and query (Q, D) of one episode to scores (Q, N)


def ren(learner, support, query, unlabelled=None):
    classes, queries = centred(learner, support, query)
    others = queries if unlabelled is None else [unit(x - learner.mean) for x in unlabelled]
    prototypes = [mean(images) for images in classes]
    for _ in range(learner.steps):
        shares = [torch.stack([-learner.scale * square(u, p) for p in prototypes]).softmax(0) for u in others]
        prototypes = [
            (sum(images) + sum(share[c] * u for share, u in zip(shares, others)))
            / (len(images) + sum(share[c] for share in shares))
            for c, images in enumerate(classes)
        ]
    return torch.stack([torch.stack([-learner.scale * square(q, p) for p in prototypes]) for q in queries])


def liu_prototypes(classes, queries, scale: float):
    images = [x for members in classes for x in members]
    queries = [q + mean(images) - mean(queries) for q in queries]
    means = [mean(members) for members in classes]
    sets = [list(members) for members in classes]
    for q in queries:
        sets[max(range(len(means)), key=lambda n: cosine(q, means[n]))].append(q)

    found = []
    for middle, members in zip(means, sets):
        weights = torch.stack([scale * cosine(x, middle) for x in members]).softmax(0)
        found.append(sum(weight * x for weight, x in zip(weights, members)))
    return found


def liu(learner, support, query):
    classes, queries = centred(learner, support, query)
    prototypes = liu_prototypes(classes, queries, learner.scale)
    return torch.stack([torch.stack([cosine(q, p) for p in prototypes]) for q in queries])


def ziko(learner, support, query):
    classes, queries = centred(learner, support, query)
    prototypes = [mean(images) for images in classes]
    if learner.variant == "rectified":
        prototypes = liu_prototypes(classes, queries, 1.0)
    unary = [torch.stack([square(q, p) for p in prototypes]) for q in queries]
    near = []
    for q in queries:
        others = [p for p in range(len(queries)) if queries[p] is not q]
        near.append(sorted(others, key=lambda p: square(q, queries[p]))[: learner.neighbours])
    logits = [-a for a in unary]
    for _ in range(learner.updates):
        assigned = [one.softmax(0) for one in logits]
        logits = [-a + learner.strength * sum(assigned[p] for p in of) for a, of in zip(unary, near)]
    return torch.stack(logits)


def zhou(learner, support, query):
    classes, queries = centred(learner, support, query)
    nodes = [x for images in classes for x in images] + queries
    count, labelled = len(nodes), support.shape[0] * support.shape[1]
    near = [
        sorted(set(range(count)) - {i}, key=lambda j, i=i: square(nodes[i], nodes[j]))[: learner.neighbours]
        for i in range(count)
    ]
    edges = torch.zeros(count, count, dtype=torch.float64)
    for i, j in itertools.permutations(range(count), 2):
        if j in near[i] or i in near[j]:
            edges[i, j] = math.exp(-square(nodes[i], nodes[j]) / (2 * learner.width**2))
    scale = torch.diag(edges.sum(1) ** -0.5)
    labels = torch.zeros(count, len(classes), dtype=torch.float64)
    labels[range(labelled), torch.arange(len(classes)).repeat_interleave(support.shape[1])] = 1
    spread = torch.linalg.inv(torch.eye(count) - learner.alpha * scale @ edges @ scale) @ labels
    return spread[labelled:].log()


def descended(learner, support, query, objective, temperature: float = 15.0):
    """Prototypes fitted by PyTorch's own Adam and gradients, to an objective of the predictions of both sets."""
    z_s, z_q = torch.stack([unit(x) for x in support.flatten(0, 1)]), torch.stack([unit(x) for x in query])
    way, shot, _ = support.shape
    w = z_s.unflatten(0, (way, shot)).mean(1).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=learner.rate)
    labels = torch.arange(way).repeat_interleave(shot)
    with torch.enable_grad():
        for _ in range(learner.steps):
            p_s, p_q = ((-temperature / 2 * torch.cdist(z, w) ** 2).softmax(1) for z in (z_s, z_q))
            loss = objective(-p_s[range(len(z_s)), labels].log().mean(), p_q)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (temperature * (z_q @ w.T - w.square().sum(1) / 2)).detach()


def shannon(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(-1)


def alpha_entropy(p: Tensor) -> Tensor:
    return 1 - p.square().sum(-1)  # alpha = 2


def boudiaf(learner, support, query):
    return descended(learner, support, query, lambda ce, p: 0.1 * ce - shannon(p.mean(0)) + 0.1 * shannon(p).mean())


def veilleux(learner, support, query):
    return descended(learner, support, query, lambda ce, p: ce - alpha_entropy(p.mean(0)) + alpha_entropy(p).mean())


def dhillon(learner, support, query):
    return descended(learner, support, query, lambda ce, p: ce + shannon(p).mean(), learner.temperature)


def hu(learner, support, query):
    def transformed(rows):
        rows = torch.stack([unit((x + 1e-6) ** learner.power) for x in rows])
        return torch.stack([unit(x) for x in rows - rows.mean(0)])

    way, shot, _ = support.shape
    x_s, x_q = transformed(support.flatten(0, 1)), transformed(query)
    centres = x_s.unflatten(0, (way, shot)).mean(1)

    def plan():
        p, before = (-learner.strength * torch.cdist(x_q, centres) ** 2).exp(), 0.0
        while (p.sum(1) - before).abs().max() > 1e-6:
            before = p.sum(1)
            p = p / before[:, None]
            p = p / p.sum(0) * len(x_q) / way
        return p

    for _ in range(learner.epochs):
        p = plan()
        estimates = torch.stack(
            [(x_s[k * shot : (k + 1) * shot].sum(0) + p[:, k] @ x_q) / (shot + p[:, k].sum()) for k in range(way)]
        )
        centres = centres + learner.rate * (estimates - centres)
    return plan().log()


SOURCES = {
    "soft-kmeans": ren,
    "bd-cspn": liu,
    "laplacianshot": ziko,
    "laplacianshot:plain": ziko,
    "label-propagation": zhou,
    "tim": boudiaf,
    "tim:alpha": veilleux,
    "pt-map": hu,
    "transductive-finetuning": dhillon,
}
FEWER = {"tim": {"steps": 30}, "label-propagation": {"neighbours": 5}, "soft-kmeans": {"steps": 2}}


@pytest.mark.parametrize(("way", "shot"), [(5, 1), (3, 4)])
@pytest.mark.parametrize("spec", SOURCES)
def test_scores_are_those_of_the_equations(spec, way, shot):
    learner, (support, query) = make(spec, **FEWER.get(spec, {})), episodes_of(way, shot)
    expected = torch.stack([SOURCES[spec](learner, *one) for one in zip(support, query)])
    torch.testing.assert_close(learner.scores(support, query), expected, rtol=1e-4, atol=1e-5)


@every_head
def test_most_queries_of_classes_that_overlap_a_little_get_their_own_class(spec):
    support, query = episodes_of(5, 1, spread=0.2)
    found = make(spec).scores(support, query).argmax(2)
    assert (found == torch.arange(5).repeat_interleave(QUERY)).double().mean() > 0.7


@every_head
def test_masked_images_count_as_if_they_were_not_there(spec):
    learner, (support, query) = make(spec), episodes_of(4, 3)
    mask = torch.ones(EPISODES, 4, 3, dtype=torch.bool)
    torch.testing.assert_close(scores_of(learner, support, query, mask=mask), learner.scores(support, query))
    padded = torch.cat([support, 5 + torch.rand_like(support[:, :, :2])], 2)
    mask = torch.cat([mask, torch.zeros_like(mask[:, :, :2])], 2)
    found = scores_of(learner, padded, query, mask=mask)
    torch.testing.assert_close(found, learner.scores(support, query), rtol=1e-5, atol=1e-6)
    mask[:, 0, 1:] = False  # the first class has one image
    uneven = scores_of(learner, padded, query, mask=mask)
    padded[:, 0, 1:] = 7 * torch.rand_like(padded[:, 0, 1:])
    torch.testing.assert_close(scores_of(learner, padded, query, mask=mask), uneven)
    assert (uneven - found).abs().max() > 1e-3 or spec == "query-clustering"


@every_head
def test_every_head_takes_a_mask_and_says_that_it_is_transductive(spec):
    learner = make(spec)
    assert takes(learner, "mask")
    assert learner.traits.transductive
    assert learner.traits.paper


@every_head
def test_an_episode_has_the_scores_that_it_has_alone_and_leaves_no_gradient(spec):
    learner, (support, query) = make(spec).float(), (part.float() for part in episodes_of(5, 2))
    together = learner.scores(support, query)
    assert not together.requires_grad
    alone = torch.cat([learner.scores(support[e : e + 1], query[e : e + 1]) for e in range(EPISODES)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_unlabelled_images_refine_the_prototypes_in_place_of_the_queries():
    learner, (support, query) = make("soft-kmeans"), episodes_of(4, 2)
    unlabelled, query = query[:, ::2], query[:, 1::2]
    expected = torch.stack([ren(learner, *one) for one in zip(support, query, unlabelled)])
    found = scores_of(learner, support, query, unlabelled=unlabelled)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(scores_of(learner, support, query[:, :1], unlabelled=unlabelled), found[:, :1])


def test_pt_map_gives_each_class_the_same_share_of_the_queries():
    support, query = episodes_of(4, 2)
    plan = make("pt-map").scores(support, query[:, :-2]).exp()  # 14 queries for 4 classes
    torch.testing.assert_close(plan.sum(1), torch.full((EPISODES, 4), 3.5, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(2), torch.ones(EPISODES, 14, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_tim_brings_its_answers_closer_to_equal_classes():
    support, query = episodes_of(4, 1, spread=1.0)
    fitted, start = (make("tim", steps=steps).scores(support, query).softmax(2).mean(1) for steps in (100, 0))
    assert shannon(fitted).mean() > shannon(start).mean()


def test_clusters_are_found_without_the_support_and_named_by_it():
    """Clusters that are far apart: a support that says other names changes the names alone."""
    learner, (support, query) = make("query-clustering"), episodes_of(5, 1, spread=0.05)
    targets = torch.arange(5).repeat_interleave(QUERY)
    assert (learner.scores(support, query).argmax(2) == targets).all()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(learner.scores(support[:, order], query), learner.scores(support, query)[..., order])
    pushed = support + 0.1 * torch.rand_like(support)
    assert torch.equal(learner.scores(pushed, query), learner.scores(support, query))


def test_clusters_do_not_depend_on_the_order_of_the_queries():
    learner, (support, query) = make("query-clustering"), episodes_of(5, 1)
    order = torch.randperm(query.shape[1], generator=torch.Generator().manual_seed(0))
    keys = torch.arange(EPISODES)
    found = scores_of(learner, support, query[:, order], keys)
    torch.testing.assert_close(found, scores_of(learner, support, query, keys)[:, order])


def test_k_means_ends_at_the_means_of_its_clusters_and_keeps_an_empty_one():
    images = torch.tensor([[[0.0], [1.0], [10.0], [12.0]]])
    centres = k_means(images, torch.tensor([[[0.0], [8.0], [100.0]]]))
    assert centres.flatten().tolist() == [0.5, 11.0, 100.0]


@pytest.mark.parametrize("name", ["soft-kmeans", "bd-cspn", "laplacianshot", "label-propagation", "query-clustering"])
def test_the_mean_of_base_classes_is_measured_before_a_validation(name):
    learner, rows = learner_of(name, SIZE), torch.rand(40, SIZE)
    assert torch.equal(learner.mean, torch.zeros(SIZE))
    learner.begin_validation(Given(rows, [20, 20]))
    torch.testing.assert_close(learner.mean, rows.mean(0))


def test_every_transductive_head_of_the_suite_is_tested_here():
    named = {name for name, cls in LEARNERS.items() if any(one.transductive for one in cls.variants.values())}
    assert {spec.partition(":")[0] for spec in HEADS} == {*named} - {"matching", "maml"}
