"""Heads fitted to episodes: against optimisers and libraries that fit them one by one, and the learners that do so."""

import pytest
import torch
from conftest import refusal, toy_bank
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.svm import LinearSVC
from torch import nn
from torch.nn import functional

from episodes import ClassBatches
from fewshot.backbones import make_backbone
from fewshot.heads import (
    cosine_gradient,
    descend,
    one_hot,
    ridge,
    settled_support_vectors,
    softmax_gradient,
    support_vectors,
)
from fewshot.learners import closed_form
from fewshot.learners.registry import LEARNERS, traits_of

ADAPTIVE = [
    ("baseline", ""),
    ("baseline", "zero-start"),
    ("baseline++", ""),
    ("baseline++", "mean-start"),
    ("imprinted", "finetune"),
    ("ridge", ""),
    ("svm", ""),
]


def make(name: str, variant: str = "", **options):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone("conv4", 1, 16), 12, variant, **options)


def episode(episodes: int, way: int, shot: int, query: int = 6, size: int = 8, seed: int = 0):
    """Support (E, N, K, D) and query (E, Q, D) embeddings of classes that overlap, positive as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(episodes, way, 1, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(episodes, way, shot + query, size, generator=generator, dtype=torch.float64)
    images = functional.relu(0.7 + centres + 0.5 * noise)
    return images[:, :, :shot], images[:, :, shot:].flatten(1, 2)


def problem(episodes: int, way: int, shot: int, size: int = 8):
    """Support embeddings (E, M, D), their inner products (E, M, M) and their labels (M, N)."""
    images = episode(episodes, way, shot, size=size)[0].flatten(1, 2)
    return images, images @ images.mT, one_hot(way, shot, images)


def weights(coefficients: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The head X^T A as a linear layer holds it, (E, N, D)."""
    return coefficients.mT @ images


def fitted_by_torch(logits, parameters: list[torch.Tensor], steps: int, **settings) -> None:
    """Gradient descent by torch.optim.SGD on the cross-entropy of logits() (M, N), class after class."""
    optimizer = torch.optim.SGD(parameters, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        values = logits()
        shot = len(values) // values.shape[1]
        functional.cross_entropy(values, torch.arange(values.shape[1]).repeat_interleave(shot)).backward()
        optimizer.step()


CHEN = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1e-3}


# 100 epochs of batches of 4, but each step on all images; with 40 images, 8 longer steps replace an epoch's 10 batches
@pytest.mark.parametrize(("way", "shot", "steps", "rate"), [(5, 1, 200, 0.01), (3, 3, 300, 0.01), (2, 20, 800, 0.0125)])
def test_the_zero_start_of_baseline_is_a_linear_layer_that_torch_fits_from_zero(way, shot, steps, rate):
    support, query = episode(2, way, shot)
    scores = make("baseline", "zero-start").scores(support, query)
    for images, queries, ours in zip(support.flatten(1, 2), query, scores):
        layer = nn.Linear(8, way, dtype=torch.float64)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        fitted_by_torch(lambda: layer(images), list(layer.parameters()), steps, lr=rate, **CHEN)  # noqa: B023
        torch.testing.assert_close(ours, layer(queries).detach())


@pytest.mark.parametrize(("way", "shot", "steps"), [(5, 1, 200), (3, 3, 300)])
def test_the_mean_start_of_baseline_plus_plus_is_a_cosine_layer_that_torch_fits_from_it(way, shot, steps):
    support, query = (functional.normalize(part, dim=-1) for part in episode(2, way, shot))
    scores = make("baseline++", "mean-start").scores(support, query)
    for images, queries, ours in zip(support.flatten(1, 2), query, scores):
        mean = functional.normalize(images.mean(0), dim=0)
        layer = mean.expand(way, -1).clone().requires_grad_()
        fitted_by_torch(lambda: 10 * images @ functional.normalize(layer, dim=1).T, [layer], steps, lr=0.01, **CHEN)  # noqa: B023
        torch.testing.assert_close(ours, 10 * queries @ functional.normalize(layer, dim=1).T.detach())


def test_the_finetuned_head_of_imprinted_is_the_one_that_torch_fits_from_the_imprinted_one():
    support, query = (functional.normalize(part, dim=-1) for part in episode(3, 4, 2))
    scores = make("imprinted", "finetune", finetune_steps=30).scores(support, query)
    for images, queries, ours in zip(support, query, scores):
        layer = functional.normalize(images.mean(1), dim=1).requires_grad_()
        every = images.flatten(0, 1)
        fitted_by_torch(lambda: 10 * every @ functional.normalize(layer, dim=1).T, [layer], 30, lr=0.1)  # noqa: B023
        torch.testing.assert_close(ours, 10 * queries @ functional.normalize(layer, dim=1).T.detach())


