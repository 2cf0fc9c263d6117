"""Learners that break one promise each: the check of that promise says so, and no other one does."""

import random
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from episodes import ClassBatches, InputError, ShuffledBatches
from fewshot import Learner, Traits
from fewshot.learners.registry import LEARNERS
from fewshot.losses import squared_distances
from fewshot.masks import class_means
from fewshot.testing import parametrize_with_checks
from fewshot.testing.checks import BROKEN, CHECKS, HOLDS, LEFT_OUT, REMARK, broken
from fewshot.testing.specimen import Specimen, specimens

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Good(Learner):
    """Class means on a linear map."""

    batches = ClassBatches(classes=10, images=4)

    def __init__(self, backbone, classes, variant="", scale: float = 1.0):
        super().__init__(backbone, classes, variant)
        self.scale = scale
        self.map = nn.Linear(backbone.embedding_size, 16)

    def embed(self, images):
        return self.map(self.backbone(images))

    def loss(self, images, labels):
        classes = self.embed(images).unflatten(0, (len(labels.unique_consecutive()), -1))
        means, queries = classes[:, :2].mean(1), classes[:, 2:].flatten(0, 1)
        return functional.cross_entropy(-squared_distances(queries, means), labels.unique(return_inverse=True)[1][::2])

    def scores(self, support, query):
        return -self.scale * squared_distances(query, support.mean(2))


class Staged(Good):
    """First the map, then what makes the scores longer."""

    stages = (0.5,)

    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.length = nn.Parameter(torch.ones(()))

    def loss(self, images, labels):
        if self.stage == 0:
            return super().loss(images, labels)
        return (self.length - self.embed(images).detach().mean()).square() + 1


class Fitted(Good):
    """A linear head, fitted to each episode from its images."""

    variants: ClassVar = {"": Traits(fits_episodes=True)}

    @torch.enable_grad()
    def episode_scores(self, data, episodes):
        count, way, shot = episodes.support.shape
        images = self.embed(data.bank.batch(episodes.support.flatten())).detach().view(count, way * shot, -1)
        targets = torch.arange(way, device=images.device).repeat_interleave(shot).repeat(count)
        heads = images.new_zeros(count, way, images.shape[2])
        for _ in range(10):
            heads.requires_grad_()
            loss = functional.cross_entropy((images @ heads.mT).flatten(0, 1), targets, reduction="sum")
            heads = (heads - 0.02 * torch.autograd.grad(loss, heads)[0]).detach()
        return data.embeddings[episodes.query.flatten(1)] @ heads.mT


class Centred(Good):
    """Every episode is centred on its queries, and says so."""

    variants: ClassVar = {"": Traits(transductive=True)}

    def scores(self, support, query):
        return -squared_distances(query - query.mean(1, keepdim=True), (support - support.mean((1, 2), True)).mean(2))


class Unlabelled(Good):
    """Images are told apart from each other."""

    variants: ClassVar = {"": Traits(uses_labels=False)}
    batches = ShuffledBatches(size=32)

    def loss(self, images, labels):
        targets = torch.arange(len(labels), device=images.device)
        return functional.cross_entropy(self.embed(images) @ self.embed(images + 0.1).mT, targets)


class Named(Good):
    """The names of classes count."""

    variants: ClassVar = {"": Traits(text=True)}

    def episode_scores(self, data, episodes):
        lengths = torch.tensor([float(len(name)) for name in data.bank.class_names], device=data.device)
        return super().episode_scores(data, episodes) + lengths[episodes.classes][:, None]


class Masked(Good):
    """Classes may have different numbers of support images."""

    def scores(self, support, query, mask=None):
        return -squared_distances(query, class_means(support, mask))


GOOD = [Good, Staged, Fitted, Centred, Unlabelled, Named, Masked]
CAUGHT: list = []  # a check's name and a learner that it, and no other, finds broken


def caught(check, *marks):
    """The class decorator for a learner that breaks the promise of that name."""

    def add(cls):
        CAUGHT.append(pytest.param(check, cls, id=f"{check}-{cls.__name__}", marks=marks))
        return cls

    return add


@caught("options")
class NoDefault(Good):
    def __init__(self, backbone, classes, variant="", rate=None):
        super().__init__(backbone, classes, variant)


@caught("options")
class NotANumber(Good):
    def __init__(self, backbone, classes, variant="", rate: float = float("nan")):
        super().__init__(backbone, classes, variant)


@caught("options")
class Required(Good):
    def __init__(self, backbone, classes, variant, rate):
        super().__init__(backbone, classes, variant)


@caught("options")
class Unmakeable(Good):
    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.map = nn.Linear(backbone.no_such_thing, 16)


@caught("loss")
class LossOfEach(Good):
    def loss(self, images, labels):
        return self.embed(images).square().mean(1)


