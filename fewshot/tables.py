"""The results of a run as tables for readers, made from the tidy rows: for the terminal and as Markdown.

fewshot/latex.py makes LaTeX of the same tables.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from episodes.errors import counted
from fewshot.records import ALIKE, CELL, UNPAIRED, array_of, image_form, labels, marks_of, summarised
from fewshot.statistics import all_pairs, proportions, ranks

# the split protocols whose trials are counted, one by one: Omniglot's challenge after three trainings
CHALLENGES = ("lake-oneshot", "lake-oneshot-minimal-1", "lake-oneshot-minimal-2")
INTERVAL = (
    "± is the 95 % interval over the episodes (1.96 standard errors): it covers which episodes are drawn from these"
    " images for this one trained model, and neither other classes nor another training run"
)
SEEDS = (
    "± is the 95 % interval over training seeds (Student's t): it covers another training run, on these episodes of"
    " these classes"
)
OPEN = (
    "± is the 95 % interval for another test set of as many classes with images of their own, for this one trained"
    " model; a cell is – if every episode holds all test classes, or if the protocol lists its episodes"
)
APART = (
    "Learners that share a letter cannot be told apart: paired t tests on the same episodes, corrected for all pairs"
    " (Holm) at 5 %. A learner with several seeds counts with the mean over its seeds. The rank, 1 the best, is the"
    " mean over the columns: in each column the learners that share a letter with the best, in bold, share the mean"
    " of their places, then the learners that share a letter with the best of the rest, and so on. The ranks cover"
    " these trained models on these images"
)
BOLD = (
    "Bold is what cannot be told apart from the best of its column: paired t tests on the same episodes, corrected for"
    " all pairs (Holm) at 5 %"
)
PRINTED = "Bold is the best of its column, as printed; no test tells these numbers apart"
EXACT_MEAN = (
    "The interval of a mean over training seeds is the same one for the mean number of errors in the trials, which all"
    " seeds share: more seeds do not make it narrower"
)
EXACT = "The interval is the exact binomial one (Clopper and Pearson), at 95 %, as if all trials were independent"

STARTS_FROM = (
    "A row marked 'from NAME' begins with weights that the learner NAME trained on the same base classes: its training,"
    " if it has one, is a further stage"
)
COLLAPSED = "The training of a learner marked as collapsed ended no better than guessing on validation classes"
SEEN = (
    "Test classes count as seen if the data that the weights were trained on ({}) have a class of the same name, or are"
    " the data set that the test classes were taken from; a class of another name may have been seen, too"
)
KEPT = (
    "Rows marked with other code, or another version of a package, are of an earlier run and were not run again: the"
    " present code and packages may give other numbers"
)

_NAMES = 28  # characters that a column of names has at least if a table is printed in parts
_HEAD = 16  # characters of a head that stay on one line
_GAP = 3  # characters between two columns

_Arrays = Mapping[tuple[int, int], Mapping[str, np.ndarray]]  # by (way, shot) and label, the accuracies (E,)


class Sheet(NamedTuple):
    """A table for readers: its cells as text, with names as the index, and which of them are the best: the bold ones.

    words: the number of columns, from the first, that hold words and not numbers
    """

    title: str
    caption: str
    cells: pd.DataFrame
    best: pd.DataFrame
    note: str
    words: int = 0


def caption(results: pd.DataFrame) -> str:
    """What the numbers are: data set, split protocol, split, episodes."""
    row = results.iloc[0]
    return (
        f"{row.dataset} ({row.protocol}), {row.split} classes, {image_form(row.image_size)}: accuracy"
        f" in percent over {row.episodes:,} episodes, {counted(row.query, 'query')} a class"
    )


def sheets(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray] | None = None) -> list[Sheet]:
    """The tables of a run, the accuracies with the papers' interval first.

    accuracies: those of the episodes, as in episodes.npz. With them, learners that share a letter with the best are
    bold; without them, learners are not told apart, and the best as printed is bold.
    """
    each = _by_protocol(results, accuracies or {}, seeds=True)
    note = ". ".join([INTERVAL, *remarks(results)])
    made = [_sheet(results, "", caption(results), results["accuracy"], results["ci95"], note, each)]
    repeated = results[results.groupby([*ALIKE, *CELL])["seed"].transform("nunique") > 1]
    if len(repeated):
        over, arrays = summarised(repeated).assign(seed=0), _by_protocol(repeated, accuracies or {})
        text = f"{caption(results)}, mean of {over['seeds'].max()} training seeds"
        made.insert(0, _sheet(over, "Over training seeds", text, over["accuracy"], over["ci95"], SEEDS, arrays))
        made[1] = made[1]._replace(title="Each training")
    if results["ci95_open"].notna().any():
        text = f"{caption(results)}, with the interval for another test set"
        made.append(_sheet(results, "Other classes", text, results["accuracy"], results["ci95_open"], OPEN, each))
    if accuracies:
        made += _told_apart(results, accuracies)
    if results["protocol"].isin(CHALLENGES).any():
        made.insert(0, _errors(results, each))
    return made


def markdown(made: Sequence[Sheet]) -> str:
    """The tables as a Markdown page, with the best cells in bold; a note that several tables share comes last."""

    def part(sheet: Sheet, note: str) -> str:
        bold = sheet.cells.where(~sheet.best, "**" + sheet.cells + "**").map(_in_a_cell)
        bold = bold.rename(index=_in_a_cell, columns=_in_a_cell)
        head = f"## {sheet.title}\n\n" if sheet.title else ""
        below = f"\n{note}.\n" if note else ""
        return f"{head}{sheet.caption}\n\n{bold.to_markdown(disable_numparse=True)}\n{below}"

    return "\n".join(part(sheet, note) for sheet, note in zip(made, _notes(made)))


def _in_a_cell(text: str) -> str:
    """The text for a cell of a Markdown table, where a bar would begin the next cell."""
    return text.replace("|", r"\|")


def show(made: Sequence[Sheet], console: Console) -> None:
    """Print the tables to a terminal, with the best cells in bold; what is too wide in parts, one below the other."""
    for sheet, note in zip(made, _notes(made)):
        title = f"{sheet.title}: " if sheet.title else ""
        console.print(f"\n{title}{sheet.caption}", highlight=False, markup=False)
        for places in _parts(sheet, console.width):
            console.print(_printed(sheet, places, console.width))
        if note:
            console.print(f"{note}.\n", style="dim", highlight=False, markup=False)


def _printed(sheet: Sheet, places: list[int], width: int) -> Table:
    """The table with these of its columns. If the terminal is too narrow, numbers stay on one line, and names and
    heads wrap."""
    cells, best = sheet.cells.iloc[:, places], sheet.best.iloc[:, places]
    names = pd.Series(cells.index, name=cells.index.name)
    every = [names, *(cells[name] for name in cells)]
    narrow = sum(max(widest(one), len(str(one.name))) + _GAP for one in every) - 1 > width
    columns = [
        Column(
            str(column.name),
            justify="left" if place <= sheet.words else "right",
            overflow="fold",
            width=_room_of(column) if narrow and place > sheet.words else None,
        )
        for place, column in enumerate(every)
    ]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for label, texts, marks in zip(cells.index, cells.to_numpy(), best.to_numpy()):
        row = (Text(cell, style="bold" if is_best else "") for cell, is_best in zip(texts, marks))
        table.add_row(Text(label), *row)
    return table


def _parts(sheet: Sheet, width: int) -> Iterator[list[int]]:
    """The places of the columns of each part of a table on a terminal of this width: all columns, or the words with as
    many columns of numbers as keep their cells on one line."""
    names = pd.Series(sheet.cells.index, name=sheet.cells.index.name)
    widths = [_room_of(column) + _GAP for column in [names, *(sheet.cells[name] for name in sheet.cells)]]
    words, numbers = widths[: sheet.words + 1], widths[sheet.words + 1 :]
    room = width - 1 - sum(min(_NAMES, one) for one in words)
    for part in groups(numbers, room) or [slice(0, 0)]:
        yield [*range(sheet.words), *range(sheet.words + part.start, sheet.words + part.stop)]


def groups(sizes: Sequence[int], room: int) -> list[slice]:
    """The slices of what has these sizes that are as long as the room lets them be, and have one at least."""
    ends, filled = [], 0
    for place, size in enumerate(sizes):
        if filled and filled + size > room:
            ends.append(place)
            filled = 0
        filled += size
    return [slice(*one) for one in itertools.pairwise([0, *ends, len(sizes)])] if sizes else []


def _room_of(column: pd.Series) -> int:
    """The characters that a column takes at least: those of `widest`, and for a head of several words a few more."""
    return max(widest(column), min(_HEAD, len(str(column.name))))


def widest(column: pd.Series) -> int:
    """The characters of the longest cell of a column, or of the longest word of its head."""
    return max(map(len, [*column.astype(str), *str(column.name).split()]))


def differences(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Every two learners of a run on the same episodes: way, shot, and the columns of statistics.all_pairs, in points.

    Of learners with several seeds, each episode counts with the mean over them. p_holm corrects for the pairs of one
    way and shot.
    """
    found = [
        all_pairs({name: 100 * values for name, values in arrays.items()}).assign(way=way, shot=shot)
        for (way, shot), arrays in _by_protocol(results, accuracies).items()
    ]
    pairs = pd.concat(found, ignore_index=True)
    return pairs[["way", "shot", *pairs.columns.drop(["way", "shot"])]]


