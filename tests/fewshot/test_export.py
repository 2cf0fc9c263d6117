"""Exported embedding networks give the embeddings of the model, and say how its images were prepared."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import refusal, toy_bank

from episodes import ImageBank
from fewshot import checkpoints
from fewshot.config import Training
from fewshot.export import EmbeddingNetwork, export
from fewshot.learners import find_learner
from fewshot.loading import open_checkpoint
from fewshot.models import ModelSpec


def checkpoint_of(folder: Path, learner: str, backbone: str, channels: int, size: int) -> Path:
    """A checkpoint of random weights whose batch norms have seen images."""
    grey = toy_bank(classes=4, images=3, size=size)
    images = grey.images.expand(-1, channels, -1, -1)
    bank = ImageBank(images, grey.offsets, grey.class_names, grey.class_names, dataset="toy", fit="crop")
    cls, variant = find_learner(learner)
    settings = Training(backbone=backbone, steps=0)
    spec = ModelSpec.of(cls, bank, settings, asked=learner, variant=variant, trained_on="ImageNet-1k")
    model = spec.build(cls).train()
    with torch.no_grad():
        model.embed(bank.batch(torch.arange(12)))
    checkpoints.save(folder / "best.pt", {"about": spec.to_checkpoint(), "learner": model.state_dict()})
    return folder / "best.pt"


@pytest.fixture
def siamese(tmp_path) -> Path:
    """A learner whose embeddings are not those of its backbone: they have the length one."""
    return checkpoint_of(tmp_path, "siamese", "conv4", 1, 16)


def check_about(about: dict[str, str], spec: ModelSpec) -> None:
    assert ModelSpec.model_validate_json(about["fewshot"]) == spec
    plain = json.loads(about["fewshot"])
    assert (plain["size"], plain["channels"], plain["fit"]) == (spec.size, spec.channels, "crop")
    assert (plain["learner"], plain["trained_on"]) == (spec.learner, "ImageNet-1k")


@pytest.mark.parametrize(
    ("learner", "backbone", "channels"), [("siamese", "conv4", 1), ("prototypical", "timm:test_resnet", 3)]
)
def test_onnxruntime_gives_the_embeddings_for_any_number_of_images(tmp_path, call_plain, learner, backbone, channels):
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint = checkpoint_of(tmp_path, learner, backbone, channels, 32)
    said = call_plain("export", checkpoint, "--to", "onnx", "--output", tmp_path / "model.onnx")
    assert (said.code, said.err) == (0, "")
    expected = f"images B x {channels} x 32 x 32 in [0, 1] to embeddings, written to {tmp_path / 'model.onnx'}"
    assert said.out.splitlines()[-1].endswith(expected)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    spec, model = open_checkpoint(checkpoint)
    check_about(session.get_modelmeta().custom_metadata_map, spec)
    for count in (1, 5):
        images = torch.rand(count, channels, 32, 32)
        (given,) = session.run(["embeddings"], {"images": images.numpy()})
        with torch.no_grad():
            expected = model.eval().embed(images)
        torch.testing.assert_close(torch.from_numpy(given), expected, atol=1e-4, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "model.onnx"]


@pytest.mark.parametrize(
    ("backbone", "channels", "standardised"), [("conv4", 1, False), ("conv4", 3, True), ("timm:test_resnet", 1, True)]
)
def test_a_model_is_built_again_from_safetensors_alone(tmp_path, backbone, channels, standardised):
    from safetensors import safe_open

    spec, model = open_checkpoint(checkpoint_of(tmp_path, "clip", backbone, channels, 32))
    export(model, spec, "safetensors", tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        about = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no mapping
    check_about(about, spec)
    standardisation = json.loads(about["standardisation"])
    assert standardisation is None or standardisation["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert (standardisation is not None) == standardised
    again = ModelSpec.model_validate_json(about["fewshot"]).build(type(model))
    again.load_state_dict(weights)
    images = torch.rand(3, channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(EmbeddingNetwork(again)(images), EmbeddingNetwork(model)(images))


def test_an_exported_file_is_a_file_of_weights(tmp_path, siamese):
    from fewshot.backbones import make_backbone

    spec, model = open_checkpoint(siamese)
    export(model, spec, "safetensors", tmp_path / "model.safetensors")
    loaded = make_backbone("conv4", 1, 16, tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.backbone.state_dict().items())


def test_a_folder_that_is_not_there(tmp_path, siamese):
    spec, model = open_checkpoint(siamese)
    assert "cannot be written" in refusal(lambda: export(model, spec, "safetensors", tmp_path / "none" / "a.st"))


@pytest.mark.parametrize(("kind", "package"), [("safetensors", "safetensors.torch"), ("onnx", "onnx")])
def test_it_is_an_extra(monkeypatch, tmp_path, siamese, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    spec, model = open_checkpoint(siamese)
    assert refusal(lambda: export(model, spec, kind, tmp_path / "a")).endswith("pip install 'fewshot[export]'")
    assert not (tmp_path / "a").exists()


def test_a_network_that_onnx_cannot_express(tmp_path, siamese, monkeypatch):
    spec, model = open_checkpoint(siamese)
    monkeypatch.setattr(model, "embed", lambda images: torch.linalg.svd(images.flatten(1))[0])
    said = refusal(lambda: export(model, spec, "onnx", tmp_path / "a"))
    assert said == "torch.onnx cannot express the network of siamese (contrastive), seed 0: take --to safetensors"
    assert not (tmp_path / "a").exists()


def test_what_is_no_checkpoint(tmp_path, call_plain):
    said = call_plain("export", tmp_path / "none.pt", "--to", "onnx", "--output", tmp_path / "a.onnx")
    assert (said.code, said.err) == (2, f"fewshot: there is no checkpoint {tmp_path / 'none.pt'}\n")
