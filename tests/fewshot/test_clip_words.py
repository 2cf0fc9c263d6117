"""clip on word vectors from elsewhere: near words are near, the vectors stay, and rows say whose they are."""

import dataclasses

import pytest
import torch
from conftest import refusal, toy_bank
from torch.nn import functional

from fewshot import train
from fewshot.backbones import make_backbone
from fewshot.config import Training, Validation
from fewshot.learners import clip_words
from fewshot.learners.clip_words import StaticEncoder, WordCLIP
from fewshot.run_folder import read_results

pytest.importorskip("wordllama", reason="needs the extra words")


def test_words_of_one_meaning_are_nearer_than_others():
    vectors = functional.normalize(StaticEncoder().numbers(["house", "home", "banana"]), dim=1)
    assert vectors.shape == (3, 256)
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]


def test_a_text_is_the_mean_of_its_tokens_whatever_its_case():
    encoder = StaticEncoder()
    one, two, both = encoder.numbers(["arrow", "left", "Arrow LEFT"])
    torch.testing.assert_close(both, (one + two) / 2)
    assert not encoder.numbers([""]).any()


def test_training_changes_the_projection_and_not_the_vectors():
    names = ("house", "home", "car", "banana", "tree", "moon")
    base, held = toy_bank(classes=6), toy_bank(classes=6, seed=1, split="validation")
    base, held = (dataclasses.replace(bank, class_names=names) for bank in (base, held))
    before = StaticEncoder().numbers(names).clone()
    learner = WordCLIP(make_backbone("conv4-linear", 1, 16), 6)
    start = learner.text_projection.weight.detach().clone()
    settings = Training(backbone="conv4-linear", steps=3, batches={"classes": 4, "images": 2})
    train(learner, base, held, settings, validation=Validation(way=3, shot=1, query=2, episodes=4))
    assert not torch.equal(learner.text_projection.weight, start)
    assert torch.equal(StaticEncoder().numbers(names), before)
    assert learner.traits.external


def test_a_run_says_what_the_vectors_were_trained_on(call, tmp_path):
    preset = tmp_path / "small.toml"
    preset.write_text(
        "[evaluation]\nways = [3]\nshots = [1]\nquery = 3\nepisodes = 20\n[validation]\nway = 3\nepisodes = 20\n"
        "[learner.clip-words]\nbackbone = 'conv4-linear'\nsteps = 2\nbatches = {classes = 4, images = 2}\n"
        "[learner.clip]\nbackbone = 'conv4-linear'\nsteps = 2\nbatches = {classes = 4, images = 2}\n"
    )
    said = call("bench", "--preset", preset, "--learner", "clip-words,clip", "--output", tmp_path / "run")
    assert said.code == 0, said.err
    results, _ = read_results(tmp_path / "run")
    assert results[["learner", "text", "external", "trained_on"]].fillna("").to_numpy().tolist() == [
        ["clip-words", True, True, "wordllama"],
        ["clip", True, False, ""],
    ]
    assert "clip-words (zero-shot) [class names, external data" in (tmp_path / "run" / "results.md").read_text()


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(clip_words.importlib.util, "find_spec", lambda name: None)
    clip_words._wordllama.cache_clear()
    assert "pip install 'fewshot[words]'" in refusal(clip_words._wordllama)