def mean_ranks(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray]) -> pd.Series:
    """The mean over ways and shots of each learner's rank (statistics.ranks), by label, the best first.

    Empty if there are no two learners whose episodes are known.
    """
    return _mean_rank(_ranked(results, accuracies))


def remarks(results: pd.DataFrame) -> list[str]:
    """The sentences that explain the marks of models that saw outside data, start from an earlier training, collapsed,
    or were kept from an earlier state."""
    found = marks_of(results)
    seen = [SEEN.format(found["trained_on"])] if found["seen"] else []
    marks = {"starts_from": STARTS_FROM, "collapsed": COLLAPSED, "kept": KEPT}
    return seen + [text for column, text in marks.items() if found[column]]


def _notes(made: Sequence[Sheet]) -> list[str]:
    """The note of each table, '' if the next table has the same note."""
    following = [*made[1:], None]
    return [
        "" if after is not None and after.note == sheet.note else sheet.note for sheet, after in zip(made, following)
    ]


def _sheet(
    rows: pd.DataFrame, title: str, about: str, means: pd.Series, widths: pd.Series, note: str, arrays: _Arrays
) -> Sheet:
    """One row a learner, one column for each way and shot, cells 'mean ± width'; arrays: by the labels of the rows."""
    named = labels(rows)
    leading, bold = _best(rows, named, means, arrays)
    rows = rows.assign(
        label=named,
        column=[f"{way}-way {shot}-shot" for way, shot in zip(rows["way"], rows["shot"])],
        text=["–" if np.isnan(half) else f"{mean:.2f} ± {half:.2f}" for mean, half in zip(means, widths)],
        best=leading & widths.notna(),
    )
    learners, columns = rows["label"].unique(), rows.sort_values(["way", "shot"])["column"].unique()

    def wide(values: str) -> pd.DataFrame:
        table = rows.pivot(index="label", columns="column", values=values)
        return table.reindex(index=learners, columns=columns).rename_axis(index="learner", columns=None)

    return Sheet(title, about, wide("text").fillna("–"), wide("best").eq(True), f"{note}. {bold}")


