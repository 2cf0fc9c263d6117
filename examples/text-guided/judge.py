"""The judge of results: nearest means of real icons, in the space of a network that steered none and saw none of them.

Its network is that of the committed run quick-icons-clip, with another backbone than the guide's and trained apart; the
side of the images alone is used.
"""

from pathlib import Path

import torch
from torch import Tensor

from episodes import ImageBank
from fewshot.embedding import EmbeddedBank
from fewshot.loading import open_checkpoint
from fewshot.losses import squared_distances

JUDGE = "clip-zero-shot-seed0/best.pt"  # in the folder of the models


class Judge:
    """Says which class of `bank` images show."""

    def __init__(self, folder: Path, bank: ImageBank) -> None:
        self.learner = open_checkpoint(folder / JUDGE, "clip")[1].eval().requires_grad_(False)
        self.means = class_means(EmbeddedBank(self.learner, bank).embeddings, bank)

    def classes(self, images: Tensor) -> list[int]:
        """The class of `bank` whose mean is nearest to each image (B, 1, H, W)."""
        return squared_distances(self.learner.embed(images), self.means).argmin(1).tolist()


def class_means(rows: Tensor, bank: ImageBank) -> Tensor:
    """The mean of the rows (N, D) of the images of each class of `bank`, (classes, D)."""
    sums = rows.new_zeros(bank.classes, rows.shape[1]).index_add_(0, bank.labels, rows)
    return sums / bank.sizes[:, None]


def first_ones(bank: ImageBank) -> tuple[Tensor, ImageBank]:
    """The first image of each class, (classes, 1, H, W) in [0, 1], and the bank without them."""
    others = torch.ones(len(bank), dtype=torch.bool)
    others[bank.offsets[:-1]] = False
    return bank.batch(bank.offsets[:-1]), bank.only(others.nonzero().squeeze(1))
