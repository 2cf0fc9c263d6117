"""Which learner is ahead: the order of the learners in a report, the best of each way and shot, and all differences."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from fewshot import tables
from fewshot.records import LEARNER, labels, summarised
from fewshot.report import classes
from fewshot.report.data import LeftOut, Run
from fewshot.tables import Sheet

LEVEL = 0.05  # of p_holm


def ranked_learners(run: Run) -> dict[tuple[str, ...], float]:
    """The mean rank of each learner, by its values of LEARNER, the best first; see tables.mean_ranks.

    nan if the run has no episodes to compare the learner by; these learners come last, by their mean accuracy.
    """
    ranks = tables.mean_ranks(run.results, run.accuracies)
    means = run.results.groupby(LEARNER, sort=False)["accuracy"].mean()
    found = {learner: ranks.get(run.styles[learner].label, np.nan) for learner in run.styles}
    order = sorted(found, key=lambda learner: (np.isnan(found[learner]), found[learner], -means[learner]))
    return {learner: found[learner] for learner in order}


def at_a_glance(run: Run, comparison: pd.DataFrame) -> Sheet:
    """For each way and shot the best learner, the second and their difference, the best published result, and the
    hardest class.

    comparison: the rows of fewshot.comparison.compare of this run
    """
    means = summarised(run.results)
    means = means.assign(label=labels(means, seeds=False))
    pairs = paired_tests(run)
    found = {}
    for (way, shot), rows in means.sort_values(["way", "shot"]).groupby(["way", "shot"]):
        first, *others = rows.sort_values("accuracy", ascending=False, kind="stable").to_dict("records")
        second = others[0] if others else None
        theirs = comparison[_of(comparison, way, shot)]
        found[f"{way}-way {shot}-shot"] = {
            "best learner": f"{first['label']}: {first['accuracy']:.2f}",
            "second": f"{second['label']}: {second['accuracy']:.2f}" if second else "–",
            "told apart": _apart(pairs[_of(pairs, way, shot)], first["label"], second["label"]) if second else "–",
            **_beside(theirs),
            "hardest class": classes.hardest_class(run, tuple(first[name] for name in LEARNER), way, shot) or "–",
        }
    cells = pd.DataFrame.from_dict(found, orient="index").rename_axis("task")
    hardest = "The hardest class is the one with the lowest accuracy of the best learner"
    if (cells["hardest class"] == "–").all():
        cells = cells.drop(columns="hardest class")
        hardest = "The run kept no answers by class, so the hardest class is not known"
    note = (
        "Told apart: a paired t test on the same episodes, corrected for all pairs (Holm) at 5 %. The best published"
        " result is the highest that compares with one of our learners, and the difference is that of our best learner"
        f" which it compares with. {hardest}"
    )
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Sheet("At a glance", tables.caption(run.results), cells, best, note, words=cells.shape[1])


def paired_tests(run: Run) -> pd.DataFrame:
    """The columns of tables.differences, without rows if no two learners were tested on the same episodes."""
    if tables.mean_ranks(run.results, run.accuracies).empty:
        return pd.DataFrame(columns=["way", "shot", "first", "second", "difference", "ci95", "p", "p_holm"])
    return tables.differences(run.results, run.accuracies)


def _of(rows: pd.DataFrame, way: Hashable, shot: Hashable) -> pd.Series:
    return (rows["way"] == way) & (rows["shot"] == shot)


def _apart(pairs: pd.DataFrame, first: str, second: str) -> str:
    """'yes: 0.66 ± 0.06 points', or 'no: ...'; '–' if the two were not tested on the same episodes."""
    own = pairs[[{one, other} == {first, second} for one, other in zip(pairs["first"], pairs["second"])]]
    if own.empty:
        return "–"
    pair = own.iloc[0]
    word = "yes" if pair["p_holm"] <= LEVEL else "no"
    return f"{word}: {abs(pair['difference']):.2f} ± {pair['ci95']:.2f} points"


def _beside(rows: pd.DataFrame) -> dict[str, str]:
    comparable = rows[rows["verdict"] != "not comparable"]
    if comparable.empty:
        return {"best published": "none is comparable", "ours minus published": "–"}
    best = comparable.sort_values(["published", "difference"], ascending=False, kind="stable").iloc[0]
    difference = f"{best['difference']:+.2f} ± {best['difference_ci95']:.2f}: {best['verdict']}"
    return {
        "best published": f"{best['method']} ({best['source']}): {best['published']:.{best['decimals']}f}",
        "ours minus published": difference.replace("-", "−"),
    }


def difference_grids(run: Run) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """For each '5-way 1-shot' the labels of the learners, the best first, (L,), their differences in points, lines
    minus columns, and whether each pair is told apart, (L, L) both; LeftOut if there are fewer than three learners."""
    if len(run.styles) < 3:
        raise LeftOut("there are fewer than three learners")
    order = [run.styles[learner].label for learner, rank in ranked_learners(run).items() if not np.isnan(rank)]
    if not order:
        raise LeftOut("no learners were tested on the same episodes")
    found = {}
    for (way, shot), pairs in paired_tests(run).groupby(["way", "shot"]):
        names = [name for name in order if name in {*pairs["first"], *pairs["second"]}]
        values, apart = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)), dtype=bool)
        one, other = (pairs[side].map(names.index) for side in ("first", "second"))
        values[one, other], values[other, one] = pairs["difference"], -pairs["difference"]
        apart[one, other] = apart[other, one] = pairs["p_holm"] <= LEVEL
        found[f"{way}-way {shot}-shot"] = names, values, apart
    return found
