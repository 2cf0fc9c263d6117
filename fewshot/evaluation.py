"""Evaluation: embed every test image once, then score thousands of episodes as batched tensor operations."""

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor

from episodes import Episodes, EpisodeSampler, ImageBank, InputError, ListedEpisodes
from episodes.sampler import sampler_of
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank, described
from fewshot.learners.base import Learner
from fewshot.learners.faults import place_of
from fewshot.statistics import Estimate, over_episodes

# images of the episodes worked on at once: their embeddings fit the CPU's cache, or fill a GPU
_CHUNK = {"cpu": 1 << 15, "cuda": 1 << 21, "mps": 1 << 18}


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracies:
    """The share of right answers in each episode, (E,) float64 in [0, 1], in the order of the episodes.

    classes: the classes of each episode, (E, way)
    seconds: the time of the evaluation, with the embedding of the split, even if other test protocols share it
    answers: the answer to each query, (E, way * query): the position of a class in `classes`; (0, 0) if not kept
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
) -> Accuracies:
    """The accuracy of `learner` in each of `episodes` episodes drawn from `bank` with `seed`.

    The backbone embeds images in eval mode and float32. If the bank's split protocol lists its episodes, all of them
    are used, and `episodes` and `seed` are ignored. Raises InputError if the bank cannot fill such episodes.
    """
    if not bank.listed and (episodes < 2 or query < 1):
        raise InputError(f"an accuracy needs at least 2 episodes and 1 query a class, not {episodes} and {query}")
    sampler = sampler_of(bank, way, shot, query, seed)
    if isinstance(sampler, ListedEpisodes):
        episodes = sampler.count
    chosen = choose_device(device)
    prepare(chosen)
    return run_episodes(learner.to(chosen), EmbeddedBank(learner, placed(bank, chosen)), sampler, episodes)


@torch.no_grad()
def run_episodes(learner: Learner, data: EmbeddedBank, sampler: EpisodeSampler, episodes: int) -> Accuracies:
    """The accuracy in episodes 0 .. `episodes` - 1 of `sampler`, on a split that may be embedded already.

    Raises InputError if the learner's scores are invalid, or if the learner is transductive and does not say so.
    """
    began = time.perf_counter() - data.seconds
    was_training = learner.training
    learner.eval()
    images = sampler.way * (sampler.shot + sampler.query)
    chunk = max(1, _CHUNK[data.device.type] // images)
    with torch.random.fork_rng():  # a learner that draws numbers gets the same ones each time
        torch.manual_seed(sampler.seed)
        _check_inductive(learner, data, sampler)
        # made at once, and small: nothing else grows with the number of episodes
        right = torch.empty(episodes, dtype=torch.int32, device=data.device)
        classes = torch.empty((episodes, sampler.way), dtype=torch.int32, device=data.device)
        narrow = torch.uint8 if sampler.way <= 256 else torch.int32
        answers = torch.empty((episodes, sampler.way * sampler.query), dtype=narrow, device=data.device)
        for start, part in zip(range(0, episodes, chunk), sampler.batches(episodes, chunk, data.device)):
            found = checked_scores(learner, data, part).argmax(2)
            right[start : start + chunk] = (found == part.targets).sum(1)
            classes[start : start + chunk] = part.classes
            answers[start : start + chunk] = found
    learner.train(was_training)
    # whole numbers until here, so that no chunking can change a mean
    values = right.cpu().numpy() / (sampler.way * sampler.query)
    return Accuracies(values, classes.cpu().numpy(), time.perf_counter() - began, answers.cpu().numpy())


def checked_scores(learner: Learner, data: EmbeddedBank, episodes: Episodes) -> Tensor:
    """The learner's scores, checked: a wrong shape could be broadcast, and the argmax of nan is a class too."""
    scores = learner.episode_scores(data, episodes)
    expected = len(episodes), episodes.query[0].numel(), episodes.support.shape[1]
    if not isinstance(scores, Tensor) or scores.shape != expected or not scores.is_floating_point():
        raise InputError(
            f"the scores of {_named(learner)} must have the shape (E, Q, N) = {expected}, as floats, not"
            f" {described(scores)}"
        )
    if not scores.sum().isfinite() and not scores.isfinite().all():  # the first is cheap, and can overflow
        raise InputError(f"the scores of {_named(learner)} are not all finite numbers")
    return scores


def _check_inductive(learner: Learner, data: EmbeddedBank, sampler: EpisodeSampler) -> None:
    """InputError if a query of the first episode gets different scores when half of the queries are left out."""
    if learner.traits.transductive or sampler.query < 2:
        return
    whole = sampler.episodes(0, 1, data.device)
    half = sampler.query // 2
    part = dataclasses.replace(whole, query=whole.query[:, :, :half])
    expected = checked_scores(learner, data, whole).unflatten(1, (sampler.way, -1))[:, :, :half].flatten(1, 2)
    scores = checked_scores(learner, data, part)
    if not torch.allclose(scores, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise InputError(
            f"{_named(learner)} gives a query different scores when other queries are left out: set transductive ="
            " True in the Traits of its variant, so that tables can say so"
        )


def _named(learner: Learner) -> str:
    """The learner's name, and for a learner from outside the suite the file of its scoring code."""
    method = "scores" if type(learner).episode_scores is Learner.episode_scores else "episode_scores"
    return learner.name + place_of(learner, method)
