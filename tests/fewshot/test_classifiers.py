"""SimpleShot and the classifiers of scikit-learn on the embeddings of a classifier of base classes."""

import warnings

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC
from torch.nn import functional

from episodes import InputError
from fewshot import checkpoints, train
from fewshot.backbones import make_backbone
from fewshot.config import LearnerSettings, Validation
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import Accuracies
from fewshot.learners import find_learner
from fewshot.learners.registry import LEARNERS
from fewshot.learners.scikit_learn import _estimators


def make(name: str, variant: str = "", classes: int = 12):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone("conv4", 1, 16), classes, variant)


def episode(episodes: int, way: int, shot: int, size: int = 8, seed: int = 0):
    """Support (E, N, K, D) and query (E, Q, D) embeddings of length one, positive as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(episodes, way, 1, size, generator=generator)
    noise = torch.randn(episodes, way, shot + 4, size, generator=generator)
    images = functional.normalize(functional.relu(0.7 + centres + 0.5 * noise), dim=3)
    return images[:, :, :shot], images[:, :, shot:].flatten(1, 2)


@pytest.mark.parametrize("name", ["baseline", "simpleshot", "sklearn"])
def test_training_is_the_cross_entropy_of_a_linear_classifier(name):
    learner, bank = make(name).eval(), toy_bank(classes=12)
    images, labels = bank.batch(torch.arange(0, 96, 5)), bank.labels[::5]
    logits = learner.backbone(images) @ learner.head.weight.T + learner.head.bias
    torch.testing.assert_close(learner.loss(images, labels), functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("name", ["baseline++", "imprinted"])
def test_training_is_the_cross_entropy_of_a_cosine_classifier(name):
    learner, bank = make(name).eval(), toy_bank(classes=12)
    images, labels = bank.batch(torch.arange(0, 96, 5)), bank.labels[::5]
    cosines = functional.cosine_similarity(learner.backbone(images)[:, None], learner.weights, dim=2)
    torch.testing.assert_close(learner.loss(images, labels), functional.cross_entropy(10 * cosines, labels))


@pytest.mark.parametrize("name", ["baseline", "baseline++", "imprinted"])
def test_base_logits_are_those_that_the_training_compares(name):
    learner, bank = make(name).eval(), toy_bank(classes=12)
    images, labels = bank.batch(torch.arange(0, 96, 5)), bank.labels[::5]
    logits = learner.base_logits(learner.embed(images)[None])[0]
    torch.testing.assert_close(functional.cross_entropy(logits, labels), learner.loss(images, labels))


@pytest.mark.parametrize("variant", ["un", "l2n", "cl2n"])
def test_simpleshot_scores_are_minus_the_squared_distance_to_the_centroid_of_transformed_embeddings(variant):
    learner, (support, query) = make("simpleshot", variant), (3 * part for part in episode(2, 3, 4, 64))
    learner.mean.copy_(torch.linspace(0, 1, 64))

    def transformed(x):
        x = x - learner.mean if variant == "cl2n" else x
        return x if variant == "un" else x / x.norm()

    scores = learner.scores(support, query)
    for e in range(2):
        for n in range(3):
            centroid = torch.stack([transformed(x) for x in support[e, n]]).mean(0)
            expected = torch.stack([-(transformed(x) - centroid).square().sum() for x in query[e]])
            torch.testing.assert_close(scores[e, :, n], expected)


BANKS = {"train": toy_bank(20, 8, seed=1), "validation": toy_bank(10, 8, seed=2, split="validation")}


def trained(learner, folder=None, steps: int = 2):
    settings = LearnerSettings(steps=steps, validate_every=1, precision="float32", batches={"size": 32})
    fixed = {"validation": Validation(way=5, query=3, episodes=10), "device": "cpu", "progress": False}
    return train(learner, BANKS["train"], BANKS["validation"], settings, folder=folder, **fixed)


@pytest.mark.parametrize("steps", [0, 2])
def test_the_mean_of_simpleshot_is_that_of_the_base_images_by_the_weights_kept(steps, tmp_path):
    learner = make("simpleshot", classes=20)
    trained(learner, tmp_path, steps)
    assert learner.mean.norm() > 0
    torch.testing.assert_close(learner.mean, EmbeddedBank(learner, BANKS["train"]).embeddings.mean(0))
    fresh, path = make("simpleshot", classes=20), tmp_path / "best.pt"
    checkpoints.restore(fresh, checkpoints.load(path), path)
    assert torch.equal(fresh.mean, learner.mean)


class Watching(LEARNERS["simpleshot"]):
    """Keeps what it is shown."""

    def begin_validation(self, base):
        self.seen = [*getattr(self, "seen", []), (base.bank, base.embeddings)]


@pytest.mark.parametrize(("sample", "images"), [(60, 3), (41, 3), (5, 1), (5000, 8)])
def test_base_classes_are_shown_as_a_fixed_sample_of_their_images(sample, images, monkeypatch):
    monkeypatch.setattr("fewshot.training._BASE_SAMPLE", sample)
    rising = iter([0.1, 0.2])  # the last weights are the best ones, which the training leaves
    monkeypatch.setattr(
        "fewshot.training.run_episodes", lambda *_: Accuracies(np.full(20, next(rising)), np.zeros((20, 5), int), 0.0)
    )
    learner = Watching(make_backbone("conv4", 1, 16), 20)
    trained(learner)
    (first, before), (second, after) = learner.seen  # one before each validation
    assert first.split == "train"
    assert first.sizes.tolist() == [images] * 20
    assert torch.equal(first.images, second.images)
    assert not torch.equal(before, after)
    known = {tuple(image.flatten().tolist()) for image in BANKS["train"].images}
    assert {tuple(image.flatten().tolist()) for image in first.images} <= known
    torch.testing.assert_close(after, EmbeddedBank(learner, first).embeddings)  # of the last weights


def test_variants_that_need_no_mean_do_not_embed_base_images(monkeypatch):
    learner, counts = make("simpleshot", "l2n", classes=20), []
    embed = learner.embed
    monkeypatch.setattr(learner, "embed", lambda images: counts.append(len(images)) or embed(images))
    trained(learner)
    assert set(counts) == {len(BANKS["validation"])}
    assert learner.mean.norm() == 0


@pytest.mark.parametrize(("name", "method"), [("LogisticRegression", ""), ("SVC", ""), ("GaussianNB", "proba")])
def test_sklearn_scores_are_those_of_the_estimator_fitted_to_the_support_set(name, method):
    learner, (support, query) = make("sklearn", name), episode(3, 4, 3)
    scores = learner.scores(support, query)
    kinds = {"LogisticRegression": LogisticRegression, "SVC": SVC, "GaussianNB": GaussianNB}
    for images, queries, ours in zip(support.flatten(1, 2).double(), query.double(), scores):
        estimator = kinds[name]().fit(images.numpy(), np.arange(4).repeat(3))
        score = estimator.predict_proba if method else estimator.decision_function
        torch.testing.assert_close(ours, torch.from_numpy(score(queries.numpy())).float())


def test_sklearn_estimators_of_one_margin_score_both_classes():
    support, query = episode(2, 2, 3)
    scores = make("sklearn").scores(support, query)
    assert scores.shape == (2, 8, 2)
    torch.testing.assert_close(scores[..., 0], -scores[..., 1])
    torch.testing.assert_close(make("sklearn").scores(support.flip(1), query), scores.flip(2))
    assert (scores.argmax(2) == torch.arange(2).repeat_interleave(4)).double().mean() > 0.7


def test_every_classifier_of_scikit_learn_gives_scores_or_one_sentence_that_names_it():
    (support, query), given, refused = episode(1, 3, 6), {}, {}
    for name in _estimators():
        try:
            given[name] = make("sklearn", name).scores(support, query)
        except InputError as error:
            refused[name] = str(error)
    assert {scores.shape for scores in given.values()} == {(1, 12, 3)}
    assert all(scores.isfinite().all() for scores in given.values())
    assert all(text.startswith(f"sklearn:{name} ") and "\n" not in text for name, text in refused.items())
    usual = "LinearSVC LogisticRegression KNeighborsClassifier RandomForestClassifier MLPClassifier GaussianNB SVC"
    assert set(given) >= set(usual.split())
    assert set(refused) >= {"VotingClassifier", "OneVsRestClassifier"}


def test_embeddings_of_sklearn_have_length_one():
    images = toy_bank(classes=3).batch(torch.arange(10))
    torch.testing.assert_close(make("sklearn").eval().embed(images).norm(dim=1), torch.ones(10))


def test_estimators_that_draw_numbers_draw_the_same_ones():
    learner, (support, query) = make("sklearn", "ExtraTreeClassifier"), episode(3, 4, 3)
    first = learner.scores(support, query)
    assert torch.equal(learner.scores(support, query), first)
    assert torch.equal(learner.scores(support[1:2], query[1:2]), first[1:2])


def test_an_estimator_that_does_not_converge_does_not_warn():
    support, query = episode(1, 3, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make("sklearn", "MLPClassifier").scores(support, query)
    assert not caught


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("LogisticRegresion", "unknown variant of sklearn 'LogisticRegresion': did you mean 'LogisticRegression'"),
        ("Ridge", "unknown variant of sklearn 'Ridge': did you mean 'RidgeClassifier'"),
        ("VotingClassifier", "sklearn:VotingClassifier cannot be made without arguments: choose another estimator"),
    ],
)
def test_an_estimator_that_cannot_be_is_told_before_any_training(name, sentence):
    assert refusal(lambda: find_learner(f"sklearn:{name}")).startswith(sentence)


def test_an_estimator_that_cannot_be_fitted_is_an_input_error():
    said = refusal(lambda: make("sklearn", "LogisticRegressionCV").scores(*episode(1, 3, 1)))
    assert said.startswith("sklearn:LogisticRegressionCV cannot be fitted to 3 classes of 1 images (")