@caught("loss")
class LossOfPython(Good):
    def loss(self, images, labels):
        return super().loss(images, labels).item()


@caught("loss")
class LossDetached(Good):
    def loss(self, images, labels):
        return super().loss(images, labels).detach()


@caught("loss")
class LossNotFinite(Good):
    def loss(self, images, labels):
        return (super().loss(images, labels) - 1000).log()


@caught("loss")
class LossFails(Good):
    def loss(self, images, labels):
        return self.embed(images) @ torch.ones(3)


@caught("loss")
class RefusesItsOwnBatches(Good):
    def check_batches(self, batches):
        raise InputError("not with these batches")


@caught("loss")
class NeedsLabels(Unlabelled):
    """Of unlabelled images the numbers are far more than the classes."""

    def loss(self, images, labels):
        return functional.cross_entropy(self.embed(images), labels)


@caught("loss_of_images")
class LossOfNothing(Good):
    def loss(self, images, labels):
        return self.map.weight.square().mean()


@caught("every_parameter")
class UnusedParameter(Good):
    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.unused = nn.Parameter(torch.zeros(3))


@caught("finite_gradients")
class SteepGradient(Good):
    def loss(self, images, labels):
        return super().loss(images, labels) + (0 * self.map.bias).sqrt().sum()


@caught("loss_falls")
class WrongSign(Good):
    def loss(self, images, labels):
        loss = super().loss(images, labels)
        return 2 * loss.detach() - loss


@caught("loss_falls")
class NoWeights(Good):
    def loss(self, images, labels):
        return super().loss(images, labels).detach() + 0 * sum(weight.sum() for weight in self.parameters())


@caught("loss_falls")
class SecondStageRises(Staged):
    def loss(self, images, labels):
        loss = super().loss(images, labels)
        return 2 * loss.detach() - loss if self.stage else loss


