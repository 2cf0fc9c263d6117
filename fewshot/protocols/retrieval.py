"""Retrieval: every test image a query among all others, and the clusters that the embeddings fall into."""

import dataclasses
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from episodes import InputError
from fewshot.devices import exact, exact_device
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, measure_sheet, with_seeds
from fewshot.protocols.similarity import Similarity, measuring, similarity_of
from fewshot.protocols.ties import TiedRanks, expected_precisions, tied_ranks
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import Sheet

_CHUNK = {"cpu": 1 << 23, "cuda": 1 << 27, "mps": 1 << 25}  # similarities worked on at once
RANKS = (1, 2, 4, 8)
_PASSES = 50  # of k-means, at most
_FEW = 100  # classes, up to which one start of k-means is quick and may be far off
_RECALLS = [f"recall{k}" for k in RANKS]
_HEADINGS = {**{f"recall{k}": f"Recall@{k}" for k in RANKS}, "map_at_r": "mAP@R", "nmi": "NMI"}
_STARTS = "std of NMI over starts"
_NOTE = (
    "Retrieval: every test image is a query among all others. mAP@R after Musgrave et al. (2020). ± is the 95 %"
    " interval over the classes of the queries: it covers other classes, among the images of this test set, for this"
    " one trained model; NMI, of k-means with as many clusters as classes, has none. The clusters are the best of many"
    " starts of k-means if there are few classes; the std over those starts is how far NMI of one start would be off"
)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """How well the test images of one class are found together, in percent.

    recall      Recall@k for each k of RANKS: is one of the k most similar images of the query's class?
    map_at_r    mean average precision at R (Musgrave et al. 2020, section 3.2): the mean over ranks i up to R, the
                number of other images of the class: the precision among the first i if the i-th is of the class, else 0
    nmi         normalised mutual information of the classes and as many clusters of k-means; it has no interval
    nmi_std     the standard deviation of NMI over the starts of k-means, nan for one start: see mutual_information

    The intervals are over the queries' classes: they cover queries of other classes among the images of this test set.
    """

    recall: dict[int, Estimate]
    map_at_r: Estimate
    nmi: float
    nmi_std: float
    similarity: str


def retrieve(learner: Learner, test: EmbeddedBank, seed: int) -> Retrieval:
    """How `learner` retrieves the images of the test classes; turned copies of a class are classes of their own.

    seed: of the start of k-means. Raises InputError if no class has two or more images.
    """
    bank = test.bank
    if int(bank.sizes.max()) < 2:
        raise InputError(
            f"retrieval needs a class of two images or more, and {bank.name} has none: leave out retrieval"
        )
    with measuring(learner, seed):
        embeddings = test.embeddings
        similarity = similarity_of(learner, embeddings, every=True)
        labels = bank.labels.to(embeddings.device)
        hits, precision = ranked(similarity, embeddings, labels)
    asked = (bank.sizes > 1)[bank.labels].cpu().numpy()  # an image that is alone in its class is no query
    classes, clusters = bank.labels.cpu().numpy()[asked, None], np.arange(bank.classes) // bank.turns

    def over(values: Tensor) -> Estimate:
        return over_classes(100 * exact(values).cpu().numpy()[asked], classes, clusters)

    vectors = functional.normalize(embeddings, dim=1) if similarity.directions else embeddings
    nmi, nmi_std = mutual_information(vectors.cpu().numpy(), bank.labels.cpu().numpy(), seed)
    return Retrieval(
        recall={k: over(column) for k, column in zip(RANKS, hits.T)},
        map_at_r=over(precision),
        nmi=100 * nmi,
        nmi_std=100 * nmi_std,
        similarity=similarity.name,
    )


