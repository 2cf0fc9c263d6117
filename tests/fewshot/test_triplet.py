"""Triplet networks: the form and the mining by name, each on its own distances."""

import pytest
import torch
from conftest import toy_bank
from torch import nn

from episodes import InputError
from fewshot.config import load_config
from fewshot.learners import find_learner
from fewshot.learners.triplet import Triplet
from fewshot.losses import MINING, triplet, triplet_pairs


class Points(nn.Module):
    """Images of one column and two rows as points of the plane, as a backbone."""

    embedding_size = 2

    def forward(self, images):
        return images.flatten(1)


@pytest.fixture
def points() -> torch.Tensor:
    """Twelve directions around (1, 1), of which the triplets keep and break every rule."""
    return torch.rand(12, 1, 2, 1, generator=torch.Generator().manual_seed(3))


LABELS = torch.arange(4).repeat_interleave(3)


def loss_of(learner: Triplet, points: torch.Tensor) -> float:
    torch.manual_seed(5)  # of random mining
    return learner.loss(points, LABELS).item()


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize(("form", "function", "margin"), [("squared", triplet, 0.2), ("pairs", triplet_pairs, 1.0)])
def test_the_variant_names_the_form_and_the_mining(points, form, function, margin, mining):
    directions = nn.functional.normalize(points.flatten(1), dim=1)
    torch.manual_seed(5)
    expected = function(directions, LABELS, margin, mining).item()
    assert expected > 0
    cls, variant = find_learner(f"triplet:{form}+{mining}")
    assert loss_of(cls(Points(), 4, variant), points) == pytest.approx(expected)
    assert loss_of(cls(Points(), 4, form, mining=mining), points) == pytest.approx(expected)


def test_the_mining_of_the_variant_goes_before_that_of_the_options(points):
    named, other = Triplet(Points(), 4, "squared+hard", mining="all"), Triplet(Points(), 4, "squared", mining="all")
    assert loss_of(named, points) == loss_of(Triplet(Points(), 4, "squared", mining="hard"), points)
    assert loss_of(named, points) != loss_of(other, points)


def test_unless_told_otherwise_it_mines_semi_hard_triplets_of_squared_distances(points):
    assert loss_of(Triplet(Points(), 4), points) == loss_of(Triplet(Points(), 4, "squared+semi-hard"), points)


def test_a_margin_is_that_of_both_forms(points):
    for form, function in {"squared": triplet, "pairs": triplet_pairs}.items():
        directions = nn.functional.normalize(points.flatten(1), dim=1)
        expected = function(directions, LABELS, 0.7, "all").item()
        assert loss_of(Triplet(Points(), 4, form, mining="all", margin=0.7), points) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("variant", "options", "said"),
    [
        ("squarred", {}, "unknown variant of triplet 'squarred': did you mean 'squared'"),
        ("squared+semihard", {}, "unknown mining of triplet 'semihard': did you mean 'semi-hard'"),
        ("pairs+", {}, "unknown mining of triplet ''"),
        ("pairs", {"mining": "easy"}, "unknown mining of triplet 'easy'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(variant, options, said):
    with pytest.raises(InputError, match=said.replace("+", r"\+")):
        Triplet(Points(), 4, variant, **options)


def test_scores_are_minus_the_mean_squared_distance_to_the_support():
    learner = Triplet(Points(), 4)
    support, query = (nn.functional.normalize(torch.randn(2, *shape, 5), dim=-1) for shape in [(3, 4), (6,)])
    differences = query[:, :, None, None] - support[:, None]  # (E, Q, N, K, D)
    torch.testing.assert_close(learner.scores(support, query), -differences.square().sum(4).mean(3))


def test_a_preset_knows_the_mining_by_the_table_of_the_learner():
    settings = load_config("quick", ["triplet", "triplet:pairs+hard"]).learner
    assert settings["triplet"].batches == settings["triplet:pairs+hard"].batches


def test_a_batch_without_triplets_moves_no_weight():
    bank = toy_bank(classes=4)
    images, labels = bank.batch(torch.arange(8)), bank.labels[:8]  # of one class
    learner = Triplet(nn.Sequential(nn.Flatten(), nn.Linear(256, 5)), 4)
    loss = learner.loss(images, labels)
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in learner.parameters())
