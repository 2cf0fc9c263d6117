"""Dynamic few-shot learning without forgetting (Gidaris and Komodakis 2018): a generator of classifier weights."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes import ClassBatches, InputError
from episodes.batches import Batches
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.cosine_classifier import CosineClassifier
from fewshot.learners.episodic import by_class, check_shot, in_parts
from fewshot.learners.registry import register
from fewshot.masks import class_means


@register("dynamic")
class Dynamic(CosineClassifier):
    """A cosine classifier; a trained generator makes the weights of new classes.

    Training has two stages. In the first the network and the base classes' weights w_b learn by cross-entropy, with
    the logits tau * cos(z, w_b). In the second the network is frozen; the generator, the w_b and tau learn.
    Some classes of the batch play new classes: generated weights replace the w_b of these classes. Queries of these
    classes, and as many queries of other classes, are classified among all classes.

    attention  w' = phi_avg * mean of z_i + phi_att * mean over i of the sum over b of a_ib w_b, all z and w_b of length
               one, with a_i = softmax over b of gamma * cos(phi_q z_i, k_b) and a key k_b for each base class
    average    w' = phi_avg * mean of z_i alone, what the paper calls feature averaging

    phi_avg starts at one and phi_att at zero, so the generated weights start as imprinted weights. In the authors' code
    both start at one, and before training the attention is noise.
    """

    variants = dict.fromkeys(["attention", "average"], Traits(paper="Gidaris and Komodakis 2018"))
    batches = ClassBatches(classes=60, images=6)
    search: ClassVar = {"novel": (2, 40, "log"), "first_stage": (0.3, 0.95)}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        novel: int = 5,
        first_stage: float = 0.6,
    ) -> None:
        """shot: support images of a class that plays a new one; its other images in the batch are queries.

        novel: how many classes play new ones in an episode; each group of `novel` classes of the batch is one episode,
        and a batch has two groups or more
        first_stage: the share of the first stage in the training steps
        """
        super().__init__(backbone, classes, variant)
        if novel < 1 or not 0 <= first_stage <= 1:
            raise InputError(
                f"dynamic needs novel of at least 1 and first_stage between 0 and 1, not {novel} and {first_stage}"
            )
        self.shot, self.novel = shot, novel
        self.stages = (first_stage,) if first_stage < 1 else ()
        size = backbone.embedding_size
        self.phi_avg = nn.Parameter(torch.ones(size))
        if self.variant == "attention":
            self.phi_att = nn.Parameter(torch.zeros(size))
            self.phi_query = nn.Linear(size, size)
            self.keys = nn.Parameter(torch.randn(classes, size) * (2 / size) ** 0.5)
            self.gamma = nn.Parameter(torch.tensor(10.0))
            with torch.no_grad():
                self.phi_query.weight.copy_(torch.eye(size) + 1e-3 * torch.randn(size, size))
                self.phi_query.bias.zero_()

    def check_batches(self, batches: Batches) -> None:
        super().check_batches(batches)
        check_shot(self.name, self.shot, batches)
        if isinstance(batches, ClassBatches) and batches.classes < 2:
            raise InputError("dynamic needs batches of two classes or more: one plays a new class, one a base class")

    def train(self, mode: bool = True) -> "Dynamic":
        """Set the mode; in the second stage the network stays in eval mode: its batch norms must not change."""
        super().train(mode)
        self.backbone.train(mode and self.stage == 0)
        return self

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.stage == 0:
            return super().loss(images, labels)
        with torch.no_grad():
            embeddings = self.embed(images)
        return self._generator_loss(*(by_class(rows, self.batches) for rows in (embeddings, labels)))

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.logits(query, self._generated(support, mask=mask))

    def _generator_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (classes, images, D) and labels (classes, images); each group plays new classes."""
        novel = min(self.novel, len(labels) // 2)
        groups = len(labels) // novel  # one episode each
        embeddings = embeddings[: groups * novel].unflatten(0, (groups, novel))  # (E, N, images, D)
        labels = labels[: groups * novel].unflatten(0, (groups, novel))  # (E, N, images)
        classes = labels[:, :, 0]
        weights = self._generated(embeddings[:, :, : self.shot], classes)
        query, targets = embeddings[:, :, self.shot :].flatten(1, 2), labels[:, :, self.shot :].flatten(1)
        # the queries of base classes are those of the group before
        query, targets = (torch.cat([part, part.roll(1, 0)], 1) for part in (query, targets))
        places = classes[:, None].expand(-1, query.shape[1], -1)
        logits = self.base_logits(query).scatter(2, places, self.logits(query, weights))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def _generated(self, support: Tensor, absent: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The weights (E, N, D) of new classes from support (E, N, K, D).

        absent: the base classes (E, M) that an episode does not see; mask: see Learner.scores
        """
        support = functional.normalize(support, dim=3)
        weights = self.phi_avg * class_means(support, mask)
        if self.variant == "average":
            return weights
        images = support.flatten(1, 2)
        absent = images.new_empty(len(images), 0, dtype=torch.int64) if absent is None else absent
        attended = in_parts(self._attended, images.shape[1] * len(self.keys), images, absent)
        return weights + self.phi_att * class_means(attended.view_as(support), mask)

    def _attended(self, images: Tensor, absent: Tensor) -> Tensor:
        """The base classes' weights, averaged by the attention of each image: (E, N * K, D) from the same shape."""
        similarities = functional.normalize(self.phi_query(images), dim=2) @ functional.normalize(self.keys, dim=1).T
        places = absent[:, None].expand(-1, images.shape[1], -1)
        attention = (self.gamma * similarities).scatter(2, places, -torch.inf).softmax(2)
        return attention @ functional.normalize(self.weights, dim=1)
