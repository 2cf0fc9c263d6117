"""CLIPstyler (Kwon and Ye 2022): one icon drawn in the style that a sentence names, without a picture of the style.

    python style_transfer.py MODELS

restyles icons of test names from outline to solid and back, and prints what a classifier that saw none of the results
says of them.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from guide import CLIP, Guide, patches
from judge import Judge, first_ones
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from episodes import ImageBank, load_dataset
from episodes.datasets.icon_styles import STYLES, fullness


class Weights(NamedTuple):
    """How much the parts of the loss count (CLIPstyler, equation 6)."""

    direction: float = 1.0
    patch: float = 2.0
    content: float = 0.3
    variation: float = 0.1


ALL = Weights()


class StyleNet(nn.Module):
    """A small U-Net from an icon (B, 1, H, W) to the icon in another style; it starts as the identity."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.inner = _block(1, width)
        self.down = _block(width, 2 * width, stride=2)
        deep = _block(2 * width, 2 * width, stride=2), _block(2 * width, 8 * width)
        self.deep = nn.Sequential(*deep, nn.PixelShuffle(2))
        self.up = nn.Sequential(_block(4 * width, 4 * width), nn.PixelShuffle(2))
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.inner(images)
        down = self.down(inner)
        up = self.up(torch.cat([down, self.deep(down)], 1))
        return (self.last(torch.cat([inner, up], 1)) + 6 * images - 3).sigmoid()


def restyled(
    guide: Guide,
    icon: Tensor,
    source: str,
    target: str,
    weights: Weights = ALL,
    steps: int = 100,
    count: int = 8,
    seed: int = 0,
) -> Tensor:
    """The icon (1, 1, H, W), which the text `source` describes, as the text `target` describes it: (1, 1, H, W).

    A StyleNet f is fitted to this icon I alone. With the directions dT = E(target) - E(source), dI = E(f(I)) - E(I),
    and dP = E(patch of f(I)) - E(I) for each of `count` patches, the loss is (equations 2, 4 to 6)

        w_direction (1 - cos(dI, dT)) + w_patch mean of R(1 - cos(dP, dT))
        + w_content |maps(f(I)) - maps(I)|^2 + w_variation TV(f(I))

    in which R(l) is 0 below 0.7: patches that are near the text already do not count. The maps are those of the last
    two blocks of the guide's networks; the paper takes deep maps of VGG.
    """
    torch.manual_seed(seed)
    before, target_text = guide.images(icon), guide.texts([source, target])
    text = functional.normalize(target_text[1:] - target_text[:1], dim=1)
    net = StyleNet()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        after = net(icon)
        cut = patches(after, count, 0.3)
        whole, parts = (1 - _cosines(guide.images(images) - before, text) for images in (after, cut))
        near = parts < 0.7
        loss = (
            weights.direction * whole.mean()
            + weights.patch * parts.masked_fill(near, 0).mean()
            + weights.content * guide.distance(after, icon, slice(2, 4)).mean()
            + weights.variation * variation(after)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net(icon).detach()


def variation(images: Tensor) -> Tensor:
    """The total variation of images: the mean over each of the differences of neighbours, summed over rows, columns."""
    return sum(images.diff(dim=dim).abs().mean() for dim in (2, 3))


def _cosines(directions: Tensor, text: Tensor) -> Tensor:
    return functional.cosine_similarity(directions, text, dim=1, eps=1e-6)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(4, outputs), nn.SiLU())


def told(bank: ImageBank, classes: list[int]) -> list[tuple[str, str]]:
    """Style and name of classes of `icons:styles`: ('outline', 'arrow left')."""
    styles = [bank.group_names[one] for one in classes]
    return [(style, bank.class_names[one].removeprefix(f"{style} ")) for style, one in zip(styles, classes)]


def main(folder: Path, icons: int = 8) -> None:
    bank, guide = load_dataset("icons:styles", "test"), Guide(folder / CLIP)
    firsts, others = first_ones(bank)
    judge, names = Judge(folder, others), bank.classes // 2  # the classes of one style, then those of the other
    chosen = torch.linspace(0, bank.classes - 1, icons).long().tolist()
    asked = [(other_style(style), name) for style, name in told(bank, chosen)]
    print(f"{icons} icons of {names} test names, judged by nearest means of other icons")
    ways = {"all losses": ALL, "no patches": Weights(patch=0)}
    report("icons as they are", firsts[chosen], judge, bank, asked)
    for title, weights in ways.items():
        images = []
        for one, (style, name) in zip(tqdm(chosen, desc=title, disable=None), asked):
            texts = f"{other_style(style)} {name}", f"{style} {name}"
            images.append(restyled(guide, firsts[one : one + 1], *texts, weights))
        report(title, torch.cat(images), judge, bank, asked)


def other_style(style: str) -> str:
    return STYLES[1 - STYLES.index(style)]


def report(title: str, images: Tensor, judge: Judge, bank: ImageBank, asked: list[tuple[str, str]]) -> None:
    """Prints how often the judge still sees the name, and the share of the ink that is inside of filled shapes."""
    kept = sum(a[1] == b[1] for a, b in zip(told(bank, judge.classes(images)), asked))
    full = torch.from_numpy(fullness((255 * images[:, 0]).byte().numpy()))
    solid = torch.tensor([style == "solid" for style, _ in asked])
    means = f"to outline {full[~solid].mean():.2f}, to solid {full[solid].mean():.2f}"
    print(f"{title}: name kept {kept} of {len(asked)}, ink inside of filled shapes {means}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
