"""The suite's own CLIP as a guide of images: embeddings of images and sentences, with gradients to the images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fewshot.augmentation import affine, resized_crop
from fewshot.loading import open_checkpoint

CLIP = "clip-zero-shot-conv4-32-linear-seed0/best.pt"  # in the folder of the models


class Guide:
    """One or several trained `clip` learners, the E of the papers; several are harder to fool than one.

    An embedding is the concatenation of those of all learners, of length one, as FlexIT (section 3.2) has it.
    """

    def __init__(self, *paths: Path) -> None:
        """paths: checkpoints of the learner `clip`; InputError if one is of another learner."""
        self.learners = [open_checkpoint(path, "clip")[1].eval().requires_grad_(False) for path in paths]

    @property
    def size(self) -> int:
        """The size D of an embedding."""
        return sum(learner.text_projection.out_features for learner in self.learners)

    def images(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, 1, H, W) in [0, 1]."""
        return self._together([learner.embed(images) for learner in self.learners])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (T, D) of texts."""
        return self._together([learner.embed_texts(tuple(texts)) for learner in self.learners])

    def distance(self, first: Tensor, second: Tensor, blocks: slice) -> Tensor:
        """How different two batches of images look to these blocks of the learners' networks, (B,): LPIPS (Zhang et al.
        2018, equation 1) with all weights one.

        d(x, y) = mean over maps l and places of |f_l(x) - f_l(y)|^2, with f of length one at each place
        """
        pairs = zip(self._maps(first, blocks), self._maps(second, blocks))
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).mean(0)

    def _maps(self, images: Tensor, blocks: slice) -> list[Tensor]:
        found = []
        for learner in self.learners:
            maps, body = [images], learner.backbone.body
            for block in body:
                maps.append(block(maps[-1]))
            found += [functional.normalize(one, dim=1) for one in maps[1:][blocks]]
        return found

    def _together(self, embeddings: list[Tensor]) -> Tensor:
        return torch.cat(embeddings, 1) / len(embeddings) ** 0.5


def patches(images: Tensor, count: int, smallest: float) -> Tensor:
    """`count` random boxes of each image, turned, sheared and enlarged to the image's size: (B * count, C, H, W).

    smallest: of their areas, as a share of the image's. CLIPstyler (section 3.2) cuts squares of one size and shows
    them in perspective, so that no patch can please one view of the encoder alone. PyTorch's generator draws them.
    """
    return affine(resized_crop(images.repeat_interleave(count, 0), (smallest, 1.0)), 0.5)
