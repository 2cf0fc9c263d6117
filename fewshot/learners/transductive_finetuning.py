"""Transductive fine-tuning (Dhillon et al. 2020), of the head alone."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fewshot.backbones.base import Backbone
from fewshot.heads import memberships
from fewshot.information import Objective, fitted_prototypes, prototype_logits
from fewshot.learners.base import Traits
from fewshot.learners.episodic import in_parts
from fewshot.learners.linear_classifier import LinearClassifier
from fewshot.learners.registry import register
from fewshot.masks import class_means

_OBJECTIVE = Objective(cross=1.0, marginal=0.0, conditional=1.0)


@register("transductive-finetuning")
class TransductiveFinetuning(LinearClassifier):
    """A linear head fitted to the support labels, and to be sure of each query; the network stays as it is.

    A linear classifier of the base classes is trained, and its embeddings get the length one. The head starts as the
    class means and is fitted to each episode by `steps` steps of Adam with the rate `rate` (Dhillon et al. 2020,
    equation 8), on the cross-entropy of the support set plus the entropy of Shannon of each query's prediction:

    -1 / S sum_(support) log p(y_i | x_i) - 1 / Q sum_(queries) sum_k p(k | x_i) log p(k | x_i)

    The head is the linear one of fewshot/information.py with temperature 15, as in the comparison of Veilleux et al.
    2021. The steps and the rate are the paper's, which fits the whole network with them: a head alone is another
    method, and a weaker one. More steps make it worse, because nothing keeps the classes apart: in 5-way 1-shot
    episodes of miniImageNet (frozen features) a rate of 1e-4 had 61 %, and the nearest class mean 66 %.
    """

    variants: ClassVar = {"": Traits(fits_episodes=True, transductive=True, paper="Dhillon et al. 2020")}
    search: ClassVar = {"rate": (1e-5, 1e-2, "log"), "temperature": (3.0, 50.0, "log")}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        steps: int = 25,
        rate: float = 5e-5,
        temperature: float = 15.0,
    ) -> None:
        """steps and rate: of the descent; temperature: of the head."""
        super().__init__(backbone, classes, variant)
        self.steps, self.rate, self.temperature = steps, rate, temperature

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        support, query = functional.normalize(support, dim=3), functional.normalize(query, dim=2)
        images = torch.cat([support.flatten(1, 2), query], 1)  # (E, M, D)
        labels, start = memberships(support, mask), class_means(support, mask)
        prototypes = in_parts(self._fitted, images[0].numel(), images, labels, start)
        return prototype_logits(query, prototypes, self.temperature)

    def _fitted(self, images: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        return fitted_prototypes(
            images, labels, start, _OBJECTIVE, temperature=self.temperature, steps=self.steps, rate=self.rate
        )
