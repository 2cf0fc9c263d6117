"""Training: repeatable, resumable, and choosing its checkpoint on validation classes."""

import math
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_bank

from episodes import ClassBatches, InputError, ShuffledBatches
from fewshot import Traits, checkpoints, train
from fewshot.augmentation import AUGMENTATIONS
from fewshot.backbones import make_backbone
from fewshot.config import LearnerSettings, Validation
from fewshot.evaluation import Accuracies
from fewshot.learners.registry import LEARNERS, traits_of
from fewshot.models import ModelSpec

VALIDATION = Validation(way=5, query=3, episodes=10)


@pytest.fixture(scope="module")
def banks():
    return toy_bank(20, 8, seed=1), toy_bank(10, 8, seed=2, split="validation")


def make(name: str = "prototypical", variant: str = ""):
    torch.manual_seed(0)
    classes = 20 if traits_of(LEARNERS[name]).uses_labels else 20 * 8  # each of eight images a class of its own
    return LEARNERS[name](make_backbone("conv4-32", 1, 16), classes, variant)


def run(
    learner, banks, *, seed: int = 0, steps: int = 6, episodes: int = 10, folder=None, resume=False, spec=None, **more
):
    """A training of `steps` steps; a validation has `episodes` episodes."""
    settings = LearnerSettings(**{"steps": steps, "validate_every": 2, "precision": "float32", **more})
    validation = VALIDATION.model_copy(update={"episodes": episodes})
    fixed = {"validation": validation, "device": "cpu", "progress": False}
    return train(learner, *banks, settings, seed=seed, folder=folder, resume=resume, spec=spec, **fixed)


def spec_of(bank, **fields) -> ModelSpec:
    return ModelSpec.of(LEARNERS["prototypical"], bank, LearnerSettings(), **fields)


def weights(learner) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in learner.state_dict().values()])


def declining(monkeypatch, accuracies) -> None:
    """The validations give `accuracies`, one after the other."""
    values = iter(accuracies)

    def fake(*_):
        return Accuracies(np.full(20, next(values)), np.zeros((20, 5), int), 0.0)

    monkeypatch.setattr("fewshot.training.run_episodes", fake)


@pytest.mark.parametrize("name", [name for name, cls in LEARNERS.items() if traits_of(cls).trains])
def test_same_seed_same_weights_other_seed_other_weights(name, banks, short_fits):
    learners = [make(name), make(name), make(name)]
    for learner, seed in zip(learners, (0, 0, 1)):
        run(learner, banks, seed=seed, steps=4, episodes=2)
    assert torch.equal(weights(learners[0]), weights(learners[1]))
    assert torch.equal(weights(learners[0]), weights(learners[2])) != learners[0].traits.trains


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd", "schedule": "halving", "halve_every": 2}])
def test_an_interrupted_training_goes_on_to_the_same_result(settings, banks, tmp_path, monkeypatch):
    whole = make()
    uninterrupted = run(whole, banks, steps=8, folder=tmp_path / "whole", **settings)

    stopped, steps = make(), []
    loss = stopped.loss

    def interrupted(*batch):
        steps.append(1)
        if len(steps) == 6:  # the last checkpoint is of step 4
            raise KeyboardInterrupt
        return loss(*batch)

    monkeypatch.setattr(stopped, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, banks, steps=8, folder=tmp_path / "cut", **settings)
    torch.manual_seed(99)
    resumed = make("prototypical")
    counted = []
    monkeypatch.setattr(resumed, "loss", lambda *batch: counted.append(1) or type(resumed).loss(resumed, *batch))
    again = run(resumed, banks, steps=8, folder=tmp_path / "cut", resume=True, **settings)

    assert len(counted) == 4
    assert torch.equal(weights(resumed), weights(whole))
    assert (again.best_step, again.best_accuracy) == (uninterrupted.best_step, uninterrupted.best_accuracy)
    pd.testing.assert_frame_equal(
        again.history.drop(columns="seconds"), uninterrupted.history.drop(columns="seconds"), check_exact=True
    )
    assert again.history["seconds"].is_monotonic_increasing


def test_a_finished_training_is_not_repeated(banks, tmp_path, monkeypatch):
    first, second = make(), make()
    before = run(first, banks, folder=tmp_path)
    monkeypatch.setattr(second, "loss", None)
    after = run(second, banks, folder=tmp_path, resume=True)
    assert torch.equal(weights(first), weights(second))
    assert after.best_step == before.best_step