def _best(rows: pd.DataFrame, named: pd.Series, means: pd.Series, arrays: _Arrays) -> tuple[pd.Series, str]:
    """Which rows are the best of their way and shot, and a sentence on how the best are found.

    If `arrays` has the episodes of every row, all rows that are not told apart from the best; else the best as printed.
    """
    found = {cell: ranks(learners)["best"] for cell, learners in arrays.items()}
    cells = zip(rows["way"], rows["shot"], named)
    told = [found.get((way, shot), {}).get(label) for way, shot, label in cells]
    if None not in told:
        return pd.Series(told, index=rows.index, dtype=bool), BOLD
    printed = means.map(lambda mean: round(float(mean), 2))  # cells that are printed alike are equal
    return printed == printed.groupby([rows["way"], rows["shot"]]).transform("max"), PRINTED


def _told_apart(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray]) -> list[Sheet]:
    """The learners in order, with the same letter if they cannot be told apart; nothing if there is one learner."""
    found = _ranked(results, accuracies)
    if not found:
        return []
    columns = {name: (100 * one["mean"]).map("{:.2f} ".format) + one["group"] for name, one in found.items()}
    best = {name: one["best"] for name, one in found.items()}
    rank = _mean_rank(found)
    cells = pd.DataFrame({"rank": rank.map("{:.2f}".format), **columns}).reindex(rank.index).fillna("–")
    first = pd.DataFrame(best).reindex(index=cells.index, columns=cells.columns).eq(True)
    return [Sheet("Which can be told apart", caption(results), cells.rename_axis("learner"), first, APART)]


def _ranked(results: pd.DataFrame, accuracies: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """The ranks of the learners by '5-way 1-shot', of each way and shot that has two learners or more."""
    each = _by_protocol(results, accuracies).items()
    return {f"{way}-way {shot}-shot": ranks(arrays) for (way, shot), arrays in each if len(arrays) > 1}


def _mean_rank(found: Mapping[str, pd.DataFrame]) -> pd.Series:
    return pd.DataFrame({name: one["rank"] for name, one in found.items()}).mean(axis=1).sort_values(kind="stable")


def _by_protocol(
    results: pd.DataFrame, accuracies: Mapping[str, np.ndarray], seeds: bool = False
) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """For each way and shot the accuracies (E,) of each learner, their mean over the seeds; or of each of the seeds."""
    every: dict[tuple[int, int], dict[str, list[np.ndarray]]] = {}
    named = results.assign(label=labels(results, seeds))
    for _, row in named.sort_values(["way", "shot"], kind="stable").iterrows():
        arrays = every.setdefault((row["way"], row["shot"]), {})
        if row.get("imported") == UNPAIRED:
            continue  # no test compares episode by episode what may be of other episodes
        if (array := array_of(row, accuracies)) is not None:
            arrays.setdefault(row["label"], []).append(array)
    return {
        cell: {label: np.mean(several, axis=0) for label, several in arrays.items()} for cell, arrays in every.items()
    }


def _errors(results: pd.DataFrame, arrays: _Arrays) -> Sheet:
    """The error rates of a challenge with listed trials, with their exact intervals; first those over training seeds,
    of learners that have several."""
    rows = results[results["protocol"].isin(CHALLENGES)]
    named = labels(rows)
    cells = _error_cells(rows, named)
    marks, bold = _best(rows, named, rows["accuracy"], arrays)
    marks.index = cells.index
    repeated = rows[rows.groupby([*ALIKE, *CELL])["seed"].transform("nunique") > 1]
    note = f"{EXACT}. {bold}"
    if len(repeated):
        over = summarised(repeated).assign(seed=0, episodes=rows["episodes"].iloc[0], query=rows["query"].iloc[0])
        means = _error_cells(
            over, [f"{name}, mean of {seeds} seeds" for name, seeds in zip(labels(over), over["seeds"])]
        )
        cells, note = pd.concat([means, cells]), f"{EXACT}. {EXACT_MEAN}. {bold}"
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    best["error rate"] = marks.reindex(cells.index, fill_value=False)
    text = f"{caption(rows).partition(':')[0]}: errors in percent, {rows['way'].iloc[0]}-way one-shot"
    return Sheet("Error rates", text, cells, best, note)


def _error_cells(rows: pd.DataFrame, named: Iterable[str]) -> pd.DataFrame:
    """Errors, error rate and its exact interval of each row; a mean over seeds may have a fraction of an error."""
    trials = (rows["episodes"] * rows["way"] * rows["query"]).to_numpy(float)
    seeds = rows["seeds"].to_numpy() if "seeds" in rows else 1
    wrong = (trials * seeds * (1 - rows["accuracy"].to_numpy() / 100)).round() / seeds  # whole errors of all seeds
    lows, highs = proportions(wrong, trials)
    return pd.DataFrame(
        {
            "errors": [f"{errors:.4g} of {of:.0f}" for errors, of in zip(wrong, trials)],
            "error rate": [f"{100 * errors / of:.2f}" for errors, of in zip(wrong, trials)],
            "95 % interval": [f"{100 * low:.2f} to {100 * high:.2f}" for low, high in zip(lows, highs)],
        },
        index=pd.Index(named, name="learner"),
    )
