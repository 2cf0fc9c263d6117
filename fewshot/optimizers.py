"""The optimizers and learning-rate schedules of a training, as its settings name them."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from fewshot.config import Training
from fewshot.devices import training_precision

# PyTorch loads its compiler, which takes a second in each process, only to keep these methods out of compiled code.
# Nothing is compiled here, so they are called as they are; a later PyTorch that does otherwise loses the second alone.
for _method in (Optimizer.add_param_group, Optimizer.load_state_dict, Optimizer.state_dict, Optimizer.zero_grad):
    if _plain := getattr(_method, "__wrapped__", None):
        vars(_plain).setdefault("__dynamo_disable", _plain)


class _Eager(Optimizer):
    """Its step, without the part around it that loads the compiler to mark a break in compiled code."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        step = super().step
        bare = inspect.unwrap(step)
        return step(closure) if bare is step else bare(self, closure)


class _AdamW(_Eager, AdamW):
    pass


class _SGD(_Eager, SGD):
    pass


def optimizer_of(module: nn.Module, settings: Training) -> Optimizer:
    """The optimizer of all weights of `module` that require a gradient.

    Weight decay holds for weight matrices and kernels, not for biases, norms and temperatures.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    muon = settings.optimizer == "muon"
    kernels = [p for p in parameters if muon and p.ndim == 4]
    others = [p for p in parameters if not (muon and p.ndim == 4)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]] or groups[:1]  # one is needed, even an empty one
    if settings.optimizer == "sgd":
        return _SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True)
    on_gpu = bool(parameters) and parameters[0].is_cuda
    adamw = _AdamW(groups, settings.learning_rate, fused=on_gpu)  # one kernel for all weights, not several for each
    return MuonAndAdamW(kernels, adamw, settings.kernel_rate, settings.weight_decay) if kernels else adamw


def schedule_of(optimizer: Optimizer, settings: Training) -> LRScheduler:
    """The schedule of the learning rates of `optimizer`, which changes them after each step."""
    if settings.schedule == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # Muon has no betas and AdamW no momentum, so that one scheduler cannot cycle both; one step more than there
        # are, since the scheduler steps after the last one too
        both = isinstance(optimizer, MuonAndAdamW)
        return OneCycleLR(optimizer, rates, total_steps=settings.steps + 1, cycle_momentum=not both)
    if settings.schedule == "halving":
        return StepLR(optimizer, settings.halve_every, gamma=0.5)
    if settings.schedule == "milestones":
        factors = sorted((int(step), factor) for step, factor in settings.milestones.items())
        return LambdaLR(optimizer, lambda step: next((f for at, f in reversed(factors) if step >= at), 1.0))
    return ConstantLR(optimizer, factor=1.0)


class MuonAndAdamW(Optimizer):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, and AdamW for all other weights.

    Muon moves a weight matrix by its momentum made orthogonal: each kernel (out, in, height, width) is the matrix
    (out, in * height * width), as in Jordan's code. The rate of a kernel is `rate` times the square root of
    max(1, out / (in * height * width)).
    """

    def __init__(self, kernels: Iterable[nn.Parameter], adamw: AdamW, rate: float, weight_decay: float) -> None:
        """kernels: none of the weights of `adamw`. Their storage must stay where it is."""
        self._kernels = list(kernels)
        self._matrices = [nn.Parameter(_matrix(kernel, kernel)) for kernel in (one.detach() for one in self._kernels)]
        native = training_precision("auto", self._kernels[0].device) is torch.bfloat16
        kind = Muon if native else Float32Muon
        self._muon = kind(self._matrices, rate, weight_decay, momentum=0.9, adjust_lr_fn="original")
        self._adamw = adamw
        # the groups of both, not copies of them: a scheduler changes the rates of both
        super().__init__([*self._muon.param_groups, *adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        for matrix, kernel in zip(self._matrices, self._kernels):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad, kernel)
        self._muon.step()
        self._adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self._kernels:
            kernel.grad = None
        self._adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]


class Float32Muon(Muon):
    """PyTorch's Muon with its Newton-Schulz steps in float32.

    PyTorch takes them in bfloat16, for which a CPU that does not compute so natively needs 17 times as long: a fifth of
    the time of a training in batches of 128 images. Rates are adjusted by "original" alone.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(momentum, group["momentum"])  # Nesterov's
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = matrix.shape
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                matrix.add_(_orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"]), alpha=-rate)


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, least: float) -> Tensor:
    """`matrix` (A, B) with singular values near one, by Newton-Schulz steps (Jordan et al. 2024).

    least: of the norm that it is divided by.
    """
    first, third, fifth = coefficients
    tall = len(matrix) > matrix.shape[1]
    found = matrix.mT if tall else matrix  # the product with its own transpose is then the smaller of the two
    found = found / found.norm().clamp(min=least)
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), found, beta=first)
    return found.mT if tall else found


def _matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """A kernel (out, in, height, width), or its gradient, as a matrix (out, in * height * width).

    The columns are in the order of the memory of `kernel`, so that its own matrix is a view; Muon does the same in any
    order.
    """
    ordered = tensor if kernel.is_contiguous() else tensor.permute(0, 2, 3, 1)
    return ordered.view(len(tensor), -1) if tensor is kernel else ordered.reshape(len(tensor), -1)
