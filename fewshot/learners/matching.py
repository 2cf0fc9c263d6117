"""Matching networks (Vinyals et al. 2016): attention over the support set."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import rnn

from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.episodic import EpisodicLearner, in_parts
from fewshot.learners.registry import register
from fewshot.masks import counted


@register("matching")
class Matching(EpisodicLearner):
    """A query takes the labels of the support images that it attends to.

    The attention is the softmax, over all support images, of `scale` times the cosine similarity. The probability of
    a class is the sum of the attention to its images (equation 1), and the score is the logarithm of the probability.
    Training runs episodes like those of the test. The paper has no scale: with one shot the predicted class is the
    same, with more shots the attention of the paper is closer to uniform over near and far images of a class.

    basic  attention over the embeddings, without context
    fce    full context embeddings (section 2.1.2, appendix A): a bidirectional LSTM lets each support image see the
           others, an LSTM with attention to the support set lets each query see it, in `steps` steps. The paper reads
           the support set in no special order, and its scores change with the order; here the LSTM reads the support
           set in the order of the sums of the embeddings, so the scores do not depend on the order of the images.
           Training starts with a context of zero, so fce starts as basic
    """

    variants = dict.fromkeys(["basic", "fce"], Traits(paper="Vinyals et al. 2016"))
    search: ClassVar = {"scale": (3.0, 50.0, "log"), "turns": [False, True]}

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        variant: str = "",
        shot: int = 1,
        scale: float = 10.0,
        steps: int = 3,
        turns: bool = False,
    ) -> None:
        """scale: of the cosine, 1 in the paper; with a scale of 1 even the sharpest attention is nearly uniform
        steps: of the variant 'fce', how often a query attends to the support set
        shot, turns: as of EpisodicLearner
        """
        super().__init__(backbone, classes, variant, shot, turns)
        self.scale, self.steps = scale, steps
        if self.variant == "fce":
            size = backbone.embedding_size
            self.support_lstm = nn.LSTM(size, size, batch_first=True, bidirectional=True)
            self.query_lstm = nn.LSTMCell(2 * size, size)
            with torch.no_grad():
                for parameter in [*self.support_lstm.parameters(), *self.query_lstm.parameters()]:
                    parameter[2 * size : 3 * size] = 0  # of the cell's candidates, the third of four gates

    def scores(self, support: Tensor, query: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.variant == "basic":
            return self._scores(support, query, mask)
        gates = 8 * support.shape[3] * max(query.shape[1], support.shape[1] * support.shape[2])
        return in_parts(self._scores_in_context, gates, support, query, mask)

    def _scores(self, support: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
        images = functional.normalize(support.flatten(1, 2), dim=2)
        similarities = self.scale * functional.normalize(query, dim=2) @ images.mT
        similarities = counted(similarities, mask, -torch.inf)
        return similarities.log_softmax(2).unflatten(2, support.shape[1:3]).logsumexp(3)

    def _scores_in_context(self, support: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
        """The scores by full context embeddings."""
        images = self._support_in_context(support.flatten(1, 2), mask)
        return self._scores(images.view_as(support), self._query_in_context(query, images, mask), mask)

    def _support_in_context(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """g(x_i, S) = the two hidden states at x_i + g'(x_i) (appendix A.2): (E, N * K, D), in the order given."""
        sums = images.sum(2) if mask is None else images.sum(2).where(mask.flatten(1), torch.inf)  # the last ones
        order = sums.argsort(dim=1, stable=True)[..., None].expand_as(images)
        # a GPU's LSTM rounds its products to TF32 unless told not to
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            hidden = self._read(images.gather(1, order), mask)
        forward, backward = hidden.chunk(2, dim=2)
        return images + torch.zeros_like(images).scatter(1, order, forward + backward)

    def _read(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """The hidden states (E, N * K, 2 D) at the images (E, N * K, D), of which those that count come first."""
        if mask is None:
            return self.support_lstm(images)[0]
        packed = rnn.pack_padded_sequence(images, mask.sum((1, 2)).cpu(), batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(self.support_lstm(packed)[0], True, total_length=images.shape[1])[0]

    def _query_in_context(self, query: Tensor, images: Tensor, mask: Tensor | None) -> Tensor:
        """f(x, S) (E, Q, D) of query (E, Q, D) and the g(x_i, S) (E, N * K, D) (appendix A.1)."""
        inputs = query.flatten(0, 1)  # (E * Q, D)
        hidden, cell = torch.zeros_like(inputs), torch.zeros_like(inputs)
        for _ in range(self.steps):
            context = (hidden + inputs).view_as(query)  # h
            read = counted(context @ images.mT, mask, -torch.inf).softmax(2) @ images  # r
            # the paper's LSTM reads r beside its hidden state; beside the input the gates are the same sums
            hidden, cell = self.query_lstm(torch.cat([inputs, read.flatten(0, 1)], 1), (context.flatten(0, 1), cell))
        return (hidden + inputs).view_as(query)
