"""The scores of any number of pictures for the classes of a support set: one episode, by the hook of evaluation."""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from episodes import ImageBank, InputError
from episodes.draws import stream
from episodes.errors import counted
from fewshot.devices import placed
from fewshot.embedding import EmbeddedBank, embedded
from fewshot.learners.base import Learner
from fewshot.unequal import unequal_scores

NONE = "none of these"  # the answer for a picture that is refused
_AT_ONCE = 512  # queries scored together: memory does not grow with their number


def support_bank(pixels: Tensor, labels: Sequence[str]) -> ImageBank:
    """A support set as a bank, from pixels (M, C, H, W) uint8 and the class of each image; classes are sorted.

    Raises InputError if there are fewer than two classes.
    """
    names = sorted(set(labels))
    return numbered_support(pixels, torch.tensor([names.index(label) for label in labels]), names)


def numbered_support(pixels: Tensor, numbers: Tensor, names: Sequence[str]) -> ImageBank:
    """As support_bank, from the number (M,) of each image's class, and the names of the classes in order."""
    if len(names) < 2:
        raise InputError(f"a support set needs images of 2 classes or more, not of {counted(len(names), 'class')}")
    sizes = torch.bincount(numbers, minlength=len(names))
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return ImageBank(pixels[numbers.argsort(stable=True)], offsets, tuple(names), ("",) * len(names), "support set")


def images_of(support: ImageBank) -> list[Tensor]:
    """The numbers of the images of each class, N tensors (1, K_c)."""
    return [images[None] for images in torch.arange(len(support)).split(support.sizes.tolist())]


def episode_key(seed: int, device: torch.device) -> Tensor:
    """The key (1,) of episode 0 of an evaluation with this seed, by which learners draw numbers: see Episodes.keys."""
    return stream(seed, torch.zeros(1, dtype=torch.int64, device=device))


def scores(learner: Learner, support: EmbeddedBank, queries: Tensor, seed: int = 0) -> Tensor:
    """Scores (Q, N), on the CPU, of queries (Q, C, H, W) uint8 for the N classes of a support set (by `embedded`).

    The scores are those that an evaluation gives for an episode of these images: one call of `episode_scores`, or a
    call for every few hundred queries if the learner is inductive, so that memory does not grow with Q. A transductive
    learner sees all queries at once. `unequal_scores` scores unequal shots. seed: a learner that draws numbers draws
    those of episode 0 of an evaluation with this seed.
    """
    if not len(queries):
        return torch.empty(0, support.bank.classes)
    together = len(queries) if learner.traits.transductive else max(_AT_ONCE, len(support.bank))
    return torch.cat([_scores(learner, support, part, seed) for part in queries.split(together)])


def scores_of_parts(
    learner: Learner, support: EmbeddedBank, parts: Iterator[Tensor], seed: int = 0
) -> Iterator[Tensor]:
    """`scores` of parts of the queries as they come, one after another; a transductive learner waits for all parts."""
    if not learner.traits.transductive:
        for part in parts:
            yield scores(learner, support, part, seed)
        return
    waiting = list(parts)
    yield from scores(learner, support, torch.cat(waiting), seed).split([len(part) for part in waiting])


@torch.no_grad()
def _scores(learner: Learner, support: EmbeddedBank, queries: Tensor, seed: int) -> Tensor:
    data = _WithQueries(learner, support, queries)
    device = data.device
    images = [part.to(device) for part in images_of(support.bank)]
    query = torch.arange(len(support.bank), len(data.bank), device=device)[None]
    with torch.random.fork_rng():  # a learner that draws numbers gets the same ones each time
        torch.manual_seed(seed)
        return unequal_scores(learner, data, images, query, episode_key(seed, device))[0].float().cpu()


class _WithQueries(EmbeddedBank):
    """The images of a support set and, as one more class, queries; the support images are not embedded again."""

    def __init__(self, learner: Learner, support: EmbeddedBank, queries: Tensor) -> None:
        shown, alone = support.bank, ImageBank(queries, torch.tensor([0, len(queries)]), ("",), ("",))
        offsets = torch.cat([shown.offsets.cpu(), torch.tensor([len(shown) + len(queries)])])
        names = (*shown.class_names, "")
        images = torch.cat([shown.images.cpu(), queries])
        super().__init__(learner, ImageBank(images, offsets, names, ("",) * len(names), shown.dataset))
        self.bank = placed(self.bank, self.device)
        self._support, self._queries = support, embedded(learner, alone)

    @functools.cached_property
    def embeddings(self) -> Tensor:
        return torch.cat([self._support.embeddings, self._queries.embeddings])
