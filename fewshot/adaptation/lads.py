"""LADS: embeddings of images moved along a direction of texts.

Dunlap et al. 2023, "Using Language to Extend to Unseen Domains".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 300
_RATE = 1e-3


def moved(
    images: Tensor, labels: Tensor, directions: Tensor, classes: Tensor, scale: float, alignment: float = 0.5
) -> Tensor:
    """Embeddings (M, D) of images as if they were of the target domain, by a network that is fitted to them.

    images (M, D)      embeddings of source images, of length one, of the classes `labels` (M,)
    directions (C, D)  of each class, from its text in the source domain to its text in the target domain
    classes (C, D)     what classifies embeddings: in the paper the texts of the names alone, of length one
    scale              the factor of cosines that the image-text model learned

    With f a network of two layers and D / 2 hidden units, the loss is

        alignment * L_DA + (1 - alignment) * L_CC

    of the losses below (section 3 of the paper, which weighs both alike). Random numbers come from PyTorch's generator.
    """
    size = images.shape[1]
    network = nn.Sequential(nn.Linear(size, size // 2), nn.ReLU(), nn.Linear(size // 2, size)).to(images)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    images, along, classes = images.detach(), directions[labels].detach(), classes.detach()
    with torch.enable_grad():
        for _ in range(_STEPS):
            changed = functional.normalize(network(images), dim=1)
            aligned = domain_alignment(images, changed, along)
            consistent = class_consistency(changed, labels, classes, scale)
            optimizer.zero_grad()
            (alignment * aligned + (1 - alignment) * consistent).backward()
            optimizer.step()
    with torch.no_grad():
        return functional.normalize(network(images), dim=1)


def domain_alignment(images: Tensor, changed: Tensor, directions: Tensor) -> Tensor:
    """L_DA, the mean of 1 - cos(f(x) - x, t_target - t_source): images, changed, directions (M, D)."""
    return (1 - functional.cosine_similarity(changed - images, directions, dim=1)).mean()


def class_consistency(changed: Tensor, labels: Tensor, classes: Tensor, scale: float) -> Tensor:
    """L_CC, the cross-entropy of classification by cosines to the classes: changed (M, D), classes (C, D)."""
    return functional.cross_entropy(scale * changed @ classes.mT, labels)