def test_a_checkpoint_of_another_learner_is_not_resumed(banks, tmp_path):
    run(make(), banks, folder=tmp_path, spec=spec_of(banks[0], asked="one"))
    before = checkpoints.load(tmp_path / "last.pt")["seconds"]
    with pytest.raises(InputError, match="is of a training with another learner"):
        run(make(), banks, seed=1, folder=tmp_path, resume=True, spec=spec_of(banks[0], asked="two"))
    assert checkpoints.load(tmp_path / "last.pt")["seconds"] == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"source": "two"}, "another state of its own code"),
        ({"code": "two"}, "another state of the suite's code"),
        ({"packages": {"torch": "2"}}, "another torch (1, now 2)"),
    ],
)
def test_a_checkpoint_of_other_code_is_trained_anew_and_that_is_said(banks, tmp_path, caplog, changed, said):
    spec = spec_of(banks[0], source="one", code="one", packages={"torch": "1"})
    run(make(), banks, folder=tmp_path, spec=spec)
    fresh, other = make(), make()
    run(fresh, banks, seed=1)
    run(other, banks, seed=1, folder=tmp_path, resume=True, spec=spec.model_copy(update=changed))
    assert torch.equal(weights(fresh), weights(other))
    assert f"last.pt is of {said}: this training begins anew" in caplog.text


@pytest.mark.parametrize(("accuracies", "best"), [((0.9, 0.5, 0.1), 2), ((0.1, 0.9, 0.9), 4), ((0.1, 0.2, 0.3), 6)])
def test_the_checkpoint_kept_is_the_first_that_is_best_on_validation(accuracies, best, banks, tmp_path, monkeypatch):
    declining(monkeypatch, accuracies)
    learner, at_best = make(), {}
    save = checkpoints.save

    def spy(path, content):
        if path.name == "last.pt":
            at_best[content["step"]] = content["learner"]
        save(path, content)

    monkeypatch.setattr(checkpoints, "save", spy)
    trained = run(learner, banks, folder=tmp_path)
    assert (trained.best_step, trained.best_accuracy) == (best, pytest.approx(100 * max(accuracies)))
    for held in (learner.state_dict(), checkpoints.load(tmp_path / "best.pt")["learner"]):
        assert all(torch.equal(value, at_best[best][key]) for key, value in held.items())
    assert set(at_best) == {2, 4, 6}


