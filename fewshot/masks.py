"""The support images that count, for classes with different numbers of them (see Learner.scores)."""

from torch import Tensor


def class_means(support: Tensor, mask: Tensor | None) -> Tensor:
    """The mean (E, N, D) of the support rows (E, N, K, D) of each class, over those that `mask` (E, N, K) has."""
    if mask is None:
        return support.mean(2)
    return (shares(mask, support)[..., None] * support).sum(2)


def shares(mask: Tensor, like: Tensor) -> Tensor:
    """The share (E, N, K) of each support image in the mean of its class: zero if it does not count."""
    counts = mask.to(like.dtype)
    return counts / counts.sum(2, keepdim=True)


def counted(pairs: Tensor, mask: Tensor | None, otherwise: float) -> Tensor:
    """The numbers `pairs` (E, Q, N * K) of queries and support images, `otherwise` for images that do not count."""
    return pairs if mask is None else pairs.masked_fill(~mask.flatten(1)[:, None], otherwise)
