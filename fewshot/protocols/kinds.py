"""Kinds of episodes: the accuracy of a model in episodes of each kind, beside its accuracy in uniform episodes."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from episodes import ImageBank, InputError, Sampler
from episodes.kinds import kind_sampler
from fewshot.config import Evaluation
from fewshot.difficulty import separations
from fewshot.evaluation import Accuracies, run_episodes
from fewshot.learners.base import Learner, scoring, takes
from fewshot.protocols.base import FIRST, LAST, Arrays, NotComparable, Protocol, Row, Task, with_widths
from fewshot.protocols.sheets import images_text, sheet_of, with_seeds
from fewshot.record_files import unlike_episodes
from fewshot.records import UNIFORM, array_name, labels
from fewshot.statistics import over_classes, paired, unpaired
from fewshot.tables import Sheet

log = logging.getLogger("fewshot")
SEPARATED = (UNIFORM, "within")  # kinds whose episodes are sorted by difficulty
_DIRICHLET = "dirichlet:2"  # as Veilleux et al. 2021 have it
_OWN_SHAPE = ("any", "listed")  # kinds that have ways and shots of their own
_PART = 4096  # episodes drawn at once, to look at what they hold
_NOTE = (
    "± is the 95 % interval over the episodes: it covers which episodes are drawn for this one trained model; the"
    " column ci95_open of kinds.csv has the interval for other classes, and for kind within that for other groups. A"
    " difference is paired if the episodes of both kinds have the same classes, and then its interval is that of the"
    " differences; else it is that of two independent means (Welch)"
)


class Trial(NamedTuple):
    """The episodes of one kind, way and shot; of a kind with ways and shots of its own the most of both."""

    kind: str
    way: int
    shot: int
    sampler: Sampler
    episodes: int


def kinds_for(learner: Learner, wanted: Sequence[str]) -> list[str]:
    """The kinds to measure: uniform first, then `wanted`; of a transductive learner a Dirichlet kind in any case.

    Balanced queries flatter a method that takes them as balanced (Veilleux et al. 2021), so that the two accuracies of
    such a method stand side by side.
    """
    kinds = dict.fromkeys([UNIFORM, *wanted])
    if learner.traits.transductive and not any(kind.startswith("dirichlet") for kind in kinds):
        kinds[_DIRICHLET] = None
    return list(kinds)


def trials(wanted: Evaluation, bank: ImageBank, kinds: Iterable[str]) -> list[Trial]:
    """The episodes of these kinds; InputError if the bank cannot fill them."""
    own, found = wanted.kinds, []
    cells = [(way, shot) for way in own.ways for shot in own.shots]
    for kind in kinds:
        for way, shot in cells[:1] if has_own_shape(kind) else cells:
            sampler = kind_sampler(kind, bank, way, shot, own.query, wanted.seed)
            if sampler.count == 1:
                raise InputError(f"{kind} lists one episode: an accuracy with an interval needs two or more")
            cell = (sampler.way, sampler.shot) if has_own_shape(kind) else (way, shot)
            found.append(Trial(kind, *cell, sampler, sampler.count or own.episodes))
    return found


def has_own_shape(kind: str) -> bool:
    """Whether episodes of this kind have ways and shots of their own, whatever is asked for."""
    return kind.partition(":")[0] in _OWN_SHAPE


def separation_name(kind: str, way: int, shot: int) -> str:
    """The name of the separations of episodes in kinds.npz: 'separation/within/5way1shot'."""
    return array_name("separation", way, shot, kind)


def compare(result: Accuracies, uniform: Accuracies) -> Row:
    """The difference from uniform episodes in points, with its half-width and how it was compared."""
    same = np.array_equal(result.classes, uniform.classes)
    found = (paired if same else unpaired)(100 * result.values, 100 * uniform.values)
    return {
        "difference": round(found.mean, 4),
        "difference_ci95": round(found.ci95, 4),
        "pairing": "paired" if same else "unpaired",
    }


def open_width(trial: Trial, result: Accuracies, bank: ImageBank) -> float:
    """The half-width of the interval for another test set, in percent.

    Of kind within it is for as many other groups of classes, because an episode draws a group. It is nan for kinds with
    ways and shots of their own.
    """
    classes, clusters = result.classes, np.arange(bank.classes) // bank.turns
    if has_own_shape(trial.kind):
        return np.nan
    if trial.kind == "within":
        _, groups, sizes = np.unique(bank.group_names, return_inverse=True, return_counts=True)
        large = np.flatnonzero(sizes >= trial.way)
        classes, clusters = np.searchsorted(large, groups[classes[:, :1]]), np.arange(len(large))
    return over_classes(100 * result.values, classes, clusters).ci95


class KindsProtocol(Protocol):
    """Each kind with every way and shot, and uniform episodes; kinds.npz keeps the accuracies of all episodes, and the
    separation of the classes of uniform episodes and of those within a group."""

    name = "kinds"
    columns = (
        *FIRST,
        *("kind", "way", "shot", "query", "episodes", "accuracy", "ci95", "ci95_open"),
        *with_widths("difference"),
        *("pairing", "unlabelled"),
        *LAST,
    )
    arrays = "kinds.npz"

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        lists = [kind.partition(":")[2] for kind in wanted.kinds.kinds if kind.startswith("listed:")]
        return {**super().settings(wanted, shots), **({"lists": list(map(_digest, lists))} if lists else {})}

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        trials(wanted, banks["test"], dict.fromkeys([UNIFORM, *wanted.kinds.kinds]))

    def remarks(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> list[str]:
        bank = banks["test"]
        balanced = {
            (trial.kind, trial.shot): None
            for trial in trials(wanted, bank, wanted.kinds.kinds)
            if getattr(trial.sampler, "balanced", False)
        }
        return [
            f"{kind} has uniform queries in {shot}-shot episodes: the classes have {int(bank.sizes.max())} images, and"
            f" {wanted.kinds.query} queries a class take all that the support leaves; a smaller --query leaves room"
            for kind, shot in balanced
        ]

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        data, model = task.data["test"], task.columns["model"]
        rows, arrays, uniform = [], {}, {}
        for trial in trials(task.wanted, data.bank, kinds_for(task.learner, task.wanted.kinds.kinds)):
            try:
                unlabelled = _check_takes(task.learner, trial)
            except NotComparable as error:
                log.warning("%s is left out of kind %s: %s", task.label, trial.kind, error)
                continue
            result = run_episodes(task.learner, data, trial.sampler, trial.episodes)
            log.info("%s: %s, %d-way %d-shot %.2f ± %.2f", task.label, *trial[:3], *result.percent)
            cell = trial.way, trial.shot
            arrays[array_name(model, *cell, trial.kind)] = result.values
            if trial.kind in SEPARATED:
                arrays[separation_name(trial.kind, *cell)] = separations(data.bank, result.classes)
            if trial.kind == UNIFORM:
                uniform[cell] = result
            rows.append(_row(trial, result, data.bank, unlabelled))
            if trial.kind != UNIFORM and not has_own_shape(trial.kind):
                rows[-1] |= compare(result, uniform[cell])
        return rows, arrays

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        found = unlike_episodes(rows, dict(arrays), (self.table, self.arrays))
        return [why or _unlike_separations(row, arrays) for why, (_, row) in zip(found, rows.iterrows())]


PROTOCOL = KindsProtocol()


def _row(trial: Trial, result: Accuracies, bank: ImageBank, unlabelled: bool) -> Row:
    return {
        "kind": trial.kind,
        "way": trial.way,
        "shot": trial.shot,
        "query": -(-trial.sampler.queries // trial.sampler.way),
        "episodes": trial.episodes,
        "accuracy": round(result.percent.mean, 4),
        "ci95": round(result.percent.ci95, 4),
        "ci95_open": round(open_width(trial, result, bank), 4),
        "difference": np.nan,
        "difference_ci95": np.nan,
        "unlabelled": unlabelled,
        "eval_seconds": round(result.seconds, 2),
    }


def _unlike_separations(row: pd.Series, arrays: Arrays) -> str:
    """Why the separations of a row's episodes are not what the protocol writes, '' if they are."""
    if row["kind"] not in SEPARATED:
        return ""
    name = separation_name(row["kind"], row["way"], row["shot"])
    found = arrays.get(name)
    if found is None or found.shape != (row["episodes"],) or found.dtype.kind != "f" or not (found >= 0).all():
        return f"kinds.npz does not hold {row['episodes']:,} separations as {name}"
    return ""


