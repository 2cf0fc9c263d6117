"""The results of a run as tables for readers: terminal, Markdown, LaTeX. All made by pandas from the tidy rows."""

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

COLUMNS = [
    "dataset",
    "split",
    "learner",
    "variant",
    "backbone",
    "way",
    "shot",
    "query",
    "episodes",
    "seed",
    "accuracy",
    "ci95",
    "train_seconds",
    "eval_seconds",
    "protocol",
    "image_size",
    "transductive",
    "device",
    "precision",
    "torch",
]
INTERVAL = (
    "± is the 95 % interval over the episodes (1.96 standard errors): it covers which episodes are drawn from these"
    " images for this one trained model, and neither other classes nor another training run"
)


_LATEX = str.maketrans({"±": r"$\pm$", **{character: f"\\{character}" for character in "%&_#${}"}})


def caption(results: pd.DataFrame) -> str:
    """What the numbers are: data set, protocol, split, episodes."""
    row = results.iloc[0]
    return (
        f"{row.dataset} ({row.protocol}), {row.split} classes, {row.image_size}x{row.image_size} pixels: accuracy"
        f" in percent over {row.episodes:,} episodes, {row['query']} queries a class"
    )


def wide(results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a learner, one column a protocol: the cells as text, and which of them is the best of its column."""
    printed = results["accuracy"].map("{:.2f}".format).astype(float)  # equal as printed is equal
    rows = results.assign(
        label=_labels(results),
        column=[f"{way}-way {shot}-shot" for way, shot in zip(results["way"], results["shot"])],
        text=[f"{mean:.2f} ± {half:.2f}" for mean, half in zip(results["accuracy"], results["ci95"])],
        best=printed == printed.groupby([results["way"], results["shot"]]).transform("max"),
    )
    shape = {"index": "label", "columns": "column"}
    text, best = (rows.pivot(values=values, **shape) for values in ("text", "best"))
    order = {"index": rows["label"].unique(), "columns": rows.sort_values(["way", "shot"])["column"].unique()}
    text, best = text.reindex(**order).fillna("–"), best.reindex(**order).eq(True)
    text.index.name = best.index.name = "learner"
    return text.rename_axis(columns=None), best.rename_axis(columns=None)


def markdown(results: pd.DataFrame) -> str:
    """The table as a Markdown page, the best of each column in bold."""
    text, best = wide(results)
    bold = text.where(~best, "**" + text + "**")
    return f"{caption(results)}\n\n{bold.to_markdown()}\n\n{INTERVAL}.\n"


def latex(results: pd.DataFrame) -> str:
    """The table for a paper (package booktabs), the best of each column in bold."""
    text, best = wide(results)
    cells = text.replace({"±": r"$\\pm$", "–": "--"}, regex=True).rename_axis(index=None, columns="learner")
    bold = best.rename_axis(index=None, columns="learner").map(lambda is_best: "textbf: --rwrap" if is_best else "")
    styler = cells.style.apply(lambda _: bold, axis=None).format_index(escape="latex")
    note = f"{caption(results)}. {INTERVAL}.".translate(_LATEX)
    columns = "l" + "r" * text.shape[1]
    return styler.to_latex(hrules=True, caption=note, column_format=columns, position_float="centering")


def show(results: pd.DataFrame, console: Console) -> None:
    """Print the table to a terminal, the best of each column in bold."""
    text, best = wide(results)
    columns = (Column(name, justify="right") for name in text.columns)
    table = Table("learner", *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for label in text.index:
        cells = zip(text.loc[label], best.loc[label])
        table.add_row(Text(label), *(Text(cell, style="bold" if is_best else "") for cell, is_best in cells))
    console.print(f"\n{caption(results)}", highlight=False, markup=False)
    console.print(table)
    console.print(f"{INTERVAL}.\n", style="dim", highlight=False)


def _labels(results: pd.DataFrame) -> list[str]:
    """'npair', 'siamese (koch)', with the seed, or the backbone, where there are several."""
    several = results["seed"].nunique() > 1
    families = results["backbone"].str.partition("-")[0]  # conv4-linear is a Conv-4 too
    backbones = results.groupby(["learner", "variant"])["backbone"].transform("nunique") > 1
    backbones |= families.nunique() > 1
    labels = []
    for row, has_several in zip(results.itertuples(), backbones):
        label = f"{row.learner} ({row.variant})" if row.variant else row.learner
        label += f", {row.backbone}" if has_several else ""
        label += f", seed {row.seed}" if several else ""
        labels.append(f"{label} [transductive]" if row.transductive else label)
    return labels
