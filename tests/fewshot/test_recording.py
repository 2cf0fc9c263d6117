"""Gradients of a recording equal those of single operations; a learner that cannot be recorded trains anyway."""

import copy
import functools

import pytest
import torch
from conftest import toy_bank
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from episodes import ClassBatches
from episodes.batches import batches_from
from fewshot import recording
from fewshot.backbones import make_backbone
from fewshot.classification import RegularisedLoss
from fewshot.config import Classification, Training, Validation
from fewshot.learners import find_learner, learner_names
from fewshot.learners.npair import NPair
from fewshot.recording import Recorded, computed, gradients_of
from fewshot.training import clamped, train

BANK = toy_bank(classes=12, images=6, size=16)


def made(name, variant=""):
    """A learner on a small network, and its batches' numbers."""
    cls, named = find_learner(name)
    settings = clamped(Training(), cls, named, BANK)
    torch.manual_seed(0)
    learner = cls(make_backbone("conv4-32", 1, 16), BANK.classes, variant or named).train()
    batches = batches_from(settings.batches)
    learner.batches = batches
    return learner, batches.following(BANK, 0, 0)


TRAINED = [
    f"{name}:{variant}" if variant else name
    for name in learner_names()
    for variant, traits in find_learner(name)[0].variants.items()
    if traits.trains and traits.uses_labels and not traits.text and not made(name, variant)[0].stages
]
RECORDED = [
    *("prototypical:euclidean", "prototypical:cosine", "npair", "relation", "matching:basic", "imprinted:imprint"),
    *("imprinted:finetune", "baseline", "baseline:zero-start", "baseline++", "baseline++:mean-start"),
    *("bd-cspn", "label-propagation", "laplacianshot:rectified", "laplacianshot:plain", "pt-map", "query-clustering"),
    *("soft-kmeans", "tim", "tim:alpha", "transductive-finetuning"),
    *("simpleshot:cl2n", "simpleshot:l2n", "simpleshot:un", "sklearn:LogisticRegression"),
]


class Tape(TorchDispatchMode):
    """A CUDA graph imitated on the CPU: the recorded operations run again, on the memory of the same tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        kept = [
            tree_map(lambda one: one.detach() if isinstance(one, torch.Tensor) else one, one)
            for one in (args, kwargs or {}, result)
        ]
        self.calls.append((torch.is_grad_enabled(), function, *kept))
        return result

    def replay(self):
        for with_gradients, function, args, kwargs, results in self.calls:
            with torch.set_grad_enabled(with_gradients):  # kernels depend on it
                again = function(*args, **kwargs)
            with torch.no_grad():
                for old, new in zip(tree_leaves(results), tree_leaves(again)):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def on_tape(learner):
    """A stand-in for record_on_gpu: recording must not run the graph, so the changes of the run are undone."""

    def record(work):
        before = copy.deepcopy(learner.state_dict())
        with (tape := Tape()):
            result = work()
        learner.load_state_dict(before)
        return result, tape.replay

    return record


def trained(step, learner, following, steps=6):
    """The losses of `steps` steps, whose gradients move the weights."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        indices = next(following)
        losses.append(step(BANK.batch(indices), BANK.labels[indices]))
        optimizer.step()
    return torch.stack(losses)


