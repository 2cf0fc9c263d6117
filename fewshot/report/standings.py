"""Rankings of the learners of several runs and of published methods: one for each data set, league, way and shot."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import networkx
import numpy as np
import pandas as pd

from baselines import published
from baselines.published import LEAGUES
from fewshot.comparison import ASSUMED
from fewshot.records import CELL, DATA, LEARNER, UNIFORM, labels, summarised
from fewshot.report.data import Run
from fewshot.report.figures import axis_start
from fewshot.report.ranking import LEVEL, paired_tests
from fewshot.report.rendering import paper_link
from fewshot.statistics import tied_ranks

_LEAGUE = {"external": "external-data", "text": "class-names", "transductive": "transductive"}  # the weightiest first

_Told = Mapping[frozenset[str], bool]  # whether a paired test tells two learners of a run apart, by their labels


class Entry(NamedTuple):
    """A line of a ranking.

    half     of the 95 % interval that is printed, nan for none
    width    half of the interval that ties are found by: over episodes and seeds, or reckoned if none is printed
    run      the number of the run, -1 for a published result; label: of the learner in it, as tables.differences has it
    source   the run's name or the paper; link: where a reader finds it, '' if that is not known
    marks    what the model saw beside its base classes
    """

    name: str
    accuracy: float
    half: float
    width: float
    decimals: int
    backbone: str
    size: str
    source: str
    link: str
    family: str
    run: int = -1
    label: str = ""
    marks: str = ""
    floor: bool = False

    @property
    def printed(self) -> str:
        half = "" if np.isnan(self.half) else f" ± {self.half:.{self.decimals}f}"
        return f"{self.accuracy:.{self.decimals}f}{half}"


class Place(NamedTuple):
    """An entry, its rank, and its mean and the ends of its interval in percent of the axis.

    rank  '1'; '2–4' if three entries share these places, since the best of them is not told apart from the other two
    mean  None if the entry is left of the axis
    """

    entry: Entry
    rank: str
    mean: float | None
    low: float
    high: float


class Panel(NamedTuple):
    """The ranking of a data set and split protocol, a league, and a way and shot; its axis is `start` to `end`."""

    split: str
    league: str
    task: str
    places: list[Place]
    start: float
    end: float


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """A panel for each data set, league, way and shot of the runs, the data sets with the most runs first.

    Published numbers are those of the same data set, split protocol, way and shot, with uniform episodes.
    """
    ours = pd.concat([_rows_of(number, run) for number, run in enumerate(runs)], ignore_index=True)
    told = [_told_apart(run) for run in runs]
    theirs = published(kind=UNIFORM)
    found = []
    for (dataset, protocol, way, shot), rows in ours.groupby([*DATA, *CELL]):
        same = (theirs[[*DATA, *CELL]] == [dataset, protocol, way, shot]).all(axis=1)
        known, spread = theirs[same], rows["spread"].median()
        tests = {number: one.get((way, shot), {}) for number, one in enumerate(told)}
        for league in LEAGUES:
            entries = [_ours(row) for row in rows[rows["league"] == league].to_dict("records")]
            entries += [_theirs(row, spread) for row in known[known["league"] == league].to_dict("records")]
            if entries:
                split, task = f"{dataset} ({protocol})", f"{way}-way {shot}-shot"
                found.append(_panel(split, league, task, entries, tests))
    counts = ours.assign(split=ours["dataset"] + " (" + ours["protocol"] + ")").groupby("split")["run"].nunique()
    return sorted(found, key=lambda panel: (-counts[panel.split], panel.split, LEAGUES.index(panel.league)))


def league_of(row: Mapping[Any, Any]) -> str:
    """The league, one of LEAGUES, of a tidy row: by what the method used beside base classes and a support set."""
    return next((league for column, league in _LEAGUE.items() if row[column]), "inductive")


def _rows_of(number: int, run: Run) -> pd.DataFrame:
    """The learners of a run, training seeds put together, with what an entry needs beside the columns."""
    rows = summarised(run.results)
    named = [labels(part, seeds=False) for _, part in rows.groupby("backbone", sort=False)]  # without the backbone
    looks = [run.styles[tuple(learner)] for learner in rows[LEARNER].to_numpy()]
    return rows.assign(
        run=number,
        name=pd.concat(named),
        label=[look.label for look in looks],
        floor=[look.floor for look in looks],
        source=run.folder.resolve().name,
        league=[league_of(row) for row in rows.to_dict("records")],
    )


def _told_apart(run: Run) -> Mapping[Any, _Told]:
    """By way and shot, the pairs of learners with a paired test, and whether it tells them apart."""
    pairs = paired_tests(run)
    found: dict[Any, dict[frozenset[str], bool]] = {}
    for way, shot, first, second, p in pairs[[*CELL, "first", "second", "p_holm"]].itertuples(index=False):
        found.setdefault((way, shot), {})[frozenset({first, second})] = p <= LEVEL
    return found


def _ours(row: Mapping[Any, Any]) -> Entry:
    several = row["interval"] == "seeds"
    return Entry(
        name=row["name"] + (f", {row['seeds']} seeds" if several else ""),
        accuracy=row["accuracy"],
        half=row["ci95"],
        width=float(np.hypot(row["episodes_ci95"], row["ci95"] if several else 0)),
        decimals=2,
        backbone=row["backbone"],
        size=str(row["image_size"]),
        source=row["source"],
        link=f"#run-{row['run']}",
        family="ours",
        run=row["run"],
        label=row["label"],
        marks=f"weights of {row['trained_on']}" if row["trained_on"] else "",
        floor=row["floor"],
    )


def _theirs(row: Mapping[Any, Any], spread: float) -> Entry:
    """spread: the standard deviation over our episodes, for a number without an interval (see comparison.compare)."""
    episodes = ASSUMED if pd.isna(row["episodes"]) else row["episodes"]
    return Entry(
        name=row["method"] + (f" ({row['variant']})" if row["variant"] else ""),
        accuracy=row["accuracy"],
        half=row["ci95"],
        width=1.96 * spread / float(episodes) ** 0.5 if pd.isna(row["ci95"]) else row["ci95"],
        decimals=1 if round(row["accuracy"], 1) == row["accuracy"] else 2,
        backbone=row["backbone"] or "not stated",
        size="" if pd.isna(row["image_size"]) else str(row["image_size"]),
        source=row["paper"],
        link=paper_link(row["arxiv"]),
        family=row["family"],
    )


def _panel(split: str, league: str, task: str, entries: list[Entry], tests: Mapping[int, _Told]) -> Panel:
    entries = sorted(entries, key=lambda entry: (-entry.accuracy, entry.name))
    means, widths = (pd.Series([getattr(entry, name) for entry in entries]) for name in ("accuracy", "width"))
    start = axis_start(means, widths, pd.Series([entry.floor for entry in entries]))
    end = float(min(100, (means + widths).max() + 0.02 * (means.max() - start)))
    ends = [np.clip((means + sign * widths - start) / (end - start) * 100, 0, 100).round(1) for sign in (0, -1, 1)]
    ranks = _ranks(entries, tests)
    places = [
        Place(entry, _said(rank, ranks.count(rank)), mean if entry.accuracy >= start else None, low, high)
        for entry, rank, mean, low, high in zip(entries, ranks, *ends)
    ]
    order = sorted(range(len(entries)), key=ranks.__getitem__)
    return Panel(split, league, task, [places[number] for number in order], start, end)


def _ranks(entries: Sequence[Entry], tests: Mapping[int, _Told]) -> list[float]:
    """The rank of each of the entries, best first: see statistics.tied_ranks."""
    names = [str(number) for number in range(len(entries))]
    alike = networkx.Graph(_ties(entries, tests))
    alike.add_nodes_from(names)
    return tied_ranks(alike, names)


def _ties(entries: Sequence[Entry], tests: Mapping[int, _Told]) -> Iterable[tuple[str, str]]:
    for first, one in enumerate(entries):
        for second, other in enumerate(entries[:first]):
            if not _told(one, other, tests):
                yield str(first), str(second)


def _told(one: Entry, other: Entry, tests: Mapping[int, _Told]) -> bool:
    """By the paired test of a run, if there is one; else if the difference is more than both intervals and the rounding
    leave open."""
    paired = tests[one.run].get(frozenset({one.label, other.label})) if one.run == other.run >= 0 else None
    if paired is not None:
        return paired
    rounding = sum(0.5 * 10.0**-entry.decimals for entry in (one, other) if entry.run < 0)
    return abs(one.accuracy - other.accuracy) > np.hypot(one.width, other.width) + rounding


def _said(rank: float, count: int) -> str:
    """The places that `count` entries of the mean place `rank` share."""
    first = rank - (count - 1) / 2
    return f"{first:.0f}" if count == 1 else f"{first:.0f}–{first + count - 1:.0f}"
