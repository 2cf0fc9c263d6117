"""scikit-learn's own checks of estimators, on a Classifier of images that are drawn from the rows of a table."""

import numpy as np
import pytest
import torch
from conftest import toy_bank
from scipy.special import expit
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_array

from fewshot import Classifier
from fewshot.config import Training
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.loading import LoadedModel
from fewshot.models import ModelSpec

EXCEPTIONS = {
    "check_methods_subset_invariance": "asks for probabilities that agree to 1e-7, and scores are float32: the product"
    " of two matrices rounds otherwise if one has fewer rows; the answers agree"
}


class Rows(Classifier):
    """Each row of F numbers becomes a picture of F vertical stripes; rows of another length are refused."""

    def fit(self, X, y):
        pictures = stripes(X)
        super().fit(pictures, y)
        self.n_features_in_ = pictures.shape[2]
        return self

    def scores(self, X):
        pictures = stripes(X)
        if pictures.shape[2] != self.n_features_in_:
            told = f"X has {pictures.shape[2]} features, but Rows is expecting {self.n_features_in_} features as input"
            raise ValueError(told)
        return super().scores(pictures)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


def stripes(X) -> np.ndarray:
    rows = expit(check_array(X))
    return rows[:, None].repeat(rows.shape[1], axis=1)


@pytest.fixture(autouse=True)
def _pixels(monkeypatch):
    """The model of every Classifier is nearest-pixel."""
    spec = ModelSpec.of(NearestPixel, toy_bank(), Training(backbone="pixels"))
    model = LoadedModel(spec.build(NearestPixel).eval(), spec, torch.device("cpu"), has_validation=False)
    monkeypatch.setattr("fewshot.classifier.load", lambda *_: model)


@parametrize_with_checks([Rows("best.pt", temperature=1.0)])
@pytest.mark.filterwarnings("ignore")
def test_the_estimator_keeps_the_promises_of_scikit_learn(estimator, check):
    name = getattr(check, "func", check).__name__
    if name in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[name])
    check(estimator)
