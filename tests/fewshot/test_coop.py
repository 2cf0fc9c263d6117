"""CoOp: context vectors before the names, fitted to the support set through the encoder of texts."""

import json

import numpy as np
import pytest
import torch
from conftest import refusal, toy_bank
from torch.nn import functional

from episodes import EpisodeSampler, class_texts
from fewshot import evaluate
from fewshot.backbones import make_backbone
from fewshot.backbones.features import features
from fewshot.embedding import EmbeddedBank
from fewshot.learners.clip import CLIP
from fewshot.learners.coop import CoOp
from fewshot.learners.image_text_heads import cross_entropies
from fewshot.learners.openclip import OpenCLIP
from fewshot.learners.prompts import prompts_of

VARIANTS = pytest.mark.parametrize("variant", CoOp.variants)
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def bank():
    return toy_bank(classes=8)


def make(cls: type[CLIP] = CoOp, variant: str = "", **options) -> CLIP:
    """A learner whose encoder of texts knows something of every text."""
    torch.manual_seed(0)
    learner = cls(make_backbone("conv4-linear", 1, 16), 8, variant, **options).eval()
    generator = torch.Generator().manual_seed(1)
    learner.text_encoder.table.weight.data[1:] = torch.randn(8192, 128, generator=generator)
    return learner


@pytest.fixture(scope="module")
def openclip(tmp_path_factory):
    """A tiny model of open_clip with random weights; tests must not change it."""
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path_factory.mktemp("configs") / "fewshot-coop.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    torch.manual_seed(3)
    return make_backbone("openclip:fewshot-coop", 1, 16).eval()


def scored(learner, bank, shot: int = 3):
    data, episodes = EmbeddedBank(learner, bank), EpisodeSampler(bank, 4, shot, 2, seed=0).episodes(0, 3)
    with torch.no_grad():
        return learner.episode_scores(data, episodes), data, episodes


@VARIANTS
def test_without_a_step_the_scores_are_those_of_zero_shot_classification(bank, variant):
    found, _, _ = scored(make(variant=variant, head_steps=0), bank)
    cosines, _, _ = scored(make(CLIP, "zero-shot"), bank)
    torch.testing.assert_close(found, cosines / 0.07)


@VARIANTS
def test_without_a_step_open_clip_has_its_own_zero_shot_scores(bank, openclip, variant):
    found, _, _ = scored(CoOp(openclip, 8, variant, head_steps=0), bank)
    expected, _, _ = scored(OpenCLIP(openclip, 8, "zero-shot"), bank)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_one_episode_is_fitted_as_by_torchs_own_optimizer_through_the_encoder(bank):
    learner = make(head_steps=4, head_rate=0.05)
    scores, data, episodes = scored(learner, bank)
    texts = [class_texts(bank)[c] for c in episodes.classes[1]]
    support, own = data.rows(episodes.support[1].flatten()), torch.arange(4).repeat_interleave(3)
    names = learner.text_encoder(learner.text_encoder.numbers(texts)).detach()
    context = torch.zeros(128, requires_grad=True)
    optimizer = torch.optim.SGD([context], lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)

    def logits(images):
        return functional.cosine_similarity(images[:, None], learner.text_projection(names + context), dim=2) / 0.07

    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(logits(support), own).backward()
        optimizer.step()
        schedule.step()
    expected = logits(data.rows(episodes.query[1].flatten())).detach()
    torch.testing.assert_close(scores[1], expected, atol=1e-3, rtol=1e-3)


def test_class_specific_contexts_move_each_name_by_itself():
    learner = make()
    prompts, texts = prompts_of(learner), ("red fox", "owl")
    names = prompts.names(texts)[None]
    context = torch.zeros(1, 2, 1, 128)
    context[0, 1] = 1.0
    found, plain = (prompts.embed(one, names)[0] for one in (context, torch.zeros(1, 1, 1, 128)))
    torch.testing.assert_close(found[0], plain[0])
    assert not torch.allclose(found[1], plain[1])


def test_open_clips_context_stands_in_place_of_the_words_before_the_name(openclip):
    prompts, texts = prompts_of(CoOp(openclip, 2)), ["fox", "house finch"]
    names = prompts.names(texts)[None]
    other = openclip.token_vectors(openclip.tokens(["the drawing of one"])[0, 1:-1])
    assert other.shape == prompts.start.shape == (4, 16)
    with torch.no_grad():
        found = prompts.embed(other[None, None], names)[0]
        expected = openclip.embed_texts([f"the drawing of one {text}." for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@VARIANTS
def test_the_fit_lowers_the_loss_of_the_support_set(bank, openclip, variant):
    for learner in (make(variant=variant), CoOp(openclip, 8, variant, head_steps=10)):
        with torch.no_grad():
            data, labels = EmbeddedBank(learner, bank), torch.eye(4).repeat_interleave(3, 0)
            episodes = EpisodeSampler(bank, 4, 3, 2, seed=0).episodes(0, 3)
            images = data.rows(episodes.support.flatten()).unflatten(0, (3, 12))
            names = learner.of_classes(data)[episodes.classes]
            fitted = cross_entropies(learner.fitted(images, labels, names, images), labels)
            learner.head_steps = 0
            before = cross_entropies(learner.fitted(images, labels, names, images), labels)
        assert (fitted < before).all()


@VARIANTS
def test_evaluation_is_repeatable_and_changes_nothing(bank, variant):
    learner = make(variant=variant, head_steps=5)
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    found = [evaluate(learner, bank, way=5, shot=2, query=5, episodes=5, device="cpu").values for _ in range(2)]
    assert np.array_equal(*found)
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())


def test_a_file_of_features_has_no_encoder_of_texts():
    assert "a file of features has none: take images" in refusal(lambda: CoOp(features(16, 1), 8))
