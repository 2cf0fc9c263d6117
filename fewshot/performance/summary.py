"""What was measured, for readers: ratios to each peer, growth, distances from the machine's bounds; perf.md."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fewshot.files import replace_text, replacing

COLUMNS = [
    "part",
    "task",
    "contender",
    "unit",
    "faster",
    "median",
    "low",
    "high",
    "repeats",
    "counted",
    "agreement",
    "peak_mb",
    "added_mb",
    "hindered",
    "details",
]
_OURS = "fewshot"


def write(table: pd.DataFrame, environment: dict[str, Any], folder: Path) -> None:
    """Write perf.md and, if there is something to draw, ratios.png and growth.png."""
    replace_text(folder / "perf.md", markdown(table, environment))
    for name, figure in (("ratios", _ratio_figure(table)), ("growth", _growth_figure(table))):
        if figure is not None:
            with replacing(folder / f"{name}.png") as unfinished:
                figure.savefig(unfinished, format="png", dpi=150)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of peers, with `ratio`: how many times as fast the suite does the same task in the same run."""
    ours = table[table["contender"] == _OURS].set_index(["part", "task"])["median"]
    theirs = table[table["contender"] != _OURS].copy()
    before = [ours.get((part, task), math.nan) for part, task in zip(theirs["part"], theirs["task"])]
    rate = np.array(before, float) / theirs["median"].to_numpy(float)
    theirs["ratio"] = np.where(theirs["faster"].astype(bool), rate, 1 / rate)
    return theirs


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """One row a measured amount: what grows, amount, seconds, added_mb; `slope` of log seconds over log amount.

    The slope is that of the least-squares line through the upper half of the amounts and the one before: the smaller
    amounts are left out because the constant cost of a call dominates them.
    """
    rows = table[(table["part"] == "growth") & table["median"].notna()]
    parts = rows["task"].str.split(": ", expand=True)
    if rows.empty:
        return pd.DataFrame(columns=["what", "amount", "seconds", "added_mb", "slope"])
    found = pd.DataFrame(
        {
            "what": parts[0],
            "amount": parts[1].astype(int),
            "seconds": rows["median"].astype(float),
            "added_mb": rows["added_mb"].astype(float),
        }
    ).sort_values(["what", "amount"], kind="stable")
    slopes = {}
    for what, several in found.groupby("what"):
        upper = several.tail(len(several) // 2 + 1)
        steep = np.polyfit(np.log(upper["amount"]), np.log(upper["seconds"]), 1)[0] if len(upper) > 1 else math.nan
        slopes[what] = round(float(steep), 2)
    return found.assign(slope=found["what"].map(slopes))


def markdown(table: pd.DataFrame, environment: dict[str, Any]) -> str:
    """The whole of perf.md."""
    packages = ", ".join(f"{name} {number}" for name, number in environment["packages"].items())
    head = [
        "# Speed and memory",
        f"{environment['processor']}, {environment['device']}; Python {environment['python']}, {packages};"
        f" load before the run {environment['load']}."
        + (
            " A quick run: it shows that the measurements work, not how fast anything is."
            if environment["quick"]
            else ""
        ),
        "Medians of repeated runs, each contender in a fresh process by itself, all in one run. A ratio says how many"
        " times as fast the suite is; memory is the peak of the process, and what the work added to it.",
    ]
    sections = [_section(table, part) for part in ("sampling", "evaluation", "training")]
    return "\n\n".join([*head, *filter(None, [*sections, _growth(table), _profile(table), _target(table)])]) + "\n"


def _section(table: pd.DataFrame, part: str) -> str:
    rows = table[table["part"] == part]
    if rows.empty:
        return ""
    beside = ratios(rows)["ratio"].to_dict()
    lines = []
    for number, row in rows.iterrows():
        measured = _number(row["median"]) if pd.notna(row["median"]) else f"not measured: {row['hindered']}"
        between = f"{_number(row['low'])} to {_number(row['high'])}" if pd.notna(row["median"]) else ""
        lines.append(
            {
                "task": row["task"],
                "who": row["contender"],
                row["unit"]: measured,
                "range": between,
                "ratio": f"{beside[number]:.1f}" if number in beside and pd.notna(beside[number]) else "",
                "peak MB": _number(row["peak_mb"]),
                "added MB": _number(row["added_mb"]),
                "how": "" if pd.isna(row["counted"]) else row["counted"],
            }
        )
    notes = [_agreements(rows), _losses(rows)]
    text = pd.DataFrame(lines).fillna("").to_markdown(index=False, disable_numparse=True)
    return "\n\n".join([f"## {part.capitalize()}", text, *filter(None, notes)])


def _agreements(rows: pd.DataFrame) -> str:
    found = rows[rows["agreement"].notna()]
    if found.empty:
        return ""
    worst = found["agreement"].astype(float).max()
    return f"Accuracies of single episodes, ours and a peer's on the same episodes, differ by {worst:.1g} at most" + (
        ", because rounding decides between two classes that are equally near." if worst > 1e-6 else "."
    )


def _losses(rows: pd.DataFrame) -> str:
    """How far our losses are from the plain loop's, from the same weights on the same batches."""
    found = {
        row["contender"]: _details(row).get("losses") for _, row in rows.iterrows() if "prototypical" in row["task"]
    }
    ours, theirs = found.get(_OURS), found.get("plain loop")
    if not ours or not theirs:
        return ""
    count = min(len(ours), len(theirs))
    furthest = max(abs(a - b) / b for a, b in zip(ours[:count], theirs[:count]))
    return (
        f"From the same weights on the same batches, our loss goes from {ours[0]:.4f} to {ours[count - 1]:.4f} in"
        f" {count} steps, and the plain loop's from {theirs[0]:.4f} to {theirs[count - 1]:.4f}: they differ by"
        f" {100 * furthest:.2g} % at most."
    )


def _growth(table: pd.DataFrame) -> str:
    found = growth(table)
    if found.empty:
        return ""
    lines = [
        {
            "what grows": what,
            "amounts": ", ".join(f"{one:,}" for one in rows["amount"]),
            "seconds": ", ".join(_number(one) for one in rows["seconds"]),
            "added MB": ", ".join(_number(one) for one in rows["added_mb"]),
            "slope": f"{rows['slope'].iloc[0]:.2f}",
        }
        for what, rows in found.groupby("what", sort=False)
    ]
    about = (
        "The slope is that of log seconds over log amount at the upper end: 1 is linear. Of episodes only their"
        " results are kept, 28 bytes each."
    )
    return "\n\n".join(["## Growth", pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True), about])


