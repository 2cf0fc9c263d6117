"""DeViSE: its loss is the paper's equation, its names stay as they are, and it learns names that it never saw."""

import dataclasses

import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

from episodes import InputError
from fewshot import train
from fewshot.backbones import make_backbone
from fewshot.config import Training, Validation
from fewshot.embedding import EmbeddedBank
from fewshot.learners.clip_words import StaticEncoder
from fewshot.learners.devise import DeViSE
from fewshot.losses import ranking_hinge

NAMES = ("house", "home", "car", "banana", "tree", "moon")


def test_the_loss_is_the_equation_of_the_paper():
    images, texts = torch.randn(5, 4), functional.normalize(torch.randn(3, 4), dim=1)
    labels, margin = torch.tensor([0, 2, 1, 1, 0]), 0.7
    expected = sum(
        max(0.0, margin - float(texts[label] @ image) + float(texts[j] @ image))
        for image, label in zip(images, labels.tolist())
        for j in range(3)
        if j != label
    )
    assert float(ranking_hinge(images, texts, labels, margin)) == pytest.approx(expected / 5, abs=1e-5)


def test_training_brings_images_to_their_words_and_leaves_the_words_alone():
    pytest.importorskip("wordllama", reason="needs the extra words")
    base, held = toy_bank(classes=6), toy_bank(classes=6, seed=1, split="validation")
    base, held = (dataclasses.replace(bank, class_names=NAMES) for bank in (base, held))
    torch.manual_seed(0)
    learner = DeViSE(make_backbone("conv4", 1, 16), 6)
    before = learner.embed_texts(NAMES)
    settings = Training(backbone="conv4", steps=40, batches={"classes": 6, "images": 4})
    train(learner, base, held, settings, validation=Validation(way=3, shot=1, query=2, episodes=4))
    learner.eval()
    torch.testing.assert_close(learner.embed_texts(NAMES), before)
    torch.testing.assert_close(before, functional.normalize(StaticEncoder().numbers(NAMES), dim=1))
    right = EmbeddedBank(learner, base).embeddings.unflatten(0, (6, 8)) @ before.T
    assert (right.argmax(2) == torch.arange(6)[:, None]).float().mean() > 0.5  # chance is 1/6


@pytest.mark.parametrize("margin", [0.0, -0.1])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(InputError, match="devise needs a margin above 0"):
        DeViSE(make_backbone("conv4", 1, 16), 6, margin=margin)
