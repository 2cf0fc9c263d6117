"""Query and gallery: which gallery images show what a query shows, and do the images of a pair show one class?

The queries, the gallery, cameras, junk and pairs are those that lists beside the images give (see
episodes/datasets/galleries.py); if there are none, they are drawn, and cameras are those that the data set knows.
Turned copies of the query's class are junk.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from episodes import ImageBank, InputError
from episodes.draws import stream
from episodes.galleries import FoldedPairs, Gallery, gallery_of, pairs_of
from fewshot.config import Evaluation
from fewshot.devices import exact
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.matching import (
    DIFFICULTIES,
    by_difficulty,
    cmc,
    false_positives_over,
    fold_accuracies,
    fold_answers,
    found,
    trapezoidal_precision,
)
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, measure_sheet, with_seeds
from fewshot.protocols.similarity import Similarity, measuring, similarity_of
from fewshot.statistics import Estimate, over_classes, over_seeds
from fewshot.tables import Sheet

_CHUNK = 1 << 23  # similarities worked on at once
_ROUNDED = 1e-4  # percent: rows hold four decimals
RANKS = (1, 5, 10)
_OF_RANKS = {f"rank{rank}": f"rank-{rank}" for rank in RANKS}
_OF_GALLERY = {**_OF_RANKS, "map": "mAP", **{f"map_{name}": f"mAP {name}" for name in DIFFICULTIES}}
_OF_PAIRS = {"fold_accuracy": "accuracy over folds", "fpr_at_95": "FPR at 95 % recall"}
_GALLERY_NOTE = (
    "Query and gallery: each query looks for the gallery images of its class; the query itself, junk, and images of its"
    " class by its own camera are left out. rank-k: is one of the k most similar images right? mAP: mean average"
    " precision; that of easy, medium and hard images by the trapezoidal rule (Radenovic et al. 2018). Equally similar"
    " images stand in a random order. ± is the 95 % interval over the classes of the queries: it covers queries of"
    " other classes, in this gallery and for this one trained model"
)
_PAIRS_NOTE = (
    "Pairs in folds: do two images show the same class? The threshold of each fold is the best one on all other folds"
    " (Huang et al. 2007). FPR at 95 % recall: the share of pairs of two classes that are accepted where 95 % of the"
    " pairs of one class are. ± is the 95 % interval over classes, or over the folds of a list: it covers another test"
    " set of as many classes with images of their own, or other folds, for this one trained model"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """What one learner finds in a gallery and says of pairs; an array is empty if the data have nothing of the kind.

    first (Q,)          the rank of the first right gallery image of each query, 0 if there is none
    precisions          the average precision (Q,) of each query in [0, 1], nan if its gallery has no right image, by
                        the name of its mean: 'map', or one for each of DIFFICULTIES
    accuracies (F,)     the share of right answers in each fold, in [0, 1]
    measures            the means with their 95 % intervals, in percent, by the names of columns
    """

    first: np.ndarray
    precisions: dict[str, np.ndarray]
    accuracies: np.ndarray
    measures: dict[str, Estimate]
    similarity: str


def match(
    learner: Learner, data: EmbeddedBank, gallery: Gallery | None, pairs: FoldedPairs | None, seed: int
) -> Matches:
    """How `learner` finds the right images of a gallery and tells the pairs of one class from those of two.

    Similarities are those of the protocol retrieval; seed: of the random order of ties. InputError if they are not all
    finite numbers.
    """
    labels = data.bank.labels.cpu().numpy()
    measures: dict[str, Estimate] = {}
    first, precisions, accuracies = np.empty(0, np.int64), dict[str, np.ndarray](), np.empty(0)
    with measuring(learner, seed):
        similarity = similarity_of(learner, data.embeddings, every=True)
        if gallery is not None:
            first, precisions = _searched(similarity, data, gallery, seed)
            classes = labels[gallery.queries]
            ranks = {f"rank{rank}": cmc(first, rank) for rank in RANKS} if len(first) else {}
            known = {**ranks, **precisions}
            measures |= {name: _over(values, classes, data.bank.turns) for name, values in known.items()}
        if pairs is not None:
            scores = _pair_scores(similarity, data, pairs)
            accuracies = fold_accuracies(scores, pairs.same(data.bank), pairs.folds)
            measures |= _of_pairs(scores, pairs, data.bank)
    return Matches(first, precisions, accuracies, measures, similarity.name)


def _searched(
    similarity: Similarity, data: EmbeddedBank, gallery: Gallery, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`first` and `precisions` of Matches; a few queries are compared at a time."""
    shuffled = stream(seed, torch.arange(len(gallery.gallery))).argsort(stable=True).numpy()
    shown = data.embeddings[torch.from_numpy(gallery.gallery[shuffled]).to(data.device)][None]
    firsts: list[np.ndarray] = []
    precisions: dict[str, list[np.ndarray]] = {}
    for places in np.array_split(np.arange(len(gallery.queries)), -(-len(gallery.queries) * len(shuffled) // _CHUNK)):
        asked = data.embeddings[torch.from_numpy(gallery.queries[places]).to(data.device)][None]
        order = shuffled[np.argsort(-_finite(similarity.of(asked, shown)[0]), axis=1, kind="stable")]
        if gallery.answers:
            parts = [np.stack([gallery.answers[place][name] for place in places]) for name in ("easy", "hard", "junk")]
            for name, judged in by_difficulty(*parts).items():
                precisions.setdefault(f"map_{name}", []).append(trapezoidal_precision(order, *judged))
        else:
            matched = found(order, *_judged(data.bank, gallery, places))
            firsts.append(matched.first)
            precisions.setdefault("map", []).append(matched.precision)
    first = np.concatenate(firsts) if firsts else np.empty(0, np.int64)
    return first, {name: np.concatenate(parts) for name, parts in precisions.items()}


def _judged(bank: ImageBank, gallery: Gallery, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which gallery images are right, and which are left out, for the queries at these places, (q, G) each."""
    labels, queries = bank.labels.cpu().numpy(), gallery.queries[places]
    same = labels[queries][:, None] == labels[gallery.gallery]
    turned = ~same & (labels[queries][:, None] // bank.turns == labels[gallery.gallery] // bank.turns)
    cameras = gallery.query_cameras[places][:, None]
    by_camera = (cameras == gallery.gallery_cameras) & (cameras >= 0)
    return same, turned | same & (by_camera | gallery.junk) | (queries[:, None] == gallery.gallery)


def _pair_scores(similarity: Similarity, data: EmbeddedBank, pairs: FoldedPairs) -> np.ndarray:
    """The similarity of each pair, (P,) float64."""
    images = torch.from_numpy(pairs.images).to(data.device)
    parts = [data.embeddings[part] for part in images.split(4096)]
    return _finite(torch.cat([similarity.of(part[:, :1], part[:, 1:]).flatten() for part in parts]))


def _of_pairs(scores: np.ndarray, pairs: FoldedPairs, bank: ImageBank) -> dict[str, Estimate]:
    """fold_accuracy and fpr_at_95 in percent, from the similarity of each pair, (P,)."""
    same, clusters = pairs.same(bank), np.arange(bank.classes) // bank.turns
    right = 100.0 * fold_answers(scores, same, pairs.folds)
    if pairs.trials is None:
        units = pairs.folds[:, None]
        accuracy = over_seeds(np.array([right[pairs.folds == fold].mean() for fold in np.unique(pairs.folds)]))
    else:
        units = clusters[bank.labels.cpu().numpy()[pairs.images]]
        accuracy = over_classes(right.reshape(-1, 2).mean(1), pairs.trials, clusters)
    rate = false_positives_over(scores, same, units)
    return {"fold_accuracy": accuracy, "fpr_at_95": Estimate(100 * rate.mean, 100 * rate.ci95)}


def _finite(similarities: torch.Tensor) -> np.ndarray:
    if not similarities.isfinite().all():
        raise InputError("the similarities of the learner are not all finite numbers")
    return exact(similarities).cpu().numpy()


def _over(values: np.ndarray, classes: np.ndarray, turns: int) -> Estimate:
    """The mean of what is known of queries, in percent, with the interval over their classes.

    values, classes (Q,): nan for a query that does not count; nan without an interval if fewer than two count
    """
    counted = ~np.isnan(values)
    if counted.sum() < 2:
        return Estimate(100 * float(values[counted].mean()) if counted.any() else np.nan, np.nan)
    names, own = np.unique(classes[counted], return_inverse=True)
    return over_classes(100 * values[counted], own[:, None], names // turns)


class QueryGalleryProtocol(Protocol):
    """Queries against a gallery, and pairs in folds; query_gallery.npz keeps what every query and fold gave."""

    name = "query_gallery"
    arrays = "query_gallery.npz"
    columns = (
        *(*FIRST, "queries", "gallery", "fold_pairs", "folds", "similarity"),
        *with_widths(*_OF_GALLERY, *_OF_PAIRS),
        *LAST,
    )

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        _asked(wanted, banks["test"])

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        model, data = task.columns["model"], task.data["test"]
        gallery, pairs = _asked(task.wanted, data.bank)
        matches = match(task.learner, data, gallery, pairs, task.wanted.seed)
        nothing = dict.fromkeys([*_OF_GALLERY, *_OF_PAIRS], Estimate(np.nan, np.nan))
        row = {
            "queries": len(gallery.queries) if gallery else 0,
            "gallery": len(gallery.gallery) if gallery else 0,
            "fold_pairs": len(pairs.images) if pairs else 0,
            "folds": len(matches.accuracies),
            "similarity": matches.similarity,
            **in_columns({**nothing, **matches.measures}),
        }
        kept = {"first": matches.first, **matches.precisions, "fold_accuracy": matches.accuracies}
        return [row], {f"{model}/{name}": values for name, values in kept.items() if len(values)}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        made = []
        if (rows["queries"] > 0).any():
            made += with_seeds(rows, _GALLERY_NOTE, _gallery_sheets)
        if (rows["fold_pairs"] > 0).any():
            made += with_seeds(rows, _PAIRS_NOTE, _pairs_sheets)
        return made

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        return [_unlike(row, arrays) for _, row in rows.iterrows()]


PROTOCOL = QueryGalleryProtocol()


def _asked(wanted: Evaluation, bank: ImageBank) -> tuple[Gallery | None, FoldedPairs | None]:
    own = wanted.query_gallery
    return gallery_of(bank, own.gallery, wanted.seed), pairs_of(bank, own.folds, own.pairs, wanted.seed)


def _unlike(row: pd.Series, arrays: Arrays) -> str:
    """Why a row is not the mean of its queries and folds, '' if it is."""
    cell = f"{row['learner']}, seed {row['seed']}"
    for name in ("map", *(f"map_{one}" for one in DIFFICULTIES), "fold_accuracy"):
        count = row["folds"] if name == "fold_accuracy" else row["queries"]
        values = arrays.get(f"{row['model']}/{name}")
        if np.isnan(row[name]) or values is None:
            if not np.isnan(row[name]):
                return f"query_gallery.npz lacks {name} of {cell}"
            continue
        if values.shape != (count,) or values.dtype.kind != "f":
            return f"query_gallery.npz holds {values.shape} of {values.dtype}, not {count:,} numbers, of {cell}"
        mean = 100 * float(np.nanmean(values))
        if not abs(mean - row[name]) <= _ROUNDED:
            return f"query_gallery.csv says {name} = {row[name]} of {cell}, but the mean of its parts is {mean:.4f}"
    return ""


def _gallery_sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    row = rows.iloc[0]
    text = f"{images_text(rows)}: percent, {row['queries']:,} queries among {row['gallery']:,} gallery images{seeds}"
    there = {name: heading for name, heading in _OF_GALLERY.items() if rows[name].notna().any()}
    return [measure_sheet(rows, "Query and gallery", text, there, note)]


def _pairs_sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    row = rows.iloc[0]
    text = f"{images_text(rows)}: percent, over {row['fold_pairs']:,} pairs in {row['folds']} folds{seeds}"
    return [measure_sheet(rows, "Pairs in folds", text, _OF_PAIRS, note, lowest=("fpr_at_95",))]
