"""Across data sets: the accuracy of a model on its own test classes and on those of other data sets, with ranks."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from episodes import EpisodeSampler, ImageBank, InputError
from episodes.datasets import ALL, data_version
from fewshot import outside
from fewshot.clamping import fitted
from fewshot.config import Evaluation
from fewshot.embedding import check_channels
from fewshot.evaluation import run_episodes
from fewshot.other_data import shared_with
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task
from fewshot.protocols.episodes import open_interval
from fewshot.record_files import unlike_episodes
from fewshot.records import CELL, DATA, LEARNER, array_name, image_form, labels, summarised
from fewshot.statistics import ranks
from fewshot.tables import INTERVAL, PRINTED, SEEDS, Sheet, remarks

log = logging.getLogger("fewshot")
_RANKS = (
    "In each column, learners that share a letter cannot be told apart: paired t tests on the same episodes, corrected"
    " for all pairs (Holm) at 5 %; those not told apart from the best are bold. The rank, 1 the best, is the mean over"
    " the columns, by the rule of Meta-Dataset (Triantafillou et al. 2020): in each column the learners not told apart"
    " from the best share the mean of their places, and the rest are ranked in the same way"
)

_Accuracies = Mapping[str, Mapping[str, np.ndarray]]  # by column and label, the accuracies (E,)


class DomainProtocol(Protocol):
    """Every way with every shot, on the test classes and on each other data set of `wanted.domains`; domains.npz keeps
    the accuracies of all episodes."""

    name = "domains"
    columns = (
        *("source", *FIRST, *CELL, "query", "episodes", "accuracy", "ci95", "ci95_open"),
        *("shared_classes", "shared_images", *LAST),
    )
    arrays = "domains.npz"
    by_shot: ClassVar[bool] = True

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        own = wanted.model_dump(include={"ways", "query", "episodes"})
        return {**own, "shots": list(shots), **wanted.domains.model_dump()}

    def images(self, wanted: Evaluation, checksums: Mapping[str, str]) -> Any:
        return {name: checksums[name] for name in _names(wanted)}

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        others = wanted.domains.datasets
        if not others:
            raise InputError("domains tests on other data sets: name some with --test, or in [evaluation.domains]")
        if not set(others) <= banks.keys():
            raise InputError(f"this run tests on other data sets too, which must be named: --test {','.join(others)}")
        known: dict[tuple[str, str], str] = {}
        for name in _names(wanted):
            bank = banks[name]
            if bank.listed:
                raise InputError(f"{name} lists its episodes, and domains draws its own: name another split protocol")
            check_channels(banks["test"].images.shape[1], bank.images.shape[1], name)
            _samplers(wanted, wanted.shots, bank)
            first = known.setdefault((bank.dataset, bank.protocol), name)
            if first != name:
                other = "the data set of the run" if first == "test" else first
                one = f"{bank.dataset} ({bank.protocol})"
                raise InputError(f"{other} and {name} have one name in tables, {one}: leave one out, or rename it")

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        rows, arrays = [], {}
        for name in _names(task.wanted):
            data = task.data[name]
            about = _about(task, data.bank)
            for sampler in _samplers(task.wanted, task.shots, data.bank):
                result = run_episodes(task.learner, data, sampler, task.wanted.episodes)
                told = data.bank.name, sampler.way, sampler.shot, *result.percent
                log.info("%s: %s, %d-way %d-shot %.2f ± %.2f", task.label, *told)
                row = {
                    **about,
                    **{part: getattr(sampler, part) for part in (*CELL, "query")},
                    "episodes": task.wanted.episodes,
                    "accuracy": round(result.percent.mean, 4),
                    "ci95": round(result.percent.ci95, 4),
                    "ci95_open": round(open_interval(result, data.bank).ci95, 4),
                    "eval_seconds": round(result.seconds, 2),
                }
                rows.append(row)
                arrays[_array_name(row)] = result.values
        return rows, arrays

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        """The learners and data sets for each way and shot: the means over training seeds, if a learner has several,
        and then each training."""
        rows = rows.assign(heading=_headings(rows), label=labels(rows))
        repeated = rows.groupby([*LEARNER, "heading", *CELL])["seed"].transform("nunique") > 1
        over = rows.assign(label=labels(rows, seeds=False))[repeated]
        made = [_seeds_sheet(cell, what, arrays) for what, cell in _cells(over)]
        title = "Across data sets, each training" if made else "Across data sets"
        note = ". ".join([INTERVAL, *_shared(rows), *remarks(rows)])
        return made + [
            _sheet(f"{title}, {what}", _caption(cell), cell, _by_column(cell, arrays), note)
            for what, cell in _cells(rows)
        ]

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        found = []
        for place, row in rows.iterrows():
            values = arrays.get(_array_name(row))
            named = {} if values is None else {array_name(row["model"], row["way"], row["shot"]): values}
            found += unlike_episodes(rows.loc[[place]], named, (self.table, self.arrays))
        return found


PROTOCOL = DomainProtocol()


def _names(wanted: Evaluation) -> list[str]:
    """The names of the banks that are measured: the test classes of the run's own data set come first."""
    return ["test", *wanted.domains.datasets]


def _samplers(wanted: Evaluation, shots: Sequence[int], bank: ImageBank) -> list[EpisodeSampler]:
    """The episodes of a model for these shots: those of the ways and shots that the bank can fill.

    If the bank has too few images for every shot that is wanted, the most shots that it can fill take their place.
    """
    can = fitted(wanted, bank)
    own = [shot for shot in can.shots if shot in shots or shot not in wanted.shots]
    return [EpisodeSampler(bank, way, shot, can.query, wanted.seed) for way in can.ways for shot in own]


