"""What the tables of test protocols share: layout, captions, and means over training seeds."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fewshot.records import ALIKE, ROW, image_form, labels, marks_of
from fewshot.statistics import over_seeds
from fewshot.tables import PRINTED, Sheet, remarks

OVER_SEEDS = (
    "± is the 95 % interval over training seeds (Student's t): it covers another training run, on the same questions"
    " about these images"
)


def with_seeds(rows: pd.DataFrame, note: str, make: Callable[[pd.DataFrame, str, str], list[Sheet]]) -> list[Sheet]:
    """The tables that `make` makes from rows, a part of the caption and a note; the tables over training seeds come
    first, if a learner has several seeds."""
    note = ". ".join([note, *remarks(rows)])
    over = _over_seeds(rows)
    text = f", mean of {over['seeds'].max()} training seeds" if len(over) else ""
    return [*(make(over, text, OVER_SEEDS) if len(over) else []), *make(rows, "", note)]


def images_text(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return f"{row.dataset} ({row.protocol}), {row.split} classes, {image_form(row.image_size)}"


def measure_sheet(
    rows: pd.DataFrame, title: str, text: str, measures: dict[str, str], note: str, lowest: Sequence[str] = ()
) -> Sheet:
    """One row a learner, one column a measure."""
    rows = rows.assign(label=labels(rows)).set_index("label")
    nothing = pd.Series(np.nan, index=rows.index)
    cells = {heading: (rows[name], rows.get(f"{name}_ci95", nothing)) for name, heading in measures.items()}
    return sheet_of(title, text, rows.index, cells, note, [measures[name] for name in lowest])


def sheet_of(
    title: str,
    text: str,
    learners: pd.Index,
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
    """One row for the training seeds of each learner that has several, with Student's t intervals."""
    keys = [*ALIKE, *(name for name in ROW if name in rows)]
    widths = {name.removesuffix("_ci95"): name for name in rows.columns if name.endswith("_ci95")}
    widths |= {"accuracy": "ci95"} if "ci95" in rows else {}
    found = []
    for _, trained in rows.groupby(keys, sort=False):
        if len(trained) < 2:
            continue
        row = {**trained.iloc[0], **marks_of(trained), "seed": 0, "seeds": len(trained)}
        for name, width in widths.items():
            row[name], row[width] = over_seeds(trained[name].to_numpy())
        found.append(row | {name: trained[name].mean() for name in ("nmi", "nmi_std") if name in row})
    return pd.DataFrame(found)
