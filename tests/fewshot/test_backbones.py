"""The backbones: sizes of the papers, signs of the embeddings, the order of a block's parts, DropBlock, weights."""

import math
import os
import sys
import warnings
from collections import OrderedDict

import pytest
import torch
import torchvision
from conftest import refusal
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from episodes import InputError
from fewshot import checkpoints
from fewshot.backbones import (
    BACKBONES,
    PRETRAINED,
    Backbone,
    backbone_listing,
    find_backbone,
    gives_maps,
    make_backbone,
)
from fewshot.backbones.base import is_random
from fewshot.backbones.conv4 import ConvBlock
from fewshot.backbones.pooling import max_pool
from fewshot.backbones.resnet import Block12, DropBlock
from fewshot.backbones.weights import load_weights
from fewshot.learners.imprinted import Imprinted

CONV4 = [name for name in BACKBONES if name.startswith("conv4")]
WIDE = "wrn28_10"
EXTERNAL = ["torchvision:mobilenet_v3_small", "timm:test_resnet"]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def smallest(name: str) -> int:
    """A small image size that the backbone accepts, for speed."""
    return {"wrn28_10": 8, "resnet10": 8, "resnet18": 8}.get(name, 32 if ":" in name else 16)


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, int], Backbone]:
    """A backbone of each kind for grey and colour images, in eval mode; tests must not change the backbones."""
    torch.manual_seed(0)
    names = [*BACKBONES, *EXTERNAL]
    return {
        (name, channels): make_backbone(name, channels, smallest(name)).eval() for name in names for channels in (1, 3)
    }


def test_conv4_has_the_parameters_of_the_papers():
    # four 3x3 convolutions with bias, 1 to 64 to 64 to 64 to 64 channels, and a scale and a shift of each batch norm
    expected = (9 * 64 + 64) + 3 * (9 * 64 * 64 + 64) + 4 * 2 * 64
    assert expected == 111_936
    assert parameters(make_backbone("conv4", 1, 28)) == expected


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("conv4", 84, 113_088),
        ("conv4-32", 84, 28_896),  # 32,901 with MAML's classifier of 800 x 5 + 5 numbers
        ("conv4-128", 84, 260_928),  # two convolutions of 64 channels, two of 128: by hand
        ("conv4-512", 32, 2_605_056),  # 96, 192, 384 and 512 channels: by hand
        ("conv4-3pool", 42, 113_088),
        ("conv4-strided", 28, 113_088),
        ("resnet12", 84, 12_424_320),  # "12.4 M"
        ("resnet12-flat", 84, 12_424_320),
        ("resnet18", 224, 11_689_512 - 513_000),  # torchvision's, without its classifier
        ("resnet10", 224, 4_900_000),
        (WIDE, 32, 36_479_194 - 6_410),  # without CIFAR-10's classifier
    ],
)
def test_parameters_of_the_papers(name, size, expected):
    tolerance = 0.005 * expected if name == "resnet10" else 0  # "4.9 M"
    with torch.device("meta"):
        assert parameters(make_backbone(name, 3, size)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", ["conv4", "conv4-linear"])
@pytest.mark.parametrize(("channels", "size", "embedding"), [(1, 28, 64), (3, 84, 1600), (1, 16, 64)])
def test_embedding_sizes(name, channels, size, embedding):
    backbone = make_backbone(name, channels, size)
    assert backbone(torch.rand(2, channels, size, size)).shape == (2, embedding)
    assert backbone.embedding_size == embedding


@pytest.mark.parametrize(
    ("name", "size", "embedding"),
    [
        ("conv4-32", 84, 800),
        ("conv4-128", 84, 3200),
        ("conv4-512", 32, 2048),
        ("conv4-3pool", 42, 1600),
        ("conv4-3pool-linear", 8, 64),
        ("conv4-strided", 28, 64),
        ("conv4-strided", 5, 64),
        ("resnet12", 84, 640),
        ("resnet12-flat", 84, 16_000),
        ("resnet12-flat", 42, 2560),
        ("resnet10", 84, 512),
        ("resnet18", 128, 512),
        (WIDE, 32, 640),
    ],
)
def test_embedding_sizes_of_the_papers(name, size, embedding):
    with torch.device("meta"):  # shapes alone, in no time
        backbone = make_backbone(name, 3, size)
        assert backbone.body(torch.rand(2, 3, size, size)).flatten(1).shape == (2, embedding)
    assert backbone.embedding_size == embedding


def test_wide_resnet_embeds_images_of_its_size():
    with torch.no_grad():
        embeddings = make_backbone(WIDE, 3, 32).eval()(torch.rand(2, 3, 32, 32))
    assert embeddings.shape == (2, 640)
    assert embeddings.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*BACKBONES, *EXTERNAL])
