"""Heads for features of images and texts: each by its paper's equations, and none by the labels of queries."""

import math

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank
from torch.nn import functional

from episodes import EpisodeSampler, FeatureBank, load_dataset
from fewshot import evaluate
from fewshot.backbones import make_backbone
from fewshot.backbones.features import features
from fewshot.embedding import EmbeddedBank
from fewshot.learners.image_text_heads import ImageTextHead, cross_entropies, minimised
from fewshot.learners.openclip import OpenCLIP
from fewshot.learners.registry import LEARNERS
from fewshot.training import trainable

HEADS = ("tip-adapter", "clip-adapter", "lp++", "clap")
VARIANTS = [(name, variant) for name in HEADS for variant in LEARNERS[name].variants]
every_head = pytest.mark.parametrize(("name", "variant"), VARIANTS)
SIZE = 12


def arrays(classes: int = 9, images: int = 12, noise: float = 1.0, size: int = SIZE) -> dict[str, np.ndarray]:
    """Features of images and texts around the same directions, one a class; texts are the nearer ones."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(classes, size))
    features = centres[:, None] + noise * random.normal(size=(classes, images, size))
    return {
        "embeddings": features.reshape(-1, size).astype(np.float32),
        "labels": np.repeat(np.arange(classes), images),
        "class_names": np.array([f"thing {number}" for number in range(classes)]),
        "texts": (centres + 0.5 * random.normal(size=(classes, size))).astype(np.float32),
    }


@pytest.fixture
def bank(tmp_path) -> FeatureBank:
    np.savez(tmp_path / "features.npz", **arrays())
    return load_dataset(str(tmp_path / "features.npz"), "all")


def head(name: str, variant: str = "", size: int = SIZE, **options) -> ImageTextHead:
    torch.manual_seed(0)
    return LEARNERS[name](features(size, 1), 9, variant, **options).eval()


def episode(way: int = 3, shot: int = 4, queries: int = 5, size: int = SIZE) -> tuple[torch.Tensor, ...]:
    """Support images (E, M, D), their labels (M, N), texts (E, N, D) and queries (E, Q, D) of two episodes."""
    generator = torch.Generator().manual_seed(1)
    images, texts, query = (
        functional.normalize(torch.randn(2, count, size, generator=generator), dim=2)
        for count in (way * shot, way, queries)
    )
    return images, torch.eye(way).repeat_interleave(shot, 0), texts, query


def test_tip_adapter_is_the_zero_shot_logits_and_the_cache():
    images, labels, texts, query = episode()
    scores = head("tip-adapter", "training-free", alpha=2.0, beta=3.0).fitted(images, labels, texts, query)
    for e, q, n in ((0, 0, 0), (1, 3, 2), (1, 4, 1)):
        cache = sum(math.exp(-3.0 * (1 - float(query[e, q] @ key))) for key in images[e, 4 * n : 4 * n + 4])
        assert float(scores[e, q, n]) == pytest.approx(100 * float(query[e, q] @ texts[e, n]) + 2 * cache, abs=1e-3)


def test_training_free_tip_adapter_is_that_of_openclip(bank):
    episodes = EpisodeSampler(bank, 5, 3, 4, seed=0).episodes(0, 4)
    learners = head("tip-adapter", "training-free"), OpenCLIP(features(SIZE, 1), 9, "tip-adapter")
    first, second = (one.episode_scores(EmbeddedBank(one, bank), episodes) for one in learners)
    torch.testing.assert_close(first, second)


def test_tip_adapter_f_fits_the_keys_as_the_optimizer_of_one_episode_does():
    images, labels, texts, query = episode()
    scores = head("tip-adapter", head_steps=5, head_rate=0.01, alpha=3.0).fitted(images, labels, texts, query)
    keys = torch.nn.Linear(SIZE, len(labels), bias=False)
    keys.weight.data = images[1].clone()
    optimizer = torch.optim.AdamW(keys.parameters(), lr=0.01, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)

    def logits(rows):
        return 100 * rows @ texts[1].T + 3.0 * torch.exp(-5.5 * (1 - keys(rows))) @ labels

    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(logits(images[1]), labels.argmax(1)).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(scores[1], logits(query[1]).detach(), atol=1e-3, rtol=1e-4)


def test_clip_adapter_moves_images_by_two_layers_and_mixes_them():
    images, labels, texts, query = episode()
    learner = head("clip-adapter", ratio=0.3, head_steps=0)
    hidden = (query[0] @ learner.down).clamp(min=0)
    mixed = 0.3 * (hidden @ learner.up).clamp(min=0) + 0.7 * query[0]
    expected = 100 * functional.cosine_similarity(mixed[:, None], texts[0][None], dim=2)
    assert learner.down.shape == (SIZE, SIZE // 4)
    torch.testing.assert_close(learner.fitted(images, labels, texts, query)[0], expected, atol=1e-4, rtol=1e-4)


def test_lp_plus_plus_descends_by_the_steps_of_the_paper():
    images, labels, texts, query = episode()
    scores = head("lp++", head_steps=25).fitted(images, labels, texts, query)
    rows, words, own = images[0], texts[0], labels.argmax(1)
    weights = torch.stack([rows[own == k].sum(0) for k in range(3)]).requires_grad_()
    means = [(rows[own == k] @ words[k]).mean() for k in range(3)]
    alpha = torch.full((3,), 250 * float(sum(means)) / 3).requires_grad_()
    rate = 4 * len(rows) / float(torch.linalg.eigvalsh(rows.T @ rows)[-1])
    rate_alpha = len(rows) / (4 * float((rows @ words.T).square().sum(0).max()))
    optimizer = torch.optim.SGD([weights], rate, momentum=0.9)
    for step in range(1, 26):
        loss = functional.cross_entropy(rows @ (weights + alpha[:, None] * words).T, own)
        slope_w, slope_alpha = torch.autograd.grad(loss, [weights, alpha])
        weights.grad = slope_w
        optimizer.step()
        if step % 10 == 0:
            alpha.data -= rate_alpha * slope_alpha
    expected = (query[0] @ (weights + alpha[:, None] * words).T).detach()
    torch.testing.assert_close(scores[0], expected, atol=1e-2, rtol=1e-3)


def test_clap_holds_each_class_to_its_text_by_what_the_text_is_worth():
    images, labels, texts, query = episode()
    learner = head("clap", head_steps=4)
    own = labels.argmax(1)
    zero_shot = (100 * images[0] @ texts[0].T).softmax(1)
    worth = torch.stack([zero_shot[own == k, k].mean() for k in range(3)])
    torch.testing.assert_close(learner.multipliers(100 * images @ texts.mT, labels)[0], worth)
    weights = texts[0].clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for _ in range(4):
        optimizer.zero_grad()
        logits = 100 * images[0] @ functional.normalize(weights, dim=1).T
        away = (worth * (weights - texts[0]).square().sum(1)).mean()
        (functional.cross_entropy(logits, own) + away).backward()
        optimizer.step()
        schedule.step()
    expected = 100 * query[0] @ functional.normalize(weights.detach(), dim=1).T
    torch.testing.assert_close(learner.fitted(images, labels, texts, query)[0], expected, atol=1e-2, rtol=1e-3)


def test_clap_without_steps_is_the_zero_shot_classifier_and_zs_lp_has_no_constraint():
    images, labels, texts, query = episode()
    torch.testing.assert_close(
        head("clap", head_steps=0).fitted(images, labels, texts, query), 100 * query @ texts.mT, atol=1e-4, rtol=1e-4
    )
    assert not head("clap", "unconstrained").multipliers(images @ texts.mT, labels).any()


@every_head
def test_masked_support_images_are_as_if_they_were_not_there(bank, name, variant):
    learner = head(name, variant)
    data = EmbeddedBank(learner, bank)
    episodes = EpisodeSampler(bank, 4, 3, 5, seed=2).episodes(0, 3)
    mask = torch.ones(3, 4, 3, dtype=torch.bool)
    mask[:, 1, 2] = mask[1, 3, 1:] = False
    masked = learner.episode_scores(data, episodes, mask)
    alone = EmbeddedBank(learner, bank).rows(episodes.support[1].flatten())[mask[1].flatten()][None]
    labels = torch.eye(4).repeat_interleave(3, 0)[mask[1].flatten()]
    texts = functional.normalize(bank.texts, dim=1)[episodes.classes[1]][None]
    query = data.rows(episodes.query[1].flatten())[None]
    torch.testing.assert_close(masked[1], learner.fitted(alone, labels, texts, query)[0], atol=1e-3, rtol=1e-3)


@every_head
def test_heads_fit_the_support_better_than_the_texts_alone_do(name, variant):
    images, labels, texts, _ = episode()
    fits = cross_entropies(head(name, variant).fitted(images, labels, texts, images), labels)
    assert (fits < cross_entropies(100 * images @ texts.mT, labels)).all()


@every_head
def test_evaluation_is_repeatable_and_changes_nothing(bank, name, variant):
    learner = head(name, variant)
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    found = [evaluate(learner, bank, way=5, shot=2, query=5, episodes=5, device="cpu").values for _ in range(2)]
    assert (found[0] == found[1]).all()
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_features_without_texts_are_refused_with_what_to_do(tmp_path):
    without = arrays()
    del without["texts"]
    np.savez(tmp_path / "features.npz", **without)
    bank = load_dataset(str(tmp_path / "features.npz"), "all")
    said = refusal(lambda: evaluate(head("clap"), bank, way=5, shot=1, query=2, episodes=2, device="cpu"))
    assert "holds no features of texts" in said


def test_on_images_the_features_are_those_of_clip():
    torch.manual_seed(0)
    learner = LEARNERS["clap"](make_backbone("conv4-linear", 1, 16), 12).eval()
    bank = toy_bank(classes=12)
    data = EmbeddedBank(learner, bank)
    assert data.embeddings.shape == (len(bank), 128)
    assert data.text_embeddings.shape == (12, 128)
    assert learner.scale().item() == pytest.approx(1 / 0.07)


def test_episodes_do_not_change_each_other():
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def loss(place):
        return (place.square() * torch.arange(1, 5)).sum(1)

    together = minimised(loss, [start], lambda parameters: torch.optim.AdamW(parameters, lr=0.1), 5)[0]
    alone = minimised(loss, [start[1:2]], lambda parameters: torch.optim.AdamW(parameters, lr=0.1), 5)[0]
    torch.testing.assert_close(together[1:2], alone)


@every_head
def test_nothing_is_trained_if_the_features_are_ready(name, variant):
    assert not trainable(head(name, variant))
    assert trainable(LEARNERS[name](make_backbone("conv4-linear", 1, 16), 9, variant))
