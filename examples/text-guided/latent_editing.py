"""FlexIT (Couairon et al. 2022): an icon of one name becomes one of another, by a walk of its latent towards a text.

    python latent_editing.py MODELS

edits icons, and prints what a classifier that saw none of the results says of them.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from autoencoder import Autoencoder
from fitting import restore
from guide import CLIP, Guide, patches
from judge import Judge, first_ones
from torch import Tensor

from episodes import class_texts, load_dataset


class Weights(NamedTuple):
    """Of the regularisers (FlexIT, section 3.3), and of the source text and the image in the target point (3.2)."""

    perceptual: float = 0.15
    latent: float = 0.05
    source: float = 0.4
    image: float = 0.2


PAPER = Weights()


def edited(
    guide: Guide,
    autoencoder: Autoencoder,
    icons: Tensor,
    sources: Sequence[str],
    targets: Sequence[str],
    weights: Weights = PAPER,
    steps: int = 100,
    rate: float = 0.05,
) -> Tensor:
    """Icons (B, 1, H, W) of the texts `sources` as icons of the texts `targets`, (B, 1, H, W).

    Each latent z starts as the icon's own, z_0, and takes `steps` steps of length rate * |z_0| against the gradient of

        - E(D(z)) . P + w_perceptual d(D(z), I) + w_latent |z - z_0|_{2,1} / |z_0|_{2,1}

    with the target point P = E(target) + w_image E(I) - w_source E(source), D the decoder, d the perceptual distance by
    the first two blocks of the guide's networks, and |z|_{2,1} the sum over places of the length of a place's numbers,
    so that few places change. E(D(z)) is the mean over the image and four random patches; the authors' code has eight.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        goal = guide.texts(targets) + weights.image * guide.images(icons) - weights.source * guide.texts(sources)
        start = autoencoder.encode(icons)
    length = start.flatten(1).norm(dim=1)[:, None, None, None]
    latents = start.clone()
    for _ in range(steps):
        latents.requires_grad_()
        images = autoencoder.decode(latents)
        views = torch.cat([images[:, None], patches(images, 4, 0.7).unflatten(0, (len(icons), 4))], 1)
        found = guide.images(views.flatten(0, 1)).unflatten(0, (len(icons), 5)).mean(1)
        moved = _lengths(latents - start) / _lengths(start)
        loss = -(found * goal).sum(1) + weights.latent * moved
        loss = loss + weights.perceptual * guide.distance(images, icons, slice(0, 2))
        (slope,) = torch.autograd.grad(loss.sum(), latents)
        direction = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        latents = (latents - rate * length * direction).detach()
    return autoencoder.decode(latents).detach()


def _lengths(latents: Tensor) -> Tensor:
    """|z|_{2,1} of latents (B, C, H, W): (B,)."""
    return (latents.square().sum(1) + 1e-12).sqrt().sum((1, 2))


def main(folder: Path, icons: int = 24) -> None:
    guide, autoencoder = Guide(folder / CLIP), Autoencoder()
    restore(autoencoder, folder / "autoencoder.pt")
    for split in ("train", "test"):
        bank = load_dataset("icons:styles", split)
        firsts, others = first_ones(bank)
        judge, texts = Judge(folder, others), class_texts(bank)
        # an icon of each chosen class becomes one of the class that is drawn for it among those of its style
        order = torch.randperm(bank.classes, generator=torch.Generator().manual_seed(0)).tolist()
        pairs = [pair for pair in pairwise(order) if len({bank.group_names[one] for one in pair}) == 1][:icons]
        sources, targets = zip(*pairs)
        given = firsts[list(sources)]
        print(f"{len(pairs)} icons of {split} names, each edited into another of {bank.classes // 2} names")
        ways = {"FlexIT": PAPER, "no regularisers": Weights(perceptual=0, latent=0)}
        results = {"icons as they are": given, "decoded again": autoencoder.decode(autoencoder.encode(given)).detach()}
        for title, weights in ways.items():
            named = [texts[one] for one in sources], [texts[one] for one in targets]
            results[title] = edited(guide, autoencoder, given, *named, weights)
        for title, images in results.items():
            found = judge.classes(images)
            right, stayed = (sum(a == b for a, b in zip(found, wanted)) / len(pairs) for wanted in (targets, sources))
            moved = (images - given).abs().mean()
            print(
                f"{title}: named as the target {right:.0%}, as the source {stayed:.0%}, pixels changed by {moved:.3f}"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