def test_embeddings_are_of_each_image_alone(made, name, channels):
    backbone = made[name, channels]
    images = torch.rand(2, channels, smallest(name), smallest(name))
    with torch.no_grad():
        embeddings, first = backbone(images), backbone(images[:1])
    assert embeddings.shape == (2, backbone.embedding_size)
    assert embeddings.dtype == torch.float32
    assert embeddings.isfinite().all()
    torch.testing.assert_close(embeddings[:1], first, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in [*BACKBONES, *EXTERNAL] if name not in (WIDE, "pixels")])
def test_every_parameter_learns_in_bfloat16(name):
    backbone = make_backbone(name, 3, smallest(name))
    backbone.precision = torch.bfloat16
    embeddings = backbone(torch.rand(4, 3, smallest(name), smallest(name)))
    assert embeddings.dtype == torch.float32
    (embeddings * torch.randn_like(embeddings)).sum().backward()
    for parameter in backbone.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["conv4", "resnet12", "resnet10", "timm:test_resnet"])
def test_the_seed_decides_the_weights(name):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in make_backbone(name, 1, smallest(name)).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


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


def test_strided_conv4_halves_by_strides():
    torch.manual_seed(0)
    backbone = make_backbone("conv4-strided", 1, 28)
    sides, images = [], torch.rand(4, 1, 28, 28)
    features = images
    for block in backbone.body[:4]:
        weight, bias = block.convolution.weight, block.convolution.bias
        features = functional.relu(block.norm(functional.conv2d(features, weight, bias, stride=2, padding=1)))
        sides.append(features.shape[2])
    assert sides == [14, 7, 4, 2]
    torch.testing.assert_close(backbone(images), features.mean((2, 3)))


