"""What one trained model is, as its checkpoint says it: one strict model of `about`, and what of it fits a class."""

from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from episodes.errors import InputError
from fewshot.backbones import find_backbone
from fewshot.config import Seed, Training, Validation
from fewshot.learners.base import Learner
from fewshot.learners.registry import checked_options, traits_of


class About(BaseModel):
    """What a checkpoint of bench or train says of its model, besides the weights.

    learner     as it was asked for, with name and variant as the class has them
    data        checksums of the images that it trained and was validated on
    classes     that it was made for: base classes, or base images where it learns without labels
    source      a digest of the file the learner comes from, '' for one of the suite
    weights     a digest of the file its backbone started from, '' for none
    """

    model_config = ConfigDict(strict=True, frozen=True)

    learner: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    variant: str
    seed: Seed
    dataset: Annotated[str, Field(min_length=1)]
    channels: Annotated[int, Field(ge=1, le=16)]
    size: Annotated[int, Field(ge=1, le=1024)]
    classes: Annotated[int, Field(ge=1, le=2_000_000)]
    settings: Training
    validation: Validation = Validation()
    held_out: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    data: list[str] = []
    source: str = ""
    weights: str = ""


def about_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the checkpoint `path` of that content says of its model, with all keys of About; InputError where it is not
    as bench and train write it."""
    try:
        about = About.model_validate(content["about"])
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "about"
        raise InputError(
            f"{path} does not say what learner it is of ({place}: {first['msg'].lower()}): it was not written by bench"
            " or train, or has been altered since"
        ) from error
    return {**content["about"], **about.model_dump()}


def check_fits(cls: type[Learner], about: dict[str, Any], path: Path) -> None:
    """InputError where a learner of class `cls` cannot be made of what the checkpoint `path` says."""
    try:
        traits_of(cls, about["variant"])
        find_backbone(about["settings"]["backbone"])
        checked_options(cls, about["settings"]["options"])
    except InputError as error:
        raise InputError(f"{path} does not fit {cls.name}: {error}") from error
