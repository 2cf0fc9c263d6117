"""Evaluation: embed every test image once, then score thousands of episodes as batched tensor operations."""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from episodes import Episodes, ImageBank, InputError, Sampler
from episodes.sampler import sampler_of
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank, described
from fewshot.learners.base import Learner, scores_of_episodes, scoring, takes
from fewshot.learners.faults import place_of
from fewshot.statistics import Estimate, over_episodes

# images of the episodes worked on at once: their embeddings fit the CPU's cache, or fill a GPU
_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 21, "mps": 1 << 18}
_WIDTH = 1 << 11  # of embeddings: of longer ones, such as feature maps, there are fewer images at once


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracies:
    """The share of right answers in each episode, (E,) float64 in [0, 1], in the order of the episodes.

    classes: the classes of each episode, (E, way); -1 behind those of an episode of fewer ways
    seconds: the time of the evaluation, with the embedding of the split, even if other test protocols share it
    answers: the answer to each query, (E, queries): the position of a class in `classes`; (0, 0) if not kept. An
             episode of fewer queries has zeros behind its answers
    """

    values: np.ndarray
    classes: np.ndarray
    seconds: float
    answers: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0), np.uint8))

    @property
    def percent(self) -> Estimate:
        """Mean and 95 % interval over episodes, in percent."""
        return over_episodes(100 * self.values)


def evaluate(
    learner: Learner,
    bank: ImageBank,
    way: int = 5,
    shot: int = 1,
    query: int = 15,
    episodes: int = 10_000,
    seed: int = 0,
    device: str = "auto",
    sampler: Sampler | None = None,
) -> Accuracies:
    """The accuracy of `learner` in each of `episodes` episodes drawn from `bank` with `seed`.

    sampler: draws episodes of another kind from `bank`, in place of `way`, `shot`, `query` and `seed`

    The backbone embeds images in eval mode and float32. If the bank's split protocol lists its episodes, all of them
    are used, and `episodes` and `seed` are ignored. Raises InputError if the bank cannot fill such episodes.
    """
    if not bank.listed and (episodes < 2 or query < 1):
        raise InputError(f"an accuracy needs at least 2 episodes and 1 query a class, not {episodes} and {query}")
    sampler = sampler or sampler_of(bank, way, shot, query, seed)
    if sampler.count is not None:
        episodes = sampler.count
    chosen = choose_device(device)
    prepare(chosen)
    return run_episodes(learner.to(chosen), EmbeddedBank(learner, placed(bank, chosen)), sampler, episodes)


@torch.no_grad()
def run_episodes(learner: Learner, data: EmbeddedBank, sampler: Sampler, episodes: int) -> Accuracies:
    """The accuracy in episodes 0 .. `episodes` - 1 of `sampler`, on a split that may be embedded already.

    Raises InputError if the learner's scores are invalid, or if the learner is transductive and does not say so.
    """
    began = time.perf_counter()
    was_training = learner.training
    learner.eval()
    with torch.random.fork_rng():  # a learner that draws numbers gets the same ones each time
        torch.manual_seed(sampler.seed)
        _check_inductive(learner, data, sampler)
        images = _CHUNK[data.device.type] * _WIDTH // max(_WIDTH, data.width)
        chunk = max(1, images // (sampler.places + sampler.queries))
        # made at once, and small: nothing else grows with the number of episodes
        right, asked = torch.zeros((2, episodes), dtype=torch.int32, device=data.device)
        classes = torch.full((episodes, sampler.way), -1, dtype=torch.int32, device=data.device)
        narrow = torch.uint8 if sampler.way <= 256 else torch.int32
        answers = torch.zeros((episodes, sampler.queries), dtype=narrow, device=data.device)
        for part, scores in _scored(learner, data, sampler.batches(episodes, chunk, data.device)):
            found = scores.argmax(2)
            right[part.numbers] = (found == part.targets).sum(1, dtype=torch.int32)
            asked[part.numbers] = found.shape[1]
            classes[part.numbers, : part.classes.shape[1]] = part.classes.int()
            answers[part.numbers, : found.shape[1]] = found.to(narrow)
    learner.train(was_training)
    # whole numbers until here, so that no chunking can change a mean
    values = right.cpu().numpy() / asked.cpu().numpy()
    return Accuracies(values, classes.cpu().numpy(), time.perf_counter() - began, answers.cpu().numpy())


def _scored(learner: Learner, data: EmbeddedBank, parts: Iterable[Episodes]) -> Iterator[tuple[Episodes, Tensor]]:
    """The episodes of `parts`, with their scores. If a part exceeds the memory of a GPU, it is cut in halves, and no
    later part has more episodes than a half."""
    most: int | None = None
    for whole in parts:
        waiting = [whole]
        while waiting:
            part = waiting.pop(0)
            if most is not None and len(part) > most:
                waiting[:0] = [part.each(lambda one: one[:most]), part.each(lambda one: one[most:])]  # noqa: B023
                continue
            try:
                scores = checked_scores(learner, data, part)
            except torch.cuda.OutOfMemoryError:
                most = len(part) // 2
                waiting.insert(0, part)
            else:
                yield part, scores


def checked_scores(learner: Learner, data: EmbeddedBank, episodes: Episodes) -> Tensor:
    """The learner's scores, checked: a wrong shape could be broadcast, and the argmax of nan is a class too.

    InputError if the scores are invalid, or if a single episode exceeds the memory of a GPU.
    """
    if episodes.mask is not None and not takes(learner, "mask"):
        raise InputError(
            f"{_named(learner)} takes the same number of support images of each class: it takes other numbers if its"
            f" {scoring(learner).__name__} has an argument mask"
        )
    try:
        scores = scores_of_episodes(learner, data, episodes)
    except torch.cuda.OutOfMemoryError as error:
        if len(episodes) > 1:
            raise
        raise InputError(
            f"the memory of the GPU does not hold one episode of {_named(learner)}: take --device cpu, or fewer ways,"
            " shots or queries"
        ) from error
    expected = len(episodes), episodes.query[0].numel(), episodes.support.shape[1]
    if not isinstance(scores, Tensor) or scores.shape != expected or not scores.is_floating_point():
        raise InputError(
            f"the scores of {_named(learner)} must have the shape (E, Q, N) = {expected}, as floats, not"
            f" {described(scores)}"
        )
    if not scores.sum().isfinite() and not scores.isfinite().all():  # the first is cheap, and can overflow
        raise InputError(f"the scores of {_named(learner)} are not all finite numbers")
    return scores


def _check_inductive(learner: Learner, data: EmbeddedBank, sampler: Sampler) -> None:
    """InputError if a query of the first episode gets different scores when half of the queries are left out."""
    whole = next(sampler.batches(1, 1, data.device))
    half = whole.query.shape[-1] // 2
    if learner.traits.transductive or not half:
        return
    labels = None if whole.labels is None else whole.labels[:, :half]
    part = dataclasses.replace(whole, query=whole.query[..., :half], labels=labels)
    scores = checked_scores(learner, data, whole)
    expected = scores.view(*whole.query.shape, -1)[..., :half, :].reshape(1, -1, scores.shape[2])
    scores = checked_scores(learner, data, part)
    if not torch.allclose(scores, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise InputError(
            f"{_named(learner)} gives a query different scores when other queries are left out: set transductive ="
            " True in the Traits of its variant, so that tables can say so"
        )


def _named(learner: Learner) -> str:
    """The learner's name, and for a learner from outside the suite the file of its scoring code."""
    return learner.name + place_of(learner, scoring(learner).__name__)
