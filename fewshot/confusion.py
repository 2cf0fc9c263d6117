"""Which images a model answers wrongly, and which classes it takes for which, counted over all episodes."""

import dataclasses

import numpy as np

from episodes import Sampler

_QUERIES = 1 << 18  # counted at once


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """The answers of one model, counted; int64.

    asked  (N,) how often each image of the bank was a query
    wrong  (N,) how often of these times the answer was another class than the image's own
    pairs  (P, 3) the class of a query, the class that was answered instead, and how often; only pairs that occurred,
           each once, ascending
    """

    asked: np.ndarray
    wrong: np.ndarray
    pairs: np.ndarray


def count_answers(sampler: Sampler, answers: np.ndarray) -> Counts:
    """Counts of the answers (E, Q) in episodes 0 .. E - 1 of `sampler`: positions of classes in their episode.

    All queries are of classes of their episode.

    This function draws the episodes again, since they depend on nothing but their numbers. So an evaluation keeps one
    byte a query and counts nothing, and only a caller that wants the counts waits for them.
    """
    asked, wrong = np.zeros((2, sampler.images), dtype=np.int64)
    waiting = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for part in sampler.batches(len(answers), max(1, _QUERIES // sampler.queries), "cpu"):
        queries, classes = part.query.flatten(1).numpy(), part.classes.numpy()
        targets = np.broadcast_to(part.targets.numpy(), queries.shape)
        own = answers[np.asarray(part.numbers), : queries.shape[1]]
        missed = own != targets
        asked += np.bincount(queries.ravel(), minlength=sampler.images)
        wrong += np.bincount(queries[missed], minlength=sampler.images)
        answered = np.take_along_axis(classes, own.astype(np.int64), axis=1)[missed]
        keys = np.take_along_axis(classes, targets, axis=1)[missed] * sampler.classes + answered
        waiting = _merged(*waiting, keys)
    keys, times = waiting
    return Counts(asked, wrong, np.stack([keys // sampler.classes, keys % sampler.classes, times], axis=1))


def _merged(keys: np.ndarray, times: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones of `keys`, which occurred `times` before, and of `new`, ascending; and how often in all."""
    together, places = np.unique(np.concatenate([keys, new]), return_inverse=True)
    counts = np.concatenate([times, np.ones_like(new)])
    return together, np.bincount(places, weights=counts, minlength=len(together)).astype(np.int64)
