"""Classifier: a few-shot model as an estimator of scikit-learn, from a few pictures of each class."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from episodes import InputError
from episodes.errors import counted
from fewshot.answers import NONE, numbered_support, scores
from fewshot.confidence import confidence
from fewshot.embedding import embedded
from fewshot.loading import load
from fewshot.preparation import Images, pixels_of


class Classifier(ClassifierMixin, BaseEstimator):
    """Answers pictures by a few pictures of each class, without training other than the learner's fit to an episode.

    model        best.pt of a run, or a backbone that comes with weights
    learner      see fewshot.load
    temperature  scores are divided by it before the softmax; None: chosen on validation classes by `fit`
    reject       the share of pictures of known classes that may be refused, in (0, 0.5]: `predict` answers a refused
                 picture with 'none of these'. None: no picture is refused
    device       'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'
    data         the folder of the data sets, for the validation classes; None: $FEWSHOT_DATA
    seed         of the numbers that a learner draws

    Images are a sequence of paths, Pillow images or arrays (H, W) or (H, W, C); an array (B, H, W) or (B, H, W, C); or
    a tensor (B, C, H, W) that is prepared already: see preparation.pixels_of. Classes may have different numbers of
    images: see unequal_scores. A transductive learner sees all images of one call together.

    After `fit`: classes_ (N,), the labels in ascending order; calibration_, a Calibration; model_, a LoadedModel;
    support_, the pictures as an ImageBank.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        learner: str = "",
        temperature: float | None = None,
        reject: float | None = None,
        device: str = "auto",
        data: str | os.PathLike | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.learner = learner
        self.temperature = temperature
        self.reject = reject
        self.device = device
        self.data = data
        self.seed = seed

    def fit(self, images: Images, labels: ArrayLike) -> "Classifier":
        """Takes the support set: M images and their labels (M,), of 2 classes or more. Raises InputError for others."""
        given = column_or_1d(labels, warn=True)
        check_classification_targets(given)
        if len(given) != len(images):
            raise InputError(
                f"each image needs one label: {counted(len(images), 'image')} came with {counted(len(given), 'label')}"
            )
        classes, numbers = np.unique(given, return_inverse=True)
        if self.reject is not None and NONE in classes:
            raise InputError(f"no class may be called '{NONE}' if pictures are refused: rename it")
        model = load(self.model, self.device, self.learner)
        names = [str(name) for name in classes]
        self.support_ = numbered_support(pixels_of(images, model.spec), torch.from_numpy(numbers), names)
        self.model_, self.classes_ = model, classes
        self._embedded = embedded(model.learner, self.support_)
        self.calibration_ = confidence(model, self._embedded, self.reject, self.temperature, self.data)
        return self

    def scores(self, images: Images) -> NDArray[np.float64]:
        """The learner's scores (B, N) of B images for the classes `classes_`, as an evaluation counts them."""
        check_is_fitted(self)
        pixels = pixels_of(images, self.model_.spec)
        return scores(self.model_.learner, self._embedded, pixels, self.seed).numpy().astype(np.float64)

    def predict_proba(self, images: Images) -> NDArray[np.float64]:
        """Probabilities (B, N) of B images for the classes `classes_`."""
        check_is_fitted(self)
        return self.calibration_.probabilities(self.scores(images))

    def predict(self, images: Images) -> NDArray[Any]:
        """The answers (B,): labels as `fit` was given them, and 'none of these' for pictures that are refused."""
        check_is_fitted(self)
        found = self.scores(images)
        answers = self.classes_[found.argmax(axis=1)]
        if self.reject is None:
            return answers
        answers = answers.astype(object)
        answers[self.calibration_.refused(found)] = NONE
        return answers

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "calibration_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags
