"""Optimizers: Muon for kernels beside AdamW, alone, over an interruption, and with every schedule."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from fewshot import optimizers
from fewshot.backbones import make_backbone
from fewshot.config import Training
from fewshot.optimizers import Float32Muon, MuonAndAdamW, optimizer_of, schedule_of


def network(layout=torch.channels_last):
    torch.manual_seed(0)
    return make_backbone("conv4-32", 3, 16).to(memory_format=layout)


def stepped(net, optimizer, steps=1, scheduler=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.rand(8, 3, 16, 16, generator=generator)).square().mean().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_muon_moves_a_kernel_by_an_almost_orthogonal_matrix_of_its_rate():
    net = network()
    kernel = net.body[1].convolution.weight
    before = kernel.detach().clone()
    stepped(net, optimizer_of(net, Training(optimizer="muon", kernel_rate=0.1)))
    moved = (kernel.detach() - before).flatten(1) / 0.1  # (32, 288): fewer rows than columns, so no other factor
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.5  # Newton-Schulz leaves singular values between about 0.7 and 1.2
    assert values.max() < 1.3


def test_the_first_kernel_of_more_rows_than_columns_moves_further():
    net = network()
    kernel = net.body[0].convolution.weight  # (32, 27)
    before = kernel.detach().clone()
    stepped(net, optimizer_of(net, Training(optimizer="muon", kernel_rate=0.1)))
    values = torch.linalg.svdvals((kernel.detach() - before).flatten(1)) / 0.1 / (32 / 27) ** 0.5
    assert values[values > 1e-3].min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_of_the_kernels_in_memory_makes_no_difference(layout):
    net, other = network(layout), network()
    for one in (net, other):
        stepped(one, optimizer_of(one, Training(optimizer="muon")), 3)
    for name, value in net.named_parameters():
        if not name.endswith("convolution.bias"):  # before a norm, its gradient is rounding alone
            torch.testing.assert_close(value, other.get_parameter(name), rtol=0, atol=1e-3)


def test_the_other_weights_move_as_with_adamw_alone():
    net, other = network(), network()
    stepped(net, optimizer_of(net, Training(optimizer="muon")))
    stepped(other, optimizer_of(other, Training(optimizer="adamw")))
    for name, value in net.named_parameters():
        assert torch.equal(value, other.get_parameter(name)) == (value.ndim < 4), name


def test_weight_decay_shrinks_kernels_without_a_gradient():
    kernel = torch.nn.Parameter(torch.ones(4, 2, 3, 3))
    kernel.grad = torch.zeros_like(kernel)
    MuonAndAdamW([kernel], AdamW([torch.nn.Parameter(torch.ones(2))]), rate=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(kernel.detach(), torch.full_like(kernel, 0.95))


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (8, 8)])
def test_muon_in_float32_moves_matrices_as_that_of_pytorch_does(shape):
    moved = []
    for kind in (Muon, Float32Muon):
        matrix = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        without = torch.nn.Parameter(torch.ones(shape))  # has no gradient
        optimizer = kind([matrix, without], 0.1, 0.5, momentum=0.9)
        for seed in range(3):
            matrix.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        moved.append(matrix.detach())
        assert torch.equal(without.detach(), torch.ones(shape))
    torch.testing.assert_close(*moved, rtol=0, atol=0.02)  # bfloat16 has three digits
    assert (moved[0] - moved[1]).abs().max() > 0


def test_muon_in_float32_goes_on_from_the_state_of_the_other():
    first, second = (torch.nn.Parameter(torch.eye(3)) for _ in range(2))
    before, after = Muon([first], 0.1, momentum=0.9), Float32Muon([second], 0.1, momentum=0.9)
    first.grad = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    before.step()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    second.data.copy_(first.data)
    first.grad = second.grad = first.grad.T.contiguous()
    before.step()
    after.step()
    torch.testing.assert_close(second.detach(), first.detach(), rtol=0, atol=0.01)


@pytest.mark.parametrize("native", [False, True])
def test_muon_computes_in_bfloat16_where_the_device_does_so_natively(native, monkeypatch):
    monkeypatch.setattr("fewshot.devices._cpu_has_bfloat16", lambda: native)
    optimizer = optimizer_of(network(), Training(optimizer="muon"))
    assert type(optimizer._muon) is (Muon if native else Float32Muon)


@pytest.mark.parametrize("schedule", ["one-cycle", "halving", "milestones", "constant"])
def test_the_schedule_holds_for_the_rates_of_both(schedule):
    more = {"milestones": {"3": 0.5}} if schedule == "milestones" else {}
    settings = Training(
        optimizer="muon", schedule=schedule, halve_every=2, steps=6, learning_rate=1e-3, kernel_rate=0.02, **more
    )
    net = network()
    optimizer = optimizer_of(net, settings)
    scheduler = schedule_of(optimizer, settings)
    rates = []
    for _ in range(6):
        stepped(net, optimizer, scheduler=scheduler)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert all(kernel == pytest.approx(20 * rest) for kernel, *others in rates for rest in others)
    assert (len({kernel for kernel, *_ in rates}) > 1) == (schedule != "constant")


def test_a_training_goes_on_from_the_state_of_both():
    settings = Training(optimizer="muon", steps=6)
    whole, cut, resumed = network(), network(), network()
    optimizer = optimizer_of(whole, settings)
    scheduler = schedule_of(optimizer, settings)
    stepped(whole, optimizer, 2, scheduler, seed=1)
    expected = stepped(whole, optimizer, 2, scheduler, seed=2)
    optimizer = optimizer_of(cut, settings)
    scheduler = schedule_of(optimizer, settings)
    stepped(cut, optimizer, 2, scheduler, seed=1)
    state = optimizer.state_dict(), scheduler.state_dict()
    resumed.load_state_dict(cut.state_dict())
    optimizer = optimizer_of(resumed, settings)
    scheduler = schedule_of(optimizer, settings)
    optimizer.load_state_dict(state[0])
    scheduler.load_state_dict(state[1])
    assert torch.equal(stepped(resumed, optimizer, 2, scheduler, seed=2), expected)


def test_a_network_without_kernels_trains_by_adamw():
    assert isinstance(optimizer_of(torch.nn.Linear(3, 2), Training(optimizer="muon")), AdamW)


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_steps_without_the_compiler_are_those_of_pytorch(name, monkeypatch):
    def trained():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
        settings = Training(optimizer=name, steps=6)
        optimizer = optimizer_of(network, settings)
        schedule = schedule_of(optimizer, settings)
        for _ in range(5):
            optimizer.zero_grad()
            network(torch.randn(3, 1, 8, 8)).square().sum().backward()
            optimizer.step()
            schedule.step()
        return [weight.detach().clone() for weight in network.parameters()]

    ours = trained()
    monkeypatch.setattr(optimizers, "_AdamW", torch.optim.AdamW)
    monkeypatch.setattr(optimizers, "_SGD", torch.optim.SGD)
    assert all(map(torch.equal, ours, trained()))


def test_a_training_does_not_load_the_compiler():
    """It would take a second of each process."""
    script = (
        "import sys, torch; from fewshot.config import Training; from fewshot.optimizers import optimizer_of;"
        "network = torch.nn.Conv2d(1, 4, 3);"
        "optimizer = optimizer_of(network, Training(optimizer='muon'));"
        "optimizer.zero_grad(); network(torch.ones(1, 1, 8, 8)).sum().backward(); optimizer.step();"
        "optimizer.load_state_dict(optimizer.state_dict()); print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
