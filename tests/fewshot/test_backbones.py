"""The backbones: sizes of the papers, signs of the embeddings, and the order of a block's parts."""

import pytest
import torch
from torch.nn import functional

from episodes import InputError
from fewshot.backbones import BACKBONES, ConvBlock, make_backbone


def test_conv4_has_the_parameters_of_the_papers():
    # four 3x3 convolutions with bias, 1 to 64 to 64 to 64 to 64 channels, and a scale and a shift of each batch norm
    expected = (9 * 64 + 64) + 3 * (9 * 64 * 64 + 64) + 4 * 2 * 64
    assert expected == 111_936
    assert sum(parameter.numel() for parameter in make_backbone("conv4", 1, 28).parameters()) == expected


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("channels", "size", "embedding"), [(1, 28, 64), (3, 84, 1600), (1, 16, 64)])
def test_embedding_sizes(name, channels, size, embedding):
    backbone = make_backbone(name, channels, size)
    assert backbone(torch.rand(2, channels, size, size)).shape == (2, embedding)
    assert backbone.embedding_size == embedding


@pytest.mark.parametrize(("name", "negative"), [("conv4", False), ("conv4-linear", True)])
def test_only_the_linear_form_has_negative_embeddings(name, negative):
    torch.manual_seed(0)
    embeddings = make_backbone(name, 1, 28)(torch.rand(8, 1, 28, 28))
    assert bool((embeddings < 0).any()) == negative


@pytest.mark.parametrize("training", [True, False])
def test_block_equals_convolution_norm_relu_pooling(training):
    torch.manual_seed(0)
    block = ConvBlock(2, 5)
    block.norm.weight.data.normal_()  # also channels that the norm turns around
    block.train(training)
    images = torch.randn(3, 2, 9, 9)
    normed = block.norm(functional.conv2d(images, block.convolution.weight, block.convolution.bias, padding=1))
    torch.testing.assert_close(block(images), functional.max_pool2d(functional.relu(normed), 2))


def test_embeddings_are_float32_in_any_precision():
    backbone = make_backbone("conv4", 1, 16).eval()
    images = torch.rand(4, 1, 16, 16)
    exact = backbone(images)
    backbone.precision = torch.bfloat16
    reduced = backbone(images)
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, exact)
    torch.testing.assert_close(reduced, exact, rtol=0.05, atol=0.05)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown backbone 'conv5': did you mean 'conv4'"):
        make_backbone("conv5", 1, 28)
