"""How hard an episode is, before any learner is asked: how far its classes lie apart in an embedding that never trains.

The embedding is the same for all learners of a run: the pixels, or the features if the data set holds features.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from episodes import ImageBank
from fewshot.devices import exact

_BATCH, _EPISODES = 256, 1 << 12  # images and episodes at once
_NOTHING = 1e-6  # of the distance between classes: a smaller spread comes from rounding alone


def separations(bank: ImageBank, classes: np.ndarray) -> np.ndarray:
    """The separation of the classes (E, N) of each of E episodes of N >= 2 ways, (E,) float64; the smaller, the harder.

    It is the mean distance between the means of two classes of the episode, divided by the mean spread of its classes.
    Means are over all images of a class; the spread of a class is the root of the mean squared distance of its images
    to their mean. A separation is infinite if no class of the episode has a spread.
    """
    means, spreads = _classes(bank)
    drawn = torch.as_tensor(classes, dtype=torch.int64)
    way = drawn.shape[1]
    distances = torch.cdist(means, means).fill_diagonal_(0)
    parts = [distances[part[:, :, None], part[:, None]].sum((1, 2)) for part in drawn.split(_EPISODES)]
    between, spread = torch.cat(parts) / (way * (way - 1)), spreads[drawn].mean(1)
    return torch.where(spread > _NOTHING * between, between / spread, torch.inf).numpy()


@functools.lru_cache(maxsize=1)  # for all models of a run; banks are compared by identity
def _classes(bank: ImageBank) -> tuple[Tensor, Tensor]:
    """The mean (C, D) and the spread (C,) of each class, float64, on the CPU."""
    labels, counts = bank.labels.cpu(), bank.sizes.cpu().double()
    sums = torch.zeros((bank.classes, bank.images[0].numel()), dtype=torch.float64)
    squares = torch.zeros(bank.classes, dtype=torch.float64)
    for part in torch.arange(len(bank)).split(_BATCH):
        rows = exact(bank.batch(part).flatten(1)).cpu()
        sums.index_add_(0, labels[part], rows)
        squares.index_add_(0, labels[part], rows.square().sum(1))
    means = sums / counts[:, None]
    return means, (squares / counts - means.square().sum(1)).clamp_min(0).sqrt()
