"""What every learner promises, and the scores of each one against its definition."""

import itertools

import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

from episodes import ClassBatches, EpisodeSampler
from fewshot import Learner, evaluate
from fewshot.backbones import make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import scores_of
from fewshot.learners.registry import LEARNERS, suite_learners
from fewshot.testing import parametrize_with_checks

# the learners that score embeddings
FORMS = [
    (name, variant)
    for name, cls in sorted(LEARNERS.items())
    for variant in cls.variants
    if cls.episode_scores is Learner.episode_scores
]
every_learner = pytest.mark.parametrize(("name", "variant"), FORMS)


@parametrize_with_checks(suite_learners())
def test_promises(learner, check, short_fits):
    check(learner)


def make(name: str, variant: str = "", classes: int = 12, **options):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone("conv4-linear", 1, 16), classes, variant, **options)


def embedded(learner, *shape: int, seed: int = 0) -> torch.Tensor:
    """Embeddings (*shape, D) as the learner makes them."""
    count = torch.Size(shape).numel()
    images = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return learner.eval().embed(images).unflatten(0, shape)


@pytest.fixture(scope="module")
def bank():
    return toy_bank(classes=12)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_a_learner_in_its_mode(bank, training):
    learner = make("prototypical").train(training)
    evaluate(learner, bank, way=5, shot=1, query=3, episodes=5, device="cpu")
    assert learner.training == training


@every_learner
def test_episode_scores_are_the_scores_of_the_embedded_images(name, variant, bank):
    learner = make(name, variant)
    data, episodes = EmbeddedBank(learner, bank), EpisodeSampler(bank, 4, 2, 3, seed=0).episodes(0, 3)
    with torch.no_grad():
        images = [bank.batch(part.flatten()) for part in (episodes.support, episodes.query)]
        support, query = learner.eval().embed(images[0]), learner.embed(images[1])
    expected = scores_of(learner, support.view(3, 4, 2, -1), query.view(3, 12, -1), episodes.keys)
    torch.testing.assert_close(learner.episode_scores(data, episodes), expected)


def test_koch_scores_are_the_mean_probability_of_the_weighted_l1_distance():
    learner = make("siamese", "koch")
    torch.nn.init.normal_(learner.alpha)
    torch.nn.init.constant_(learner.bias, 0.3)
    support, query = embedded(learner, 2, 3, 2), embedded(learner, 2, 4, seed=1)
    scores = learner.scores(support, query)
    for e, q, n in itertools.product(range(2), range(4), range(3)):
        logits = (learner.alpha * (query[e, q] - support[e, n]).abs()).sum(1) + learner.bias
        torch.testing.assert_close(scores[e, q, n], logits.sigmoid().mean())


def test_contrastive_scores_are_minus_the_mean_squared_distance_to_the_support():
    learner = make("siamese", "contrastive")
    support, query = embedded(learner, 2, 3, 4), embedded(learner, 2, 5, seed=1)
    differences = query[:, :, None, None] - support[:, None]  # (E, Q, N, K, D)
    torch.testing.assert_close(learner.scores(support, query), -differences.square().sum(4).mean(3))
    torch.testing.assert_close(support.norm(dim=3), torch.ones(2, 3, 4))


def test_prototypical_scores_are_minus_the_squared_distance_to_the_class_mean():
    learner = make("prototypical")
    support, query = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 5)
    differences = query[:, :, None] - support.mean(2)[:, None]
    torch.testing.assert_close(learner.scores(support, query), -differences.square().sum(3))


@pytest.mark.parametrize(("name", "variant", "scale"), [("prototypical", "cosine", 7.0), ("npair", "", 1.0)])
def test_cosine_scores_are_the_cosine_to_the_class_mean(name, variant, scale):
    learner = make(name, variant, **({"scale": scale} if name == "prototypical" else {}))
    support, query = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 5)
    expected = scale * functional.cosine_similarity(query[:, :, None], support.mean(2)[:, None], dim=3)
    torch.testing.assert_close(learner.scores(support, query), expected)


@pytest.mark.parametrize("shot", [1, 3])
def test_prototypical_loss_is_the_cross_entropy_of_the_queries_of_an_episode(shot, bank):
    learner = make("prototypical", shot=shot).eval()
    learner.batches = ClassBatches(classes=4, images=8)
    indices = torch.arange(4 * 8)  # four classes of eight images
    embeddings = learner.embed(bank.batch(indices)).view(4, 8, -1)
    prototypes = embeddings[:, :shot].mean(1)
    logits = torch.stack([-(q - prototypes).square().sum(1) for q in embeddings[:, shot:].flatten(0, 1)])
    expected = functional.cross_entropy(logits, torch.arange(4).repeat_interleave(8 - shot))
    torch.testing.assert_close(learner.loss(bank.batch(indices), bank.labels[indices]), expected)


