"""Do generated icons help classes that are known by name alone? Prototypes of generated support, beside names alone.

    python generated_support.py MODELS

For 5-way and 20-way episodes of the test names of `icons`, none of which any model saw in training, and in the space of
two networks, the guide and the judge: the accuracy of names alone (`clip:zero-shot`; the judge is the network of the
committed run quick-icons-clip), of prototypes of icons that the diffusion model makes of each name, half of them
outlines and half solid, of both together, and of one real icon; and the paired differences to names alone. The guidance
and the number of icons are those that are best in each space on validation names.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from diffusion import Painter
from guide import CLIP
from judge import JUDGE
from torch import Tensor
from torch.nn import functional

from episodes import EpisodeSampler, ImageBank, class_texts, load_dataset
from episodes.datasets.icon_styles import STYLES
from fewshot.embedding import EmbeddedBank
from fewshot.loading import open_checkpoint
from fewshot.statistics import over_classes, over_episodes, paired

GUIDANCES = (1.5, 3.0, 6.0)
COUNTS = (1, 2, 4)  # icons of each name in each style
EPISODES = {5: 2000, 20: 500}  # by the number of ways


class Space:
    """The embeddings of a CLIP, in which queries of `bank` meet prototypes of its classes by their cosines."""

    def __init__(self, path: Path, bank: ImageBank) -> None:
        self.learner, self.bank = open_checkpoint(path, "clip")[1].eval().requires_grad_(False), bank
        self.rows = EmbeddedBank(self.learner, bank).embeddings

    def names(self) -> Tensor:
        """The embeddings of the classes' names (classes, D); the means of both styles if the network knows styles."""
        styled = any(text.startswith(STYLES) for text in self.learner.class_names)
        prompts = styled_texts(self.bank) if styled else [list(class_texts(self.bank))]
        return functional.normalize(sum(self.learner.embed_texts(tuple(texts)) for texts in prompts), dim=1)

    def prototypes(self, images: Tensor) -> Tensor:
        """Of images (classes, n, 1, H, W): the means of their embeddings, of length one, (classes, D)."""
        rows = torch.cat([self.learner.embed(part) for part in images.flatten(0, 1).split(500)])
        return functional.normalize(rows.unflatten(0, images.shape[:2]).mean(1), dim=1)

    def accuracies(self, prototypes: Tensor | None, way: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each episode, in percent (E,), with its classes (E, way).

        prototypes: of all classes, (classes, D); None for the one real support image of each class of an episode
        """
        episodes = EpisodeSampler(self.bank, way, shot=1, query=15, seed=0).episodes(0, EPISODES[way])
        support = self.rows[episodes.support.squeeze(2)] if prototypes is None else prototypes[episodes.classes]
        scores = self.rows[episodes.query.flatten(1)] @ support.mT
        right = (scores.argmax(2) == episodes.targets).double().mean(1)
        return 100 * right.numpy(), episodes.classes.numpy()


def styled_texts(bank: ImageBank) -> list[list[str]]:
    """The texts of the classes of `bank` in each style: 'outline bell' and so on, 'solid bell' and so on."""
    return [[f"{style} {text}" for text in class_texts(bank)] for style in STYLES]


def painted(painter: Painter, bank: ImageBank, guidance: float) -> Tensor:
    """The most icons of each class of `bank`, (classes, styles, count, 1, H, W)."""
    texts = styled_texts(bank)
    return torch.stack([painter(one, max(COUNTS), guidance, seed) for seed, one in enumerate(texts)], 1)


def main(folder: Path) -> None:
    painter = Painter(folder)
    validation, test = (load_dataset("icons", split) for split in ("validation", "test"))
    tried, drawn = ({one: painted(painter, bank, one) for one in GUIDANCES} for bank in (validation, test))
    for title, path in {"guide": folder / CLIP, "judge": folder / JUDGE}.items():
        space = Space(path, validation)
        found = {}
        for guidance, count in itertools.product(GUIDANCES, COUNTS):
            means = space.prototypes(tried[guidance][:, :, :count].flatten(1, 2))
            found[guidance, count] = space.accuracies(means, 5)[0].mean()
        guidance, count = max(found, key=found.get)
        told = ", ".join(f"guidance {g:g} and {2 * n} icons {value:.1f}" for (g, n), value in found.items())
        print(f"{title}, validation, 5-way: names {space.accuracies(space.names(), 5)[0].mean():.1f}, {told}")
        compare(Space(path, test), drawn[guidance][:, :, :count].flatten(1, 2), f"{title}, guidance {guidance:g}")


def compare(space: Space, icons: Tensor, title: str) -> None:
    """Prints the accuracy of each kind of prototypes, and how much it exceeds that of names alone."""
    names, means = space.names(), space.prototypes(icons)
    both = functional.normalize(names + means, dim=1)
    kinds = {f"{icons.shape[1]} generated icons": means, "names and these icons": both, "one real icon": None}
    for way in EPISODES:
        alone, classes = space.accuracies(names, way)
        print(f"{title}, {way}-way, names alone: {shown(alone, classes, space.bank)}")
        for kind, prototypes in kinds.items():
            values, _ = space.accuracies(prototypes, way)
            gain = f"gain {paired(values, alone).mean:+.2f} +- {paired(values, alone).ci95:.2f}"
            open_gain = over_classes(values - alone, classes, np.arange(space.bank.classes)).ci95
            print(f"{title}, {way}-way, {kind}: {shown(values, classes, space.bank)}; {gain}, open {open_gain:.2f}")


def shown(values: np.ndarray, classes: np.ndarray, bank: ImageBank) -> str:
    """The mean of accuracies, with the half-widths of the intervals over episodes and over classes (open)."""
    mean, ci95 = over_episodes(values)
    return f"{mean:.2f} +- {ci95:.2f}, open {over_classes(values, classes, np.arange(bank.classes)).ci95:.2f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
