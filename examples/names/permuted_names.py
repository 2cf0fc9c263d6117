"""Do names tell a trained clip anything about classes that it never saw? Accuracies, and a permutation test.

    python permuted_names.py results/RUN/checkpoints/clip-zero-shot-seed0/best.pt icons

For 5-way and 20-way episodes of the test classes, and of those test classes whose names share no word with a training
name: the accuracy of the three variants of clip with the weights of the checkpoint, with the half-widths of the
intervals over episodes and over classes (open); and how often 200 permutations of the names among the classes reach the
accuracy of the true names, by names alone.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from episodes import Episodes, EpisodeSampler, ImageBank, class_texts, load_dataset
from fewshot import checkpoints
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import run_episodes
from fewshot.learners.registry import find_learner
from fewshot.models import ModelSpec
from fewshot.statistics import over_classes

EPISODES = {5: 2000, 20: 500}  # by the number of ways
PERMUTATIONS = 200


def main(path: Path, dataset: str) -> None:
    """Prints one line for each set of classes, number of ways and question."""
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    train, test = (load_dataset(dataset, split, size=spec.size) for split in ("train", "test"))
    known = {word for text in class_texts(train) for word in text.casefold().split()}
    new = [i for i, text in enumerate(class_texts(test)) if not known & set(text.casefold().split())]
    print(f"{test.classes} test classes, {len(new)} of them without a word of a training name")
    for title, bank in (("all", test), ("new words", only_classes(test, new))):
        for way, count in EPISODES.items():
            sampler = EpisodeSampler(bank, way, shot=1, query=15, seed=0)
            for variant in ("zero-shot", "mixed", "few-shot"):
                cls, _ = find_learner(f"{spec.learner}:{variant}")
                learner = spec.model_copy(update={"variant": variant}).build(cls)
                checkpoints.restore(learner, content, path)
                data = EmbeddedBank(learner, bank)
                found = run_episodes(learner, data, sampler, count)
                open_one = over_classes(100 * found.values, found.classes, np.arange(bank.classes))
                told = f"{found.percent.mean:.2f} +- {found.percent.ci95:.2f}, open {open_one.ci95:.2f}"
                print(f"{title}, {way}-way, {variant}: {told}")
            permuted(data, sampler.episodes(0, count), f"{title}, {way}-way")


def only_classes(bank: ImageBank, classes: list[int]) -> ImageBank:
    """The bank of these classes alone."""
    images = torch.cat([torch.arange(bank.offsets[c], bank.offsets[c + 1]) for c in classes])
    names, groups = ([of[c] for c in classes] for of in (bank.class_names, bank.group_names))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), bank.sizes[classes].cumsum(0)])
    return ImageBank(bank.images[images], offsets, tuple(names), tuple(groups), bank.dataset, bank.protocol, bank.split)


def permuted(data: EmbeddedBank, episodes: Episodes, title: str) -> None:
    """Prints the accuracy by true names, its mean over permutations, and the p value of the test."""
    every = data.embeddings @ data.text_embeddings.T  # (images, classes)
    query, generator = episodes.query.flatten(1), torch.Generator().manual_seed(0)

    def accuracy(names: Tensor) -> Tensor:
        scores = every[query[..., None], names[episodes.classes][:, None]]
        return 100 * (scores.argmax(2) == episodes.targets).float().mean()

    classes = len(data.text_embeddings)
    true = accuracy(torch.arange(classes))
    dealt = torch.stack([accuracy(torch.randperm(classes, generator=generator)) for _ in range(PERMUTATIONS)])
    p = (1 + int((dealt >= true).sum())) / (1 + PERMUTATIONS)
    print(f"{title}: true names {true:.2f}, permuted {dealt.mean():.2f} (at most {dealt.max():.2f}), p {p:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
