"""Training batches of hard examples: queries, images of their classes, and the most similar images of other classes.

As pipelines of structure from motion train (Radenovic et al. 2019, "Fine-tuning CNN image retrieval with no human
annotation", section 4.2): a tuple has a query, a positive and five hard negatives, each of another class, which an
earlier model takes for images of the query's class.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from episodes.bank import ImageBank
from episodes.batches import ClassBatches
from episodes.draws import draw, stream
from episodes.sampler import EpisodeSampler

NEGATIVES = 5  # hard negatives of a query
_PAIRS = 1 << 24  # similarities worked on at once


@dataclasses.dataclass(frozen=True, eq=False)
class HardBatches:
    """Batches of the shape of `shape`, P classes x K images, class after class, in groups of similar classes.

    neighbours (N, M): for each image of the bank, images of M other classes that are most similar to it, the most
    similar first, each the most similar one of its class

    A group is the class of a query and the classes of its NEGATIVES nearest neighbours that the batch does not have
    yet; the first image of each class is the query or the neighbour, and the other K - 1 are drawn. What neighbours do
    not fill has classes that are drawn.
    """

    shape: ClassBatches
    neighbours: Tensor

    def indices(self, bank: ImageBank, seed: int, step: int) -> Tensor:
        """(P * K,) int64 on the bank's device; a pure function of (seed, step), the neighbours and the class sizes."""
        drawn = EpisodeSampler(bank, self.shape.classes, 1, query=0, seed=seed).episodes(step, 1, "cpu")
        labels, asked = bank.labels.cpu(), drawn.support.flatten().tolist()
        chosen = self._grouped(asked, labels.tolist())
        classes, first = torch.tensor(list(chosen)), torch.tensor(list(chosen.values()))
        sizes, starts = bank.sizes.cpu()[classes], bank.offsets.cpu()[classes]
        (key,) = stream(seed, torch.tensor([step]))
        others = draw(key.expand(len(classes)), 1 + classes, sizes - 1, int(sizes.max()), self.shape.images - 1).T
        others = others + starts[:, None]
        others += others >= first[:, None]  # the first image is not drawn again
        return torch.cat([first[:, None], others], 1).flatten().to(bank.device)

    def following(self, bank: ImageBank, seed: int, step: int) -> Iterator[Tensor]:
        """`indices` of batch number `step` and of all that follow, without end."""
        return (self.indices(bank, seed, number) for number in itertools.count(step))

    def _grouped(self, asked: list[int], labels: list[int]) -> dict[int, int]:
        """The classes of a batch, each with its first image; `asked` are images of as many different classes."""
        groups = -(-self.shape.classes // (1 + NEGATIVES))
        chosen: dict[int, int] = {}
        for query in asked[:groups]:
            chosen.setdefault(labels[query], query)
            near = [image for image in self.neighbours[query].tolist() if labels[image] not in chosen]
            chosen |= {labels[image]: image for image in near[:NEGATIVES]}  # none of them has the class of another
        for image in asked:
            chosen.setdefault(labels[image], image)
        return dict(itertools.islice(chosen.items(), self.shape.classes))


def hard_negatives(embeddings: Tensor, labels: Tensor, count: int = 4 * NEGATIVES) -> Tensor:
    """`neighbours` of HardBatches by the cosine of embeddings (N, D) with labels (N,): (N, count) int64 on the CPU.

    There are fewer columns if there are fewer other classes.
    """
    directions = functional.normalize(embeddings, dim=1)
    images, classes = len(labels), int(labels.max()) + 1
    numbers, found = torch.arange(images, device=labels.device), []
    for part in numbers.split(max(1, _PAIRS // images)):
        near = directions[part] @ directions.T
        own = labels.expand_as(near)
        best = near.new_full((len(part), classes), -torch.inf).scatter_reduce(1, own, near, "amax")
        first = torch.where(near == best.gather(1, own), numbers, images)  # the most similar image of its class
        nearest = own.new_full(best.shape, images).scatter_reduce(1, own, first, "amin")
        best.scatter_(1, labels[part, None], -torch.inf)
        found.append(nearest.gather(1, best.topk(min(count, classes - 1), 1).indices))
    return torch.cat(found).cpu()
