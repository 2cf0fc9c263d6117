"""AM3: prototypes mixed with names by a gate that the names decide."""

import dataclasses

import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

from episodes import ClassBatches, EpisodeSampler, class_texts
from episodes.datasets.classes import read_classes
from episodes.texts import class_text
from fewshot.backbones import make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.am3 import AM3
from fewshot.learners.clip_words import StaticEncoder
from fewshot.learners.prototypical import Prototypical

pytest.importorskip("wordllama", reason="needs the extra words")
NAMES = ("house", "home", "car", "banana", "tree", "moon")


@pytest.fixture(scope="module")
def bank():
    return dataclasses.replace(toy_bank(classes=6), class_names=NAMES)


def make(**options) -> AM3:
    torch.manual_seed(0)
    return AM3(make_backbone("conv4", 1, 16), 6, **options).eval()


def by_hand(learner: AM3, support, texts, q) -> torch.Tensor:
    """Equations 5 to 7 for one query (D,): the scores (N,), class by class."""
    scores = []
    for images, text in zip(support, texts):
        w = learner.of_name(StaticEncoder().numbers([text])[0])
        gate = 1 / (1 + (-learner.gate(w)).exp())
        scores.append(-(q - (gate * images.mean(0) + (1 - gate) * w)).square().sum() / learner.temperature)
    return torch.stack(scores)


@torch.no_grad()
def test_scores_are_those_of_the_equations(bank):
    learner = make(temperature=3.0)
    data, episodes = EmbeddedBank(learner, bank), EpisodeSampler(bank, 4, 3, 2, seed=0).episodes(0, 2)
    scores = learner.episode_scores(data, episodes)
    support = data.embeddings[episodes.support]
    for e, n, i in ((0, 1, 0), (1, 3, 1)):
        texts = [NAMES[c] for c in episodes.classes[e]]
        expected = by_hand(learner, support[e], texts, data.embeddings[episodes.query[e, n, i]])
        torch.testing.assert_close(scores[e, 2 * n + i], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_open_gate_leaves_prototypical_networks(bank):
    learner = make()
    torch.nn.init.constant_(learner.gate[-1].bias, 100.0)
    torch.manual_seed(0)
    plain = Prototypical(make_backbone("conv4", 1, 16), 6).eval()
    episodes = EpisodeSampler(bank, 4, 3, 2, seed=0).episodes(0, 2)
    found, expected = (one.episode_scores(EmbeddedBank(one, bank), episodes) for one in (learner, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("turns", [False, True])
def test_the_loss_is_that_of_the_batch_as_episodes_with_the_names_of_its_classes(bank, turns):
    learner = make(shot=1, turns=turns)
    learner.class_names, learner.batches = NAMES, ClassBatches(classes=2, images=3)
    indices = torch.tensor([8, 9, 10, 40, 41, 42])  # classes 1 and 5
    images = bank.batch(indices)
    embeddings, losses = learner.embed(images).view(2, 3, -1), []
    for first in range(3 if turns else 1):
        for own, place in ((own, place) for own in (0, 1) for place in range(3) if place != first):
            scores = by_hand(learner, embeddings[:, [first]], ("home", "moon"), embeddings[own, place])
            losses.append(functional.cross_entropy(scores, torch.tensor(own)))
    torch.testing.assert_close(learner.loss(images, bank.labels[indices]), torch.stack(losses).mean())


def test_names_are_declared_as_external_data(bank):
    assert AM3.variants[""].trained_on == "wordllama"
    assert class_texts(bank) == NAMES


def test_every_class_of_mini_imagenet_has_a_name_that_the_word_vectors_know():
    texts = [class_text(row["wordnet_id"]) for row in read_classes("mini_imagenet")]
    assert len(set(texts)) == 100
    assert {"house finch", "golden retriever"} <= set(texts)
    assert not [text for text in texts if any(letter.isdigit() or letter == "_" for letter in text)]
    assert StaticEncoder().numbers(texts).norm(dim=1).min() > 0
