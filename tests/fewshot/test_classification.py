"""Regularisers of base classifiers, and training images that grow."""

import dataclasses

import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

from episodes import InputError
from fewshot import checkpoints, train
from fewshot.backbones import make_backbone
from fewshot.classification import RegularisedLoss
from fewshot.config import Classification, LearnerSettings, Validation, load_config
from fewshot.learners.registry import LEARNERS
from fewshot.models import ModelSpec
from fewshot.plan import plan
from fewshot.training import size_at

BANKS = toy_bank(12, 6, size=16), toy_bank(10, 8, seed=2, split="validation", size=16)


def made(name: str = "imprinted", backbone: str = "conv4-32"):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone(backbone, 1, 16), 12)


def batch(count: int = 16):
    return BANKS[0].batch(torch.arange(count)), BANKS[0].labels[:count]


def settings_of(steps: int = 6, **more):
    fixed = {"batches": {"size": 16}, "validate_every": 2, "precision": "float32"}
    return LearnerSettings(steps=steps, **fixed, **more)


def run(learner, folder=None, resume=False, **more):
    validation = Validation(way=5, query=3, episodes=10)
    fixed = {"validation": validation, "device": "cpu", "progress": False}
    return train(learner, *BANKS, settings_of(**more), folder=folder, resume=resume, **fixed)


@pytest.mark.parametrize("name", ["imprinted", "simpleshot", "baseline", "baseline++"])
def test_without_regularisers_the_loss_is_the_learners(name):
    learner = made(name).train()
    images, labels = batch()
    found = RegularisedLoss(learner, Classification()).loss(images, labels)
    torch.testing.assert_close(found, learner.loss(images, labels))


def test_smoothing_is_that_of_the_cross_entropy():
    learner = made("simpleshot")
    images, labels = batch()
    found = RegularisedLoss(learner, Classification(smoothing=0.3)).loss(images, labels)
    logits = learner.head(learner.backbone(images))
    torch.testing.assert_close(found, functional.cross_entropy(logits, labels, label_smoothing=0.3))