def _about(task: Task, bank: ImageBank) -> Row:
    """The columns of a model's rows that depend on the data set alone."""
    shared = shared_with(task.data["train"].bank, bank) if "train" in task.data else None
    return {
        "source": task.spec.dataset,
        "dataset": bank.dataset,
        "split": bank.split,
        "protocol": bank.protocol,
        "data_version": data_version(bank.dataset, bank.protocol),
        "model": task.columns["model"],
        "seen": outside.seen(task.spec.outside_data, task.spec.outside_classes, bank),
        "shared_classes": len(shared.classes) if shared else np.nan,
        "shared_images": shared.images if shared else np.nan,
    }


def _array_name(row: Row | pd.Series) -> str:
    """The name of the accuracies of a row in domains.npz: 'npair-seed0/cifar_fs (bertinetto)/5way1shot'."""
    part = f"{row['model']}/{_heading(row['dataset'], row['protocol'], row['split'])}"
    return array_name(part, row["way"], row["shot"])


def _heading(dataset: str, protocol: str, split: str) -> str:
    """What tables call a data set: 'omniglot (vinyals rgb)', or 'faces (all classes)' without splits of the user."""
    words = [word for word in protocol.split() if split != ALL or not word.startswith("seed")]
    about = ", ".join(filter(None, [" ".join(words), "all classes" if split == ALL else ""]))
    return f"{dataset} ({about})" if about else dataset


def _headings(rows: pd.DataFrame) -> list[str]:
    return [_heading(*names) for names in zip(rows["dataset"], rows["protocol"], rows["split"])]


def _cells(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each way and shot, after its name: '5-way 1-shot'."""
    return [(f"{way}-way {shot}-shot", cell) for (way, shot), cell in rows.groupby(CELL)]


def _seeds_sheet(rows: pd.DataFrame, what: str, arrays: Arrays) -> Sheet:
    """The means over training seeds, of the rows of learners with several."""
    names = rows[[*DATA, *LEARNER, "heading", "label"]].drop_duplicates()
    over = summarised(rows).merge(names, on=[*DATA, *LEARNER])
    text = f"{_caption(rows)}, mean of {over['seeds'].max()} training seeds"
    return _sheet(f"Across data sets, over training seeds, {what}", text, over, _by_column(rows, arrays), SEEDS)


def _by_column(rows: pd.DataFrame, arrays: Arrays) -> _Accuracies:
    """The accuracies (E,) by the headings and labels of the rows, their mean over rows of one label."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for _, row in rows.iterrows():
        values = arrays.get(_array_name(row))
        if values is not None:
            found.setdefault(row["heading"], {}).setdefault(row["label"], []).append(values)
    return {
        heading: {label: np.mean(several, axis=0) for label, several in learners.items()}
        for heading, learners in found.items()
    }


def _sheet(title: str, text: str, rows: pd.DataFrame, accuracies: _Accuracies, note: str) -> Sheet:
    """One row a learner, one column a data set: 'mean ± width letters', with the mean rank before them.

    If there are no accuracies of episodes, or of one learner alone, there are neither letters nor ranks.
    """
    learners, headings = list(rows["label"].unique()), list(rows["heading"].unique())
    found = {name: ranks(accuracies[name]) for name in headings if len(accuracies.get(name, ())) > 1}
    cells, best = (pd.DataFrame(index=pd.Index(learners, name="learner")) for _ in range(2))
    for name in headings:
        column = rows[rows["heading"] == name].set_index("label")
        letters = found[name]["group"] if name in found else pd.Series("", index=learners)
        cells[name] = pd.Series(
            {
                label: f"{row['accuracy']:.2f} ± {row['ci95']:.2f} {letters.get(label, '')}".rstrip()
                for label, row in column.iterrows()
            }
        )
        printed = column["accuracy"].round(2)
        best[name] = found[name]["best"] if name in found else printed == printed.max()
    if found:
        mean = pd.DataFrame({name: one["rank"] for name, one in found.items()}).mean(axis=1).reindex(learners)
        cells.insert(0, "rank", mean.map("{:.2f}".format))
        best.insert(0, "rank", False)
        learners = list(mean.sort_values(kind="stable").index)
    note = f"{note}. {_RANKS if found else PRINTED}"
    return Sheet(title, text, cells.loc[learners].fillna("–"), best.loc[learners].eq(True), note)


def _caption(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    queries = rows.drop_duplicates("heading").set_index("heading")["query"]
    others = queries[queries != queries.iloc[0]]
    fewer = f" ({', '.join(f'{name} {count}' for name, count in others.items())})" if len(others) else ""
    trained = "Not trained" if row["source"] == "none" else f"Trained on {row['source']}"
    return (
        f"{trained}, {image_form(row['image_size'])}: accuracy in percent over {row['episodes']:,}"
        f" episodes of each data set, queries a class: {queries.iloc[0]}{fewer}"
    )


def _shared(rows: pd.DataFrame) -> list[str]:
    """A sentence on what data sets share with the training classes; nothing if there is nothing."""
    told = []
    for name, own in rows.groupby("heading", sort=False):
        counts = {"class names": own["shared_classes"].max(), "images": own["shared_images"].max()}
        some = [f"{count:.0f} {what}" for what, count in counts.items() if count > 0]
        told += [f"{name} {' and '.join(some)}"] if some else []
    return [f"Some of the test was in the training, too: {', '.join(told)}"] if told else []