def test_validation_changes_nothing_in_training(banks, monkeypatch):
    often, seldom = make(), make()
    declining(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    run(often, banks, validate_every=1)
    run(seldom, banks, validate_every=6)
    assert torch.equal(weights(often), weights(seldom))


def test_history_has_a_row_for_each_validation_and_the_last_step(banks, tmp_path):
    trained = run(make(), banks, steps=5, folder=tmp_path)
    assert trained.history["step"].tolist() == [2, 4, 5]
    assert trained.history["loss"].notna().all()
    written = pd.read_csv(tmp_path / "training.csv")
    assert written.columns.tolist() == ["step", "loss", "accuracy", "ci95", "seconds"]
    assert written["accuracy"].tolist() == pytest.approx(trained.history["accuracy"].tolist(), abs=1e-4)


@pytest.mark.parametrize("schedule", ["one-cycle", "halving", "milestones", "constant"])
def test_the_rate_follows_the_schedule(schedule, banks, monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a, **k: rates.append(self.param_groups[0]["lr"]) or step(self, *a, **k)
    )
    more = {"halve_every": 4}
    more |= {"milestones": {"3": 0.5, "10": 0.1, "7": 0.2}} if schedule == "milestones" else {}
    run(make(), banks, steps=10, optimizer="sgd", schedule=schedule, learning_rate=0.01, **more)
    if schedule == "one-cycle":
        assert rates.index(max(rates)) in (2, 3)  # at 30 % of the steps, counted from 0
        assert max(rates) == pytest.approx(0.01, rel=0.05)
        assert rates[-1] < 0.001
    elif schedule == "milestones":
        assert rates == pytest.approx([0.01] * 3 + [0.005] * 4 + [0.002] * 3)
    else:
        expected = [0.01 * 0.5 ** (i // 4 if schedule == "halving" else 0) for i in range(10)]
        assert rates == pytest.approx(expected)


def test_training_images_are_augmented_and_validation_images_are_not(banks, monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "black", torch.zeros_like)
    learner, seen = make(), {True: [], False: []}
    embed = learner.embed
    learner.embed = lambda images: seen[learner.training].append(float(images.max())) or embed(images)
    run(learner, banks, steps=2, augmentation="black")
    assert max(seen[True]) == 0
    assert min(seen[False]) > 0


def test_weight_decay_spares_vectors_and_scalars(banks):
    decayed, plain = make("imprinted"), make("imprinted")
    for learner, decay in ((decayed, 10.0), (plain, 0.0)):
        run(learner, banks, steps=1, schedule="constant", weight_decay=decay, learning_rate=0.01)
    for (name, one), other in zip(decayed.named_parameters(), plain.parameters()):
        assert torch.equal(one, other) == (one.ndim <= 1), name


def test_a_loss_that_is_no_number_is_an_input_error(banks, monkeypatch):
    learner = make()
    loss = learner.loss
    monkeypatch.setattr(learner, "loss", lambda *batch: loss(*batch) * math.nan)
    with pytest.raises(InputError, match="the loss of prototypical became NaN or infinite at step 2: lower"):
        run(learner, banks)


def test_no_steps_leave_the_learner_as_it_was(banks, tmp_path):
    learner, fresh = make(), make()
    trained = run(learner, banks, steps=0, folder=tmp_path)
    assert trained.best_step == 0
    assert trained.history.empty
    assert torch.equal(weights(learner), weights(fresh))
    checkpoints.restore(make(), checkpoints.load(tmp_path / "best.pt"), tmp_path / "best.pt")


@pytest.mark.parametrize("name", [name for name, cls in LEARNERS.items() if traits_of(cls).trains])
def test_a_bank_smaller_than_the_batches_wanted_will_do(name):
    small = toy_bank(6, 5, seed=1), toy_bank(4, 5, seed=2, split="validation")
    trained = run(make(name), small, steps=2)
    assert trained.history["accuracy"].notna().all()


def test_an_untrained_learner_stays_as_it_is_whatever_steps_are_asked_for(banks):
    learner = make("nearest-pixel")
    before = weights(learner)
    trained = run(learner, banks, steps=6)
    assert torch.equal(weights(learner), before)
    assert (trained.best_step, len(trained.history)) == (0, 0)


def test_an_unsupervised_learner_is_given_image_numbers_and_no_labels(banks):
    seen = []

    class Unsupervised(LEARNERS["imprinted"]):
        variants: ClassVar = {"": Traits(uses_labels=False)}
        batches = ShuffledBatches(size=16)

        def loss(self, images, labels):
            seen.append((images.detach(), labels))
            return self.embed(images).square().mean()

    run(Unsupervised(make_backbone("conv4", 1, 16), len(banks[0])), banks, steps=2)
    assert all(torch.equal(banks[0].batch(numbers), images) for images, numbers in seen)


@pytest.mark.parametrize(
    ("stages", "seen"), [((), [0, 0, 0, 0]), ((0.5,), [0, 0, 1, 1]), ((0.0, 0.26, 0.75), [1, 1, 2, 3])]
)
def test_a_stage_begins_at_its_share_of_the_steps(stages, seen, banks):
    told = []

    class Staged(LEARNERS["npair"]):
        def loss(self, images, labels):
            told.append(self.stage)
            return super().loss(images, labels)

    Staged.stages = stages
    run(Staged(make_backbone("conv4", 1, 16), 12), banks, steps=4)
    assert told == seen


@pytest.mark.parametrize(("stages", "best"), [((), 2), ((0.0,), 2), ((0.4,), 4), ((0.1, 0.4), 4), ((0.99,), 6)])
def test_no_weights_of_a_stage_before_the_last_are_kept(stages, best, banks, monkeypatch):
    declining(monkeypatch, (0.9, 0.5, 0.1))
    learner = make("npair")
    learner.stages = stages
    assert run(learner, banks, steps=6).best_step == best


def test_the_learner_knows_the_batches_of_its_training(banks):
    seen = []

    class Noting(LEARNERS["npair"]):
        def loss(self, images, labels):
            seen.append((self.batches, len(images)))
            return super().loss(images, labels)

    learner = Noting(make_backbone("conv4", 1, 16), 12)
    run(learner, banks, steps=1, batches={"classes": 4, "images": 2})
    run(learner, banks, steps=1)  # without settings, those of the class again
    assert seen == [(ClassBatches(4, 2), 8), (ClassBatches(20, 2), 40)]


def test_a_learner_that_reads_names_is_given_those_of_the_base_classes_alone(banks):
    class Reader(LEARNERS["npair"]):
        variants: ClassVar = {"": Traits(text=True)}

    reader, other = Reader(make_backbone("conv4", 1, 16), 12), make("npair")
    for learner in (reader, other):
        run(learner, banks, steps=1)
    assert (reader.class_names, other.class_names) == (banks[0].class_names, ())


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("npair", {"classes": 6, "images": 3}),
        ("npair", {"size": 32}),
        ("prototypical", {"classes": 6, "images": 1}),
        ("prototypical", {"size": 30}),
    ],
)
def test_batches_that_a_learner_cannot_use_are_an_input_error_that_says_so(name, batches, banks):
    with pytest.raises(InputError, match="batch"):
        run(make(name), banks, batches=batches)


def test_training_sees_only_the_two_banks_it_is_given(banks, monkeypatch):
    seen = []
    batch = type(banks[0]).batch
    monkeypatch.setattr(type(banks[0]), "batch", lambda bank, indices: seen.append(bank.split) or batch(bank, indices))
    learner = make()
    losses = []
    loss = learner.loss
    monkeypatch.setattr(learner, "loss", lambda *b: losses.append(seen[-1]) or loss(*b))
    run(learner, banks)
    assert set(losses) == {"train"}  # gradients come from base classes alone
    assert set(seen) == {"train", "validation"}


@pytest.mark.parametrize("loss", [None, 1.0, torch.zeros(()), torch.zeros(2, requires_grad=True)])
def test_a_loss_that_is_no_loss_is_an_input_error(banks, monkeypatch, loss):
    learner = make()
    monkeypatch.setattr(learner, "loss", lambda images, labels: loss)
    with pytest.raises(InputError, match="must be a scalar tensor that depends on the weights"):
        run(learner, banks)
