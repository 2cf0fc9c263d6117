"""load: a trained model, ready to be used on pictures from anywhere."""

import dataclasses
import os
from pathlib import Path

import torch
from torch import Tensor

from episodes import ImageBank, InputError, load_dataset
from episodes.datasets import full_name
from fewshot import checkpoints
from fewshot.backbones import BACKBONES, PRETRAINED, find_backbone
from fewshot.config import Training
from fewshot.devices import choose_device, prepare
from fewshot.embedding import EmbeddedBank, check_channels
from fewshot.learners import Learner, find_learner
from fewshot.learners.registry import default_options, split_backbone
from fewshot.models import ModelSpec
from fewshot.preparation import Images, pixels_of

HEAD = "simpleshot:l2n"  # of a backbone that comes without a learner: the nearest mean of directions, nothing to train
SIZE = 224  # pixels of the images that published weights were trained on


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A learner in eval mode on its device, and its ModelSpec.

    has_validation: whether `spec.dataset` names a data set whose validation classes chose its checkpoint, as for all
    models that this suite trained; a backbone that comes with weights has none
    """

    learner: Learner
    spec: ModelSpec
    device: torch.device
    has_validation: bool

    def prepare(self, images: Images) -> Tensor:
        """Images as the network takes them, (B, C, H, W) float32 in [0, 1]: see preparation.pixels_of."""
        return pixels_of(images, self.spec).float().div_(255)

    def embed(self, images: Images) -> Tensor:
        """Embeddings (B, D) float32 of images, on the CPU."""
        pixels = pixels_of(images, self.spec)
        bank = ImageBank(pixels, torch.tensor([0, len(pixels)]), ("",), ("",))
        return EmbeddedBank(self.learner, bank).embeddings.cpu()


def load(path: str | os.PathLike, device: str = "auto", learner: str = "") -> LoadedModel:
    """The model of a checkpoint (best.pt), or of a backbone that comes with weights, such as 'efficientnet-lite0'.

    device   'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'
    learner  of a checkpoint: FILE.py:CLASS if its learner is in a file, which runs that file's code; of a backbone: the
             learner that uses the embeddings, by default simpleshot:l2n

    Raises InputError if there is neither such a file nor such a backbone, or if the file is no checkpoint.
    """
    chosen = choose_device(device)
    prepare(chosen)
    by_name = _is_backbone(path)
    spec, built = _with_backbone(str(path), learner or HEAD) if by_name else open_checkpoint(Path(path), learner)
    return LoadedModel(built.to(chosen).eval(), spec, chosen, has_validation=not by_name)


def open_checkpoint(path: Path, learner: str = "", dataset: str = "") -> tuple[ModelSpec, Learner]:
    """What the checkpoint at `path` says of its model, and its learner with the trained weights, on the CPU.

    learner: FILE.py:CLASS or NAME, if the checkpoint's own name of it cannot be trusted or found. dataset: the data set
    that the model is used on, if not its own: see ModelSpec.elsewhere. Raises InputError if the file is no
    checkpoint or its learner is another one or cannot be built.
    """
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    if ".py:" in spec.asked and not learner:
        raise InputError(f"{path} is of the learner {spec.asked}: if you trust that file, name it with --learner")
    cls, variant = find_learner(learner or spec.asked)
    if cls.name != spec.learner or (variant and variant != spec.variant):
        raise InputError(f"{path} is of the learner {spec.asked}, not of {learner}")
    spec.check_fits(cls, path)
    if dataset and full_name(dataset) != spec.dataset:
        spec = spec.elsewhere()
    built = spec.build(cls)
    checkpoints.restore(built, content, path)
    return spec, built


def validation_classes(spec: ModelSpec, data: str | os.PathLike | None = None) -> ImageBank:
    """The validation classes of the data set that a model was trained on.

    data: the folder of the data sets. Raises InputError if they are not here or have changed since.
    """
    bank = load_dataset(spec.dataset, "validation", data=data, size=spec.size, options=spec.reading)
    if spec.data and bank.checksum not in spec.data:
        raise InputError(f"the images of {bank.name} are not those that the model was trained with")
    check_channels(spec.channels, bank.images.shape[1], bank.name)
    return bank


def _is_backbone(name: str | os.PathLike) -> bool:
    return (
        isinstance(name, str) and not Path(name).exists() and (name in BACKBONES or name in PRETRAINED or ":" in name)
    )


def _with_backbone(name: str, learner: str) -> tuple[ModelSpec, Learner]:
    """A learner on a backbone that comes with weights; InputError if the backbone comes without weights."""
    recipe = find_backbone(name)
    if not recipe.trained_on:
        raise InputError(f"the backbone {name} has no weights of its own: name a checkpoint, such as best.pt of a run")
    cls, variant = find_learner(split_backbone(learner)[0])
    spec = ModelSpec(
        asked=f"{split_backbone(learner)[0]}@{name}",
        learner=cls.name,
        variant=variant or next(iter(cls.variants)),
        seed=0,
        dataset=recipe.trained_on,
        trained_on=recipe.trained_on,
        channels=3,
        size=SIZE,
        fit="crop",
        inverted=False,
        classes=1,
        settings=Training(backbone=name, steps=0, options=default_options(cls)),
    )
    return spec, spec.build(cls)
