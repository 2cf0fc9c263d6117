"""A folder of one's own with an encoder that stays as it is: one table, what to take, and how to predict with it."""

import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_bank
from PIL import Image
from torch import nn

from fewshot import backbones
from fewshot.advice import advice
from fewshot.backbones.base import Backbone, Recipe
from fewshot.embedding import EmbeddedBank
from fewshot.frozen import SharedOutputs
from fewshot.learners.imprinted import Imprinted
from fewshot.learners.prototypical import Prototypical
from fewshot.run_folder import read_results

HEADS = "prototypical,imprinted,ridge"


class Colours(Backbone):
    """A stand-in for an encoder that brings its weights: the colours of 7x7 parts of an image."""

    at_once = 8
    trained_on = "ImageNet-1k"

    def __init__(self, channels: int = 3, size: int = 224) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(7), 49 * channels)

    def forward(self, images):
        COUNTED.append(len(images))
        return super().forward(images)


COUNTED: list[int] = []


@pytest.fixture
def stub(monkeypatch):
    """`efficientnet-lite0` is the stand-in; gives the numbers of images that it was asked for."""
    recipe = Recipe(Colours, "a stand-in", "", Colours.trained_on)
    monkeypatch.setitem(backbones.PRETRAINED, "efficientnet-lite0", recipe)
    COUNTED.clear()
    return COUNTED


