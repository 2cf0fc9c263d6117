"""Every learner answers the same by `evaluate`, by Classifier and by `fewshot predict`, on characters and pictures.

Pictures are asked of every variant, characters of the first variant of each learner: how images are prepared does not
depend on the variant.
"""

from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, write_files
from same_answers import CLASSES, IMAGES, check_same_answers, few

from episodes import ImageBank, load_dataset
from fewshot.config import Training
from fewshot.embedding import EmbeddedBank
from fewshot.learners.registry import default_options, suite_learners
from fewshot.models import ModelSpec
from fewshot.testing.specimen import Specimen, specimens

_BACKBONE = "conv4-32-linear"


@pytest.fixture(scope="module")
def omniglot(real_data) -> tuple[ImageBank, None]:
    """Twelve characters of Omniglot's test classes."""
    return few(load_dataset("omniglot", "test", data=real_data)), None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[ImageBank, Path]:
    """A folder of photographs of many sizes, each class of one colour, with noise, and the folder's path."""
    random, files = np.random.default_rng(0), {}
    for label in range(CLASSES):
        colour = random.integers(0, 160, 3)
        for number in range(IMAGES):
            noise = random.integers(0, 96, (*random.integers(16, 40, 2), 3))
            files[f"kind {label:02d}/{number}.jpg"] = encoded((colour + noise).astype(np.uint8), "JPEG")
    folder = write_files(tmp_path_factory.mktemp("same") / "pictures", files)
    return few(load_dataset(str(folder), "all", size=20)), folder


def check(specimen: Specimen, bank: ImageBank, folder: Path, source: Path | None) -> None:
    """Trains two steps on the bank itself, and compares the answers."""
    if specimen.missing:
        pytest.skip(specimen.missing)
    specimen.train_bank = bank
    learner = specimen.build()
    if specimen.traits.trains:
        specimen.train(learner, steps=2)
    learner.begin_validation(EmbeddedBank(learner, bank))
    settings = Training(backbone=specimen.backbone, options=default_options(specimen.cls))
    spec = ModelSpec.of(specimen.cls, bank, settings, variant=specimen.variant)
    check_same_answers(learner, spec, bank, folder, source)


@pytest.mark.training
@pytest.mark.parametrize("specimen", [specimens(name, _BACKBONE)[0] for name in suite_learners()], ids=str)
def test_characters_get_the_same_answers_by_evaluate_classifier_and_predict(specimen, omniglot, tmp_path, short_fits):
    bank, source = omniglot
    check(specimen, bank, tmp_path, source)


@pytest.mark.training
@pytest.mark.parametrize("specimen", [one for name in suite_learners() for one in specimens(name, _BACKBONE)], ids=str)
def test_pictures_get_the_same_answers_by_evaluate_classifier_and_predict(specimen, pictures, tmp_path, short_fits):
    bank, source = pictures
    check(specimen, bank, tmp_path, source)
