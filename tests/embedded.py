"""Banks whose embeddings are given, for tests of what the suite computes from embeddings."""

import torch
from torch import nn

from episodes import ImageBank
from fewshot.embedding import EmbeddedBank
from fewshot.learners.registry import LEARNERS


class Given(EmbeddedBank):
    """A bank with these embeddings (N, D), sorted by class: `sizes` images of each class."""

    embeddings = None

    def __init__(self, embeddings: torch.Tensor, sizes: list[int], split: str = "test", turns: int = 1) -> None:
        offsets = torch.tensor([0, *sizes]).cumsum(0)
        names = tuple(f"class {number}" for number in range(len(sizes)))
        images = torch.zeros(len(embeddings), 1, 1, 1, dtype=torch.uint8)
        super().__init__(nn.Module(), ImageBank(images, offsets, names, names, "given", "random", split, turns=turns))
        self.embeddings = embeddings


class Plain(nn.Module):
    """A backbone with an embedding size that embeds nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding_size = size


def learner_of(name: str, size: int, variant: str = "", classes: int = 4, **options):
    torch.manual_seed(0)
    return LEARNERS[name](Plain(size), classes, variant, **options)


def clustered(classes: int, images: int, size: int, spread: float, seed: int = 0) -> torch.Tensor:
    """Embeddings (classes * images, size): each class around a centre of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 1, size, generator=generator)
    return (centres + spread * torch.randn(classes, images, size, generator=generator)).flatten(0, 1)
