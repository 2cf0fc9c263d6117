"""Gradients of a recording are those of the same operations one by one; what cannot be recorded is trained anyway."""

import copy

import pytest
import torch
from conftest import toy_bank
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from episodes.batches import batches_from
from fewshot import gradients
from fewshot.backbones import make_backbone
from fewshot.config import Training, Validation
from fewshot.learners import find_learner, learner_names
from fewshot.recording import Recorded, computed, gradients_of, recordable
from fewshot.training import clamped, train

BANK = toy_bank(classes=12, images=6, size=16)


def made(name, variant=""):
    """A learner on a small network, and its batches' numbers."""
    cls, named = find_learner(name)
    settings = clamped(Training(), cls, BANK)
    torch.manual_seed(0)
    learner = cls(make_backbone("conv4-32", 1, 16), BANK.classes, variant or named).train()
    batches = batches_from(settings.batches)
    learner.images_each = getattr(batches, "images", None)
    return learner, batches.following(BANK, 0, 0)


RECORDABLE = [
    f"{name}:{variant}" if variant else name
    for name in learner_names()
    for variant in find_learner(name)[0].variants
    if "recordable" in vars(find_learner(name)[0]) and recordable(made(name, variant)[0])
]


class Tape(TorchDispatchMode):
    """A CUDA graph as the CPU can have it: what was done once is done again, on the memory of the same tensors."""

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
            with torch.set_grad_enabled(with_gradients):  # kernels look at it
                again = function(*args, **kwargs)
            with torch.no_grad():
                for old, new in zip(tree_leaves(results), tree_leaves(again)):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def on_tape(learner):
    """What records like record_on_gpu: a graph is recorded without being run, so what the run changed is put back."""

    def record(work):
        before = copy.deepcopy(learner.state_dict())
        with (tape := Tape()):
            result = work()
        learner.load_state_dict(before)
        return result, tape.replay

    return record


def trained(step, learner, following, steps=8):
    """The losses of so many steps, whose gradients move the weights."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        indices = next(following)
        losses.append(step(BANK.batch(indices), BANK.labels[indices]))
        optimizer.step()
    return torch.stack(losses)


def test_the_learners_of_the_bar_are_recorded():
    assert {"prototypical:euclidean", "npair", "imprinted:imprint"} <= {*RECORDABLE}


@pytest.mark.parametrize("what", RECORDABLE)
def test_a_recording_gives_the_same_training(what):
    one_by_one, following = made(what)
    expected = trained(lambda *batch: computed(one_by_one, *batch), one_by_one, following)
    learner, following = made(what)
    calls = []
    record = on_tape(learner)
    found = trained(Recorded(learner, lambda work: calls.append(work) or record(work)), learner, following)
    assert len(calls) == 1
    assert len(found.unique()) == len(found)  # every batch has a loss of its own
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


def test_a_class_that_derives_from_a_recordable_one_is_not_recordable():
    cls, _ = find_learner("npair")
    assert recordable(made("npair")[0])
    assert not recordable(type("Mine", (cls,), {})(make_backbone("conv4-32", 1, 16), 5))


def test_a_network_from_elsewhere_is_not_recorded():
    learner, _ = made("npair")
    learner.backbone = torch.nn.Flatten()
    assert not recordable(learner)


def test_a_learner_that_trains_in_stages_is_not_recorded():
    cls, _ = find_learner("npair")
    staged = type("Staged", (cls,), {"recordable": True, "begin_step": lambda self, done: None})
    assert not recordable(staged(make_backbone("conv4-32", 1, 16), 5))


def test_the_learner_knows_its_batches_in_training_alone():
    learner, seen = made("npair")[0], []
    loss = learner.loss
    learner.loss = lambda *batch: seen.append(learner.images_each) or loss(*batch)
    learner.images_each = None
    settings = Training(steps=2, batches={"classes": 4, "images": 2})
    train(learner, BANK, BANK, settings, validation=Validation(way=3, shot=1, query=2, episodes=2), device="cpu")
    assert (seen, learner.images_each) == ([2, 2], None)


def test_on_the_cpu_nothing_is_recorded():
    assert not isinstance(gradients_of(made("npair")[0], torch.device("cpu")), Recorded)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", RECORDABLE)
def test_on_a_gpu_a_recorded_training_is_the_one_that_is_not(what, precision, monkeypatch, caplog):
    weights, recordings = [], []
    record = gradients.record_on_gpu
    monkeypatch.setattr(gradients, "record_on_gpu", lambda work: recordings.append(work) or record(work))
    for recorded in (True, False):
        learner, _ = made(what)
        monkeypatch.setattr(gradients, "recordable", lambda _, recorded=recorded: recorded)
        settings = Training(steps=12, validate_every=5, precision=precision)
        train(learner, BANK, BANK, settings, validation=Validation(way=3, shot=1, query=2, episodes=20), device="cuda")
        weights.append(learner.state_dict())
    assert len(recordings) == 1
    assert "cannot be recorded" not in caplog.text
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0, msg=name)
