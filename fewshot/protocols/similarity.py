"""How alike two images are to a learner: one decision, which verification and retrieval share."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from episodes import InputError
from fewshot.learners.base import Learner

ROUNDING = 16 * torch.finfo(torch.float32).eps  # of numbers around 1, after a few thousand operations


class Similarity(NamedTuple):
    """A learner's similarity of embeddings.

    of          a (E, A, D) and b (E, B, D) to (E, A, B), higher for images that are more likely of one class
    name        the word in tables: 'own' or 'cosine'
    directions  whether the length of an embedding says nothing
    rounding    how far apart rounding may put equal similarities: similarities nearer to each other are ties
    """

    of: Callable[[Tensor, Tensor], Tensor]
    name: str
    directions: bool
    rounding: float = 0.0


def similarity_of(learner: Learner, embeddings: Tensor, every: bool = False) -> Similarity:
    """The similarity of a learner with embeddings (M, D) of some images.

    It is the learner's own if the class overrides `Learner.similarity`, or if it follows from the scores because the
    score of a class depends on its own support alone: minus the squared distance for prototypical networks, the
    probability of 'same' for Koch et al.'s. Otherwise it is the cosine. every: each image is compared with all others,
    for which an overriding similarity, that of a network, is too slow: it is the cosine then. InputError if the
    embeddings are no numbers.
    """
    if not embeddings.isfinite().all():
        raise InputError(f"the embeddings of {learner.name} are not all finite numbers")
    defined = type(learner).similarity is not Learner.similarity
    own = not every if defined else scores_apart(learner, embeddings)
    if not own:
        return Similarity(_cosine, "cosine", True, ROUNDING)
    some = _some(embeddings, 8)[None]
    directions = _alike(_checked(learner, 2 * some), _checked(learner, some))
    return Similarity(learner.similarity, "own", directions, rounding_of(learner.similarity, embeddings))


def rounding_of(similarity: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor) -> float:
    """How far apart float32 arithmetic may put similarities of embeddings (M, D) that are equal, found by trying.

    Equal images need not get equal bits: the order of a sum depends on the position of an image in its batch. The error
    is in proportion to the numbers that are summed, and a distance of 0 does not show their size. So some images are
    compared with each other and with the zero vector, and the error is in proportion to the largest similarity.
    """
    some = _some(embeddings, 8)[None]
    sizes = similarity(torch.cat([some, torch.zeros_like(some)], 1), some).abs()
    return ROUNDING * float(sizes.nan_to_num(0, 0, 0).max())


def scores_apart(learner: Learner, embeddings: Tensor) -> bool:
    """Whether the score of a class depends on the query and that class's support alone, found by trying.

    embeddings (M, D): of some images. False if a class's score changes when another class leaves the episode, as with
    a softmax over classes or a classifier that is fitted to all classes; also false if the learner scores whole
    episodes, or queries together.
    """
    if learner.traits.transductive or not scores_embeddings(learner):
        return False
    images = _some(embeddings, 10)[None]
    support, query = images[:, :6].unflatten(1, (3, 2)), images[:, 6:]
    return _alike(learner.scores(support, query)[:, :, :2], learner.scores(support[:, :2], query))


def scores_embeddings(learner: Learner) -> bool:
    """Whether the learner defines `scores` and does not override `episode_scores`."""
    cls = type(learner)
    return cls.scores is not Learner.scores and cls.episode_scores is Learner.episode_scores


@contextlib.contextmanager
def measuring(learner: Learner, seed: int) -> Iterator[None]:
    """Inside, the learner is in eval mode, without gradients; random numbers are the same each time."""
    was_training = learner.training
    learner.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            learner.train(was_training)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return functional.normalize(a, dim=2) @ functional.normalize(b, dim=2).mT


def _checked(learner: Learner, images: Tensor) -> Tensor:
    """The learner's similarities of images (1, M, D) to each other, with a check of their shape."""
    found, count = learner.similarity(images, images), images.shape[1]
    if found.shape != (1, count, count):
        raise InputError(
            f"the similarity of {learner.name} must have the shape (E, A, B) = {(1, count, count)}, not"
            f" {tuple(found.shape)}"
        )
    return found


def _some(embeddings: Tensor, count: int) -> Tensor:
    """`count` of the embeddings, at equal distances."""
    return embeddings[torch.arange(count, device=embeddings.device) * len(embeddings) // count]


def _alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
