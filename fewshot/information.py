"""Heads fitted to support sets and queries of E episodes at once, through the entropies of their predictions.

The head of Boudiaf et al. 2020: p_ik is the softmax over classes k of -temperature / 2 * |x_i - w_k|^2, with one
prototype w_k a class. The head is linear: its weights are temperature * w_k and its biases -temperature / 2 * |w_k|^2,
up to a number that all classes of an image share.
"""

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Objective:
    """cross * CE - marginal * H(Y) + conditional * H(Y | X), to be made small (Boudiaf et al. 2020, equation 4).

    With y the labels of S support images and p the predictions for Q queries

    CE        -1 / S * sum_ik y_ik log p_ik, of the support
    H(Y)      -sum_k m_k log m_k with m_k = 1 / Q * sum_i p_ik, of the queries: large if all classes are predicted alike
    H(Y | X)  -1 / Q * sum_ik p_ik log p_ik, of the queries: small if each is predicted surely

    alpha: 1 for these two entropies of Shannon; else (1 - sum_k p_k^alpha) / (alpha - 1) is in the place of
           -sum_k p_k log p_k in both (Veilleux et al. 2021), which asks less for equal classes if alpha > 1
    """

    cross: float
    marginal: float
    conditional: float
    alpha: float = 1.0

    def slopes(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The gradient (E, M, N) with respect to the logits (E, M, N) of support images and queries, in this order.

        labels (E, S, N): one-hot, with a row of zeros for a support image that does not count.
        """
        probabilities, support = logits.softmax(2), labels.shape[1]
        counted = labels.sum(2, keepdim=True)  # (E, S, 1)
        cross = (counted * probabilities[:, :support] - labels) / counted.sum(1, keepdim=True)
        queries = probabilities[:, support:]
        mean = queries.mean(1, keepdim=True)
        slopes = self.conditional * self._slope(queries) - self.marginal * self._slope(mean)
        slopes = queries * (slopes - (queries * slopes).sum(2, keepdim=True)) / queries.shape[1]  # through the softmax
        return torch.cat([self.cross * cross, slopes], 1)

    def _slope(self, shares: Tensor) -> Tensor:
        """The derivative of the entropy with respect to each of `shares`, up to a number that all classes share."""
        if self.alpha == 1:
            return -shares.clamp_min(1e-12).log()
        return -self.alpha / (self.alpha - 1) * shares ** (self.alpha - 1)


def prototype_logits(images: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Logits (E, M, N) of images (E, M, D) for prototypes (E, N, D), without what all classes of an image share."""
    return temperature * (images @ prototypes.mT - prototypes.square().sum(2)[:, None] / 2)


def fitted_prototypes(
    images: Tensor, labels: Tensor, start: Tensor, objective: Objective, *, temperature: float, steps: int, rate: float
) -> Tensor:
    """Prototypes (E, N, D), from `start`, after `steps` steps of torch.optim.Adam on the objective of each episode.

    images (E, M, D): support images and queries, in this order; labels (E, S, N) of the support: see Objective.slopes.
    """
    place = start.clone()
    optimizer = torch.optim.Adam([place], lr=rate)  # number by number: an episode is fitted as it would be alone
    for _ in range(steps):
        slopes = objective.slopes(prototype_logits(images, place, temperature), labels)
        place.grad = temperature * (slopes.mT @ images - slopes.sum(1)[..., None] * place)
        optimizer.step()
    return place
