"""Training in two stages, which several learners share: a classifier of the base classes, then episodes."""

from torch import Tensor
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.learners.episodic import check_shot, split_episodes
from fewshot.learners.linear_classifier import LinearClassifier


class PretrainedEpisodes(LinearClassifier):
    """Trains in two stages: as a linear classifier of the base classes, then by episodes.

    Each batch of the second stage is one episode, whose loss is `episode_loss`: here the cross-entropy of the scores.
    """

    batches = ClassBatches(classes=20, images=10)

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", shot: int = 1, first_stage: float = 0.5
    ) -> None:
        """shot: support images of each class in an episode of the training; the other images are queries.

        first_stage: the share of the classifier in the training steps, 0 if the backbone starts from trained weights.
        """
        super().__init__(backbone, classes, variant)
        if not 0 <= first_stage < 1:
            raise InputError(f"{self.name} needs first_stage of at least 0 and less than 1, not {first_stage}")
        self.shot = shot
        self.stages = (first_stage,) if first_stage else ()

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.stage < len(self.stages):
            return super().loss(images, labels)
        return self.episode_loss(*split_episodes(self.embed(images), self.batches, self.shot))

    def episode_loss(self, support: Tensor, query: Tensor, targets: Tensor) -> Tensor:
        """The loss of support (E, N, K, D) and query (E, Q, D) with the right answers `targets` (E, Q)."""
        return functional.cross_entropy(self.scores(support, query).flatten(0, 1), targets.flatten())