class PlainBlock(ConvBlock):
    """The block as the papers write it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(functional.relu(self.norm(self.convolution(images))), 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 21])
def test_norm_of_the_first_block_is_exact(channels, size):
    torch.manual_seed(0)
    block = ConvBlock(channels, 16).double()
    block.norm.weight.data.normal_()
    block.norm.bias.data.normal_()
    plain = PlainBlock(channels, 16).double()
    plain.load_state_dict(block.state_dict())
    images = 1 - 0.1 * torch.rand(5, channels, size, size).double()  # bright and nearly constant: digits cancel
    images.requires_grad_()
    found, expected = [], []
    for one, results in ((block, found), (plain, expected)):
        features = one(images)
        inputs = [images, *one.parameters()]
        # second derivatives too, which meta-learners need
        first = torch.autograd.grad(features.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[1].square().sum(), inputs, allow_unused=True, materialize_grads=True)
        results += [[features], first, second, list(one.buffers())]
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(one.abs().max().item() for one in theirs)  # the gradient of a bias before a norm is rounding alone
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * scale)


def test_norm_of_the_first_block_has_the_digits_of_float32():
    torch.manual_seed(0)
    block = ConvBlock(1, 16)
    exact = PlainBlock(1, 16).double()
    exact.load_state_dict(block.state_dict())
    images = (torch.rand(200, 1, 28, 28) > 0.1).float()
    torch.testing.assert_close(block(images), exact(images.double()).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.norm.running_var, exact.norm.running_var.float(), rtol=1e-5, atol=1e-7)


def test_norm_of_the_first_block_in_bfloat16_is_as_near_as_the_plain_one():
    torch.manual_seed(0)
    block = ConvBlock(1, 16)
    plain = PlainBlock(1, 16)
    plain.load_state_dict(block.state_dict())
    images = (torch.rand(50, 1, 28, 28) > 0.1).float()
    exact = plain(images)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(one(images).float() - exact).abs().mean() for one in (block, plain)]
    assert 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_norm_in_eval_mode_is_exact(stride):
    torch.manual_seed(0)
    block = ConvBlock(6, 8, pool=False, stride=stride).double().eval()
    for value in (block.norm.weight, block.norm.bias, block.norm.running_mean):
        value.data.normal_()
    block.norm.running_var.uniform_(0.1, 3)
    images = torch.randn(3, 6, 9, 9).double().requires_grad_()
    plain = functional.relu(block.norm(block.convolution(images)))
    features = block(images)
    torch.testing.assert_close(features, plain)
    inputs = [images, *block.parameters()]
    for found, expected in zip(*(torch.autograd.grad(one.square().sum(), inputs) for one in (features, plain))):
        torch.testing.assert_close(found, expected)


def test_another_norm_in_its_place_is_used():
    block = ConvBlock(1, 4)
    block.norm = nn.InstanceNorm2d(4)
    images = torch.rand(3, 1, 8, 8)
    for training in (True, False):
        block.train(training)
        expected = functional.relu(functional.max_pool2d(block.norm(block.convolution(images)), 2))
        torch.testing.assert_close(block(images), expected)


def test_norm_of_the_first_block_leaves_the_running_statistics_alone_in_eval_mode():
    block = ConvBlock(1, 4).eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    block(torch.rand(3, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_block_of_resnet12_equals_that_of_metaoptnet():
    torch.manual_seed(0)
    block, leaky = Block12(2, 5, nn.Identity()), nn.LeakyReLU(0.1)
    images = torch.randn(3, 2, 9, 9)
    features = leaky(block.bn1(functional.conv2d(images, block.conv1.weight, padding=1)))
    features = leaky(block.bn2(functional.conv2d(features, block.conv2.weight, padding=1)))
    features = block.bn3(functional.conv2d(features, block.conv3.weight, padding=1))
    features = features + block.downsample[1](functional.conv2d(images, block.downsample[0].weight))
    torch.testing.assert_close(block(images), functional.max_pool2d(leaky(features), 2))


def test_embeddings_are_float32_in_any_precision():
    backbone = make_backbone("conv4", 1, 16).eval()
    images = torch.rand(4, 1, 16, 16)
    exact = backbone(images)
    backbone.precision = torch.bfloat16
    reduced = backbone(images)
    assert reduced.dtype == torch.float32
    assert not torch.equal(reduced, exact)
    torch.testing.assert_close(reduced, exact, rtol=0.05, atol=0.05)


def test_colour_images_are_standardised_and_grey_ones_are_not():
    colour, grey = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4)
    backbone = Backbone(nn.Identity(), 48)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    torch.testing.assert_close(backbone(colour), torchvision.transforms.Normalize(mean, deviation)(colour).flatten(1))
    assert torch.equal(backbone(grey), grey.flatten(1))
    assert not backbone.state_dict()


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("conv4", 15, "Conv-4 halves an image four times: it needs 16 pixels or more, not 15"),
        ("conv4-3pool", 7, "halves an image three times: it needs 8 pixels or more, not 7"),
        ("resnet12", 15, "ResNet-12 halves an image four times"),
        ("resnet18", 7, "ResNet-18 halves an image three times"),
        (WIDE, 3, "Wide ResNet 28-10 halves an image twice"),
        ("timm:vit_tiny_patch16_224", 84, "timm:vit_tiny_patch16_224 does not take images of 84x84 pixels"),
    ],
)
def test_images_that_will_not_do(name, size, said):
    with pytest.raises(InputError, match=said):
        make_backbone(name, 3, size)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conv5", r"unknown backbone 'conv5': did you mean 'conv4'"),
        ("timmy", r"unknown backbone 'timmy': did you mean 'timm:NAME'"),
        ("torch:resnet18", r"unknown backbone 'torch:resnet18'"),
        ("torchvision:resnet17", r"unknown network of torchvision 'resnet17': did you mean 'resnet1"),
        ("torchvision:fcn_resnet50", r"unknown network of torchvision 'fcn_resnet50'"),
        ("torchvision:squeezenet1_0", r"torchvision:squeezenet1_0 has no linear classifier"),
        ("timm:resnet17", r"unknown network of timm 'resnet17': did you mean"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", r"unknown network of timm"),
        ("timm:resnet18.nobody", r"unknown network of timm"),
    ],
)
def test_unknown_backbone_names_the_nearest(name, said):
    with pytest.raises(InputError, match=said) as error:
        make_backbone(name, 1, 64)
    assert len(str(error.value)) < 300


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs the package timm: pip install 'fewshot\[timm\]'"):
        find_backbone("timm:resnet18")


def test_grey_images_are_colour_images_of_equal_channels(made):
    backbone = made[EXTERNAL[0], 1]
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone(grey), backbone(grey.expand(-1, 3, -1, -1)))


def test_finding_the_embedding_size_leaves_the_batch_norms_alone():
    backbone = make_backbone(EXTERNAL[0], 3, 32)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.num_batches_tracked == 0 and norm.training for norm in norms)


def test_the_listing_has_every_backbone():
    names, abouts, _ = zip(*backbone_listing())
    assert names == (*BACKBONES, *PRETRAINED, "features", "torchvision:NAME", "timm:NAME", "openclip:NAME")
    assert all(abouts)


def dropped(block: DropBlock, shape: tuple[int, ...] = (8, 64, 12, 12)) -> torch.Tensor:
    """The positions that one call of `block` sets to zero, boolean."""
    return block(torch.ones(shape)) == 0


def after_its_schedule(rate: float, size: int) -> DropBlock:
    block = DropBlock(rate, size, steps=10)
    block.step += 10
    return block


def test_dropblock_zeroes_whole_squares():
    torch.manual_seed(0)
    zeros = dropped(after_its_schedule(0.1, 3)).float()
    # a position is zero if one of the squares that cover it is all zero
    whole = 1 - functional.max_pool2d(1 - zeros, 3, stride=1)
    assert torch.equal(functional.max_pool2d(functional.pad(whole, [2] * 4), 3, stride=1), zeros)
    assert 0 < zeros.mean() < 0.2


def test_dropblock_keeps_the_expectation():
    torch.manual_seed(0)
    block, features = after_its_schedule(0.3, 3), torch.rand(8, 64, 12, 12)
    assert block(torch.ones(8, 64, 12, 12)).mean().item() == pytest.approx(1, abs=1e-5)
    mean = torch.stack([block(features) for _ in range(20)]).mean().item()
    assert mean == pytest.approx(features.mean().item(), rel=0.01)


def test_dropblock_is_the_identity_in_eval_mode():
    block, features = after_its_schedule(0.5, 3).eval(), torch.rand(2, 3, 6, 6)
    assert block(features) is features
    assert block.step == 10


def test_dropblock_drops_more_and_more_up_to_its_rate():
    torch.manual_seed(0)
    block = DropBlock(0.1, 3, steps=10)
    shares = [dropped(block, (64, 64, 12, 12)).float().mean().item() for _ in range(20)]
    # squares overlap, so that somewhat less than the rate is zeroed
    expected = [0.1 * min(step, 10) / 10 for step in range(1, 21)]
    assert shares == pytest.approx(expected, abs=0.01)
    assert block.step == 20


def test_dropblock_goes_on_from_a_checkpoint():
    block, other = after_its_schedule(0.2, 3), DropBlock(0.2, 3, steps=10)
    other.load_state_dict(block.state_dict())
    results = []
    for one in (block, other):
        torch.manual_seed(0)
        results.append(dropped(one))
    assert torch.equal(*results)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_dropblock_takes_smaller_squares_of_smaller_maps(side):
    torch.manual_seed(0)
    zeros = dropped(after_its_schedule(0.1, 5), (64, 64, side, side)).flatten(2)
    assert torch.equal(zeros.any(2), zeros.all(2))
    assert zeros.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_dropblock_is_on_the_device_of_its_features():
    block, features = DropBlock(0.1, 3).to("meta"), torch.empty(2, 3, 6, 6, device="meta")  # shapes, and no numbers
    assert block(features).shape == features.shape


def test_dropblock_that_drops_everything_leaves_numbers():
    assert after_its_schedule(1.0, 5)(torch.ones(1, 1, 5, 5)).isfinite().all()


@pytest.fixture
def conv4() -> Backbone:
    torch.manual_seed(5)
    return make_backbone("conv4", 1, 16)


def same(backbone: Backbone, other: Backbone) -> bool:
    mine, theirs = backbone.body.state_dict(), other.body.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine if "num_batches" not in name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"module.encoder.{name}": value for name, value in state.items()}},
        lambda state: {**{f"backbone.{k}": v for k, v in state.items()}, "fc.weight": torch.rand(3, 3)},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
)
def test_weights_of_a_file(tmp_path, conv4, wrap):
    torch.save(wrap(conv4.body.state_dict()), tmp_path / "weights.pt")
    assert same(make_backbone("conv4", 1, 16, tmp_path / "weights.pt"), conv4)


def test_weights_of_half_precision_become_float32(tmp_path, conv4):
    halved = {name: value.half() for name, value in conv4.body.state_dict().items()}
    torch.save(halved, tmp_path / "weights.pt")
    loaded = make_backbone("conv4", 1, 16, tmp_path / "weights.pt").body.state_dict()
    assert loaded["0.convolution.weight"].dtype == torch.float32
    assert torch.equal(loaded["0.convolution.weight"], halved["0.convolution.weight"].float())


def test_weights_of_safetensors(tmp_path, conv4):
    save_file({key: value.contiguous() for key, value in conv4.body.state_dict().items()}, tmp_path / "a.safetensors")
    assert same(make_backbone("conv4", 1, 16, str(tmp_path / "a.safetensors")), conv4)


def test_weights_of_the_suites_own_checkpoint(tmp_path, conv4):
    learner = Imprinted(conv4, 7)
    checkpoints.save(tmp_path / "best.pt", {"about": {}, "step": 3, "learner": learner.state_dict()})
    assert same(make_backbone("conv4", 1, 16, tmp_path / "best.pt"), conv4)


def test_names_of_conv4_in_checkpoints_stay(conv4):
    names = ["convolution.weight", "convolution.bias", "norm.weight", "norm.bias"]
    expected = [f"body.{block}.{name}" for block in range(4) for name in names]
    assert [name for name, _ in conv4.named_parameters()] == expected


def test_weights_of_torchvision_fit_its_network_and_ours(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    network.bn1.running_mean.normal_()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    network.fc = nn.Identity()
    images = torch.rand(2, 3, 128, 128)
    ours = make_backbone("resnet18", 3, 128, tmp_path / "resnet18.pth").eval()
    theirs = make_backbone("torchvision:resnet18", 3, 128, tmp_path / "resnet18.pth").eval()
    with torch.no_grad():
        expected = network((images - ours.mean) / ours.deviation)
        torch.testing.assert_close(ours(images), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(theirs(images), expected, rtol=1e-3, atol=1e-4)


def test_a_network_that_calls_a_layer_encoder_keeps_it(tmp_path):
    transformer = Backbone(nn.Sequential(OrderedDict(encoder=nn.Linear(3, 2), head=nn.Identity())), 2)
    state = {"module.encoder.weight": torch.rand(2, 3), "module.encoder.bias": torch.rand(2)}
    torch.save({**state, "module.head.weight": torch.rand(5, 2)}, tmp_path / "weights.pt")
    load_weights(transformer, tmp_path / "weights.pt", "transformer")
    assert torch.equal(transformer.body.encoder.weight, state["module.encoder.weight"])


def refused(path, name: str = "conv4", channels: int = 1, size: int = 16) -> str:
    with pytest.raises(InputError) as error:
        make_backbone(name, channels, size, path)
    assert str(error.value).startswith((str(path), f"in {path}", "there is no"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_lack_one_or_have_it_in_another_shape(tmp_path, conv4):
    state = conv4.body.state_dict()
    torch.save({key: value for key, value in state.items() if key != "1.norm.running_var"}, tmp_path / "lacking.pt")
    assert "lacks 1 of the 28 weights of conv4: 1.norm.running_var" in refused(tmp_path / "lacking.pt")
    torch.save(state, tmp_path / "grey.pt")
    assert "0.convolution.weight (64x1x3x3 and not 64x3x3x3)" in refused(tmp_path / "grey.pt", channels=3)
    torch.save({**state, **{f"module.{key}": value for key, value in state.items()}}, tmp_path / "twice.pt")
    assert "has the weight 0.convolution.weight twice" in refused(tmp_path / "twice.pt")


def test_weights_of_a_deeper_network_are_not_taken_for_a_shallower_one(tmp_path):
    torch.save(make_backbone("resnet18", 3, 32).body.state_dict(), tmp_path / "resnet18.pt")
    said = refused(tmp_path / "resnet18.pt", "resnet10", 3, 32)
    assert "is of another network than resnet10, which lacks" in said
    assert "layer1.1.conv1.weight" in said


def test_more_blocks_of_a_sequence_are_no_classifier(tmp_path, conv4):
    further = {"4.convolution.weight": torch.rand(64, 64, 3, 3), "4.norm.weight": torch.rand(64)}
    torch.save({**conv4.body.state_dict(), **further}, tmp_path / "conv5.pt")
    assert refused(tmp_path / "conv5.pt").endswith("which lacks 1 of its weights: 4.convolution.weight")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_that_are_no_weights(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as weights" in refused(tmp_path / name)


def test_files_without_weights(tmp_path):
    assert "there is no file of weights" in refused(tmp_path / "none.pt")
    for number, content in enumerate([[torch.ones(2)], {}, {"model": 3}, {"state_dict": {"a": 1}}]):
        torch.save(content, tmp_path / f"{number}.pt")
        assert "holds no weights" in refused(tmp_path / f"{number}.pt")


class _Evil:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_wants_to_run_code_does_not(tmp_path, conv4):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({**conv4.body.state_dict(), "evil": _Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    assert "holds more than tensors and plain data" in refused(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # that file would have


# ---- ensembles


@torch.no_grad()
def test_an_ensemble_lays_the_outputs_of_its_members_end_to_end():
    torch.manual_seed(0)
    members, images = [make_backbone("conv4-linear", 1, 32) for _ in range(3)], torch.rand(4, 1, 32, 32)
    torch.manual_seed(0)
    together = make_backbone("3xconv4-linear", 1, 32)
    assert (together.members, together.embedding_size, together.map_shape) == (3, 768, (192, 2, 2))
    for one in (together, *members):
        one.eval()
    torch.testing.assert_close(together(images), torch.cat([one(images) for one in members], 1))
    torch.testing.assert_close(together.maps(images), torch.cat([one.maps(images) for one in members], 1))


def test_the_names_of_ensembles():
    assert parameters(make_backbone("2xconv4", 1, 28)) == 2 * 111_936
    assert gives_maps("16xconv4")
    assert not gives_maps("2xpixels")
    for name in ("1xconv4", "17xconv4", "xconv4", "2xconv5", "2x2xconv4", "2xpixels"):
        assert "unknown backbone" in refusal(lambda name=name: find_backbone(name))


# ---- mirror images


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv4", "conv4-average-linear", "resnet12", "2xconv4"])
def test_a_mirrored_network_averages_over_the_mirror_image_at_test_alone(name):
    torch.manual_seed(0)
    plain, images = make_backbone(name, 3, 32).eval(), torch.rand(4, 3, 32, 32)
    mirrored = make_backbone(f"{name}-mirrored", 3, 32)
    mirrored.body.load_state_dict(plain.body.state_dict())
    assert mirrored.embedding_size == plain.embedding_size
    mirrored.eval()
    torch.testing.assert_close(mirrored(images), (plain(images) + plain(images.flip(3))) / 2)
    torch.testing.assert_close(mirrored(images), mirrored(images.flip(3)))
    torch.testing.assert_close(mirrored.maps(images), mirrored.maps(images.flip(3)).flip(3))
    assert not torch.allclose(mirrored(images), plain(images))
    trained = []
    for one in (plain, mirrored):
        torch.manual_seed(1)  # of dropout
        trained.append(one.train()(images))
    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_the_names_of_mirrored_networks():
    assert find_backbone("conv4-mirrored").about.startswith(BACKBONES["conv4"].about)
    assert gives_maps("4xconv4-3pool-mirrored")
    for name in ("pixels-mirrored", "conv4-mirrored-mirrored", "conv5-mirrored", "-mirrored", "conv4-mirrored-linear"):
        assert "unknown backbone" in refusal(lambda name=name: find_backbone(name))


def test_weights_fit_with_and_without_mirror_images(tmp_path):
    plain = make_backbone("conv4", 1, 32)
    torch.save(plain.body.state_dict(), tmp_path / "weights.pt")
    mirrored = make_backbone("conv4-mirrored", 1, 32, tmp_path / "weights.pt")
    torch.testing.assert_close(mirrored.body.state_dict(), plain.body.state_dict())


def test_a_network_is_random_if_it_has_weights_and_nothing_has_trained_them():
    own = nn.Sequential(nn.Linear(2, 2))  # a learner of one's own may have any module
    assert is_random(own, "")
    assert not is_random(own, "weights.pt")
    assert not is_random(nn.Flatten(), "")
    own.trained_on = "ImageNet-1k"
    assert not is_random(own, "")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (9, 2)])
def test_pooling_without_gradients_has_the_bits_of_that_with_gradients(size, dtype, layout):
    values = torch.randn(3, 8, *size, generator=torch.Generator().manual_seed(0))
    values[0, 0, :2, :2] = torch.tensor([[math.nan, 1.0], [math.inf, -math.inf]])
    maps = values.to(dtype).contiguous(memory_format=layout)
    with_gradients = max_pool(maps.clone().requires_grad_()).detach()
    without = max_pool(maps)
    torch.testing.assert_close(without, with_gradients, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(without, functional.max_pool2d(maps, 2), rtol=0, atol=0, equal_nan=True)
    assert without.is_contiguous(memory_format=layout)


def test_pooling_refuses_maps_of_one_row_and_takes_no_images():
    with pytest.raises(RuntimeError, match="too small"):
        max_pool(torch.ones(1, 1, 1, 4))
    assert max_pool(torch.ones(0, 8, 4, 4)).shape == (0, 8, 2, 2)
