"""Pretrained CLIP: a tiny model of open_clip with random weights in a file stands for the real ones."""

import functools
import json
import logging
import sys

import pytest
import torch
from conftest import refusal, toy_bank
from safetensors.torch import save_file
from same_answers import CLASSES, IMAGES, check_same_answers, few
from torch.nn import functional

from episodes import EpisodeSampler
from fewshot import evaluate, train
from fewshot.backbones import find_backbone, make_backbone
from fewshot.backbones.openclip import OpenClipBackbone
from fewshot.config import Training
from fewshot.embedding import EmbeddedBank
from fewshot.learners.openclip import OpenCLIP
from fewshot.learners.registry import default_options
from fewshot.models import ModelSpec
from fewshot.run_folder import read_results

open_clip = pytest.importorskip("open_clip")

TINY = "openclip:fewshot-tiny"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
VARIANTS = pytest.mark.parametrize("variant", OpenCLIP.variants)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """Registers the model with open_clip."""
    path = tmp_path_factory.mktemp("configs") / "fewshot-tiny.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def backbone(tiny) -> OpenClipBackbone:
    """The backbone; tests must not change it."""
    torch.manual_seed(3)
    return make_backbone(TINY, 1, 16).eval()


@pytest.fixture(scope="module")
def weights(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in backbone.body.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def bank():
    return toy_bank(classes=8)


def scored(learner: OpenCLIP, bank):
    data, episodes = EmbeddedBank(learner, bank), EpisodeSampler(bank, 4, 3, 2, seed=0).episodes(0, 3)
    with torch.no_grad():
        return learner.episode_scores(data, episodes), data, episodes


# the backbone


def test_images_are_prepared_as_open_clip_does(backbone):
    image = torch.rand(1, 3, 50, 50)
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=32), is_train=False)
    picture = functional.interpolate(image, 32, mode="bicubic", antialias=True)  # in floats, not in bytes
    expected = transform.transforms[-1](picture.clamp(0, 1))
    torch.testing.assert_close(backbone.prepared(image), expected)
    assert backbone.prepared(torch.rand(2, 1, 16, 16)).shape == (2, 3, 32, 32)


def test_images_and_texts_get_the_models_own_embeddings(backbone):
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        expected = backbone.body.encode_image(backbone.prepared(images.expand(-1, 3, -1, -1)))
        torch.testing.assert_close(backbone(images), expected)
        tokens = open_clip.get_tokenizer("fewshot-tiny")(["a house finch"])
        torch.testing.assert_close(backbone.embed_texts(["a house finch"]), backbone.body.encode_text(tokens))
    assert expected.shape == (2, backbone.embedding_size)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-B-33", "unknown model of open_clip 'ViT-B-33': did you mean"),
        ("hf-hub:laion/CLIP-ViT-B-32", "unknown model of open_clip"),
        ("roberta-ViT-B-32", "has parts that would be downloaded"),
        ("ViT-B-32:mine", "unknown weights of openclip:ViT-B-32 'mine'"),
        ("ViT-B-32", "say which yours are, as openclip:ViT-B-32:"),
    ],
)
def test_names_that_will_not_do(name, said):
    assert said in refusal(lambda: find_backbone(f"openclip:{name}"))


def test_the_named_weights_decide_how_images_are_prepared():
    names = (f"openclip:ViT-L-14:{weights}" for weights in ("openai", "laion2b_s32b_b82k"))
    means = [find_backbone(name).make.args[2]["mean"] for name in names]
    assert means[0] == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert means[1] == (0.5, 0.5, 0.5)


def test_open_clip_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "pip install 'fewshot[openclip]'" in refusal(lambda: find_backbone("openclip:ViT-B-32"))


def test_making_one_does_not_make_the_root_logger_print():
    handlers = logging.getLogger().handlers[:]
    make_backbone(TINY, 3, 16)
    assert logging.getLogger().handlers == handlers


# weights


@pytest.mark.parametrize("form", ["safetensors", "pt", "module"])
def test_weights_of_a_file_make_the_same_network(form, backbone, weights, tmp_path):
    state, path = backbone.body.state_dict(), weights
    if form != "safetensors":
        path = tmp_path / "tiny.pt"
        prefix = "module." if form == "module" else ""
        torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, path)
    torch.manual_seed(99)
    other = make_backbone(TINY, 1, 16, path)
    assert all(torch.equal(value, state[name]) for name, value in other.body.state_dict().items())


class _Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_a_file_that_wants_to_run_code_does_not(tmp_path):
    torch.save({"state_dict": {"visual.proj": _Evil()}}, tmp_path / "evil.pt")
    assert "holds more than tensors" in refusal(lambda: make_backbone(TINY, 1, 16, tmp_path / "evil.pt"))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_file_that_is_no_weights(content, tmp_path):
    for path in (tmp_path / "bad.pt", tmp_path / "bad.safetensors"):
        path.write_bytes(content)
        assert "cannot be read as weights" in refusal(functools.partial(make_backbone, TINY, 1, 16, path))


