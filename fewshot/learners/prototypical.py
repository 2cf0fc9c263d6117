"""Prototypical networks (Snell et al. 2017): the nearest class mean."""

from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches
from episodes.batches import Batches
from fewshot.learners.base import Learner, Traits
from fewshot.learners.episodic import check_shot, split_episodes
from fewshot.learners.registry import register
from fewshot.losses import squared_distances


@register("prototypical")
class Prototypical(Learner):
    """A query goes to the class of the nearest mean embedding.

    Training runs episodes of the kind that the test runs.

    euclidean  softmax over minus the squared Euclidean distance (equations 1 and 2), divided by `temperature`: 1 in the
               paper; the distances of long embeddings want more, since they saturate the softmax of a fresh network
    cosine     softmax over `scale` times the cosine similarity, which the paper finds worse
    """

    variants = dict.fromkeys(["euclidean", "cosine"], Traits(paper="Snell et al. 2017"))
    batches = ClassBatches(classes=60, images=6)

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        variant: str = "",
        shot: int = 1,
        temperature: float = 1.0,
        scale: float = 10.0,
        turns: bool = False,
    ) -> None:
        """shot: support images a class in a training batch, the other ones are queries.

        temperature: of the squared distances; scale: of the cosine; turns: not only the first images of a class are
        its support, all of them are in turn, and the loss is the mean: that of more episodes from the same embeddings.
        """
        super().__init__(backbone, classes, variant)
        self.shot, self.temperature, self.scale, self.turns = shot, temperature, scale, turns

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        support, query, targets = split_episodes(self.embed(images), self.batches, self.shot, self.turns)
        return functional.cross_entropy(self.scores(support, query).flatten(0, 1), targets.flatten())

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes = support.mean(2)  # (E, N, D)
        if self.variant == "cosine":
            return self.scale * functional.normalize(query, dim=2) @ functional.normalize(prototypes, dim=2).mT
        return -squared_distances(query, prototypes) / self.temperature
