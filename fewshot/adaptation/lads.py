"""LADS: embeddings of images moved along a direction of texts.

Dunlap et al. 2023, "Using Language to Extend to Unseen Domains".
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 300
_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Texts:
    """The embeddings of the texts of C classes, (C, D) each of length one.

    plain   the name of the class alone
    source  the name in the words of the source domain, such as 'outline arrow left'
    target  the name in the words of the target domain
    """

    plain: Tensor
    source: Tensor
    target: Tensor


def moved(images: Tensor, labels: Tensor, texts: Texts, scale: Tensor | float, alignment: float = 0.5) -> Tensor:
    """Embeddings (M, D) of images as if they were of the target domain, by a network that is fitted to them.

    images (M, D): embeddings of source images, of length one; labels (M,); scale: the factor of cosines that the
    image-text model learned. With f a network of two layers and D / 2 hidden units, the loss is

        alignment * L_DA + (1 - alignment) * L_CC

    of the losses below (section 3 of the paper, which weighs both alike). Random numbers come from PyTorch's generator.
    """
    size = images.shape[1]
    network = nn.Sequential(nn.Linear(size, size // 2), nn.ReLU(), nn.Linear(size // 2, size)).to(images)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    images, directions, scale = images.detach(), (texts.target - texts.source)[labels].detach(), float(scale)
    with torch.enable_grad():
        for _ in range(_STEPS):
            changed = functional.normalize(network(images), dim=1)
            aligned = domain_alignment(images, changed, directions)
            consistent = class_consistency(changed, labels, texts.plain.detach(), scale)
            optimizer.zero_grad()
            (alignment * aligned + (1 - alignment) * consistent).backward()
            optimizer.step()
    with torch.no_grad():
        return functional.normalize(network(images), dim=1)


def domain_alignment(images: Tensor, changed: Tensor, directions: Tensor) -> Tensor:
    """L_DA, the mean of 1 - cos(f(x) - x, t_target - t_source): images, changed, directions (M, D)."""
    return (1 - functional.cosine_similarity(changed - images, directions, dim=1)).mean()


def class_consistency(changed: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Tensor:
    """L_CC, the cross-entropy of classification by the texts of the classes: changed (M, D), texts (C, D)."""
    return functional.cross_entropy(scale * changed @ texts.mT, labels)
