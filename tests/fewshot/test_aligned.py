"""Maps compared place by place, the copies of an image that a test averages over, and mirrored base classes."""

import pytest
import torch
from conftest import refusal, toy_bank
from torch.nn import functional

from episodes import ClassBatches
from fewshot.backbones import make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.registry import LEARNERS

SIZE = 24


def make(variant: str = "", backbone: str = "conv4-3pool-linear", **options):
    torch.manual_seed(0)
    return LEARNERS["aligned"](make_backbone(backbone, 1, SIZE), 6, variant, **options).eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Twelve images, of four classes of three."""
    return torch.rand(12, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("members", [1, 3])
@torch.no_grad()
def test_a_score_is_the_mean_of_the_cosines_of_the_same_places(images, members):
    learner = make(backbone=f"{members}xconv4-3pool-linear" if members > 1 else "conv4-3pool-linear")
    parts = learner.backbone.maps(images).unflatten(1, (members, 64)).transpose(0, 1)  # (members, 12, 64, 3, 3)
    expected = torch.zeros(4, 2)
    for query in range(4):
        for way in range(2):
            cosines = [
                functional.cosine_similarity(maps[8 + query], maps[4 * way + shot], dim=0).mean()
                for maps in parts
                for shot in range(4)
            ]
            expected[query, way] = 10 * torch.stack(cosines).mean()
    rows = learner.embed(images)
    found = learner.scores(rows[:8].unflatten(0, (1, 2, 4)), rows[None, 8:])
    torch.testing.assert_close(found[0], expected)


@torch.no_grad()
def test_images_that_the_mask_leaves_out_do_not_count(images):
    learner = make()
    rows = learner.embed(images)
    support, query, mask = rows[:8].unflatten(0, (1, 2, 4)), rows[None, 8:], torch.ones(1, 2, 4, dtype=bool)
    torch.testing.assert_close(learner.scores(support, query, mask), learner.scores(support, query))
    mask[:, :, 2:] = False
    torch.testing.assert_close(learner.scores(support, query, mask), learner.scores(support[:, :, :2], query))


@torch.no_grad()
def test_views_are_distorted_alike_each_time_and_the_first_is_the_image(images):
    plain, one, many = make(), make("views", views=1), make("views", views=4)
    for learner in (one, many):
        learner.load_state_dict(plain.state_dict())
    torch.testing.assert_close(one.embed(images), plain.embed(images))
    views = many.embed(images)
    torch.testing.assert_close(many.embed(images), views)
    torch.testing.assert_close(many.embed(images[3:5]), views[3:5])
    assert not torch.allclose(views, plain.embed(images), atol=1e-3)
    assert (functional.cosine_similarity(views, plain.embed(images)) > 0.8).all()


def test_training_takes_the_images_alone(images):
    learner = make("views").train()
    taken = []
    learner.backbone.register_forward_hook(lambda *_: taken.append(1))
    maps = learner.backbone.maps
    learner.backbone.maps = lambda shown: taken.append(len(shown)) or maps(shown)
    learner.embed(images)
    assert taken == [12]


@pytest.mark.parametrize("turns", [False, True])
@torch.no_grad()
def test_the_loss_is_the_mean_over_the_members_of_an_ensemble(images, turns):
    learner = make(backbone="2xconv4-3pool-linear", turns=turns)
    learner.batches, labels = ClassBatches(4, 3), torch.arange(4).repeat_interleave(3)
    losses = []
    for body in learner.backbone.body:
        single = make(turns=turns)
        single.backbone.body.load_state_dict(body.state_dict())
        single.batches = learner.batches
        losses.append(single.loss(images, labels))
    assert losses[0] != losses[1]
    torch.testing.assert_close(learner.loss(images, labels), torch.stack(losses).mean())


@torch.no_grad()
def test_a_mirrored_class_is_mirrored_as_a_whole(images):
    learner = make(mirrored=True)
    learner.batches, learner.embed = ClassBatches(4, 3), lambda shown: seen.append(shown) or shown.flatten(1)
    seen: list[torch.Tensor] = []
    for _ in range(20):
        learner.loss(images, torch.arange(4).repeat_interleave(3))
    kinds = set()
    for shown in seen:
        for new, old in zip(shown.split(3), images.split(3)):
            assert torch.equal(new, old) or torch.equal(new, old.flip(3))
            kinds.add(torch.equal(new, old))
    assert kinds == {True, False}


def test_more_training_separates_the_classes():
    learner, bank = make(mirrored=True, turns=True).train(), toy_bank(classes=6, images=5, size=SIZE)
    learner.batches = ClassBatches(6, 5)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = learner.loss(bank.batch(torch.arange(30)), bank.labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert EmbeddedBank(learner, bank).embeddings.shape == (30, 64 * 9)


def test_no_views_are_refused():
    assert refusal(lambda: make("views", views=0)) == "aligned needs views of 1 to 1000, not 0"
