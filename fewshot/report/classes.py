"""The part of a report on answers by class: of each model its table, and the lines of its two figures."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from episodes import ImageBank
from fewshot.class_records import ClassAnswers, answers_of, class_table, confused, hardest_images, image_name
from fewshot.records import CELL, LEARNER, MODEL, model_names
from fewshot.report.data import LeftOut, Run, chosen_cell, file_name
from fewshot.report.figures import Line, Style
from fewshot.tables import Sheet

_PAIRS, _IMAGES = 6, 8  # in a figure
_ROWS = 100  # of a table
_ROUNDED = 1e-3  # percent: rows and tables hold four decimals


class Answered(NamedTuple):
    """The answers of one model by class, how the model looks in figures, and its name in files' names.

    table    of its classes, the worst first, as class_records.class_table makes it
    answers  None if the run's folder has the table alone
    """

    style: Style
    name: str
    table: pd.DataFrame
    answers: ClassAnswers | None


def read_answers(run: Run) -> list[Answered]:
    """The answers of the first seed of each learner in `chosen_cell`; LeftOut if the run kept none."""
    way, shot = chosen_cell(run)
    found = list(filter(None, (answered(run, row) for row in _first_seeds(run, way, shot))))
    if not found:
        raise LeftOut(_why_none(run))
    return found


def answered(run: Run, row: pd.Series) -> Answered | None:
    """The answers behind a row of the results; None if the run kept none."""
    style, name = run.styles[tuple(row[LEARNER])], file_name(model_names(row)[0])
    answers = answers_of(row, run.accuracies)
    if answers is not None:
        return Answered(style, name, class_table(answers), answers)
    table = _table_of(run, row)
    return None if table is None else Answered(style, name, table, None)


def hardest_class(run: Run, learner: tuple[str, ...], way: Hashable, shot: Hashable) -> str:
    """The class with the lowest accuracy of the learner's first seed, 'NAME: 56.04'; '' if the run kept no answers."""
    for row in _first_seeds(run, way, shot):
        if tuple(row[LEARNER]) == learner and (one := answered(run, row)) is not None:
            worst = one.table.iloc[0]
            return f"{worst['class'].partition(' (turned copy')[0]}: {worst['accuracy']:.2f}"
    return ""


def _first_seeds(run: Run, way: Hashable, shot: Hashable) -> list[pd.Series]:
    """The row of the first seed of each learner."""
    rows = run.results[(run.results["way"] == way) & (run.results["shot"] == shot)]
    return [row for _, row in rows.drop_duplicates(LEARNER).iterrows()]


def _table_of(run: Run, row: pd.Series) -> pd.DataFrame | None:
    """The rows of classes.csv that have the accuracy of a row of the results; None if there are none."""
    rows = run.classes
    if rows is None:
        return None
    own = rows[(rows[[*MODEL, *CELL]] == row[[*MODEL, *CELL]]).all(axis=1)].reset_index(drop=True)
    if own.empty or own["queries"].sum() <= 0:
        return None
    mean = np.average(own["accuracy"], weights=own["queries"])
    return own.astype({"queries": int, "times": int}) if abs(mean - row["accuracy"]) < _ROUNDED else None


def _why_none(run: Run) -> str:
    why = "the run did not keep them, since an older version wrote it"
    if any(run.folder.glob("checkpoints/*/best.pt")):
        why += "; 'fewshot evaluate' counts them again from a checkpoint and writes them with --output"
    return why


def class_sheet(one: Answered, caption: str) -> dict[str, Any]:
    """The table of the hardest classes, as the page shows tables."""
    table, shown = one.table, one.table[:_ROWS]
    cells = pd.DataFrame(
        {
            "accuracy": [f"{value:.2f}" for value in shown["accuracy"]],
            "95 % interval": [f"{low:.2f} to {high:.2f}" for low, high in zip(shown["low"], shown["high"])],
            "queries": [f"{count}" for count in shown["queries"]],
            "taken for": [
                f"{name} ({_times(times)})" if times else "" for name, times in zip(shown["taken_for"], shown["times"])
            ],
            "hardest image": shown["hardest"].tolist(),
        },
        index=pd.Index(shown["class"], name="class"),
    )
    note = f"the {len(shown)} hardest of {len(table):,} classes; classes.csv has all"
    if len(shown) == len(table):
        note = "all classes that were asked"
    best = pd.DataFrame(np.zeros(cells.shape, dtype=bool), index=cells.index, columns=cells.columns)
    sheet = Sheet(f"{one.style.label}, by class", caption, cells, best, note)
    rows = [(None, label, [(cell, "", "", False) for cell in own]) for label, own in zip(cells.index, cells.to_numpy())]
    return {"sheet": sheet, "rows": rows}


def confused_lines(one: Answered, bank: ImageBank) -> list[Line]:
    """The pairs of classes confused most often, each with the first image of both classes."""
    answers, lines = one.answers, []
    if answers is None:
        return []
    for first, second, there, back in confused(answers, _PAIRS):
        images = [bank.images[int(bank.offsets[number])] for number in (first, second)]
        names = f"A  {answers.name(first)}", f"B  {answers.name(second)}"
        lines.append(Line(images, *names, f"A taken for B {_times(there)}, B for A {_times(back)}"))
    return lines


def hardest_lines(one: Answered, bank: ImageBank) -> list[Line]:
    """The hardest images, each with its file and its class."""
    if one.answers is None:
        return []
    labels, counts = bank.labels, one.answers.counts
    return [
        Line(
            [bank.images[image]],
            image_name(bank, image),
            one.answers.name(int(labels[image])),
            f"wrong {counts.wrong[image]:,} of {_times(counts.asked[image])}",
        )
        for image in hardest_images(one.answers, _IMAGES)
    ]


def check_images(found: list[Answered], bank: ImageBank) -> None:
    """LeftOut if the answers are not of the images of `bank`."""
    if any(one.answers and one.answers.sizes.tolist() != bank.sizes.tolist() for one in found):
        raise LeftOut("the test images that are here now are not those of the run (their classes differ)")


def _times(count: int) -> str:
    return f"{count:,} time{'s' if count != 1 else ''}"
