"""Exemplar networks: what stands for an image, and how it follows the network."""

import pytest
import torch
from torch.nn import functional

from fewshot.backbones import make_backbone
from fewshot.config import load_config
from fewshot.learners.exemplar import Exemplar
from fewshot.losses import instance


def make(variant: str = "", classes: int = 20, **options) -> Exemplar:
    torch.manual_seed(0)
    return Exemplar(make_backbone("conv4-32-linear", 1, 16), classes, variant, **{"others": 30, **options}).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))


NUMBERS = torch.tensor([4, 17, 0, 9, 11])


@pytest.mark.parametrize("variant", Exemplar.variants)
def test_the_loss_is_the_softmax_against_images_drawn_anew(images, variant):
    learner = make(variant, temperature=0.5)
    vectors, embeddings = functional.normalize(learner.vectors.detach().clone(), dim=1), learner.embed(images)
    torch.manual_seed(2)
    drawn = torch.randint(20, (30,))
    torch.manual_seed(2)
    first = learner.loss(images, NUMBERS)
    torch.testing.assert_close(first, instance(embeddings, vectors[NUMBERS], vectors[drawn], 0.5))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_memory_of_the_images_of_a_batch_moves_towards_their_embeddings(images, momentum):
    learner = make("memory", momentum=momentum)
    before, embeddings = learner.vectors.clone(), learner.embed(images).detach()
    learner.loss(images, NUMBERS).backward()  # the gradient is that of the memory before
    expected = before.clone()
    expected[NUMBERS] = functional.normalize(momentum * before[NUMBERS] + (1 - momentum) * embeddings, dim=1)
    torch.testing.assert_close(learner.vectors, expected)
    torch.testing.assert_close(learner.vectors.norm(dim=1), torch.ones(20))


def test_the_memory_is_part_of_a_checkpoint_and_no_parameter():
    learner = make("memory")
    assert "vectors" in learner.state_dict()
    assert "vectors" not in dict(learner.named_parameters())


def test_parametric_vectors_are_learned_by_their_gradient_alone(images):
    learner = make("parametric")
    before = learner.vectors.detach().clone()
    learner.loss(images, NUMBERS).backward()
    assert torch.equal(learner.vectors, before)
    assert learner.vectors.grad[NUMBERS].abs().sum(1).min() > 0


def test_scores_are_the_cosine_to_the_class_mean():
    support, query = (functional.normalize(torch.randn(2, *shape, 5), dim=-1) for shape in [(3, 4), (6,)])
    expected = functional.cosine_similarity(query[:, :, None], support.mean(2)[:, None], dim=3)
    torch.testing.assert_close(make().scores(support, query), expected)


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("dataset", ["omniglot", "mini_imagenet"])
def test_presets_show_each_image_distorted(preset, dataset):
    settings = load_config(preset, ["exemplar"], dataset).learner["exemplar"]
    wanted = {"omniglot": {"affine"}, "mini_imagenet": {"crop-jitter", "resized-crop"}}
    assert settings.augmentation in wanted[dataset]
