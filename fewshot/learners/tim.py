"""Transductive information maximisation: TIM (Boudiaf et al. 2020) and alpha-TIM (Veilleux et al. 2021)."""

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

_TEMPERATURE = 15.0
_TIM = Objective(cross=0.1, marginal=1.0, conditional=0.1)
_ALPHA_TIM = Objective(cross=1.0, marginal=1.0, conditional=1.0, alpha=2.0)


@register("tim")
class InformationMaximisation(LinearClassifier):
    """Prototypes fitted so that queries are predicted surely, and classes alike often.

    A linear classifier of the base classes is trained, and its embeddings get the length one. The prototypes start as
    class means, and are fitted to each episode: see fewshot/information.py for the head, with temperature 15, and for
    the objective.

    ""     TIM: 0.1 CE - H(Y) + 0.1 H(Y | X), by the gradient descent of the paper (TIM-GD). Its other solver, TIM-ADM,
           is left out: its updates amplify rounding until the order of an episode's images decides the scores
    alpha  alpha-TIM: CE - H_a(Y) + H_a(Y | X) with alpha-entropies of a = 2, by the same descent. The authors take 2
           for 1 shot and 7 from 5 shots on

    The descent is Adam, `steps` steps with the rate `rate`. The authors take 1000 steps with a rate of 1e-4, which
    reach as far and cost ten times as much.
    """

    variants: ClassVar = {
        "": Traits(fits_episodes=True, transductive=True, paper="Boudiaf et al. 2020"),
        "alpha": Traits(fits_episodes=True, transductive=True, paper="Veilleux et al. 2021"),
    }
    search: ClassVar = {"rate": (1e-4, 1e-2, "log")}

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", steps: int = 100, rate: float = 1e-3
    ) -> None:
        """steps and rate: of the gradient descent."""
        super().__init__(backbone, classes, variant)
        self.steps, self.rate = steps, rate

    @torch.no_grad()
    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        support, query = functional.normalize(support, dim=3), functional.normalize(query, dim=2)
        labels, start = memberships(support, mask), class_means(support, mask)
        images = torch.cat([support.flatten(1, 2), query], 1)  # (E, M, D)
        prototypes = in_parts(self._fitted, images[0].numel(), images, labels, start)
        return prototype_logits(query, prototypes, _TEMPERATURE)

    def _fitted(self, images: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        """The prototypes (E, N, D), from images (E, M, D), labels (E, S, N) of the support, and class means."""
        objective = _ALPHA_TIM if self.variant == "alpha" else _TIM
        return fitted_prototypes(
            images, labels, start, objective, temperature=_TEMPERATURE, steps=self.steps, rate=self.rate
        )