class Spy(torch.nn.Module):
    """A body that keeps what it is given and what its two blocks are given."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.one, self.two = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, images):
        for block in (self.one, self.two):
            images = block(images)
            self.seen.append(images)
        return images


def spied():
    learner = made("simpleshot", "conv4-32")
    learner.backbone.body = Spy()
    learner.backbone.embedding_size = 16 * 16
    learner.head = torch.nn.Linear(16 * 16, 12)
    return learner


def test_the_second_half_of_a_batch_is_turned_by_every_number_of_quarters_and_the_first_is_not():
    learner = spied()
    images = torch.rand(400, 1, 16, 16)
    RegularisedLoss(learner, Classification(rotation=1.0)).loss(images, torch.zeros(400, dtype=torch.int64))
    seen = learner.backbone.body.seen[0]
    turned = torch.stack([(seen == images.rot90(quarter, (2, 3))).flatten(1).all(1) for quarter in range(4)])
    assert turned[0, :200].all()
    assert turned.any(0).all()
    assert (turned[:, 200:].sum(1) > 30).all()  # of 50 expected


def test_mixed_images_keep_half_of_themselves_on_average_and_their_targets_likewise():
    learner = spied()
    images = torch.eye(256).reshape(256, 1, 16, 16)  # image i is pixel i: what is mixed can be read
    RegularisedLoss(learner, Classification(mixup="images")).loss(images, torch.zeros(256, dtype=torch.int64))
    mixed = learner.backbone.body.seen[0].flatten(1)
    torch.testing.assert_close(mixed.sum(1), torch.ones(256))
    torch.testing.assert_close(mixed.sum(0), torch.ones(256), atol=1.0, rtol=0)
    own = mixed.diagonal()
    assert own.mean() == pytest.approx(0.5, abs=0.05)
    assert own.var() == pytest.approx(1 / 20, abs=0.02)  # of Beta(2, 2)


def test_maps_are_mixed_before_one_block_each():
    learner = spied()
    images = torch.eye(256).reshape(256, 1, 16, 16)
    RegularisedLoss(learner, Classification(mixup="maps")).loss(images, torch.zeros(256, dtype=torch.int64))
    first, second = ((one.flatten(1) != 0).sum(1) > 1 for one in learner.backbone.body.seen)
    assert 90 < first.sum() < 166  # of 128 expected
    assert second.sum() > 245  # all are mixed by then, but for those whose partner is the image itself


def test_members_of_an_ensemble_mix_an_image_at_the_same_place():
    learner = made("simpleshot", "2xconv4-32")
    first, second = learner.backbone.body = torch.nn.ModuleList([Spy(), Spy()])
    learner.head = torch.nn.Linear(2 * 16 * 16, 12)
    images = torch.eye(256).reshape(256, 1, 16, 16)
    RegularisedLoss(learner, Classification(mixup="maps")).loss(images, torch.zeros(256, dtype=torch.int64))
    for one, other in zip(first.seen, second.seen, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["conv4-average", "conv4-3pool", "resnet10", "resnet12", "wrn28_10", "2xresnet18"])
def test_maps_are_mixed_inside_each_network_of_the_suite(name):
    learner = made("simpleshot", name)
    RegularisedLoss(learner, Classification(mixup="maps")).loss(*batch(4)).backward()


@pytest.mark.parametrize("name", ["pixels", "torchvision:mobilenet_v3_small"])
def test_a_network_without_blocks_mixes_no_maps(name):
    with pytest.raises(InputError, match="mixup = 'maps' mixes inside a network, and this backbone has no blocks"):
        RegularisedLoss(made("simpleshot", name), Classification(mixup="maps"))


def test_mixed_targets_follow_the_shares():
    """The loss of a batch whose images all have one class is that of the class, however they are mixed."""
    learner = made("simpleshot").eval()
    images = batch(1)[0].expand(16, -1, -1, -1).contiguous()
    labels = torch.full((16,), 3)
    found = RegularisedLoss(learner, Classification(mixup="images")).loss(images, labels)
    torch.testing.assert_close(found, learner.loss(images, labels), rtol=1e-4, atol=1e-4)


def test_a_teacher_that_says_the_same_leaves_half_of_the_loss(tmp_path):
    learner = made("simpleshot").eval()
    spec = ModelSpec.of(LEARNERS["simpleshot"], BANKS[0], LearnerSettings(backbone="conv4-32"))
    checkpoints.save(tmp_path / "best.pt", {"about": spec.to_checkpoint(), "learner": learner.state_dict()})
    images, labels = batch()
    found = RegularisedLoss(learner, Classification(teacher=str(tmp_path / "best.pt"))).loss(images, labels)
    torch.testing.assert_close(found, learner.loss(images, labels) / 2)


def test_a_teacher_of_another_class_or_with_other_classes_is_refused(tmp_path):
    spec = ModelSpec.of(LEARNERS["imprinted"], BANKS[1], LearnerSettings(backbone="conv4-32"))
    checkpoints.save(tmp_path / "best.pt", {"about": spec.to_checkpoint(), "learner": made().state_dict()})
    with pytest.raises(InputError, match=r"best.pt is no checkpoint of simpleshot, which its teacher must be"):
        RegularisedLoss(made("simpleshot"), Classification(teacher=str(tmp_path / "best.pt")))


TEACHING = """
[validation]
query = 3
episodes = 5
[learner.simpleshot]
backbone = "conv4-32"
steps = 2
batches = {size = 20}
classification = {teacher = "%s"}
"""


def test_a_teacher_is_of_the_same_base_classes_and_part_of_what_rows_depend_on(toy_banks, tmp_path):
    (tmp_path / "student.toml").write_text(TEACHING % (tmp_path / "best.pt"))
    config = load_config(str(tmp_path / "student.toml"), ["simpleshot"])

    def teach(bank, seed: int) -> None:
        settings = LearnerSettings(backbone="conv4-32")
        about = ModelSpec.of(LEARNERS["simpleshot"], bank, settings, data=[bank.checksum], seed=seed)
        weights = about.build(LEARNERS["simpleshot"]).state_dict()
        checkpoints.save(tmp_path / "best.pt", {"about": about.to_checkpoint(), "learner": weights})

    banks = {split: dataclasses.replace(bank, checksum=split) for split, bank in toy_banks.items()}
    teach(banks["test"], 0)
    with pytest.raises(InputError, match=r"best.pt is no checkpoint of a training on .* alone: name the best.pt of"):
        plan(config, banks)
    keys = []
    for seed in (1, 2):
        teach(banks["train"], seed)
        (model,) = plan(config, banks)
        keys.append(model.spec.data)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["prototypical", "dynamic", "feat", "meta-baseline"])
def test_a_learner_with_another_loss_is_refused(name):
    learner = LEARNERS[name](make_backbone("conv4-32", 1, 16), 12)
    with pytest.raises(InputError, match=f"{name} does not train as a classifier of base classes alone: leave out"):
        RegularisedLoss(learner, Classification(smoothing=0.1))


ALL = {"smoothing": 0.1, "rotation": 0.5, "mixup": "maps"}


@pytest.mark.parametrize("settings", [{"optimizer": "muon"}, {"optimizer": "muon", "classification": ALL}])
def test_an_interrupted_training_goes_on_to_the_same_result(settings, tmp_path, monkeypatch):
    whole = made()
    run(whole, tmp_path / "whole", steps=6, **settings)
    stopped, counted = made(), []
    forward = stopped.backbone.forward

    def interrupted(images):
        counted.append(stopped.training)
        if sum(counted) == 6:
            raise KeyboardInterrupt
        return forward(images)

    monkeypatch.setattr(stopped.backbone, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path / "cut", steps=6, **settings)
    torch.manual_seed(99)
    resumed = made()
    run(resumed, tmp_path / "cut", resume=True, steps=6, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_training_images_grow_by_share_of_the_steps(monkeypatch):
    learner, seen = made("simpleshot", "conv4-average"), []
    forward = learner.backbone.forward
    monkeypatch.setattr(
        learner.backbone,
        "forward",
        lambda images: (seen.append(images.shape[-1]) if learner.training else None) or forward(images),
    )
    run(learner, steps=8, sizes={"0": 8, "50": 12, "75": 16})
    assert seen == [8] * 4 + [12] * 2 + [16] * 2
    assert size_at(LearnerSettings(steps=8, sizes={"0": 8}), 7) == 8


def test_growing_images_need_a_network_that_averages():
    with pytest.raises(InputError, match="needs a network that averages its last feature map"):
        run(made("simpleshot"), sizes={"0": 8})


def test_sizes_without_a_start_are_refused():
    with pytest.raises(ValueError, match="sizes must say the size from the start on"):
        LearnerSettings(sizes={"50": 8})
