"""Retrieval: every test image a query among all others, and the clusters that the embeddings fall into."""

import dataclasses
import warnings

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from episodes import InputError
from fewshot.learners.base import EmbeddedBank, Learner
from fewshot.protocols.similarity import Similarity, measuring, similarity_of
from fewshot.statistics import Estimate, over_classes

_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27}  # similarities worked on at once
RANKS = (1, 2, 4, 8)
_PASSES = 50  # of k-means, at most


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """How well the test images of one class are found together, in percent.

    recall      Recall@k for each k of RANKS: is one of the k most similar images of the query's class?
    map_at_r    mean average precision at R (Musgrave et al. 2020, section 3.2): the mean over ranks i up to R, the
                other images of the class, of the precision among the first i where the i-th is of the class, else 0
    nmi         normalised mutual information of the classes and as many clusters of k-means; it has no interval

    The intervals are over the queries' classes: what the classes of another test set would give among the images of
    this one.
    """

    recall: dict[int, Estimate]
    map_at_r: Estimate
    nmi: float
    similarity: str


def retrieve(learner: Learner, test: EmbeddedBank, seed: int) -> Retrieval:
    """How `learner` retrieves the images of the test classes; turned copies of a class are classes of their own.

    seed: of the start of k-means. Raises InputError where no class has two images.
    """
    bank = test.bank
    if int(bank.sizes.max()) < 2:
        raise InputError(f"retrieval needs a class of two images or more, which {bank.name} does not have")
    with measuring(learner, seed):
        embeddings = test.embeddings
        similarity = similarity_of(learner, embeddings, every=True)
        labels = bank.labels.to(embeddings.device)
        hits, precision = ranked(similarity, embeddings, labels)
    asked = (bank.sizes > 1)[bank.labels].cpu().numpy()  # an image without another one of its class asks for nothing
    classes, clusters = bank.labels.cpu().numpy()[asked, None], np.arange(bank.classes) // bank.turns

    def over(values: Tensor) -> Estimate:
        return over_classes(100 * values.double().cpu().numpy()[asked], classes, clusters)

    directions = functional.normalize(embeddings, dim=1) if similarity.directions else embeddings
    return Retrieval(
        recall={k: over(column) for k, column in zip(RANKS, hits.T)},
        map_at_r=over(precision),
        nmi=100 * mutual_information(directions.cpu().numpy(), bank.labels.cpu().numpy(), seed),
        similarity=similarity.name,
    )


def ranked(similarity: Similarity, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each image as a query among all others: whether it is found at each rank of RANKS, and its precision at R.

    embeddings (N, D), labels (N,); hits (N, ranks) and average precision (N,), 0 for an image alone in its class. A few
    queries at a time: the similarities of all images to all are never there at once.
    """
    count, others = len(labels), torch.bincount(labels)[labels] - 1  # R of each query
    depth = min(count - 1, max(*RANKS, int(others.max())))
    places = torch.arange(1, depth + 1, device=labels.device)
    hits, precisions = [], []
    for part in torch.arange(count, device=labels.device).split(max(1, _CHUNK[labels.device.type] // count)):
        near = similarity.of(embeddings[None, part], embeddings[None])[0]
        if not near.isfinite().all():
            raise InputError("the similarities of the learner are not all finite numbers")
        near.scatter_(1, part[:, None], -torch.inf)  # a query does not find itself
        right = labels[near.topk(depth).indices] == labels[part, None]  # (queries, depth)
        hits.append(torch.stack([right[:, :k].any(1) for k in RANKS], 1))
        right &= places <= others[part, None]
        summed = (right * right.cumsum(1) / places).sum(1)
        precisions.append(summed / others[part].clamp_min(1))
    return torch.cat(hits), torch.cat(precisions)


def mutual_information(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """NMI, in [0, 1], of labels (N,) and the clusters of embeddings (N, D), of which k-means makes one for each class.

    Arithmetic mean of the entropies; k-means starts once, from k-means++ with this seed, and makes 50 passes at most.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus  # slow to import, and few commands need it
    from sklearn.metrics import normalized_mutual_info_score

    count = len(np.unique(labels))
    # as k-means++ was published: one candidate for each next centre, where scikit-learn tries 2 + log(count) of them,
    # which for the 1,692 classes of Omniglot takes minutes and changes NMI by less than a point
    start, _ = kmeans_plusplus(embeddings, count, n_local_trials=1, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # embeddings that are all the same fall into fewer clusters
        clusters = KMeans(count, init=start, n_init=1, max_iter=_PASSES).fit_predict(embeddings)
    return float(normalized_mutual_info_score(labels, clusters))
