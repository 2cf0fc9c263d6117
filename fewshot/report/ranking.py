"""Which learner is ahead: the order of the learners in a report, the best of each way and shot, and all differences."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from fewshot import tables
from fewshot.comparison import ASSUMED, best_comparable
from fewshot.records import LEARNER, labels, summarised
from fewshot.report import classes
from fewshot.report.data import LeftOut, Run, chosen_cell
from fewshot.tables import Sheet

LEVEL = 0.05  # of p_holm
THEIRS, OURS_MINUS = "best comparable result", "ours minus best comparable"  # columns

_PUBLISHED = (
    "“Best comparable result” is the highest published accuracy that compares with one of our learners: it has the same"
    " split, way and shot, the same backbone and image size, and no help that ours did not have. Higher published"
    " results that do not compare stand in the table of “Beside published results” below.\n"
    "“Ours minus best comparable” is the accuracy of the best of our learners that this result compares with, minus the"
    " published accuracy. Its ± is √(a² + b² + c²) + d: a is the half-width of our 95 % interval over the episodes, b"
    " that of our interval over training seeds (0 if there is one seed), c that of the published interval, and d half a"
    " unit of the last digit of the published number. If a paper prints no interval, c is 1.96 s / √n: s is the"
    " standard deviation of our accuracies over the episodes, and n the number of the paper's episodes"
    f" ({ASSUMED:,} if it states none). The ± does not cover other test classes."
)


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
    """For each way and shot the best learner, the second and their difference, the best comparable published result,
    and the hardest class. The note has a paragraph on a line.

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
    note = [_told_note(run), _PUBLISHED, _hardest_note(run, cells["hardest class"])]
    if (cells[OURS_MINUS] == "–").all():
        note.remove(_PUBLISHED)
    if (cells["hardest class"] == "–").all():
        cells = cells.drop(columns="hardest class")
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Sheet("At a glance", tables.caption(run.results), cells, best, "\n".join(note), words=cells.shape[1])


def _told_note(run: Run) -> str:
    """What the column 'told apart' covers."""
    seeds = run.results.groupby(LEARNER)["seed"].nunique()
    models = "The test covers the draw of episodes for the one trained model of each learner (one training seed)"
    if seeds.max() > 1:
        count = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
        models = (
            "The test covers the draw of episodes for the trained models of each learner, which counts with the mean"
            f" over its training seeds ({count})"
        )
    return (
        "“Told apart” says whether a paired t test on the same episodes finds a difference between the best learner and"
        " the second, at 5 % after Holm's correction for all pairs of learners. The ± is the 95 % interval of this pair"
        f" alone. {models}; another training may change the answer."
    )


def _hardest_note(run: Run, hardest: pd.Series) -> str:
    """What the column 'hardest class' names."""
    if (hardest == "–").all():
        return "The run kept no answers by class, so the hardest class is not known."
    way, shot = chosen_cell(run)
    seed = " (in its first training)" if run.results["seed"].nunique() > 1 else ""
    note = (
        "“Hardest class” is the class that the task's best learner recognises least often, with its accuracy in this"
        f" class{seed}. “Answers by class” below covers the {way}-way {shot}-shot task alone."
    )
    if turned := hardest.str.extract(r"/rot(\d+):")[0].dropna().tolist():
        note += (
            f" A name that ends in /rot{turned[0]} is that of a turned copy: a character turned by {turned[0]} degrees"
            " counts as a class of its own."
        )
    return note


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
    best = best_comparable(rows)
    if best is None:
        return {THEIRS: "none is comparable", OURS_MINUS: "–"}
    difference = f"{best['difference']:+.2f} ± {best['difference_ci95']:.2f}: {best['verdict']}"
    return {
        THEIRS: f"{best['method']} ({best['source']}): {best['published']:.{best['decimals']}f}",
        OURS_MINUS: difference.replace("-", "−"),
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
