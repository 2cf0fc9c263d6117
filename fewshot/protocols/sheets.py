"""The rows of the protocols as tables for readers."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fewshot.protocols.generalised import SUPPORT
from fewshot.records import ALIKE, labels, marks_of
from fewshot.statistics import over_seeds
from fewshot.tables import PRINTED, Sheet, remarks

OVER_SEEDS = (
    "± is the 95 % interval over training seeds (Student's t): it covers another training run, on the same questions"
    " about these images"
)
VERIFICATION = (
    "Verification: do two images show the same class? ± is the 95 % interval for another test set of as many classes"
    " with images of their own, for this one trained model and its threshold; the threshold of the accuracy was chosen"
    " on pairs of validation classes. A pair's score is the learner's own where a class's score depends on its own"
    " support alone, else the cosine of the embeddings"
)
RETRIEVAL = (
    "Retrieval: every test image is a query among all others. mAP@R after Musgrave et al. (2020). ± is the 95 %"
    " interval over the classes of the queries: it covers other classes, among the images of this test set, for this"
    " one trained model; NMI, of k-means with as many clusters as classes, has none. The clusters are the best of many"
    " starts of k-means if there are few classes; the std over those starts is how far NMI of one start would be off"
)
GENERALISED = (
    "Generalised: a query may be of any class, base or novel, and the queries of base classes are images that training"
    " has not seen. Base classes are known by their trained weights where the learner has some, else by up to"
    f" {SUPPORT} training images each. ± is the 95 % interval over the episodes: it covers which episodes are drawn for"
    " this one trained model"
)
_VERIFICATION = {"auc": "ROC AUC", "eer": "equal error rate", "accuracy": "accuracy", "tar": "true accepts at 1 %"}
_RETRIEVAL = {**{f"recall{k}": f"Recall@{k}" for k in (1, 2, 4, 8)}, "map_at_r": "mAP@R", "nmi": "NMI"}
_STARTS = "std of NMI over starts"
_GENERALISED = {
    "harmonic": "harmonic mean of novel and base",
    "novel": "queries of novel classes",
    "base": "queries of base classes",
    "all": "all queries",
}


def protocol_sheets(protocol: str, rows: pd.DataFrame) -> list[Sheet]:
    """The tables of one protocol, from its rows; those over training seeds first, where a learner has several."""
    make, note = _SHEETS[protocol]
    note = ". ".join([note, *remarks(rows)])
    over = _over_seeds(rows)
    text = f", mean of {over['seeds'].max()} training seeds" if len(over) else ""
    return [*(make(over, text, OVER_SEEDS) if len(over) else []), *make(rows, "", note)]


def _verification(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    text = f"{_images(rows)}: percent, over {rows['pairs'].iloc[0]:,} pairs of one class and as many of two{seeds}"
    return [_measures(rows, "Verification", text, _VERIFICATION, note, lowest=("eer",))]


def _retrieval(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    text = f"{_images(rows)}: percent, over {rows['images'].iloc[0]:,} queries{seeds}"
    if rows["nmi_std"].isna().all():
        return [_measures(rows, "Retrieval", text, _RETRIEVAL, note)]
    sheet = _measures(rows, "Retrieval", text, {**_RETRIEVAL, "nmi_std": _STARTS}, note)
    sheet.best[_STARTS] = False  # it says how sure NMI is, not how good a learner is
    return [sheet]


def _generalised(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    row = rows.iloc[0]
    common = (
        f"{_images(rows)}: accuracy in percent among {row['base_classes']:,} base and {row['way']} novel classes, over"
        f" {row['episodes']:,} episodes of {row['query']} queries a novel class and as many of base classes{seeds}"
    )
    shots = sorted(rows["shot"].unique())
    rows = rows.assign(label=labels(rows))
    made = []
    for measure, text in _GENERALISED.items():
        columns = {f"{shot}-shot": rows[rows["shot"] == shot].set_index("label") for shot in shots}
        cells = {name: (one[measure], one[f"{measure}_ci95"]) for name, one in columns.items()}
        title = f"Generalised, {text}"
        made.append(_sheet(title, f"{common}, {text}", rows["label"].unique(), cells, note))
    return made


_SHEETS: dict[str, tuple[Callable[[pd.DataFrame, str, str], list[Sheet]], str]] = {
    "verification": (_verification, VERIFICATION),
    "retrieval": (_retrieval, RETRIEVAL),
    "generalised": (_generalised, GENERALISED),
}


def _images(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return f"{row.dataset} ({row.protocol}), {row.split} classes, {row.image_size}x{row.image_size} pixels"


def _measures(
    rows: pd.DataFrame, title: str, text: str, measures: dict[str, str], note: str, lowest: Sequence[str] = ()
) -> Sheet:
    """One row a learner, one column a measure."""
    rows = rows.assign(label=labels(rows)).set_index("label")
    nothing = pd.Series(np.nan, index=rows.index)
    cells = {heading: (rows[name], rows.get(f"{name}_ci95", nothing)) for name, heading in measures.items()}
    return _sheet(title, text, rows.index, cells, note, [measures[name] for name in lowest])


def _sheet(
    title: str,
    text: str,
    learners: Sequence[str],
    columns: dict[str, tuple[pd.Series, pd.Series]],
    note: str,
    lowest: Sequence[str] = (),
) -> Sheet:
    """Cells 'mean ± width' from the means and widths of each column, by learner; the best in bold, ties as printed."""
    cells, best = pd.DataFrame(index=learners), pd.DataFrame(index=learners)
    for name, (means, widths) in columns.items():
        printed = means.reindex(learners).map("{:.2f}".format).astype(float)
        texts = [f"{mean:.2f}" if np.isnan(half) else f"{mean:.2f} ± {half:.2f}" for mean, half in zip(means, widths)]
        cells[name] = pd.Series(texts, index=means.index).reindex(learners).fillna("–")
        best[name] = printed == (printed.min() if name in lowest else printed.max())
    return Sheet(title, text, cells.rename_axis("learner"), best.rename_axis("learner"), f"{note}. {PRINTED}")


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the training seeds of each learner put together, where there are several: Student's t intervals."""
    keys = [*ALIKE, *(["shot"] if "shot" in rows else [])]
    measures = [name.removesuffix("_ci95") for name in rows if name.endswith("_ci95")]
    found = []
    for _, trained in rows.groupby(keys, sort=False):
        if len(trained) < 2:
            continue
        row = {**trained.iloc[0], **marks_of(trained), "seed": 0, "seeds": len(trained)}
        for name in measures:
            row[name], row[f"{name}_ci95"] = over_seeds(trained[name].to_numpy())
        found.append(row | {name: trained[name].mean() for name in ("nmi", "nmi_std") if name in row})
    return pd.DataFrame(found)