@pytest.mark.parametrize("kind", ["softmax", "cosine"])
def test_gradients_of_coefficients_are_those_of_the_head(kind):
    images, products, labels = problem(2, 3, 2)
    if kind == "cosine":
        images = functional.normalize(images, dim=2)
        products = images @ images.mT
    coefficients = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head = weights(coefficients, images).requires_grad_()
    units = functional.normalize(head, dim=2) if kind == "cosine" else head
    logits = (4.0 if kind == "cosine" else 1.0) * images @ units.mT
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.argmax(1).repeat(2), reduction="sum") / 6
    (expected,) = torch.autograd.grad(loss, head)
    gradient = cosine_gradient(products, labels, 4.0) if kind == "cosine" else softmax_gradient(products, labels)
    torch.testing.assert_close(weights(gradient(coefficients), images), expected)


def test_descent_by_hand():
    # of x^2 / 2 from 1: slopes 1 and 0.9, velocities 1 and 0.5 * 1 + 0.5 * 0.9
    end = descend(torch.tensor(1.0), lambda place: place, 2, 0.1, momentum=0.5, dampening=0.5)
    assert end.item() == pytest.approx(0.9 - 0.1 * 0.95)
    assert descend(torch.tensor(1.0), torch.zeros_like, 1, 0.1, decay=0.5).item() == pytest.approx(0.95)


@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize("penalty", [0.1, 20.0])
def test_ridge_is_that_of_scikit_learn(size, penalty):
    images, products, labels = problem(3, 4, 3, size)
    ours = weights(ridge(products, labels, penalty), images)
    for embeddings, head in zip(images.numpy(), ours):
        regression = Ridge(alpha=penalty, fit_intercept=False).fit(embeddings, labels.numpy())
        torch.testing.assert_close(head, torch.from_numpy(regression.coef_))


def test_ridge_scores_choose_the_classes_of_the_ridge_classifier_of_scikit_learn():
    support, query = episode(4, 5, 3, query=20)
    chosen = make("ridge", penalty=2.0).scores(support, query).argmax(2)
    for images, queries, ours in zip(support.flatten(1, 2).numpy(), query.numpy(), chosen):
        classifier = RidgeClassifier(alpha=2.0, fit_intercept=False).fit(images, torch.arange(5).repeat_interleave(3))
        assert ours.tolist() == classifier.predict(queries).tolist()
    assert (chosen == torch.arange(5).repeat_interleave(20)).double().mean() > 0.5


def machine(images: torch.Tensor, labels: torch.Tensor, cost: float) -> torch.Tensor:
    """The head (N, D) of one episode by scikit-learn."""
    reference = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=cost, tol=1e-9, max_iter=100_000)
    return torch.from_numpy(reference.fit(images.numpy(), labels.argmax(1).numpy()).coef_)


