"""ModelSpec: what one trained model is, in memory and in its checkpoint, and how its learner is built from it."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pydantic
import torch
from pydantic import BaseModel, ConfigDict, Field

from episodes import FeatureBank, ImageBank, ReadingOptions, class_texts
from episodes.errors import InputError
from fewshot import outside
from fewshot.backbones import find_backbone, make_backbone
from fewshot.config import Seed, Training, Validation
from fewshot.learners.base import Learner, resolved
from fewshot.learners.registry import checked_options, split_backbone, traits_of
from fewshot.provenance import same_code

_IN_CHECKPOINT = {"asked": "learner", "learner": "name"}  # fields that checkpoints call by other names
# by other fields: the checksums of the images, the settings, the digest of the weights
_COVERED = {
    *("class_names", "fit", "inverted", "min_images", "skip_damaged", "shot", "trained_on", "outside_classes"),
    "starts_from",
}


class ModelSpec(BaseModel):
    """One model: everything that its weights depend on besides the machine, and what its learner is built from.

    asked         the learner as it was asked for: NAME, NAME:VARIANT or FILE.py:CLASS, each with @BACKBONE or without
    learner       its name, as tables have it; variant: one of its class's, '' if the class has none
    shot          the one test shot that the model is for, 0 if it is for all
    dataset       the full name of the data set that it was trained on
    held_out      images of each base class that were kept from training
    data          the checksums of the images that it was trained and validated on
    channels, size, fit, inverted   how its images were prepared: see ImageBank, which has the last two
    min_images, skip_damaged   what was left out of its folder of images: see episodes.ReadingOptions
    classes       how many base classes it was made for, or base images if it learns without labels
    class_names   the texts of the base classes (episodes.class_texts); empty in checkpoints of older versions
    settings      of its training; validation: the episodes that chose its checkpoint
    weights       a digest of the file that its backbone started from, '' for none
    base_weights  whether these weights are proven to come from the images of its own base classes alone
    starts_from   the learners that trained such weights, the last one at the end; '' for none, and in checkpoints of
                  older versions
    trained_on    the data that its backbone's weights, or the encoder of its features, were trained on, besides its
                  base classes; '' for none, and in checkpoints of older versions
    outside_classes   texts of the known classes of these data
    published_means  whether its backbone standardises colours as its library says for the published weights, and not by
                  ImageNet's means, as in checkpoints of older versions
    source, code, packages   what trained it: see fewshot/provenance.py; empty in checkpoints of older versions
    """

    model_config = ConfigDict(strict=True, frozen=True)

    asked: Annotated[str, Field(min_length=1)]
    learner: Annotated[str, Field(min_length=1)]
    variant: str
    seed: Seed
    shot: Annotated[int, Field(ge=0, le=10_000)] = 0
    dataset: Annotated[str, Field(min_length=1)]
    held_out: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    data: list[str] = []
    channels: Annotated[int, Field(ge=1, le=100_000)]
    size: Annotated[int, Field(ge=1, le=1024)]
    fit: str = ""
    inverted: bool | None = None
    min_images: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    skip_damaged: bool = False
    classes: Annotated[int, Field(ge=1, le=2_000_000)]
    class_names: tuple[str, ...] = ()
    settings: Training
    validation: Validation = Validation()
    weights: str = ""
    base_weights: bool = False
    starts_from: str = ""
    trained_on: str = ""
    outside_classes: tuple[str, ...] = ()
    published_means: bool = False
    source: str = ""
    code: str = ""
    packages: dict[str, str] = {}

    @classmethod
    def of(cls, learner: type[Learner], bank: ImageBank, settings: Training, **more: Any) -> "ModelSpec":
        """A model of the class `learner` for the base classes of `bank`, trained with `settings`.

        more: other fields; by default the first variant and seed 0.
        """
        variant, traits = resolved(learner, more.pop("variant", ""))
        known = {
            "asked": learner.name,
            "learner": learner.name,
            "variant": variant,
            "seed": 0,
            "dataset": bank.dataset,
            "channels": bank.images.shape[1],
            "size": bank.images.shape[2],
            "fit": bank.fit,
            "inverted": bank.inverted,
            "classes": bank.classes if traits.uses_labels else len(bank),
            "class_names": class_texts(bank),
            "trained_on": bank.trained_on if isinstance(bank, FeatureBank) else "",
            "settings": Training.model_validate(settings.model_dump(include=set(Training.model_fields))),
        }
        return cls(**{**known, **more})

    @classmethod
    def from_checkpoint(cls, content: dict[str, Any], path: Path) -> "ModelSpec":
        """The model that the checkpoint `path` of this content holds; fields that older versions did not write have
        their defaults. InputError if bench and train do not write such a content."""
        about = content["about"]
        try:
            renamed = {field: about[name] for field, name in _IN_CHECKPOINT.items() if name in about}
            return cls.model_validate({**about, "asked": None, "learner": None, **renamed})
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field, *inside = map(str, first["loc"])
            place = ".".join([_IN_CHECKPOINT.get(field, field), *inside])
            raise InputError(
                f"{path} does not say what learner it is of ({place}: {first['msg'].lower()}): it was not written by"
                " bench or train, or has been altered since"
            ) from error

    def to_checkpoint(self) -> dict[str, Any]:
        """What a checkpoint says of the model, as plain data: the content under its key 'about'."""
        return {_IN_CHECKPOINT.get(name, name): value for name, value in self.model_dump().items()}

    @property
    def backbone(self) -> str:
        return self.settings.backbone

    @property
    def reading(self) -> ReadingOptions:
        """What was left out of the folder of images that the model was trained on."""
        return ReadingOptions(self.min_images, self.skip_damaged)

    @property
    def row(self) -> tuple[str, str, str, int]:
        """The values that identify the model's rows: learner, variant, backbone and seed."""
        return self.learner, self.variant, self.backbone, self.seed

    @property
    def name(self) -> str:
        """'siamese-koch-seed0': of its folder and of its arrays; with the backbone if that was asked for."""
        return model_name(self.asked, self.learner, self.variant, self.shot, self.seed)

    @property
    def label(self) -> str:
        """'siamese (koch), seed 0': what messages call it."""
        variant = f" ({self.variant})" if self.variant else ""
        return ", ".join([f"{self.learner}{variant}", *_marks(self.asked, self.shot), f"seed {self.seed}"])

    @property
    def saw_other_data(self) -> bool:
        """Whether the model started from weights that are not proven to come from its own base classes alone."""
        return bool(self.outside_data)

    @property
    def outside_data(self) -> str:
        """`trained_on`, or 'unknown' if an older version wrote the checkpoint of weights from elsewhere."""
        return self.trained_on or (outside.UNKNOWN if self.weights and not self.base_weights else "")

    def elsewhere(self) -> "ModelSpec":
        """The same model for another data set, whose test classes may be among its base classes: these count as data
        from outside, too."""
        return self.model_copy(
            update={
                "trained_on": outside.joined(self.outside_data, self.dataset),
                "outside_classes": (*self.outside_classes, *self.class_names),
            }
        )

    def build(self, cls: type[Learner]) -> Learner:
        """A fresh learner of class `cls`, with the weights that its seed gives and the names of its base classes.

        The learner is external if its class is, or if the model started from weights of other data. InputError if the
        class cannot be made with these options.
        """
        torch.manual_seed(self.seed)
        backbone = make_backbone(self.backbone, self.channels, self.size)
        if self.published_means:
            backbone.standardise_as_published()
        options = self.settings.options
        try:
            learner = cls(backbone, self.classes, variant=self.variant, **options)
        except TypeError as error:
            if error.__traceback__ and error.__traceback__.tb_next is not None:  # raised inside of the __init__
                raise
            raise InputError(
                f"{cls.name} cannot be made ({error}): its __init__ must take backbone, classes, variant='' and the"
                f" options {options}"
            ) from error
        external = learner.traits.external or self.saw_other_data
        learner.traits = dataclasses.replace(learner.traits, external=external)
        if learner.traits.text:
            learner.class_names = self.class_names
        return learner

    def check_fits(self, cls: type[Learner], path: Path) -> None:
        """InputError if no learner of class `cls` can be built from the checkpoint `path` of this model."""
        try:
            traits_of(cls, self.variant)
            find_backbone(self.backbone)
            checked_options(cls, self.settings.options)
        except InputError as error:
            raise InputError(f"{path} does not fit {cls.name}: {error}") from error

    def changes(self, before: "ModelSpec") -> set[str]:
        """What differs between this model and `before`, by the names that checkpoints have for it.

        Code and packages that an older version did not write are unknown, and so differ.
        """
        fields = [name for name in type(self).model_fields if name not in _COVERED]
        other = [name for name in fields if not same_code(getattr(before, name), getattr(self, name))]
        return {_IN_CHECKPOINT.get(name, name) for name in other}


def model_name(asked: str, learner: str, variant: str, shot: int, seed: int) -> str:
    """The name of a model: see ModelSpec, whose fields these are."""
    return "-".join([learner, *filter(None, [variant]), *_marks(asked, shot), f"seed{seed}"])


def _marks(asked: str, shot: int) -> list[str]:
    """What distinguishes a model from others of its learner: the backbone that was asked for, and its one shot."""
    backbone = split_backbone(asked)[1].replace(":", "-")
    return [*filter(None, [backbone]), *([f"{shot}shot"] if shot else [])]
