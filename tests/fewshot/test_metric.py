"""Any loss and miner of pytorch-metric-learning: the usable ones train, and errors say why the others are unusable."""

import sys

import pytest
import torch
from conftest import toy_bank
from pytorch_metric_learning import losses, miners
from torch.nn import functional

from episodes import InputError
from fewshot.backbones import make_backbone
from fewshot.learners import find_learner, metric
from fewshot.learners.metric import Metric

# of losses that come with every released version; with proxies, with weights behind *args, with sub-centres
LOSSES = [
    "CircleLoss",
    "ContrastiveLoss",
    "NTXentLoss",
    "ArcFaceLoss",
    "CosFaceLoss",
    "ProxyNCALoss",
    "ProxyAnchorLoss",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
]
OWN_WEIGHTS = {
    "ArcFaceLoss": (32, 5),
    "CosFaceLoss": (32, 5),
    "ProxyNCALoss": (5, 32),
    "ProxyAnchorLoss": (5, 32),
    "SoftTripleLoss": (32, 50),
    "SubCenterArcFaceLoss": (32, 15),
}
MINERS = ["BatchHardMiner", "DistanceWeightedMiner", "TripletMarginMiner", "PairMarginMiner"]
SPECS = ["", *LOSSES, *(f"TripletMarginLoss+{miner}" for miner in MINERS)]


def make(variant: str = "") -> Metric:
    torch.manual_seed(0)
    return Metric(make_backbone("conv4-32-linear", 1, 16), 5, variant)


@pytest.fixture(scope="module")
def bank():
    return toy_bank(classes=5)


@pytest.mark.parametrize("variant", SPECS)
def test_training_lowers_the_loss(bank, variant):
    learner = make(variant)
    optimizer = torch.optim.AdamW(learner.parameters(), 3e-3)
    images, values = bank.batch(torch.arange(len(bank))), []
    for _ in range(10):
        loss = learner.loss(images, bank.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert min(values[-3:]) < 0.9 * values[0]


@pytest.mark.parametrize("variant", OWN_WEIGHTS)
def test_what_a_loss_learns_of_its_own_is_trained(bank, variant):
    learner = make(variant)
    own = [parameter for name, parameter in learner.named_parameters() if name.startswith("criterion.")]
    assert [tuple(parameter.shape) for parameter in own if parameter.ndim > 1] == [OWN_WEIGHTS[variant]]
    learner.loss(bank.batch(torch.arange(len(bank))), bank.labels).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in own)


def test_the_loss_is_theirs_on_the_triplets_of_their_miner(bank):
    learner = make("TripletMarginLoss+BatchHardMiner").eval()
    images = bank.batch(torch.arange(len(bank)))
    embeddings = functional.normalize(learner.backbone(images), dim=1)
    hardest = miners.BatchHardMiner()(embeddings, bank.labels)
    assert len(hardest[0]) == len(bank)
    torch.testing.assert_close(
        learner.loss(images, bank.labels), losses.TripletMarginLoss()(embeddings, bank.labels, hardest)
    )


def test_the_default_is_the_multi_similarity_loss_with_its_miner():
    assert isinstance(make().criterion, losses.MultiSimilarityLoss)
    assert isinstance(make().miner, miners.MultiSimilarityMiner)
    assert make("MultiSimilarityLoss").miner is None


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("CircelLoss", "unknown loss of pytorch-metric-learning 'CircelLoss': did you mean 'CircleLoss'"),
        ("CircleLoss+HardMiner", "unknown miner of pytorch-metric-learning 'HardMiner': did you mean 'BatchHardMiner'"),
        ("CircleLoss+", "unknown miner of pytorch-metric-learning ''"),
        ("BaseMetricLossFunction", "unknown loss"),
        ("RankedListLoss", "RankedListLoss has no default for margin and Tn"),
        ("SelfSupervisedLoss", "SelfSupervisedLoss has no default for loss"),
        ("VICRegLoss", "cannot train on batches of labelled images, the library says '.+'"),
        ("InstanceLoss+BatchHardMiner", "cannot train .+ the library says 'indices_tuple is not supported"),
    ],
)
def test_what_cannot_be_trained_is_told(variant, said):
    with pytest.raises(InputError, match=said):
        find_learner(f"metric:{variant}")


def test_losses_that_need_arguments_are_not_suggested():
    with pytest.raises(InputError) as told:
        find_learner("metric:GenericPairLos")
    assert "GenericPairLoss'?" not in str(told.value)


def test_looking_a_name_up_draws_no_random_number():
    metric._fault.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    find_learner("metric:TripletMarginLoss+DistanceWeightedMiner")
    assert torch.equal(torch.rand(3), expected)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    metric._classes.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'fewshot\[metric\]'"):
        make()
    find_learner("metric")  # a preset that has a table for it can be read all the same


def test_scores_are_the_cosine_to_the_class_mean():
    support, query = (functional.normalize(torch.randn(2, *shape, 5), dim=-1) for shape in [(3, 4), (6,)])
    expected = functional.cosine_similarity(query[:, :, None], support.mean(2)[:, None], dim=3)
    torch.testing.assert_close(make().scores(support, query), expected)