@pytest.mark.parametrize("what", TRAINED)
def test_a_recording_gives_the_same_training(what):
    """Also for learners whose first batches show that a step cannot be recorded."""
    one_by_one, following = made(what)
    expected = trained(lambda *batch: computed(one_by_one, *batch), one_by_one, following)
    learner, following = made(what)
    calls = []
    record = on_tape(learner)
    found = trained(Recorded(learner, lambda work: calls.append(work) or record(work)), learner, following)
    assert len(calls) <= 1
    assert calls or what not in RECORDED
    assert len(found.unique()) == len(found) or not calls  # every recorded batch has a loss of its own
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, value in one_by_one.state_dict().items():
        torch.testing.assert_close(learner.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_what_cannot_be_recorded_trains_operation_by_operation_and_says_so(caplog):
    def fails(work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    one_by_one, following = made("npair")
    expected = trained(lambda *batch: computed(one_by_one, *batch), one_by_one, following)
    learner, following = made("npair")
    with caplog.at_level("WARNING", logger="fewshot"):
        found = trained(Recorded(learner, fails), learner, following)
    assert caplog.messages == [
        "npair cannot be recorded on this GPU, and trains slower for it: operation not permitted when stream is"
        " capturing"
    ]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class CountsClasses(NPair):
    said = "a GPU would be waited for in _unique2"

    def loss(self, images, labels):
        return super().loss(images, labels) * len(labels.unique()) / 10


class PicksByMask(NPair):
    said = "a GPU would be waited for in index, index_put"

    def loss(self, images, labels):
        return super().loss(images, labels) + self.embed(images)[labels > 3].square().mean() / 1000


class ReadsItsLoss(NPair):
    said = "a GPU would be waited for in _local_scalar_dense"

    def loss(self, images, labels):
        loss = super().loss(images, labels)
        return loss if loss > 0 else -loss


class CopiesNumbers(NPair):
    said = "a GPU would be waited for in lift_fresh"

    def loss(self, images, labels):
        return super().loss(images, labels) * images.new_tensor([1.0, 3.0]).mean()


class CountsSteps(NPair):
    said = "the operations change from batch to batch: aten.mul.Tensor and aten.mul.Tensor"
    seen = 0

    def loss(self, images, labels):
        self.seen += 1
        return super().loss(images, labels) * (1 - 0.001 * self.seen)


class OneMoreEachTime(NPair):
    said = "the operations change from batch to batch: "
    seen = 0

    def loss(self, images, labels):
        self.seen += 1
        return sum([super().loss(images, labels)] * self.seen)


@pytest.mark.parametrize("cls", [CountsClasses, PicksByMask, ReadsItsLoss, CopiesNumbers, CountsSteps, OneMoreEachTime])
def test_watching_the_first_batches_tells_what_cannot_be_recorded(cls, caplog):
    def never(work):
        raise AssertionError

    torch.manual_seed(0)
    learners = [cls(make_backbone("conv4-32", 1, 16), BANK.classes).train() for _ in range(2)]
    learners[1].load_state_dict(learners[0].state_dict())
    batches = ClassBatches(12, 2)
    expected = trained(functools.partial(computed, learners[0]), learners[0], batches.following(BANK, 0, 0))
    with caplog.at_level("INFO", logger="fewshot"):
        found = trained(Recorded(learners[1], never), learners[1], batches.following(BANK, 0, 0))
    (said,) = caplog.messages
    assert said.startswith(f"npair trains operation by operation: {cls.said}")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stages", "network", "recorded"), [((), None, True), ((0.5,), None, False), ((), nn.Flatten(), False)]
)
def test_on_a_gpu_one_stage_and_a_network_of_the_suite_are_watched(stages, network, recorded):
    learner, _ = made("npair")
    learner.stages, learner.backbone = stages, network or learner.backbone
    assert isinstance(gradients_of(learner, torch.device("cuda")), Recorded) == recorded


def test_on_the_cpu_nothing_is_recorded():
    assert not isinstance(gradients_of(made("npair")[0], torch.device("cpu")), Recorded)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", TRAINED)
def test_on_a_gpu_a_recorded_training_is_the_one_that_is_not(what, precision, monkeypatch, caplog):
    if what.startswith(("anil", "maml")):
        pytest.importorskip("learn2learn")
    weights, recordings = [], []
    record = recording.record_on_gpu
    monkeypatch.setattr(recording, "record_on_gpu", lambda work: recordings.append(work) or record(work))
    for recorded in (True, False):
        learner, _ = made(what)
        if not recorded:
            monkeypatch.setattr(recording, "obstacle_to_recording", lambda _: "not to be recorded")
        settings = Training(steps=12, validate_every=5, precision=precision)
        train(learner, BANK, BANK, settings, validation=Validation(way=3, shot=1, query=2, episodes=20), device="cuda")
        weights.append(learner.state_dict())
    assert len(recordings) == 1 or what not in RECORDED
    assert "cannot be recorded" not in caplog.text
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("settings", [{"smoothing": 0.1}, {"rotation": 0.5}, {"mixup": "images"}, {"mixup": "maps"}])
def test_a_regularised_loss_can_be_recorded(settings):
    learner, following = made("imprinted")
    loss = RegularisedLoss(learner, Classification(**settings))
    calls, record = [], on_tape(loss)
    found = trained(Recorded(loss, lambda work: calls.append(work) or record(work)), loss, following)
    assert len(calls) == 1
    assert len(found.unique()) == len(found)


def test_another_size_of_images_begins_a_recording_anew():
    torch.manual_seed(0)
    learner = find_learner("simpleshot")[0](make_backbone("conv4-average", 1, 16), BANK.classes).eval()
    calls, record = [], on_tape(learner)
    gradients = Recorded(learner, lambda work: calls.append(work) or record(work))
    for size in (8, 16):
        for number in range(6):
            images = torch.nn.functional.interpolate(BANK.batch(torch.arange(number, number + 9)), size)
            labels = BANK.labels[number : number + 9]
            torch.testing.assert_close(gradients(images, labels), computed(learner, images, labels))
    assert len(calls) == 2
