"""Any classifier of scikit-learn, fitted to the embeddings of each episode."""

import functools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from episodes.errors import InputError, unknown_name
from fewshot.devices import exact
from fewshot.heads import on_counted
from fewshot.learners.base import OpenVariants, Traits
from fewshot.learners.linear_classifier import LinearClassifier
from fewshot.learners.registry import register


@register("sklearn")
class SklearnHead(LinearClassifier):
    """A classifier's embeddings of length one; sklearn:ESTIMATOR fits that one of scikit-learn.

    A linear classifier of the base classes is trained. The estimator is any classifier of scikit-learn that can be
    made without arguments; it is fitted to the support embeddings, episode by episode. Logistic regression, the
    default, is that of Tian et al. 2020, who fit it to distorted copies of the support images too. The scores are the
    estimator's decision function, or its probabilities if it has no decision function. An estimator that draws random
    numbers draws the same numbers in every episode, and may therefore prefer some positions of classes.
    """

    variants = OpenVariants(
        {"LogisticRegression": Traits(fits_episodes=True, paper="Tian et al. 2020")}, lambda name: _check(name)
    )

    def embed(self, images: Tensor) -> Tensor:
        return functional.normalize(self.backbone(images), dim=1)

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return on_counted(self._fitted, support, mask, query)

    def _fitted(self, images: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        classes = labels.argmax(-1).expand(images.shape[:2])
        episodes = zip(*(part.cpu().numpy() for part in (exact(images.detach()), exact(query.detach()), classes)))
        scores = np.stack([_scores(self.variant, *episode) for episode in episodes])
        return torch.from_numpy(scores).to(query)


def _check(name: str) -> None:
    """Raise InputError if scikit-learn has no such classifier, or one that cannot be made or gives no scores."""
    if name not in _estimators():
        raise unknown_name("variant of sklearn", name, _estimators())
    _made(name)


@functools.cache
def _estimators() -> dict[str, type]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.utils import all_estimators  # takes seconds, since it imports all of scikit-learn

        return dict(all_estimators(type_filter="classifier"))


def _made(name: str) -> Any:
    """A fresh estimator, seeded if it draws random numbers; InputError if it needs arguments or gives no scores."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a warning that a later version removes the estimator
            estimator = _estimators()[name]()
    except TypeError as error:
        raise InputError(f"sklearn:{name} cannot be made without arguments: choose another estimator") from error
    if not any(hasattr(estimator, method) for method in ("decision_function", "predict_proba")):
        raise InputError(f"sklearn:{name} gives neither decisions nor probabilities: choose another estimator")
    return estimator.set_params(random_state=0) if "random_state" in estimator.get_params() else estimator


def _scores(name: str, images: np.ndarray, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores (Q, N) of the queries (Q, D) by the estimator fitted to the images (M, D); InputError if fitting fails."""
    sizes, estimator = np.bincount(labels), _made(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a warning that a solver has not converged
            estimator.fit(images, labels)
            score = getattr(estimator, "decision_function", None) or estimator.predict_proba
            scores = score(queries)
    except Exception as error:  # each estimator refuses in its own way
        reason = " ".join(str(error).split())
        shots = " to ".join(map(str, sorted({sizes.min(), sizes.max()})))
        raise InputError(
            f"sklearn:{name} cannot be fitted to {len(sizes)} classes of {shots} images ({reason:.200}): choose"
            " another estimator, or other ways and shots"
        ) from error
    if scores.ndim == 1:  # of two classes, the margin of the second
        scores = np.stack([-scores, scores], 1)
    if not np.isfinite(scores).all():
        raise InputError(f"sklearn:{name} gives scores that are not finite numbers: choose another estimator")
    return scores
