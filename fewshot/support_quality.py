"""How good a support set is: each of its pictures is left out and answered by the others."""

import dataclasses

import numpy as np
import torch
from tqdm import tqdm

from episodes import InputError
from fewshot.answers import episode_key, images_of
from fewshot.devices import exact
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.statistics import Interval, proportion
from fewshot.unequal import unequal_scores

_FOLDS = 20  # episodes at most


@dataclasses.dataclass(frozen=True, eq=False)
class LeftOut:
    """The scores of the pictures of a support set that were left out.

    scores   (M, N) float64; targets (M,): the right classes. A class with one picture has no row
    classes  the names of the N classes
    """

    scores: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """Which pictures were answered rightly, (M,) bool."""
        return self.scores.argmax(axis=1) == self.targets

    @property
    def accuracy(self) -> Interval:
        """The share of right answers and its exact interval, as if the pictures were independent."""
        return proportion(int(self.right.sum()), len(self.right))

    @property
    def by_class(self) -> dict[str, Interval]:
        """`accuracy` of each class that has two pictures or more."""
        found = {name: self.right[self.targets == number] for number, name in enumerate(self.classes)}
        return {name: proportion(int(right.sum()), len(right)) for name, right in found.items() if len(right)}

    @property
    def confused(self) -> tuple[str, str, int] | None:
        """The two classes that are taken for each other most often, in order, and how often; None without mistakes."""
        counts = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        np.add.at(counts, (self.targets, self.scores.argmax(axis=1)), 1)
        both = np.triu(counts + counts.T, 1)
        first, second = np.unravel_index(both.argmax(), both.shape)
        return (self.classes[first], self.classes[second], int(both.max())) if both.any() else None


@torch.no_grad()
def leave_one_out(learner: Learner, support: EmbeddedBank, seed: int = 0) -> LeftOut:
    """The scores of each picture of a support set, embedded by `learner`, in an episode whose support is the others.

    Episode j leaves image j of every class out at once, so K images a class take K episodes, each with K - 1 shots;
    with more than 20 images a class, episode j leaves out images j, j + 20 and so on. A class with one picture keeps
    it. Raises InputError if no class has two pictures.
    """
    sizes = support.bank.sizes.tolist()
    if max(sizes) < 2:
        raise InputError("leaving pictures out needs 2 pictures of a class or more")
    classes = [images.to(support.device) for images in images_of(support.bank)]
    scores, targets = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        folds = min(max(sizes), _FOLDS)
        for fold in tqdm(range(folds), desc="support set", unit="episode", disable=None, leave=False):
            out = [
                torch.arange(size) % folds == fold if size > 1 else torch.zeros(1, dtype=torch.bool) for size in sizes
            ]
            query = torch.cat([images[:, left] for images, left in zip(classes, out)], 1)
            kept = [images[:, ~left] for images, left in zip(classes, out)]
            found = unequal_scores(learner, support, kept, query, episode_key(seed, support.device))
            scores.append(exact(found[0]).cpu())
            targets += [number for number, left in enumerate(out) for _ in range(int(left.sum()))]
    return LeftOut(torch.cat(scores).numpy(), np.array(targets), support.bank.class_names)
