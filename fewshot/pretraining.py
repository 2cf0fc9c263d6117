"""The data that a model has seen besides the base classes of its data set: its first weights tell."""

from pathlib import Path
from typing import Any

from episodes import FeatureBank, ImageBank, InputError
from fewshot import checkpoints
from fewshot.backbones import find_backbone
from fewshot.config import Training
from fewshot.models import ModelSpec


def of_base_classes(weights: str | Path, bank: ImageBank) -> bool:
    """Whether a file of weights is a checkpoint of this suite that was trained on `bank`, the base classes, alone.

    The checkpoint names the checksum of its training images; images of another size have another checksum, and prove
    nothing. A checkpoint that started from other weights passes on what these had seen.
    """
    return bool(begun_by(weights, bank))


def begun_by(weights: str | Path, bank: ImageBank) -> str:
    """The learners that trained a file of weights, one after the other: 'imprinted then prototypical'; '' unless
    of_base_classes holds."""
    spec = _spec_of(Path(weights))
    if spec is None or not _is_of(spec, bank) or spec.saw_other_data:
        return ""
    return " then ".join(filter(None, [spec.starts_from, spec.learner]))


def outside_fields(settings: Training, bank: ImageBank) -> dict[str, Any]:
    """The fields `trained_on` and `outside_classes` of a ModelSpec that trains on `bank` with `settings`.

    Features say what their encoder was trained on, and a checkpoint of this suite says it of its model; for another
    file weights_trained_on says it.
    """
    if isinstance(bank, FeatureBank):
        return {"trained_on": bank.trained_on}
    if not settings.weights:
        return {"trained_on": find_backbone(settings.backbone).trained_on}
    spec = _spec_of(Path(settings.weights))
    if spec is None:
        return {"trained_on": settings.weights_trained_on}
    seen = spec if _is_of(spec, bank) else spec.elsewhere()
    return {"trained_on": seen.outside_data, "outside_classes": seen.outside_classes}


def by_published_means(settings: Training) -> bool:
    """Whether a network of timm that starts from weights standardises colours as timm says for published weights.

    A checkpoint of this suite says itself how its network did.
    """
    if not settings.weights or not settings.backbone.startswith("timm:"):
        return False
    spec = _spec_of(Path(settings.weights))
    return spec is None or spec.published_means


def _spec_of(weights: Path) -> ModelSpec | None:
    """The ModelSpec in a checkpoint of this suite; None for weights of another kind."""
    try:
        return ModelSpec.from_checkpoint(checkpoints.load(weights), weights)
    except InputError:
        return None


def _is_of(spec: ModelSpec, bank: ImageBank) -> bool:
    return spec.data[:1] == [bank.checksum] and bank.checksum != ""