def ranked(similarity: Similarity, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each image as a query among all others: whether it is found at each rank of RANKS, and its precision at R.

    embeddings (N, D), labels (N,); hits (N, ranks) and average precision (N,), both in [0, 1] and float64, 0 for an
    image alone in its class. Images that are equally similar to a query, up to rounding, count as expected
    under a random order. A few queries are computed at a time, so the similarities of all pairs are never in memory.
    """
    labels = labels.to(exact_device(labels.device))
    count, others = len(labels), torch.bincount(labels)[labels] - 1  # R of each query
    depth = min(count - 1, max(*RANKS, int(others.max())))
    hits, precisions = [], []
    for part in torch.arange(count, device=labels.device).split(max(1, _CHUNK[labels.device.type] // count)):
        near = similarity.of(embeddings[None, part.to(embeddings.device)], embeddings[None])[0].to(labels.device)
        if not near.isfinite().all():
            raise InputError("the similarities of the learner are not all finite numbers")
        near.scatter_(1, part[:, None], -torch.inf)  # a query does not find itself
        ranks = tied_ranks(near, labels == labels[part, None], depth, similarity.rounding)
        hits.append(torch.stack([_found(ranks, min(k, depth)) for k in RANKS], 1))
        precisions.append(_precision_at_r(ranks, others[part]))
    return torch.cat(hits), torch.cat(precisions)


def _found(ranks: TiedRanks, k: int) -> Tensor:
    """How probably one of the first k images is of the query's class, (queries,), if ties are in random order.

    The chance that none of `place` images drawn from `size` is one of the `right` ones: hypergeometric.
    """
    size, right, place, before = (part[:, k - 1, None] for part in ranks)
    drawn = torch.arange(k, device=size.device)
    wrong = torch.where(drawn < place, (size - right - drawn).clamp_min(0) / (size - drawn).clamp_min(1), 1.0)
    return torch.where(before[:, 0] > 0, 1.0, 1 - wrong.prod(1))


def _precision_at_r(ranks: TiedRanks, others: Tensor) -> Tensor:
    """The average precision at R = others (queries,) that is expected if ties are in random order, (queries,)."""
    places = torch.arange(1, ranks.size.shape[1] + 1, device=others.device)
    return (expected_precisions(ranks) * (places <= others[:, None])).sum(1) / others.clamp_min(1)


def mutual_information(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float]:
    """NMI, in [0, 1], of labels (N,) and the clusters of embeddings (N, D), of which k-means makes one for each class.

    NMI divides by the arithmetic mean of the entropies. k-means starts from k-means++ with this seed, 10 times for 100
    classes and fewer, once for more than 500, and makes 50 passes at most; the clusters of least inertia count. The
    second number is the standard deviation (ddof = 1) of NMI over the starts: how far one start alone would be off; nan
    for one start.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus  # slow to import, and few commands need it
    from sklearn.metrics import normalized_mutual_info_score

    count, random = len(np.unique(labels)), np.random.RandomState(seed % 2**32)
    # with many classes, one candidate for each next centre, as k-means++ was published: scikit-learn tries
    # 2 + log(count), which for the 1,692 classes of Omniglot takes minutes and changes NMI by less than a point
    candidates = None if count <= _FEW else 1
    inertias, found = [], []
    for _ in range(min(10, max(1, 10 * _FEW // count))):
        start, _ = kmeans_plusplus(embeddings, count, n_local_trials=candidates, random_state=random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # embeddings that are all the same fall into fewer clusters
            fitted = KMeans(count, init=start, n_init=1, max_iter=_PASSES).fit(embeddings)
        inertias.append(fitted.inertia_)
        found.append(normalized_mutual_info_score(labels, fitted.labels_))
    spread = np.std(found, ddof=1) if len(found) > 1 else np.nan
    return float(found[np.argmin(inertias)]), float(spread)


class RetrievalProtocol(Protocol):
    """Every test image is a query among all others; this test protocol has no settings."""

    name = "retrieval"
    columns = (*FIRST, "images", "similarity", *with_widths(*_RECALLS, "map_at_r"), "nmi", "nmi_std", *LAST)
    later: ClassVar[Row] = {"nmi_std": np.nan}

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        found = retrieve(task.learner, task.data["test"], task.wanted.seed)
        measures = {**dict(zip(_RECALLS, found.recall.values())), "map_at_r": found.map_at_r}
        about = {"images": len(task.data["test"].bank), "similarity": found.similarity}
        return [{**about, "nmi": round(found.nmi, 4), "nmi_std": round(found.nmi_std, 4), **in_columns(measures)}], {}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)


PROTOCOL = RetrievalProtocol()


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    text = f"{images_text(rows)}: percent, over {rows['images'].iloc[0]:,} queries{seeds}"
    if rows["nmi_std"].isna().all():
        return [measure_sheet(rows, "Retrieval", text, _HEADINGS, note)]
    sheet = measure_sheet(rows, "Retrieval", text, {**_HEADINGS, "nmi_std": _STARTS}, note)
    sheet.best[_STARTS] = False  # it says how sure NMI is, not how good a learner is
    return [sheet]
