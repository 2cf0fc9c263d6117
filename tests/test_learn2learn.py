"""The learn2learn that the Makefile builds works with the installed Python and PyTorch."""

import torch


def test_its_maml_adapts_a_clone_and_leaves_the_original():
    import learn2learn

    model = torch.nn.Linear(3, 1)
    before = model.weight.clone()
    maml = learn2learn.algorithms.MAML(model, lr=0.1)
    clone = maml.clone()
    inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
    error = torch.nn.functional.mse_loss
    first = error(clone(inputs), targets)
    clone.adapt(first)
    second = error(clone(inputs), targets)
    second.backward()
    assert second < first
    assert torch.equal(model.weight, before)
    assert model.weight.grad.abs().sum() > 0
