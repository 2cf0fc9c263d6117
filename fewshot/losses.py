"""The losses as pure functions of embeddings, close to the papers' equations."""

import torch
from torch import Tensor
from torch.nn import functional


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., A, B) between the rows of a (..., A, D) and b (..., B, D)."""
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return (squares - a @ (2 * b).transpose(-1, -2)).clamp_min(0)  # in an episode b has fewer rows to double


def contrastive_terms(distances: Tensor, same: Tensor, margin: float) -> Tensor:
    """Hadsell et al. 2006, equation 4 without its factor 1/2: t d^2 + (1 - t) max(0, margin - d)^2, for each pair.

    distances (...) Euclidean, same (...) boolean: t
    """
    return torch.where(same, distances.square(), functional.relu(margin - distances).square())


def contrastive(embeddings: Tensor, labels: Tensor, margin: float, nearest: bool = True) -> Tensor:
    """Contrastive loss on balanced pairs of a batch: a scalar.

    embeddings (B, D), labels (B,). The pairs are all positive pairs of the batch and, with `nearest`, as many negative
    ones, the nearest: of all negative pairs most are beyond the margin, where they teach nothing; else all negative
    pairs. The loss is the mean of the terms over the positive pairs plus that over the negative pairs; a kind of which
    the batch has no pair adds 0.
    """
    row, column = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    same = labels[row] == labels[column]
    squares = squared_distances(embeddings, embeddings)[row, column]
    distances = squares.clamp_min(1e-12).sqrt()  # the square root has no finite slope at zero
    terms = contrastive_terms(distances, same, margin)
    positive, negative = terms[same], terms[~same]
    if nearest:
        negative = negative.topk(min(len(positive), len(negative))).values  # the nearest have the largest terms
    return positive.sum() / max(1, len(positive)) + negative.sum() / max(1, len(negative))


def pair_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of 'same class?' over all pairs of a batch, positive and negative pairs balanced: a scalar.

    logits (B, B) of the pairs, labels (B,). Koch et al. 2015, section 3.2, draw as many pairs of either kind.
    """
    row, column = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    same = labels[row] == labels[column]
    terms = functional.binary_cross_entropy_with_logits(logits[row, column], same.to(logits.dtype), reduction="none")
    return (_mean(terms, same) + _mean(terms, ~same)) / 2


def n_pair(anchors: Tensor, positives: Tensor, regularisation: float = 0.0) -> Tensor:
    """N-pair loss (Sohn 2016, equation 7, L2 regularisation of section 3.2.2): a scalar.

    anchors, positives (N, D), one pair a class, not normalised:
    mean over i of log(1 + sum over j != i of exp(f_i . f+_j - f_i . f+_i)) + regularisation * mean |f|^2
    which is the cross-entropy of the row-wise softmax over f_i . f+_j.
    """
    similarities = anchors @ positives.T
    loss = functional.cross_entropy(similarities, torch.arange(len(anchors), device=anchors.device))
    lengths = (anchors.square().sum(1).mean() + positives.square().sum(1).mean()) / 2
    return loss + regularisation * lengths


def _mean(terms: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen terms, 0 where there are none; without a look at the data that would stall a GPU."""
    return (terms * chosen).sum() / chosen.sum().clamp_min(1)