@pytest.mark.parametrize("cost", [0.1, 10.0])
@pytest.mark.parametrize(("way", "shot"), [(5, 1), (5, 5), (3, 2)])
def test_support_vector_machines_are_those_of_scikit_learn(way, shot, cost):
    images, products, labels = problem(4, way, shot)
    exact, quick = (weights(support_vectors(products, labels, cost, steps), images) for steps in (1000, 100))
    for embeddings, head, early in zip(images, exact, quick):
        expected = machine(embeddings, labels, cost)
        torch.testing.assert_close(head, expected, rtol=1e-4, atol=1e-5)
        if cost == 0.1:  # that of the paper: the steps that the learner takes are enough
            torch.testing.assert_close(early, expected, rtol=0, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize("cost", [0.1, 10.0])
@pytest.mark.parametrize(("way", "shot"), [(5, 1), (20, 15)])
def test_at_test_a_support_vector_machine_takes_as_many_steps_as_it_needs(way, shot, cost):
    images, products, labels = problem(1, way, shot, size=16)
    images, products = 3 * images, 9 * products  # of the length of trained embeddings
    expected = machine(images[0], labels, cost) @ images[0].mT
    settled, early = (
        (weights(coefficients, images) @ images.mT)[0]
        for coefficients in (settled_support_vectors(products, labels, cost), support_vectors(products, labels, cost))
    )
    error, of_100_steps = (float((one - expected).abs().max() / expected.abs().max()) for one in (settled, early))
    assert error < 2e-3
    if way == 20:  # more images than dimensions: the steps of a training are far too few
        assert of_100_steps > 0.05


def test_how_long_an_episode_takes_does_not_depend_on_the_others():
    _, products, labels = problem(4, 5, 6)
    products = products * torch.tensor([1.0, 9.0, 100.0, 0.1], dtype=torch.float64)[:, None, None]
    together = settled_support_vectors(products, labels, 1.0)
    alone = torch.cat([settled_support_vectors(one[None], labels, 1.0) for one in products])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


def test_a_learner_settles_at_test_and_takes_the_steps_of_its_training_in_training(monkeypatch):
    support, query = episode(1, 5, 2)
    learner, called = make("svm"), []
    for name in ("support_vectors", "settled_support_vectors"):
        solver = getattr(closed_form, name)
        monkeypatch.setattr(closed_form, name, lambda *a, name=name, solver=solver: called.append(name) or solver(*a))
    for mode in (True, False):
        learner.train(mode).scores(support, query)
    assert called == ["support_vectors", "settled_support_vectors"]


def test_support_vector_coefficients_satisfy_their_constraints():
    _, products, labels = problem(4, 5, 3)
    coefficients = support_vectors(products, labels, 0.1, 7)  # whatever the steps
    assert (coefficients <= 0.1 * labels + 1e-12).all()
    torch.testing.assert_close(coefficients.sum(2), torch.zeros(4, 15, dtype=torch.float64))


def test_the_gradient_through_a_support_vector_machine_is_that_of_its_optimum():
    images, _, labels = problem(1, 3, 2)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    aim = torch.randn(3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    moved = images.clone().requires_grad_()
    (weights(support_vectors(moved @ moved.mT, labels, 0.1), moved) * aim).sum().backward()
    ends = [machine((images + step * direction)[0], labels, 0.1) for step in (1e-4, -1e-4)]
    slope = ((ends[0] - ends[1]) * aim).sum() / 2e-4
    assert slope.abs() > 0.01
    torch.testing.assert_close((moved.grad * direction).sum(), slope, rtol=0.01, atol=1e-3)


def test_gradients_through_ridge_equal_finite_differences():
    images, _, labels = problem(2, 3, 2)
    penalty = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: ridge(x @ x.mT, labels, p), (images.requires_grad_(), penalty))


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_twins_in_a_support_set_are_no_trouble(name):
    support, query = (part.float() for part in episode(2, 3, 2))
    support[:, 1] = support[:, 0]
    support[1] = 0
    support.requires_grad_()
    scores = make(name).scores(support, query)
    scores.sum().backward()
    assert scores.isfinite().all()
    assert support.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ridge", "svm"])
@pytest.mark.parametrize(("way", "shot", "expected"), [(4, 2, 3), (5, 3, 2), (20, 1, 1)])
def test_the_loss_is_the_mean_over_the_episodes_of_a_batch(name, way, shot, expected):
    bank, learner = toy_bank(classes=12), make(name, way=way, shot=shot).eval()
    embeddings = learner.embed(bank.batch(torch.arange(12 * 8))).unflatten(0, (12, 8))
    losses = []
    for first in range(0, 12 - 12 % way or 12, way):
        part = embeddings[first : first + way]
        scores = learner.scores(part[None, :, :shot], part[:, shot:].flatten(0, 1)[None])[0]
        losses.append(functional.cross_entropy(scores, torch.arange(len(part)).repeat_interleave(8 - shot)))
    assert len(losses) == expected
    learner.batches = ClassBatches(classes=12, images=8)
    loss = learner.loss(bank.batch(torch.arange(12 * 8)), bank.labels)
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_smoothing_gives_the_other_classes_what_it_takes_from_the_right_one():
    bank = toy_bank(classes=4, images=3)
    images, labels = bank.batch(torch.arange(12)), bank.labels
    learner = make("svm", way=4, shot=1, smoothing=0.1).eval()
    learner.batches = ClassBatches(classes=4, images=3)
    plain = learner.embed(images).detach().view(1, 4, 3, -1)
    scores = learner.scores(plain[:, :, :1], plain[:, :, 1:].flatten(1, 2))[0]
    wanted = torch.full((8, 4), 0.1 / 3).scatter(1, torch.arange(4).repeat_interleave(2)[:, None], 0.9)
    expected = -(wanted * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(learner.loss(images, labels), expected)


def test_the_scale_and_the_penalty_of_ridge_are_learned():
    bank, learner = toy_bank(classes=12), make("ridge", penalty=3.0)
    assert learner.log_penalty.exp().item() == pytest.approx(3)
    learner.batches = ClassBatches(classes=12, images=8)
    learner.loss(bank.batch(torch.arange(12 * 8)), bank.labels).backward()
    assert learner.log_penalty.grad != 0
    assert learner.scale.grad != 0


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_batches_without_queries_are_an_input_error(name):
    said = refusal(lambda: make(name, shot=3).check_batches(ClassBatches(5, 3)))
    assert said.startswith(f"{name} with shot = 3 needs batches of more images a class, not 3")


@pytest.mark.parametrize(("name", "variant"), ADAPTIVE)
@pytest.mark.parametrize(("way", "shot"), [(5, 1), (3, 5)])
def test_episodes_fitted_at_once_answer_as_those_fitted_one_by_one(name, variant, way, shot):
    learner, (support, query) = make(name, variant), (part.float() for part in episode(12, way, shot))
    with torch.no_grad():
        together = learner.scores(support, query).argmax(2)
        alone = torch.cat([learner.scores(support[i : i + 1], query[i : i + 1]).argmax(2) for i in range(12)])
    assert (together == alone).all()
    assert (together == torch.arange(way).repeat_interleave(6)).double().mean() > 1.5 / way


@pytest.mark.parametrize(("name", "variant"), ADAPTIVE)
def test_learners_that_fit_heads_say_so(name, variant):
    assert traits_of(LEARNERS[name], variant).fits_episodes
