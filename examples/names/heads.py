"""What do heads make of the images and names of an episode, on the features of one trained clip?

    python heads.py results/RUN/checkpoints/clip-zero-shot-seed0/best.pt icons

For 5-way episodes of the test classes with 1, 5 and 16 support images of each: the accuracy of each head, its gain
over clip:zero-shot on the same episodes with the half-width of its 95 % interval over the episodes, and the
milliseconds that an episode takes.
"""

import sys
import time
from pathlib import Path

import torch

from episodes import EpisodeSampler, load_dataset
from fewshot import checkpoints
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import run_episodes
from fewshot.learners.base import Learner
from fewshot.learners.registry import find_learner
from fewshot.models import ModelSpec
from fewshot.statistics import over_episodes

HEADS = (
    *("clip:zero-shot", "clip:few-shot", "clip:mixed", "tip-adapter", "clip-adapter", "lp++", "clap"),
    *("coop:unified", "coop:class-specific"),
)
SHOTS, QUERY, EPISODES = (1, 5, 16), 4, 500


def main(path: Path, dataset: str) -> None:
    """Prints one line for each head and number of shots."""
    content = checkpoints.load(path)
    spec = ModelSpec.from_checkpoint(content, path)
    bank = load_dataset(dataset, "test", size=spec.size)
    for shot in SHOTS:
        sampler, floor = EpisodeSampler(bank, 5, shot, QUERY, seed=0), None
        for head in HEADS:
            learner = with_weights(head, spec, content["learner"])
            data = EmbeddedBank(learner, bank)
            _ = data.embeddings  # not part of the time of an episode
            began = time.perf_counter()
            found = run_episodes(learner, data, sampler, EPISODES)
            seconds = time.perf_counter() - began
            floor = 100 * found.values if floor is None else floor
            gain = over_episodes(100 * found.values - floor)
            print(
                f"5-way {shot}-shot, {head}: {found.percent.mean:.2f}, gain {gain.mean:+.2f} +- {gain.ci95:.2f},"
                f" {1000 * seconds / EPISODES:.1f} ms an episode",
                flush=True,
            )


def with_weights(head: str, spec: ModelSpec, weights: dict[str, torch.Tensor]) -> Learner:
    """A head with the weights of a trained clip; what it has of its own is as it was drawn."""
    cls, variant = find_learner(head)
    size = {name: value for name, value in spec.settings.options.items() if name == "size"}
    settings = spec.settings.model_copy(update={"options": size})
    learner = spec.model_copy(update={"learner": cls.name, "variant": variant, "settings": settings}).build(cls)
    own = learner.state_dict()
    learner.load_state_dict({**own, **{name: weights[name] for name in own.keys() & weights.keys()}})
    return learner.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