def test_weights_of_another_model(weights, tmp_path):
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "lacks 38 of the 38 weights of openclip:fewshot-tiny" in refusal(
        lambda: make_backbone(TINY, 1, 16, tmp_path / "other.safetensors")
    )


# the learner


def test_zero_shot_scores_are_the_models_logits_of_the_prompts(backbone, bank):
    scores, _, episodes = scored(OpenCLIP(backbone, 8, "zero-shot", prompt="this is {}"), bank)
    with torch.no_grad():
        images = functional.normalize(backbone(bank.batch(episodes.query[1].flatten())), dim=1)
        prompts = [f"this is {bank.class_names[number]}" for number in episodes.classes[1]]
        texts = functional.normalize(backbone.embed_texts(prompts), dim=1)
        torch.testing.assert_close(scores[1], backbone.body.logit_scale.exp() * images @ texts.T)


def test_few_shot_scores_are_the_cosines_to_the_class_means(backbone, bank):
    scores, data, episodes = scored(OpenCLIP(backbone, 8, "few-shot"), bank)
    query, means = data.embeddings[episodes.query.flatten(1)], data.embeddings[episodes.support].mean(2)
    torch.testing.assert_close(scores, functional.cosine_similarity(query[:, :, None], means[:, None], dim=3))


def test_tip_adapter_adds_the_affinities_to_the_zero_shot_logits(backbone, bank):
    scores, data, episodes = scored(OpenCLIP(backbone, 8, "tip-adapter", alpha=2.0, beta=3.0), bank)
    zero, _, _ = scored(OpenCLIP(backbone, 8, "zero-shot"), bank)
    for e, q, n in [(0, 0, 0), (1, 5, 3), (2, 2, 1)]:
        query = data.embeddings[episodes.query[e].flatten()[q]]
        cache = [torch.exp(-3.0 * (1 - query @ data.embeddings[image])) for image in episodes.support[e, n]]
        torch.testing.assert_close(scores[e, q, n], zero[e, q, n] + 2.0 * sum(cache))


def test_only_what_reads_names_says_so(backbone):
    assert {variant: OpenCLIP(backbone, 8, variant).traits.text for variant in OpenCLIP.variants} == {
        "tip-adapter": True,
        "few-shot": False,
        "zero-shot": True,
    }


@VARIANTS
def test_evaluation_is_repeatable_and_changes_nothing(backbone, bank, variant):
    learner = OpenCLIP(backbone, 8, variant)
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    values = [evaluate(learner, bank, way=4, shot=2, query=2, episodes=6, device="cpu").values for _ in range(2)]
    assert (values[0] == values[1]).all()
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_another_backbone_is_refused_and_the_way_is_told():
    said = refusal(lambda: OpenCLIP(make_backbone("conv4", 1, 16), 8))
    assert "backbone = 'openclip:MODEL' and weights = 'FILE'" in said


def test_a_prompt_without_a_place_for_the_name_is_refused(backbone):
    assert "has no {}" in refusal(lambda: OpenCLIP(backbone, 8, prompt="a photo"))


def test_without_weights_it_does_not_run(backbone, bank):
    learner = OpenCLIP(backbone, 8)
    assert "needs pretrained weights" in refusal(lambda: train(learner, bank, bank, Training(backbone=TINY)))


def test_a_run_is_marked_as_of_external_data(call, weights, tmp_path):
    preset = tmp_path / "tiny.toml"
    preset.write_text(
        "[evaluation]\nways = [3]\nshots = [1]\nquery = 3\nepisodes = 20\n[validation]\nway = 3\nepisodes = 20\n"
        f"[learner.openclip]\nbackbone = '{TINY}'\nweights = '{weights}'\n"
    )
    said = call("bench", "--preset", preset, "--learner", "openclip,openclip:few-shot", "--output", tmp_path / "run")
    assert said.code == 0
    results, _ = read_results(tmp_path / "run")
    assert results[["variant", "text", "external"]].to_numpy().tolist() == [
        ["tip-adapter", True, True],
        ["few-shot", False, True],
    ]
    page = (tmp_path / "run" / "results.md").read_text()
    assert "openclip (tip-adapter) [class names, external data, may have seen test classes]" in page
    assert "openclip (few-shot) [external data, may have seen test classes]" in page


def test_a_run_without_weights_says_how(call, tmp_path):
    said = call("bench", "--learner", f"openclip@{TINY}", "--dataset", "omniglot", "--output", tmp_path / "run")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "give [learner.openclip] of a preset the line weights = 'FILE'" in said.err


@VARIANTS
def test_evaluate_classifier_and_predict_give_the_same_answers(backbone, variant, tmp_path):
    bank = few(toy_bank(CLASSES, IMAGES))
    spec = ModelSpec.of(OpenCLIP, bank, Training(backbone=TINY, options=default_options(OpenCLIP)), variant=variant)
    learner = spec.build(OpenCLIP)
    learner.backbone.load_state_dict(backbone.state_dict())
    check_same_answers(learner, spec, bank, tmp_path)