def _profile(table: pd.DataFrame) -> str:
    rows = table[(table["part"] == "profile") & table["median"].notna()]
    if rows.empty:
        return ""
    parts = ["## Where time goes"]
    for _, row in rows.iterrows():
        about = _details(row)
        arithmetic = about["flop_rate"] / about["flop"] if about["flop"] else math.inf
        traffic = about["traffic_rate"] / about["traffic"] if about["traffic"] else math.inf
        bound, kind = min((arithmetic, "arithmetic"), (traffic, "memory traffic"))
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in about["shares"].items())
        parts.append(
            f"**{row['task'].capitalize()}**: {_number(row['median'])} {row['unit']},"
            f" {100 * row['median'] / bound:.0f} % of the {kind} bound of {_number(bound)}"
            f" ({_bound(about, kind)}). {shares}."
        )
    return "\n\n".join(parts)


def _bound(about: dict[str, Any], kind: str) -> str:
    if kind == "arithmetic":
        return (
            f"{about['flop'] / 1e6:.1f} million operations each, and {about['flop_rate'] / 1e9:.0f} billion a second in"
            " a product of matrices"
        )
    return f"{about['traffic']:,} bytes each, and {about['traffic_rate'] / 1e9:.1f} GB a second in a copy"


TARGETS = (97.0, 98.0, 98.5, 98.8)  # percent; the last is what Snell et al. 2017 have on test classes


