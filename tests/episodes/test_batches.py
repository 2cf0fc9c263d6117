"""Training batches have the promised images, and depend only on the seed and the step."""

import pytest
import torch
from conftest import toy_bank

from episodes import ClassBatches, InputError, ShuffledBatches
from episodes.batches import batches_from

BANK = toy_bank(classes=12, images=5, size=8)
KINDS = [ClassBatches(4, 3), ShuffledBatches(16)]


def test_class_batches_bring_distinct_images_class_after_class():
    for step in range(20):
        indices = ClassBatches(4, 3).indices(BANK, 0, step)
        labels = BANK.labels[indices].view(4, 3)
        assert len(indices.unique()) == 12
        assert len(labels[:, 0].unique()) == 4
        assert torch.equal(labels, labels[:, :1].expand(4, 3))


def test_shuffled_batches_bring_an_image_at_most_once_an_epoch():
    batches = ShuffledBatches(16)
    epochs = [torch.cat([batches.indices(BANK, 0, 3 * epoch + step) for step in range(3)]) for epoch in range(4)]
    assert [len(epoch.unique()) for epoch in epochs] == [48] * 4
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_shuffled_batches_that_divide_the_bank_bring_every_image_every_epoch():
    epoch = torch.cat([ShuffledBatches(20).indices(BANK, 0, step) for step in range(3, 6)])
    assert torch.equal(epoch.sort().values, torch.arange(60))


@pytest.mark.parametrize("batches", KINDS, ids=repr)
def test_batches_are_a_pure_function_of_seed_and_step(batches):
    calls = [(seed, step) for seed in (0, 1, -1) for step in range(8)]
    forth = {call: batches.indices(BANK, *call).tolist() for call in calls}
    back = {call: batches.indices(BANK, *call).tolist() for call in reversed(calls)}
    assert forth == back
    assert len({tuple(indices) for indices in forth.values()}) == len(calls)


@pytest.mark.parametrize("batches", KINDS, ids=repr)
@pytest.mark.parametrize("start", [0, 5])
def test_following_batches_are_those_of_the_steps_that_follow(batches, start):
    steps = range(start, start + 140)  # more than are drawn at once
    following = batches.following(BANK, 7, start)
    assert all(torch.equal(next(following), batches.indices(BANK, 7, step)) for step in steps)


@pytest.mark.parametrize("batches", KINDS, ids=repr)
def test_the_length_is_the_number_of_images(batches):
    assert len(batches) == len(batches.indices(BANK, 0, 0))


@pytest.mark.parametrize(
    ("asked", "fitted"),
    [
        (ClassBatches(60, 2), ClassBatches(12, 2)),
        (ClassBatches(5, 10), ClassBatches(5, 5)),
        (ClassBatches(5, 2), ClassBatches(5, 2)),
        (ShuffledBatches(256), ShuffledBatches(60)),
        (ShuffledBatches(32), ShuffledBatches(32)),
    ],
    ids=repr,
)
def test_batches_fit_themselves_to_small_banks(asked, fitted):
    assert asked.fitted(BANK) == fitted
    assert len(fitted.indices(BANK, 0, 5)) == len(fitted)


def test_class_batches_beyond_the_bank_are_refused():
    with pytest.raises(InputError, match=r"60 classes, but toy .*train has 12"):
        ClassBatches(60, 2).indices(BANK, 0, 0)


def test_shuffled_batches_beyond_the_bank_are_refused():
    with pytest.raises(InputError, match=r"256.*60"):
        ShuffledBatches(256).indices(BANK, 0, 0)


@pytest.mark.parametrize(
    ("settings", "batches"), [({"classes": 8, "images": 4}, ClassBatches(8, 4)), ({"size": 64}, ShuffledBatches(64))]
)
def test_settings_choose_the_kind(settings, batches):
    assert batches_from(settings) == batches


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"classes": 8},
        {"size": 0},
        {"size": 2.5},
        {"size": "64"},
        {"size": True},
        {"size": 8, "images": 2},
        {"classes": 8, "images": -1},
    ],
    ids=repr,
)
def test_other_settings_are_refused(settings):
    with pytest.raises(InputError, match=r"neither {classes = P, images = K} nor {size = B}"):
        batches_from(settings)