def _check_takes(learner: Learner, trial: Trial) -> bool:
    """Whether the learner uses unlabelled images of the episodes; NotComparable if it cannot take their shots."""
    if takes(learner, "mask") and not takes(learner, "unlabelled"):
        return False  # whatever the episodes hold
    masked = unlabelled = False
    for part in trial.sampler.batches(trial.episodes, _PART):
        masked |= part.mask is not None
        unlabelled |= part.unlabelled is not None
    if masked and not takes(learner, "mask"):
        raise NotComparable(
            "the classes of an episode have different numbers of support images, and"
            f" {scoring(learner).__name__} of {learner.name} has no argument mask"
        )
    return unlabelled and takes(learner, "unlabelled")


def _digest(path: str) -> str:
    """A digest of a list of episodes, '' if the file cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
    except OSError:
        return ""


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    """For each way and shot the kinds side by side, and their differences from uniform; then the kinds with ways and
    shots of their own."""
    rows = rows.assign(label=labels(rows))
    own = rows["kind"].map(has_own_shape)
    made = []
    for (way, shot), cell in rows[~own].groupby(["way", "shot"]):
        row = cell.iloc[0]
        what = f"{way}-way {shot}-shot"
        of_each = f"over {row['episodes']:,} {what} episodes of each kind, of {way * row['query']} queries{seeds}"
        text = f"{images_text(rows)}: accuracy in percent {of_each}"
        made.append(_beside(cell, f"Kinds of episodes, {what}", text, ("accuracy", "ci95"), note))
        differences = cell[cell["difference"].notna()]
        if len(differences):
            headings = differences["kind"] + " (" + differences["pairing"] + ")"
            text = f"{images_text(rows)}: accuracy less that in uniform episodes, in points, {of_each}"
            title = f"Kinds of episodes, difference from uniform, {what}"
            columns = "difference", "difference_ci95"
            sheet = _beside(differences.assign(kind=headings), title, text, columns, note)
            made.append(sheet._replace(best=sheet.best & False))
    if own.any():
        about = "; ".join(
            f"{row['kind']} has no fixed way and shot, but up to {row['way']} ways and {row['shot']} shots, over"
            f" {row['episodes']:,} episodes"
            for _, row in rows[own].drop_duplicates("kind").iterrows()
        )
        text = f"{images_text(rows)}: accuracy in percent; {about}{seeds}"
        made.append(_beside(rows[own], "Kinds with ways and shots of their own", text, ("accuracy", "ci95"), note))
    return made


def _beside(rows: pd.DataFrame, title: str, text: str, columns: tuple[str, str], note: str) -> Sheet:
    """One row a label, one column a kind, uniform and Dirichlet first; columns: of the means and of the half-widths."""
    kinds = sorted(rows["kind"].unique(), key=lambda kind: (kind != UNIFORM, not kind.startswith("dirichlet")))
    by_kind = {kind: rows[rows["kind"] == kind].set_index("label") for kind in kinds}
    cells = {kind: (one[columns[0]], one[columns[1]]) for kind, one in by_kind.items()}
    return sheet_of(title, text, pd.Index(rows["label"].unique()), cells, note)