class Copies(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.map = body, nn.Linear(256, 256)

    def forward(self, images):
        mapped = self.map(self.body(images).flatten(1))
        copied = torch.zeros(mapped.shape)
        copied[torch.arange(len(mapped))] = mapped
        return copied


@caught("bfloat16")
class Float32Only(Good):
    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.backbone.body = Copies(self.backbone.body)


@caught("repeatable")
class Unseeded(Good):
    def loss(self, images, labels):
        return super().loss(images + 0.01 * random.random(), labels)


@caught("repeatable")
class OwnGenerator(Good):
    def loss(self, images, labels):
        generator = torch.Generator()
        generator.seed()
        return super().loss(images + 0.01 * torch.rand(images.shape, generator=generator), labels)


@caught("no_class_labels")
class LabelsByBatches(Good):
    """Batches that come class by class tell the classes."""

    variants: ClassVar = {"": Traits(uses_labels=False)}

    def loss(self, images, labels):
        return super().loss(images, torch.arange(len(images)) // 4)


@caught("embedding")
class Maps(Good):
    def embed(self, images):
        return super().embed(images).unflatten(1, (4, 4))

    def loss(self, images, labels):
        return self.embed(images).square().mean()


@caught("embedding")
class EmbeddingNotFinite(Good):
    def episode_scores(self, data, episodes):
        return super().episode_scores(data, episodes).nan_to_num()

    def embed(self, images):
        embeddings = super().embed(images)
        return embeddings if self.training else embeddings.new_full(embeddings.shape, torch.inf)


@caught("score_shape")
class Transposed(Good):
    def scores(self, support, query):
        return super().scores(support, query).mT


@caught("score_shape")
class NoScores(Good):
    def scores(self, support, query):
        super().scores(support, query)


@caught("score_shape")
class Votes(Good):
    def scores(self, support, query):
        scores = super().scores(support, query)
        return functional.one_hot(scores.argmax(2), scores.shape[2])


@caught("score_shape")
class ScoresFail(Good):
    def scores(self, support, query):
        return [][0]


@caught("score_shape")
class OtherSignature(Good):
    def scores(self, query):
        return query


@caught("score_finite")
class NotFinite(Good):
    def scores(self, support, query):
        return super().scores(support, query).log()


@caught("one_shot")
class Deviations(Good):
    def scores(self, support, query):
        return super().scores(support, query) - support.std(2).mean(2)[:, None]


@caught("many_shots")
class OneShotOnly(Good):
    def scores(self, support, query):
        return -squared_distances(query, support.squeeze(2))


@caught("ways")
class FiveWaysOnly(Good):
    def scores(self, support, query):
        return super().scores(support, query) @ torch.eye(5)


@caught("evaluation_changes_nothing")
class TrainsOnSupport(Good):
    def scores(self, support, query):
        self.map.bias += support.mean((0, 1, 2))
        return super().scores(support, query)


@caught("evaluation_changes_nothing")
class NormInTraining(Good):
    """The running statistics of the norm go on in evaluation."""

    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.norm = nn.BatchNorm1d(16)

    def embed(self, images):
        return self.norm(super().embed(images))

    def train(self, mode=True):
        return super().train(True)


@caught("same_again")
class KeepsState(Good):
    seen = 0

    def scores(self, support, query):
        self.seen = self.seen + support.mean((0, 1, 2))
        return super().scores(support, query + self.seen)


@caught("same_again")
class Draws(Good):
    def scores(self, support, query):
        scores = super().scores(support, query)
        return scores + torch.rand_like(scores)


@caught("same_again")
class DrawsElsewhere(Good):
    def scores(self, support, query):
        return super().scores(support + random.random(), query)


@caught("global_state")
class DoublePrecision(Good):
    def scores(self, support, query):
        torch.set_default_dtype(torch.float64)
        return super().scores(support, query)


@caught("train_and_eval")
class Warm(Good):
    warm = 1.0

    def train(self, mode=True):
        self.warm = 2.0 if mode else self.warm
        return super().train(mode)

    def scores(self, support, query):
        return self.warm * super().scores(support, query)


@caught("class_order")
class FirstClassFirst(Good):
    def scores(self, support, query):
        return super().scores(support, query) - torch.arange(support.shape[1])


@caught("support_order")
class FirstImageOnly(Good):
    def scores(self, support, query):
        return super().scores(support[:, :, :1], query)


@caught("support_order")
class Recurrent(Good):
    def scores(self, support, query):
        state = support[:, :, 0]
        for image in support.unbind(2):
            state = (state + image).tanh()
        return super().scores(state[:, :, None], query)


@caught("batched_episodes")
class CentredOnEpisodes(Good):
    def scores(self, support, query):
        return super().scores(support - support.mean(0), query)


@caught("other_queries")
class CentredOnQueries(Good):
    def scores(self, support, query):
        return super().scores(support, query - query.mean(1, keepdim=True))


@caught("other_images")
class BatchStatistics(Good):
    def embed(self, images):
        return functional.batch_norm(super().embed(images), None, None, training=True)


@caught("query_labels")
class ReadsTargets(Good):
    def episode_scores(self, data, episodes):
        scores = super().episode_scores(data, episodes)
        return scores + functional.one_hot(episodes.targets, scores.shape[2])


@caught("bank_labels")
class ReadsLabels(Good):
    def episode_scores(self, data, episodes):
        labels = data.bank.labels[episodes.query.flatten(1)]
        return super().episode_scores(data, episodes) + (labels[:, :, None] == episodes.classes[:, None])


@caught("bank_labels")
class MeansOfTheBank(Good):
    def episode_scores(self, data, episodes):
        bank = data.bank
        means = torch.stack([part.mean(0) for part in data.embeddings.split(bank.sizes.tolist())])
        return -squared_distances(data.embeddings[episodes.query.flatten(1)], means[episodes.classes])


@caught("bank_labels")
class NearPlaces(Good):
    def episode_scores(self, data, episodes):
        query, support = episodes.query.flatten(1), episodes.support.float().mean(2)
        return super().episode_scores(data, episodes) - (query[:, :, None] - support[:, None]).abs()


@caught("full_mask")
class OtherScale(Masked):
    def scores(self, support, query, mask=None):
        return (1 if mask is None else 2) * super().scores(support, query, mask)


@caught("masked_images")
class MaskIgnored(Good):
    def scores(self, support, query, mask=None):
        return super().scores(support, query)


@caught("masked_images")
class DividedByPlaces(Good):
    def scores(self, support, query, mask=None):
        return super().scores(support if mask is None else support * mask[..., None], query)


@caught("masked_episodes")
class DividedByTheMost(Good):
    def scores(self, support, query, mask=None):
        if mask is None:
            return super().scores(support, query)
        return -squared_distances(query, (support * mask[..., None]).sum(2) / mask.sum(2).max())


@caught("checkpoint")
class RandomAttribute(Good):
    def __init__(self, backbone, classes, variant=""):
        super().__init__(backbone, classes, variant)
        self.turn = torch.randn(16, 16)

    def scores(self, support, query):
        return super().scores(support @ self.turn, query @ self.turn)


@caught("checkpoint")
class LearnedAttribute(Good):
    length = 1.0

    def loss(self, images, labels):
        if self.training:
            self.length += 1
        return super().loss(images, labels)

    def scores(self, support, query):
        return self.length * super().scores(support, query)


@caught("higher_is_better")
class Distances(Good):
    def scores(self, support, query):
        return -super().scores(support, query)


@caught("gpu", needs_gpu)
class OnTheCPU(Good):
    def scores(self, support, query):
        return super().scores(support, query) + torch.zeros(query.shape[1], 1)


def examined(cls) -> dict:
    """The results of all checks, by name, of a learner on the pixels themselves."""
    specimen = Specimen(cls, backbone="pixels")
    return {check.name: check(specimen) for check in CHECKS}


@parametrize_with_checks(GOOD, backbone="pixels")
def test_a_good_learner_keeps_them_all(learner, check):
    check(learner)


@pytest.mark.parametrize(("name", "cls"), CAUGHT)
def test_a_broken_promise_is_caught_by_its_name_and_by_no_other(name, cls):
    results = examined(cls)
    faults = {key: result.said for key, result in results.items() if result.outcome == BROKEN}
    assert faults.keys() == {name}, faults
    assert faults[name]


def test_every_promise_has_a_learner_that_breaks_it():
    assert {param.values[0] for param in CAUGHT} | {"description"} == {check.name for check in CHECKS}


def test_names_and_promises_are_told_apart():
    for words in ([check.name for check in CHECKS], [check.promise for check in CHECKS]):
        assert len(set(words)) == len(words)


def test_what_follows_from_a_broken_promise_is_left_out():
    results = examined(Draws)
    assert results["class_order"].outcome == LEFT_OUT
    assert "A second call gives the same scores" in results["class_order"].said
    assert results["loss_falls"].outcome == HOLDS


def test_a_transductive_learner_that_is_none_is_a_remark():
    class Modest(Good):
        """It claims more than it does."""

        variants: ClassVar = {"": Traits(transductive=True)}

    assert examined(Modest)["other_queries"].outcome == REMARK


def test_a_learner_without_a_docstring_is_a_remark():
    assert examined(FirstImageOnly)["description"].outcome == REMARK


def test_an_untrained_learner_has_no_loss_to_check():
    class Untrained(Good):
        """As it was made."""

        variants: ClassVar = {"": Traits(trains=False)}
        loss = Learner.loss

    results = examined(Untrained)
    assert results["loss"] == results["loss"].__class__(results["loss"].check, LEFT_OUT, "it is untrained")
    assert {results[name].outcome for name in ("class_order", "checkpoint", "higher_is_better")} == {HOLDS}


def test_a_learner_that_refuses_some_ways_in_words_breaks_nothing():
    class FewWays(Good):
        """Five or fewer."""

        def scores(self, support, query):
            if support.shape[1] > 5:
                raise InputError("five ways at most")
            return super().scores(support, query)

    results = examined(FewWays)
    assert (results["ways"].outcome, BROKEN in {result.outcome for result in results.values()}) == (LEFT_OUT, False)
    assert "five ways at most" in results["ways"].said


def test_a_learner_that_cannot_run_here_is_left_out():
    class Elsewhere(Good):
        """It needs weights."""

        variants: ClassVar = {"": Traits(external=True)}

    said = {(result.outcome, result.said) for result in examined(Elsewhere).values()}
    assert {outcome for outcome, _ in said} == {LEFT_OUT}
    assert all(reason.startswith("it needs pretrained weights") for _, reason in said)


def test_an_exception_is_told_with_its_place_and_promise():
    said = examined(LossFails)["loss"].said
    line = LossFails.loss.__code__.co_firstlineno + 1
    assert said.startswith("LossFails.loss raised RuntimeError in ")
    assert f"test_checks.py, line {line}: " in said
    assert said.endswith("the promise: loss gives a scalar from images (B, C, H, W) and labels (B,)")


def test_a_bug_of_the_suite_is_no_broken_promise(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(Specimen, "scores", fail)
    specimen = Specimen(Good, backbone="pixels")
    with pytest.raises(ZeroDivisionError):
        next(check for check in CHECKS if check.name == "class_order")(specimen)


def test_a_sentence_names_the_learner_the_promise_and_what_was_seen():
    specimen = Specimen(FirstImageOnly, backbone="pixels")
    (sentence,) = broken([(specimen, check(specimen)) for check in CHECKS])
    assert sentence.startswith("FirstImageOnly breaks support_order (The order of the support images")
    assert "when support images come in another order" in sentence


def test_checks_leave_the_process_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    examined(DoublePrecision)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_variants_are_all_examined_or_the_one_that_is_named():
    named = {spec: [str(one) for one in specimens(spec)] for spec in ("siamese", "siamese:koch", "npair")}
    assert named == {
        "siamese": ["siamese:contrastive", "siamese:koch"],
        "siamese:koch": ["siamese:koch"],
        "npair": ["npair"],
    }
    assert specimens(LEARNERS["siamese"])[1].variant == "koch"
    assert specimens("npair@pixels")[0].backbone == "pixels"


def test_one_name_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"write \['npair'\]"):
        parametrize_with_checks("npair")