def _target(table: pd.DataFrame) -> str:
    rows = table[table["part"] == "target"]
    if rows.empty:
        return ""
    lines = [
        "## Time to an accuracy",
        "Training on Omniglot from nothing with conv4: seconds, validations included, until 5-way 1-shot episodes of"
        " validation classes have that accuracy in percent, and in brackets the images until then. A dash: not in this"
        " training.",
    ]
    head = ["learner", "contender", *(f"{one:g} %" for one in TARGETS), "best", "the training"]
    body = [_reached(row) for _, row in rows.iterrows()]
    return "\n\n".join([*lines, pd.DataFrame(body, columns=head).to_markdown(index=False, disable_numparse=True)])


def _reached(row: pd.Series) -> list[str]:
    """A line of the table: when each target was reached for the first time, and the best accuracy on the way."""
    name = [row["task"], row["contender"]]
    if pd.isna(row["median"]):
        return [*name, *["–"] * len(TARGETS), "–", f"not measured: {row['hindered']}"]
    history = _details(row)["history"]
    cells = []
    for accuracy in TARGETS:
        first = next(((seconds, images) for images, seconds, found in history if found >= accuracy), None)
        cells.append("–" if first is None else f"{first[0]:.0f} ({first[1]:,})")
    return [*name, *cells, f"{max(found for *_, found in history):.2f}", f"{row['counted']}, {row['median']:.0f} s"]


def _details(row: pd.Series) -> dict[str, Any]:
    return json.loads(row["details"]) if isinstance(row["details"], str) and row["details"] else {}


def _number(value: Any) -> str:
    """A value with three significant digits, and all digits before the point."""
    value = float(value)
    if not math.isfinite(value):
        return ""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(decimals, 6)}f}"


def _ratio_figure(table: pd.DataFrame) -> Figure | None:
    trained = table["part"] == "target"  # trainings of other lengths, which no ratio compares
    found = ratios(table[~trained]).dropna(subset=["ratio"])
    if found.empty:
        return None
    figure = Figure(figsize=(8, 0.6 + 0.22 * len(found)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found))[::-1]
    colours = found["contender"].map({"easyfsl": "#0072B2", "learn2learn": "#D55E00", "plain loop": "#009E73"})
    axes.barh(places, found["ratio"], color=colours, log=True)
    axes.set_yticks(places, found["task"] + ", " + found["contender"], fontsize=7)
    for place, ratio in zip(places, found["ratio"]):
        axes.annotate(f" {ratio:,.1f}", (ratio, place), va="center", fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.15, y=0.01)
    axes.set_xlabel("times as fast as the peer")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _growth_figure(table: pd.DataFrame) -> Figure | None:
    found = growth(table)
    if found.empty:
        return None
    groups = list(found.groupby("what", sort=False))
    figure = Figure(figsize=(3 * len(groups), 4.6), layout="constrained")
    for column, (what, rows) in zip(figure.subplots(2, len(groups), squeeze=False).T, groups):
        for axes, quantity, word in zip(column, ("seconds", "added_mb"), ("seconds", "MB added")):
            axes.loglog(rows["amount"], rows[quantity].clip(lower=1e-3), marker="o", color="#0072B2")
            axes.set_ylabel(word)
            axes.spines[["top", "right"]].set_visible(False)
        column[0].set_ylim(found["seconds"].min() / 2, found["seconds"].max() * 2)  # the same, so that slopes compare
        column[0].set_title(f"{what}: slope {rows['slope'].iloc[0]:.2f}", fontsize=10)
        column[1].set_ylim(1, max(1e4, 2 * rows["added_mb"].max()))
        column[1].set_xlabel(what)
    return figure