def write_pictures(folder, classes: int, images: int):
    random = np.random.default_rng(3)
    for label in range(classes):
        (folder / f"kind{label:02d}").mkdir(parents=True)
        colour = random.integers(40, 216, (7, 7, 3))
        for number in range(images):
            pixels = (colour + random.normal(0, 180, (7, 7, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(folder / f"kind{label:02d}" / f"{number}.png")
    return folder


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return write_pictures(tmp_path / "my pictures", 7, 8)


def bench(call, folder, *more):
    return call("bench", "--dataset", folder, "--preset", "pretrained", "--learner", HEADS, "--episodes", 30, *more)


def test_all_classes_are_tested_and_each_image_is_embedded_once(call_plain, pictures, stub, tmp_path):
    said = bench(call_plain, pictures)
    assert said.code == 0, said.err
    assert sum(stub) == 7 * 8
    assert "test: query = 3, not 15: there are 7 classes, the smallest of 8 images" in said.out
    rows = pd.read_csv(tmp_path / "results" / "pretrained-my pictures" / "results.csv")
    assert set(zip(rows["way"], rows["shot"], rows["query"])) == {(5, 1, 3), (5, 5, 3)}
    assert set(rows["learner"]) == {"prototypical", "imprinted", "ridge"}
    assert (rows["split"] == "all").all()
    assert (rows["trained_on"] == "ImageNet-1k").all()
    assert (rows["seen"] == "unknown").all()
    assert rows["external"].all()
    assert "may have seen test classes" in said.out


def test_the_last_lines_name_the_best_head_and_a_command_that_runs(call_plain, pictures, stub, tmp_path):
    said = bench(call_plain, pictures)
    *_, sentence, command = said.out.splitlines()
    folder = tmp_path / "results" / "pretrained-my pictures"
    rows, arrays = read_results(folder)
    best = rows[rows["shot"] == 5].sort_values("accuracy").iloc[-1]
    assert sentence.startswith(f"Take {best['learner']}")
    assert f"{best['accuracy']:.2f} ± {best['ci95']:.2f} %" in sentence
    assert [sentence, command] == advice(rows, arrays, str(pictures)).lines
    assert (folder / "results.md").read_text().endswith(f"{sentence}\n\n{command}\n")
    words = shlex.split(command.partition("fewshot ")[2].replace("QUERY", shlex.quote(str(pictures / "kind03"))))
    assert call_plain(*words).code == 0
    assert (pd.read_csv(tmp_path / "answers.csv")["answer"] == "kind03").mean() > 0.5


def test_a_network_that_nothing_has_trained_is_told(call_plain, pictures, stub):
    said = call_plain(
        *("bench", "--dataset", pictures, "--preset", "pretrained", "--episodes", 30),
        *("--learner", "prototypical,prototypical@conv4-32,nearest-pixel"),
    )
    (told,) = (line for line in said.out.splitlines() if "whose weights are random" in line)
    assert told.startswith("prototypical (euclidean), conv4-32, seed 0: nothing has trained its network conv4-32")


def test_a_small_folder_is_measured_by_what_it_can_fill(call_plain, pictures, stub, tmp_path):
    said = bench(call_plain, write_pictures(tmp_path / "few", 3, 3))
    assert said.code == 0, said.err
    assert said.out.count("test: ways = [3], not [5]; shots = [1], not [1, 5]; query = 2, not 15: there are 3") == 1
    rows = pd.read_csv(tmp_path / "results" / "pretrained-few" / "results.csv")
    assert set(zip(rows["way"], rows["shot"], rows["query"])) == {(3, 1, 2)}


def test_what_needs_base_classes_is_refused(call_plain, pictures, stub):
    said = bench(call_plain, pictures, "--protocol", "verification")
    assert said.code == 2
    assert "verification needs classes besides those of the test" in said.err
    said = call_plain("train", "--dataset", pictures, "--preset", "pretrained", "--learner", "ridge")
    assert said.code == 2
    assert "the preset pretrained 1 trains nothing" in said.err


def test_shared_outputs_are_those_of_a_backbone_of_its_own():
    bank = toy_bank(4, 5, seed=1)
    learners = [cls(Colours(*bank.images.shape[1:3]), 4).eval() for cls in (Prototypical, Imprinted)]
    shared = SharedOutputs()
    COUNTED.clear()
    found = [shared.embedded(learner, bank).embeddings for learner in learners]
    assert sum(COUNTED) == len(bank)  # nothing is computed for the second learner
    assert all(torch.equal(one, EmbeddedBank(learner, bank).embeddings) for one, learner in zip(found, learners))


class Mirrored(Prototypical):
    """Embeds each image and its mirror image."""

    def embed(self, images):
        return self.backbone(images) + 2 * self.backbone(images.flip(3))


def test_a_learner_that_changes_images_gets_the_outputs_for_the_changed_ones():
    bank = toy_bank(4, 5, seed=1)
    channels, size = bank.images.shape[1:3]
    shared = SharedOutputs()
    shared.embedded(Prototypical(Colours(channels, size), 4).eval(), bank).embeddings  # noqa: B018
    learner = Mirrored(Colours(channels, size), 4).eval()
    assert torch.equal(shared.embedded(learner, bank).embeddings, EmbeddedBank(learner, bank).embeddings)


def test_backbones_of_other_weights_share_nothing():
    bank = toy_bank(4, 5, seed=1)
    channels, size = bank.images.shape[1:3]
    shared = SharedOutputs()
    first, second = (Prototypical(backbones.make_backbone("conv4-32", channels, size), 4).eval() for _ in range(2))
    assert not torch.equal(shared.embedded(first, bank).embeddings, shared.embedded(second, bank).embeddings)


def test_a_network_and_its_mirrored_form_share_nothing():
    bank = toy_bank(4, 5, seed=1)
    channels, size = bank.images.shape[1:3]
    shared = SharedOutputs()
    plain, mirrored = (backbones.make_backbone(f"conv4-32{end}", channels, size) for end in ("", "-mirrored"))
    mirrored.body.load_state_dict(plain.body.state_dict())
    first, second = (Prototypical(backbone, 4).eval() for backbone in (plain, mirrored))
    assert not torch.equal(shared.embedded(first, bank).embeddings, shared.embedded(second, bank).embeddings)


def results(**accuracies: float) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows and the episodes of heads with these accuracies in 5-way 1-shot episodes, on all classes of a set."""
    noise = np.random.default_rng(0).normal(0, 0.05, 400)
    arrays = {f"{name}/5way1shot": (mean + noise).clip(0, 1) for name, mean in accuracies.items()}
    rows = [
        {"split": "all", "learner": name, "variant": "", "backbone": "efficientnet-lite0", "seed": 0, "model": name}
        for name in accuracies
    ]
    return pd.DataFrame(rows).assign(way=5, shot=1, image_size=224), arrays


def test_heads_that_tie_with_the_best_are_named():
    found = advice(*results(ridge=0.8, svm=0.8, nca=0.6), "omniglot")
    assert found.sentence.startswith("Take ridge on efficientnet-lite0: 79.82 ± 0.49 % of queries")
    assert found.sentence.endswith("; svm cannot be told apart from it")
    assert "--learner ridge --support DIR QUERY --output answers.csv" in found.command
    rows, arrays = results(ridge=0.8, svm=0.8, nca=0.6)
    rows = rows.assign(learner=["ridge", "ridge", "nca"], backbone=["conv4-32", "conv4", "conv4"])
    several = advice(rows, arrays, "omniglot")
    assert several.sentence.startswith("Take ridge, conv4: 79.82")
    assert several.sentence.endswith("; ridge, conv4-32 cannot be told apart from it")
    alone = advice(*results(ridge=0.8, nca=0.6), "omniglot")
    assert alone.sentence.endswith("each other head can be told apart from it")


def test_runs_on_other_classes_or_on_images_of_another_size_get_no_such_advice():
    rows, arrays = results(ridge=0.8, svm=0.7)
    assert advice(rows.assign(split="test"), arrays, "omniglot") is None
    assert advice(rows[:0], arrays, "omniglot") is None
    assert advice(rows.assign(image_size=84), arrays, "omniglot").command == ""
    assert advice(rows, arrays, "omniglot:inverted").command == ""
    assert advice(rows.assign(backbone="conv4"), arrays, "omniglot").command == ""
