"""Unequal shots: every learner scores an episode with a mask as a plain loop over its classes does."""

import functools
import inspect

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn import functional

from episodes import Episodes, FeatureBank
from fewshot import Learner
from fewshot.answers import numbered_support, scores
from fewshot.backbones import make_backbone
from fewshot.draws import shuffled
from fewshot.embedding import EmbeddedBank, embedded
from fewshot.evaluation import checked_scores
from fewshot.heads import on_counted
from fewshot.learners.base import scores_of
from fewshot.learners.registry import LEARNERS, suite_learners
from fewshot.losses import squared_distances
from fewshot.masks import class_means, counted
from fewshot.small_batches import fresh
from fewshot.unequal import unequal_scores

EPISODES, WAY, SHOT, QUERIES, SIZE = 3, 4, 5, 6, 64
EPOCHS = 20
# which places of the support count: not the first ones alone, and two episodes have as many images
MASK = torch.tensor(
    [
        [[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [1, 0, 1, 0, 0], [0, 1, 1, 0, 1]],
        [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]],
        [[1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [0, 0, 0, 1, 0], [1, 1, 0, 1, 0]],
    ]
).bool()


def make(name: str, variant: str = "", **options):
    """A learner with random weights outside its backbone: a fresh one has zeros in some of them."""
    torch.manual_seed(0)
    learner = LEARNERS[name](make_backbone("conv4", 1, 16), 12, variant, **options).double().eval()
    for parameter_name, parameter in learner.named_parameters():
        if not parameter_name.startswith("backbone.") and parameter.ndim:
            nn.init.normal_(parameter, std=0.3)
    return learner


def episodes_of(size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Support (E, N, K, D), query (E, Q, D) and keys (E,); the places that MASK leaves out hold large numbers."""
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    centres = draw(EPISODES, WAY, 1, size)
    support = functional.relu(0.5 + centres + draw(EPISODES, WAY, SHOT, size))
    query = functional.relu(0.5 + centres + draw(EPISODES, WAY, 2, size)).flatten(1, 2)[:, :QUERIES]
    return support.where(MASK[..., None], 10 * draw(support.shape)), query, torch.tensor([5, -7, 11])


# ---- plain loops: from the learner, the images (K_c, D) of each class, query (Q, D) and key to scores (Q, N)


def each(score):
    """The scores from a function of the learner, one query (D,) and the images (K_c, D) of one class."""
    return lambda learner, classes, query, key: torch.stack(
        [torch.stack([score(learner, one, images) for images in classes]) for one in query]
    )


def unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)


def rows_of(classes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All images (M, D) of an episode and their labels (M,)."""
    labels = [torch.full((len(images),), place) for place, images in enumerate(classes)]
    return torch.cat(classes), torch.cat(labels)


def by_torch(logits, parameters: list[Tensor], labels: Tensor, steps: int, **settings) -> None:
    """Gradient descent by torch.optim.SGD on the cross-entropy of logits() (M, N)."""
    optimizer = torch.optim.SGD(parameters, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(logits(), labels).backward()
        optimizer.step()


CHEN = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1e-3}


def chen(learner, classes, query, key, cosine: bool = False):
    """The loop of Chen et al. 2019, with the start and the order of images that the key draws.

    The logits are w x + b, or 2 g cos(w, x) with g the length of the first w.
    """
    places = sorted(range(WAY), key=lambda place: float(classes[place].sum()))
    images, labels = rows_of([classes[place][classes[place].sum(1).argsort()] for place in places])
    weights, biases = fresh(key[None], WAY, SIZE)[0].split([SIZE, 1], 1)
    weights, other = weights.clone().requires_grad_(), weights.norm(dim=1) if cosine else biases[:, 0].clone()

    def layer(images):
        return 2 * other * (unit(images) @ unit(weights).T) if cosine else images @ weights.T + other

    optimizer = torch.optim.SGD([weights, other.requires_grad_()], lr=0.01, **CHEN)
    for epoch in range(EPOCHS):
        for batch in shuffled(key[None], 1 + epoch, len(images))[0].split(4):
            optimizer.zero_grad()
            functional.cross_entropy(layer(images[batch]), labels[batch]).backward()
            optimizer.step()
    return layer(query)[:, torch.tensor(places).argsort()]


def zero_start(learner, classes, query, key):
    images, labels = rows_of(classes)
    layer = nn.Linear(SIZE, WAY, dtype=torch.float64)
    layer.weight.data.zero_(), layer.bias.data.zero_()
    batches = -(-len(images) // 4)  # 8 or fewer here
    by_torch(lambda: layer(images), list(layer.parameters()), labels, EPOCHS * batches, lr=0.01, **CHEN)
    return layer(query)


def cosine_layer(learner, classes, query, start: Tensor, steps: int, **settings):
    images, labels = rows_of(classes)
    layer = start.clone().requires_grad_()
    tau = learner.tau.detach()
    by_torch(lambda: tau * unit(images) @ unit(layer).T, [layer], labels, steps, **settings)
    return tau * query @ unit(layer).T


def mean_start(learner, classes, query, key):
    images, _ = rows_of(classes)
    start = unit(unit(images).mean(0)).expand(WAY, -1)
    return cosine_layer(learner, classes, query, start, EPOCHS * -(-len(images) // 4), lr=0.01, **CHEN)


def finetuned(learner, classes, query, key):
    start = torch.stack([unit(unit(images).mean(0)) for images in classes])
    return cosine_layer(learner, classes, query, start, 30, lr=0.1)


def ridge(learner, classes, query, key):
    images, labels = rows_of(classes)
    regression = Ridge(alpha=learner.log_penalty.exp().item(), fit_intercept=False)
    head = regression.fit(images.numpy(), np.eye(WAY)[labels]).coef_
    return learner.scale * query @ torch.from_numpy(head).T


def logistic(learner, classes, query, key):
    images, labels = rows_of(classes)
    fitted = LogisticRegression().fit(images.numpy(), labels.numpy())
    return torch.from_numpy(fitted.decision_function(query.numpy()))


def anil(learner, classes, query, key):
    images, labels = rows_of(classes)
    head = torch.zeros(WAY, SIZE, dtype=torch.float64, requires_grad=True)
    by_torch(lambda: images @ head.T, [head], labels, 3, lr=learner.head_rate * WAY)
    return query @ head.T


def attended(learner, images, query, classes):
    """log sum over the images of a class of the softmax of 10 cos, from embeddings in or without context."""
    attention = (10 * unit(query) @ unit(images).T).softmax(1).split([len(part) for part in classes], 1)
    return torch.stack([part.sum(1).log() for part in attention], 1)


def in_context(learner, classes, query, key):
    images = learner._support_in_context(rows_of(classes)[0][None], None)
    return attended(learner, images[0], learner._query_in_context(query[None], images, None)[0], classes)


def relation(learner, query, images):
    return learner.output(functional.relu(learner.of_class(images.mean(0)) + learner.of_query(query)))[0]


def dynamic(learner, query, images):
    z, w = unit(images), unit(learner.weights)
    attention = (learner.gamma * unit(learner.phi_query(z)) @ unit(learner.keys).T).softmax(1)
    weight = learner.phi_avg * z.mean(0) + learner.phi_att * (attention @ w).mean(0)
    return learner.tau * query @ unit(weight)


def koch(learner, query, images):
    return ((query - images).abs() @ learner.alpha + learner.bias).sigmoid().mean()


PLAIN = [
    ("prototypical", "", {}, each(lambda _, q, s: -(q - s.mean(0)).square().sum())),
    ("prototypical", "cosine", {}, each(lambda _, q, s: 10 * unit(q) @ unit(s.mean(0)))),
    ("simpleshot", "", {}, each(lambda _, q, s: -(unit(q) - unit(s).mean(0)).square().sum())),
    ("simpleshot", "un", {}, each(lambda _, q, s: -(q - s.mean(0)).square().sum())),
    ("histogram", "", {}, each(lambda _, q, s: q @ unit(s.mean(0)))),
    ("triplet", "", {}, each(lambda _, q, s: 2 * q @ s.mean(0) - 2)),
    ("npair", "", {}, each(lambda _, q, s: unit(q) @ unit(s.mean(0)))),
    ("siamese", "contrastive", {}, each(lambda _, q, s: 2 * q @ s.mean(0) - 2)),
    ("siamese", "koch", {}, each(koch)),
    ("relation", "", {}, each(relation)),
    ("dynamic", "", {}, each(dynamic)),
    ("imprinted", "imprint", {}, each(lambda learner, q, s: learner.tau * q @ unit(unit(s).mean(0)))),
    ("nca", "", {}, each(lambda _, q, s: (-(q - s).square().sum(1)).logsumexp(0))),
    ("nearest-pixel", "", {}, each(lambda _, q, s: -(q - s).square().sum(1).min())),
    ("matching", "basic", {}, lambda learner, classes, q, _: attended(learner, rows_of(classes)[0], q, classes)),
    ("matching", "fce", {}, in_context),
    ("imprinted", "finetune", {"finetune_steps": 30}, finetuned),
    ("baseline", "", {"head_epochs": EPOCHS}, chen),
    ("baseline", "zero-start", {"head_epochs": EPOCHS}, zero_start),
    ("baseline++", "", {"head_epochs": EPOCHS}, functools.partial(chen, cosine=True)),
    ("baseline++", "mean-start", {"head_epochs": EPOCHS}, mean_start),
    ("ridge", "", {}, ridge),
    ("sklearn", "", {}, logistic),
    ("anil", "", {"steps": 3}, anil),
]


def classes_of(support: Tensor, mask: Tensor) -> list[Tensor]:
    """The images (K_c, D) of each class of one episode, from support (N, K, D) and mask (N, K)."""
    return [images[own] for images, own in zip(support, mask)]


@pytest.mark.parametrize(
    ("name", "variant", "options", "plain"),
    [pytest.param(*case, id=":".join(filter(None, case[:2]))) for case in PLAIN],
)
def test_scores_with_a_mask_are_those_of_a_plain_loop_over_episodes(name, variant, options, plain):
    learner, (support, query, keys) = make(name, variant, **options), episodes_of()
    with torch.no_grad():
        found = scores_of(learner, support, query, keys, MASK)
    for episode, ours in enumerate(found):
        expected = plain(learner, classes_of(support[episode], MASK[episode]), query[episode], keys[episode]).detach()
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_support_vector_machines_are_fitted_to_the_images_that_count():
    learner, (support, query, _) = make("svm"), episodes_of(8)
    found = learner.scores(support, query, MASK).detach() / learner.scale.detach()
    for episode, ours in enumerate(found):
        images, labels = rows_of(classes_of(support[episode], MASK[episode]))
        machine = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=0.1, tol=1e-9, max_iter=100_000)
        expected = query[episode] @ torch.from_numpy(machine.fit(images.numpy(), labels.numpy()).coef_).T
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_maml_adapts_to_the_images_that_count():
    bank, learner = toy_bank(classes=WAY), make("maml", steps=3, inner_rate=0.02).float()
    support, query = torch.arange(len(bank)).view(1, WAY, 8).split([SHOT, 3], 2)
    episodes = Episodes(torch.arange(WAY)[None], support, query, mask=MASK[:1])
    found = checked_scores(learner, EmbeddedBank(learner, bank), episodes)[0]
    images, labels = rows_of(classes_of(support[0], MASK[0]))
    body = dict(learner.backbone.named_parameters())
    head = torch.zeros(WAY, SIZE, requires_grad=True)
    for _ in range(3):
        embeddings = torch.func.functional_call(learner.backbone, body, bank.batch(images))
        slopes = torch.autograd.grad(functional.cross_entropy(embeddings @ head.T, labels), [head, *body.values()])
        head = head - learner.head_rate * WAY * slopes[0]
        body = {key: value - learner.inner_rate * slope for (key, value), slope in zip(body.items(), slopes[1:])}
    expected = (torch.func.functional_call(learner.backbone, body, bank.batch(query.flatten())) @ head.T).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("variant", LEARNERS["openclip"].variants)
def test_pretrained_clip_leaves_support_images_out(variant):
    generator = torch.Generator().manual_seed(0)
    rows, texts = torch.randn(WAY * 8, 16, 1, 1, generator=generator), torch.randn(WAY, 16, generator=generator)
    names, offsets = tuple("abcd"), torch.arange(WAY + 1) * 8
    bank = FeatureBank(rows, offsets, names, names, dataset="features", protocol="x", split="test", texts=texts)
    learner = LEARNERS["openclip"](make_backbone("features", 16, 1), WAY, variant)
    support, query = torch.arange(len(bank)).view(1, WAY, 8).expand(EPISODES, -1, -1).split([SHOT, 3], 2)
    episodes = Episodes(torch.arange(WAY).expand(EPISODES, -1), support, query, mask=MASK)
    found = checked_scores(learner, EmbeddedBank(learner, bank), episodes)
    rows, texts = unit(rows.flatten(1)), unit(texts)
    for episode, ours in enumerate(found):
        queries, classes = rows[query[episode].flatten()], classes_of(rows[support[episode]], MASK[episode])
        votes = torch.stack([(5.5 * (queries @ images.T - 1)).exp().sum(1) for images in classes], 1)
        means = torch.stack([unit(images.mean(0)) for images in classes])
        expected = {"few-shot": queries @ means.T, "zero-shot": 100 * queries @ texts.T}
        expected["tip-adapter"] = expected["zero-shot"] + votes
        torch.testing.assert_close(ours, expected[variant], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", suite_learners())
def test_every_learner_of_the_suite_takes_a_mask(name):
    cls = LEARNERS[name]
    method = cls.scores if cls.episode_scores is Learner.episode_scores else cls.episode_scores
    assert "mask" in inspect.signature(method).parameters


# ---- the parts


def test_class_means_by_hand():
    support = torch.tensor([[[[1.0], [5.0]], [[2.0], [9.0]]]])  # (1, 2, 2, 1)
    assert class_means(support, None).flatten().tolist() == [3, 5.5]
    assert class_means(support, torch.tensor([[[True, True], [True, False]]])).flatten().tolist() == [3, 2]


def test_numbers_of_pairs_are_replaced_where_an_image_does_not_count():
    pairs, mask = torch.ones(1, 2, 4), torch.tensor([[[True, False], [True, True]]])
    assert counted(pairs, mask, 7.0).tolist() == [[[1, 7, 1, 1]] * 2]
    assert counted(pairs, None, 7.0) is pairs


def test_episodes_of_as_many_images_are_computed_together_and_put_in_their_order():
    seen = []

    def sums(images, labels, others):
        seen.append(tuple(images.shape))
        return torch.cat([labels.mT @ images[..., None], others[:, None, None].expand(-1, 2, -1)], 2)

    support = torch.arange(18).view(3, 2, 3)
    mask = torch.tensor([[[1, 1, 1], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[0, 1, 1], [1, 1, 0]]]).bool()
    found = on_counted(sums, support, mask, torch.tensor([7, 8, 9]))
    assert sorted(seen) == [(1, 2), (2, 4)]
    assert found.tolist() == [[[0 + 1 + 2, 7], [4, 7]], [[6, 8], [11, 8]], [[13 + 14, 9], [15 + 16, 9]]]


# ---- pictures of a stranger, and learners without a mask


class Means(Learner):
    """Class means of equal shots."""

    def scores(self, support, query):
        return -squared_distances(query, support.mean(2))


class Ranked(Means):
    """A head that depends on all classes."""

    def scores(self, support, query):
        return super().scores(support, query).softmax(2)


def support_set(bank, shots=(1, 2, 4)):
    """A support set with these numbers of images of the first classes, and all images of these classes."""
    classes = torch.arange(len(bank)).view(bank.classes, -1)
    images = torch.cat([images[:shot] for images, shot in zip(classes, shots)])
    numbers = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return numbered_support(bank.images[images], numbers, "abc"), bank.images[classes[: len(shots)].flatten()]


def on_pixels(cls, **options):
    return cls(make_backbone("pixels", 1, 16), 12, **options).eval()


@pytest.mark.parametrize("cls", [LEARNERS["prototypical"], Means])
def test_scores_of_class_means_are_exact_for_any_shots(cls):
    support, queries = support_set(toy_bank())
    learner = on_pixels(cls)
    images, query = (learner.embed(part.float() / 255) for part in (support.images, queries))
    expected = -squared_distances(query, torch.stack([part.mean(0) for part in images.split([1, 2, 4])]))
    torch.testing.assert_close(scores(learner, embedded(learner, support), queries), expected, rtol=1e-4, atol=1e-3)


def test_a_head_is_fitted_to_each_picture_once():
    support, queries = support_set(toy_bank())
    learner = on_pixels(LEARNERS["ridge"])
    images, query = (learner.embed(part.float() / 255).double() for part in (support.images, queries))
    regression = Ridge(alpha=1.0, fit_intercept=False).fit(images.numpy(), np.eye(3)[support.labels])
    expected = (10 * query @ torch.from_numpy(regression.coef_).T).float()
    torch.testing.assert_close(scores(learner, embedded(learner, support), queries), expected, rtol=1e-3, atol=1e-3)


def test_a_head_without_a_mask_gets_the_pictures_of_small_classes_again():
    bank, learner = toy_bank(), on_pixels(Ranked)
    data, query = EmbeddedBank(learner, bank), torch.arange(5, 8)[None]
    support = [torch.tensor([[0]]), torch.tensor([[8, 9]]), torch.tensor([[16, 17, 18]])]
    found = unequal_scores(learner, data, support, query)
    drawn = [[[0, 0, 0], [8, 9, 8], [16, 17, 18]], [[0, 0, 0], [9, 8, 9], [16, 17, 18]]]
    both = [
        checked_scores(learner, data, Episodes(torch.arange(3)[None], torch.tensor([part]), query)) for part in drawn
    ]
    torch.testing.assert_close(found, torch.stack(both).mean(0))


def test_a_mask_is_refused_by_a_learner_that_takes_none():
    bank, learner = toy_bank(classes=WAY), on_pixels(Means)
    support = torch.arange(len(bank)).view(WAY, 8)[None, :, :SHOT]
    episodes = Episodes(torch.arange(WAY)[None], support, torch.tensor([[7]]), mask=MASK[:1])
    said = refusal(lambda: checked_scores(learner, EmbeddedBank(learner, bank), episodes))
    assert "takes the same number of support images of each class" in said
