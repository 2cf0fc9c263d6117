"""Any loss and miner of pytorch-metric-learning, by their names there."""

import functools
import inspect
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.errors import unknown_name
from fewshot.backbones.base import Backbone
from fewshot.learners.base import OpenVariants, Traits
from fewshot.learners.directions import DirectionLearner
from fewshot.learners.registry import register


@register("metric")
class Metric(DirectionLearner):
    """Any loss of pytorch-metric-learning, with a miner or without.

    The variant is LOSS or LOSS+MINER, class names of that library, with its default arguments: any loss that trains on
    labelled images and needs no others. Weights of the loss, such as proxies, are trained with the network. A
    query goes to the class with the most similar mean direction: nearly all of these losses compare directions.
    """

    variants = OpenVariants(
        {
            "MultiSimilarityLoss+MultiSimilarityMiner": Traits(
                paper="Musgrave et al. 2020", needs=("pytorch_metric_learning",)
            )
        },
        lambda variant: _check(variant),
    )
    batches = ClassBatches(classes=60, images=4)

    def __init__(self, backbone: Backbone, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        self.criterion, self.miner = _made(self.variant, classes, backbone.embedding_size)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embed(images)
        return self.criterion(embeddings, labels, self.miner(embeddings, labels) if self.miner else None)


def _check(variant: str) -> None:
    """Raise InputError if the library has no such loss or miner, or one that cannot train here."""
    loss, plus, miner = variant.partition("+")
    for kind, name in [("loss", loss), *([("miner", miner)] if plus else [])]:
        known = {key: _lacking(one) for key, one in _classes(kind).items()}
        if name not in known:
            raise unknown_name(f"{kind} of pytorch-metric-learning", name, [key for key in known if not known[key]])
        if known[name]:
            raise InputError(
                f"metric:{variant} cannot be: {name} has no default for {' and '.join(known[name])}; name another"
                f" {kind}, or make it in a learner of your own"
            )
    if fault := _fault(variant):
        raise InputError(f"metric:{variant} cannot train on batches of labelled images, the library says '{fault}'")


@functools.cache
def _classes(kind: str) -> dict[str, type[nn.Module]]:
    """The classes of a kind, 'loss' or 'miner', by name."""
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError as error:
        raise InputError("metric needs the package pytorch-metric-learning: pip install 'fewshot[metric]'") from error
    module: ModuleType = losses if kind == "loss" else miners
    found = inspect.getmembers(module, inspect.isclass)
    found = [(name, one) for name, one in found if name.endswith(kind.capitalize()) and not name.startswith("Base")]
    return {name: one for name, one in found if issubclass(one, nn.Module)}


def _required(cls: type) -> list[str]:
    """The arguments without which `cls` cannot be made: its own, or those of the base class that it passes them to."""
    for one in cls.__mro__:
        if "__init__" not in vars(one):
            continue
        parameters = list(inspect.signature(vars(one)["__init__"]).parameters.values())[1:]
        if not any(each.kind is each.VAR_POSITIONAL for each in parameters):
            return [
                each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD
            ]
    return []


def _lacking(cls: type) -> list[str]:
    """The required arguments that a learner cannot give."""
    return [argument for argument in _required(cls) if argument not in _sizes(0, 0)]


def _sizes(classes: int, embedding_size: int) -> dict[str, int]:
    """The arguments that a learner can give, by the library's names."""
    return {"num_classes": classes, "embedding_size": embedding_size, "descriptors_dim": embedding_size}


def _made(variant: str, classes: int, embedding_size: int) -> tuple[nn.Module, nn.Module | None]:
    """The loss, and the miner, None if the variant names none."""
    loss, _, miner = variant.partition("+")
    known = [_classes("loss")[loss], *([_classes("miner")[miner]] if miner else [])]
    sizes = _sizes(classes, embedding_size)
    made = [cls(**{argument: sizes[argument] for argument in _required(cls)}) for cls in known]
    return made[0], made[1] if miner else None


@functools.cache
def _fault(variant: str) -> str:
    """The error that a loss raises in two steps on toy embeddings, '' if the loss raises none.

    Only the code of a loss says whether the loss takes labels, a miner and a second step.
    """
    labels = torch.arange(4).repeat_interleave(4)
    with torch.random.fork_rng(devices=[]):
        embeddings = functional.normalize(torch.randn(16, 8), dim=1).requires_grad_()
        try:
            criterion, miner = _made(variant, 4, 8)
            for _ in range(2):
                criterion(embeddings, labels, miner(embeddings, labels) if miner else None).backward()
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            return f"{' '.join(str(error).split()) or type(error).__name__:.100}"
    return ""
