"""Batch norms whose statistics stand still while the weights of a network adapt to an episode."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from episodes import InputError


class HeldNorm(nn.BatchNorm2d):
    """Batch norm by given statistics; its weights and buffers are those of the nn.BatchNorm2d it stands in for.

    In eval mode the statistics are the running ones. In training mode a batch is normalised by its own statistics, and
    the running ones are updated, as usual; inside `holding`, all batches are normalised by the statistics of the last
    batch before it.
    of_batch: True normalises every batch by its own statistics, in eval mode too, and the running ones stay.

    The formula is written out, because PyTorch's batch norm has no gradients with respect to given statistics.
    """

    of_batch = False
    # None in an nn.BatchNorm2d of other options
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.last: tuple[Tensor, Tensor] | None = None
        self.holds = False

    def forward(self, features: Tensor) -> Tensor:
        if self.of_batch:
            return functional.batch_norm(features, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        elif self.holds and self.last is not None:
            mean, variance = self.last
        else:
            mean, variance = self.last = self._measured(features)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], features, scale[:, None, None])

    def _measured(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of a batch, which the running ones follow."""
        variance, mean = torch.var_mean(features, (0, 2, 3), correction=0)
        with torch.no_grad():
            count = features.numel() // features.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        return mean, variance


def hold_norms(backbone: nn.Module, of_batch: bool = False) -> None:
    """Put a HeldNorm in the place of each batch norm; InputError for other kinds of batch norm."""
    for name, norm in list(backbone.named_modules()):
        if not isinstance(norm, _BatchNorm):
            continue
        if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.running_mean is None or norm.momentum is None:
            raise InputError(
                f"the batch norm {name} is a {type(norm).__name__} whose statistics cannot be held while its network"
                " adapts: choose a backbone with plain batch norms, or anil, which adapts the head alone"
            )
        weight = norm.weight
        held = HeldNorm(norm.num_features, norm.eps, norm.momentum, device=weight.device, dtype=weight.dtype)
        held.load_state_dict(norm.state_dict())
        held.of_batch = of_batch
        backbone.set_submodule(name, held)


@contextlib.contextmanager
def holding(backbone: nn.Module) -> Iterator[None]:
    """Inside, in training mode, batches are normalised by the statistics of the last batch before."""
    norms = [module for module in backbone.modules() if isinstance(module, HeldNorm)]
    for norm in norms:
        norm.holds = True
    try:
        yield
    finally:
        for norm in norms:
            norm.holds, norm.last = False, None
