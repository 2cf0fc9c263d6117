"""Evaluation: embed every test image once, then score thousands of episodes as batched tensor operations."""

import dataclasses
import time

import numpy as np
import torch

from episodes import Episodes, EpisodeSampler, ImageBank, InputError
from fewshot.devices import choose_device, placed, prepare
from fewshot.learners.base import EmbeddedBank, Learner
from fewshot.statistics import Estimate, over_episodes

# images of the episodes worked on at once: their embeddings fit the CPU's cache, or fill a GPU
_CHUNK = {"cpu": 1 << 14, "cuda": 1 << 21}


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracies:
    """The share of right answers in each episode, (E,) float64 in [0, 1], in the order of the episodes.

    seconds: what it took, the embedding of the split included even where other protocols shared it.
    """

    values: np.ndarray
    seconds: float

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

    Images are embedded in eval mode and float32. Raises InputError where the bank cannot fill such episodes.
    """
    if episodes < 2:
        raise InputError(f"an interval needs at least 2 episodes, not {episodes}")
    sampler = EpisodeSampler(bank, way, shot, query, seed)
    chosen = choose_device(device)
    prepare(chosen)
    return run_episodes(learner.to(chosen), EmbeddedBank(learner, placed(bank, chosen)), sampler, episodes)


@torch.no_grad()
def run_episodes(learner: Learner, data: EmbeddedBank, sampler: EpisodeSampler, episodes: int) -> Accuracies:
    """The accuracy in episodes 0 .. `episodes` - 1 of `sampler`, on a split that may be embedded already."""
    began = time.perf_counter() - data.seconds
    was_training = learner.training
    learner.eval()
    images = sampler.way * (sampler.shot + sampler.query)
    chunk = max(1, _CHUNK[data.device.type] // images)
    right = [_right(learner, data, part) for part in sampler.batches(episodes, chunk, data.device)]
    learner.train(was_training)
    # whole numbers until here, so that no chunking can change a mean
    values = torch.cat(right).cpu().numpy().astype(np.float64) / (sampler.way * sampler.query)
    return Accuracies(values, time.perf_counter() - began)


def _right(learner: Learner, data: EmbeddedBank, episodes: Episodes) -> torch.Tensor:
    """How many queries of each episode get the best score for their own class, (E,)."""
    return (learner.episode_scores(data, episodes).argmax(2) == episodes.targets).sum(1)