class Pixels(torch.nn.Module):
    """The pixels themselves, as a backbone."""

    embedding_size = 256

    def forward(self, images):
        return images.flatten(1)


def prototypical(variant: str = "", **options):
    return LEARNERS["prototypical"](Pixels(), 4, variant, **{"temperature": 50.0, **options})


def four_classes() -> torch.Tensor:
    """Eight images of noise for each of four classes, (4, 8, 1, 16, 16): no two ways to split them are alike."""
    return torch.randn(4, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def loss_of(learner, images: torch.Tensor) -> torch.Tensor:
    learner.batches = ClassBatches(classes=4, images=8)
    return learner.loss(images.flatten(0, 1), torch.arange(4).repeat_interleave(8))


def losses_of_shifts(learner, images: torch.Tensor) -> torch.Tensor:
    """The losses as each image of a class in turn is the first of its support, (8,)."""
    return torch.stack([loss_of(learner, images.roll(-shift, 1)) for shift in range(8)])


@pytest.mark.parametrize("variant", ["euclidean", "cosine"])
@pytest.mark.parametrize("shot", [1, 3, 7])
def test_prototypical_loss_with_turns_is_the_mean_over_the_cyclic_shifts_of_the_images(variant, shot):
    losses = losses_of_shifts(prototypical(variant, shot=shot), four_classes())
    torch.testing.assert_close(loss_of(prototypical(variant, shot=shot, turns=True), four_classes()), losses.mean())
    assert losses.std() > 0.01  # one of them would not do


def test_prototypical_gradient_with_turns_is_the_mean_over_the_cyclic_shifts_of_the_images():
    ours, expected = (four_classes().requires_grad_() for _ in range(2))
    loss_of(prototypical(shot=3, turns=True), ours).backward()
    losses_of_shifts(prototypical(shot=3), expected).mean().backward()
    torch.testing.assert_close(ours.grad, expected.grad)


def test_prototypical_loss_with_turns_does_not_depend_on_which_image_comes_first():
    losses = losses_of_shifts(prototypical(shot=3, turns=True), four_classes())
    torch.testing.assert_close(losses, losses[:1].expand(8))


def test_prototypical_takes_no_turns_unless_asked():
    plain, default = (prototypical(shot=3, **options) for options in ({"turns": False}, {}))
    assert torch.equal(losses_of_shifts(plain, four_classes()), losses_of_shifts(default, four_classes()))


def test_prototypical_embeds_an_image_once_though_it_takes_turns(monkeypatch):
    learner, counts = prototypical(turns=True), []
    embed = learner.embed
    monkeypatch.setattr(learner, "embed", lambda images: counts.append(len(images)) or embed(images))
    loss_of(learner, four_classes())
    assert counts == [4 * 8]


def test_imprinted_scores_are_tau_times_the_cosine_to_the_mean_direction():
    learner = make("imprinted")
    support, query = embedded(learner, 2, 3, 4), embedded(learner, 2, 5, seed=1)
    weights = functional.normalize(functional.normalize(support, dim=3).mean(2), dim=2)
    cosine = functional.cosine_similarity(query[:, :, None], weights[:, None], dim=3)
    torch.testing.assert_close(learner.scores(support, query), 10 * cosine)  # tau starts at 10


def test_finetuning_lowers_the_loss_of_the_support_set():
    learner = make("imprinted", "finetune", finetune_steps=20)
    support = embedded(learner, 4, 5, 3)
    targets = torch.arange(5).repeat_interleave(3).expand(4, -1)

    def losses():
        scores = learner.scores(support, support.flatten(1, 2))
        return functional.cross_entropy(scores.mT, targets, reduction="none").mean(1)

    tuned = losses()
    learner.finetune_steps = 0
    assert (tuned < losses()).all()


def test_finetuning_works_where_gradients_are_off():
    learner = make("imprinted", "finetune")
    support, query = embedded(learner, 2, 3, 4), embedded(learner, 2, 5, seed=1)
    with torch.no_grad():
        scores = learner.scores(support, query)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, learner.scores(support, query))


@pytest.mark.parametrize("name", LEARNERS)
def test_an_unknown_variant_names_the_nearest(name):
    with pytest.raises(ValueError, match=r"unknown (variant|loss) of [\w+-]+ 'nonsense'"):
        make(name, "nonsense")
