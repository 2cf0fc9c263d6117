"""Any loss and miner of pytorch-metric-learning, by their names there."""

import functools
import inspect
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.errors import unknown_name
from fewshot.learners.base import Learner
from fewshot.learners.registry import register


@register("metric")
class Metric(Learner):
    """Any loss of pytorch-metric-learning, with a miner or without.

    The variant is LOSS or LOSS+MINER, class names of that library, with its default arguments. What a loss learns of
    its own, such as proxies, is trained with the network. A query goes to the class with the most similar mean
    direction: nearly all of these losses compare directions.
    """

    paper = "Musgrave et al. 2020"
    variants = ("MultiSimilarityLoss+MultiSimilarityMiner",)
    batches = ClassBatches(classes=60, images=4)

    def __init__(self, backbone: nn.Module, classes: int, variant: str = "") -> None:
        super().__init__(backbone, classes, variant)
        loss, _, miner = self.variant.partition("+")
        sizes = {"num_classes": classes, "embedding_size": backbone.embedding_size}
        self.criterion = _made("loss", loss, sizes)
        self.miner = _made("miner", miner, sizes) if miner else None

    @classmethod
    def check_variant(cls, variant: str) -> None:
        loss, plus, miner = variant.partition("+")
        for kind, name in [("loss", loss), *([("miner", miner)] if plus else [])]:
            if name not in _classes(kind):
                raise unknown_name(f"{kind} of pytorch-metric-learning", name, _classes(kind))

    @classmethod
    def missing(cls, backbone: str, weights: str, **options: Any) -> str:
        try:
            _classes("loss")
        except InputError as error:
            return str(error)
        return ""

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.embed(images)
        return self.criterion(embeddings, labels, self.miner(embeddings, labels) if self.miner else None)

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        return query @ functional.normalize(support.mean(2), dim=2).mT


@functools.cache
def _classes(kind: str) -> dict[str, type[nn.Module]]:
    """The classes of a kind, 'loss' or 'miner', by name: those that need no other loss to be made."""
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError as error:
        raise InputError("metric needs the package pytorch-metric-learning: pip install 'fewshot[metric]'") from error
    module: ModuleType = losses if kind == "loss" else miners
    ending = "Loss" if kind == "loss" else "Miner"
    found = {name: one for name, one in inspect.getmembers(module, inspect.isclass) if name.endswith(ending)}
    known = {"num_classes", "embedding_size"}
    return {name: one for name, one in found.items() if not name.startswith("Base") and set(_required(one)) <= known}


def _required(cls: type) -> list[str]:
    """The arguments without which it cannot be made."""
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls).parameters.values()
    return [one.name for one in parameters if one.default is one.empty and one.kind not in fixed]


def _made(kind: str, name: str, sizes: dict[str, Any]) -> nn.Module:
    cls = _classes(kind)[name]
    return cls(**{argument: sizes[argument] for argument in _required(cls)})
