"""Hard batches: the shape of the batches, the classes that neighbours bring together, and what a batch depends on."""

import torch
from conftest import toy_bank

from episodes.batches import ClassBatches
from episodes.hard_batches import NEGATIVES, HardBatches, hard_negatives


def in_a_line(bank) -> torch.Tensor:
    """Embeddings (N, 2) in directions by class: classes of neighbouring numbers are neighbours."""
    angles = bank.labels / bank.classes + 0.001 * torch.arange(len(bank)) / len(bank)
    return torch.stack([angles.cos(), angles.sin()], 1) * (1 + torch.arange(len(bank))[:, None])  # of any length


def of(bank, classes: int, images: int) -> HardBatches:
    return HardBatches(ClassBatches(classes, images), hard_negatives(in_a_line(bank), bank.labels))


def test_neighbours_are_the_most_similar_images_of_other_classes_one_of_each():
    bank = toy_bank(7, 4)
    embeddings = torch.nn.functional.normalize(torch.randn(28, 5), dim=1)
    neighbours = hard_negatives(embeddings, bank.labels, 3)
    near, labels = embeddings @ embeddings.T, bank.labels.tolist()
    for image in range(28):
        expected, seen = [], {labels[image]}
        for other in near[image].argsort(descending=True).tolist():
            if labels[other] not in seen:
                seen.add(labels[other])
                expected.append(other)
        assert neighbours[image].tolist() == expected[:3]
    assert hard_negatives(embeddings, bank.labels).shape == (28, 6)  # no more than other classes


def test_a_batch_has_as_many_images_of_each_class_and_none_twice():
    bank = toy_bank(30, 8)
    for step, (classes, images) in enumerate([(12, 4), (13, 8), (5, 2), (30, 3), (6, 1)]):
        indices = of(bank, classes, images).indices(bank, 0, step)
        assert len(set(indices.tolist())) == classes * images
        own = bank.labels[indices].view(classes, images)
        assert (own == own[:, :1]).all()
        assert len(set(own[:, 0].tolist())) == classes


def test_a_query_is_with_the_classes_that_are_most_similar_to_it():
    bank = toy_bank(60, 4)
    batches = of(bank, 12, 4)
    indices = batches.indices(bank, 0, 0).view(12, 4)
    for group in indices.split(1 + NEGATIVES):
        assert group[1:, 0].tolist() == batches.neighbours[group[0, 0]].tolist()[:NEGATIVES]
        assert bank.labels[group].max() - bank.labels[group].min() <= 2 * NEGATIVES


def test_batches_are_a_function_of_seed_and_step():
    bank = toy_bank(30, 8)
    batches = of(bank, 12, 4)
    following = batches.following(bank, 3, 5)
    assert [next(following).tolist() for _ in range(2)] == [batches.indices(bank, 3, step).tolist() for step in (5, 6)]
    assert batches.indices(bank, 3, 5).tolist() != batches.indices(bank, 4, 5).tolist()
