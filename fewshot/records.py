"""A record of a result: the columns of its row, those that tell rows apart, the name of its model, and its array.

Every module that writes, reads or shows rows takes these from here.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from fewshot import outside
from fewshot.backbones import MIRRORED
from fewshot.devices import describe, training_precision
from fewshot.statistics import over_seeds

if TYPE_CHECKING:
    from episodes import ImageBank
    from fewshot.learners.base import Learner
    from fewshot.models import ModelSpec

LEARNER = ["learner", "variant", "backbone"]  # what tells the learners of a run apart
MODEL = [*LEARNER, "seed"]  # what tells its trained models apart
DATA = ["dataset", "protocol"]  # what tells data sets apart
VERSIONS = ["data_version", "episodes_version"]  # of the data set and of the episodes; 0 is unknown
UNIFORM = "uniform"  # the kind of episodes of all test protocols but `kinds`
CELL = ["way", "shot"]  # the columns that tell the rows of one model apart, in test protocols with ways and shots
ROW = [*CELL, "session", "kind", "transfer", "adaptation"]  # and in all test protocols, as far as they have them
LEAGUE = {"transductive": "transductive", "text": "class names", "external": "external data"}  # columns, and marks
# the columns that the trainings of one learner share; the column `protocol` is the split protocol of the data set
ALIKE = ["dataset", "protocol", *LEARNER, "image_size", *LEAGUE]
# what all rows of a file share, or all rows of a kind of episodes or of a data set
RUN = ["dataset", "split", "protocol", "image_size", "query", "episodes"]
PAIRED, UNPAIRED = "same episodes", "other episodes"  # whether imported rows are of the episodes of the other rows
UNLABELLED = "unlabelled images"  # the mark of rows whose model used images beside the support set
LATER = {  # columns that older files lack, and their values there
    "collapsed": False,
    "kept": "",
    "key": "",
    "model": "",
    "preset": "",
    "data_version": 0,
    "episodes_version": 0,
    "trained_on": "",
    "seen": "",
    "shares": "",
    "starts_from": "",
}

_SEEN = {outside.UNKNOWN: "may have seen test classes"}  # the mark of what `seen` says, if it is no count

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
    "ci95_open",
    "train_seconds",
    "eval_seconds",
    "protocol",
    "image_size",
    "transductive",
    "text",
    "external",
    "device",
    "precision",
    "torch",
    "collapsed",
    "kept",
    "key",
    "model",
    "preset",
    "data_version",
    "episodes_version",
    "trained_on",
    "seen",
    "imported",
    "shares",
    "starts_from",
]


class Kind(NamedTuple):
    """What a column holds: `read` takes a cell's text and raises ValueError or KeyError if `about` does not hold."""

    read: Callable[[str], Any]
    about: str


def _whole(low: int, high: int) -> Kind:
    def read(text: str) -> int:
        value = int(text[:20])
        if not low <= value <= high or str(value) != text:
            raise ValueError
        return value

    return Kind(read, f"a whole number from {low:,} to {high:,}")


def _number(low: float, high: float, about: str, empty: bool = False) -> Kind:
    def read(text: str) -> float:
        value = math.nan if empty and not text else float(text)
        if not (low <= value <= high or (empty and not text)):
            raise ValueError
        return value

    return Kind(read, about)


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


_NAME = Kind(_name, "a name")
_TEXT = Kind(str, "text")
_PAIRING = Kind({one: one for one in ("paired", "unpaired", "")}.__getitem__, "paired, unpaired or empty")
_IMPORTED = Kind({one: one for one in ("", PAIRED, UNPAIRED)}.__getitem__, f"empty, '{PAIRED}' or '{UNPAIRED}'")
_FLAG = Kind({"True": True, "False": False}.__getitem__, "True or False")
_COUNT = _whole(1, 10**9)
_COUNT_FROM_0 = _whole(0, 10**9)
_SEED = _whole(0, 2**63 - 1)
_PERCENT = _number(0, 100, "a number from 0 to 100")
_MEAN = _number(0, 100, "a number from 0 to 100, or empty", empty=True)  # of what there may be none of
_DROP = _number(-100, 100, "a number from -100 to 100")
_WIDTH = _number(0, 1e6, "a number from 0 on, or empty", empty=True)  # few episodes make intervals of any width
_DIFFERENCE = _number(-100, 100, "a number from -100 to 100, or empty", empty=True)
_SHARED = Kind(lambda text: _COUNT_FROM_0.read(text) if text else math.nan, "a whole number from 0 on, or empty")
_SECONDS = _number(0, 1e12, "a number of seconds")
_NUMBER = _number(-math.inf, math.inf, "a number")
_SHARE = _number(-1e9, 1e9, "a number of percent, or empty", empty=True)  # of a gap, which may be narrow or none
_COSINE = _number(-1, 1, "a number from -1 to 1")

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(["dataset", "split", "learner", "backbone", "source"], _NAME),
    **dict.fromkeys(
        ["variant", "protocol", "similarity", "device", "precision", "torch", "kept", "key", "model", "preset"], _TEXT
    ),
    **{"order": _TEXT, "session": _whole(0, 10**9), "classes": _COUNT, "draws": _whole(2, 10**9), "drop": _DROP},
    **{"kind": _NAME, "pairing": _PAIRING, "difference": _DIFFERENCE},
    **dict.fromkeys(VERSIONS, _COUNT_FROM_0),
    **dict.fromkeys(["transductive", "text", "external", "collapsed", "unlabelled"], _FLAG),
    **dict.fromkeys(["shot", "query", "pairs", "images", "image_size", "base_classes"], _COUNT),
    **{"way": _whole(1, 10**9), "episodes": _whole(2, 10**9), "seed": _SEED, "step": _whole(0, 10**9)},
    **dict.fromkeys(["base_known", "trained_on", "seen", "shares", "starts_from"], _TEXT),
    **dict.fromkeys(["shared_classes", "shared_images"], _SHARED),
    **dict.fromkeys(["accuracy", "auc", "eer", "tar", "recall1", "recall2", "recall4", "recall8"], _PERCENT),
    **dict.fromkeys(["auroc", "aupr", "fpr95", "oscr"], _PERCENT),
    **dict.fromkeys(["map_at_r", "nmi", "base", "all"], _PERCENT),
    **dict.fromkeys(["novel", "harmonic"], _MEAN),
    **{"episode": _COUNT_FROM_0, "year": _whole(1900, 2100), "imported": _IMPORTED},
    **dict.fromkeys(["ci95", "ci95_open"], _WIDTH),
    **dict.fromkeys(["train_seconds", "eval_seconds", "seconds"], _SECONDS),
    **dict.fromkeys(["queries", "gallery", "fold_pairs", "folds"], _COUNT_FROM_0),
    **dict.fromkeys(["rank1", "rank5", "rank10", "map", "map_easy", "map_medium", "map_hard"], _MEAN),
    **dict.fromkeys(["fold_accuracy", "fpr_at_95"], _MEAN),
    **dict.fromkeys(["threshold", "loss"], _NUMBER),
    **dict.fromkeys(["transfer", "adaptation"], _NAME),
    **dict.fromkeys(["source_accuracy", "target_accuracy"], _PERCENT),
    **{"gain": _DIFFERENCE, "closed": _SHARE, "cosine": _COSINE},
}


def kind_of(column: str) -> Kind:
    """What a column of that name holds; KeyError for a name that is not in the schema."""
    return _WIDTH if column.endswith(("_ci95", "_std")) else _KINDS[column]


def row_of(spec: "ModelSpec", learner: "Learner", test: "ImageBank") -> dict[str, Any]:
    """The columns that all rows of a model tested on `test` share; `learner`, built from `spec`, knows the model's
    leagues and device.

    trained_on: the data from outside that the model saw; seen: how many test classes these data have (see outside.seen)
    """
    device = next((parameter.device for parameter in learner.parameters()), torch.device("cpu"))
    return {
        **dict(zip(MODEL, spec.row)),
        "image_size": spec.size,
        **{column: getattr(learner.traits, column) for column in LEAGUE},
        "device": describe(device),
        "precision": str(training_precision(spec.settings.precision, device)).removeprefix("torch."),
        "torch": torch.__version__,
        "model": spec.name,
        "trained_on": spec.outside_data,
        "seen": outside.seen(spec.outside_data, spec.outside_classes, test),
        "starts_from": spec.starts_from,
    }


def duration(seconds: float | None) -> str:
    """'4 s', '12 min', '3 h 05 min'; '?' if unknown."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def image_form(size: int) -> str:
    """The images of a row in words, '28x28 pixels'; images of size 1 are features."""
    return "features" if size == 1 else f"{size}x{size} pixels"


def array_name(model: str, way: int, shot: int, kind: str = "") -> str:
    """The name of the accuracies of a model's episodes in episodes.npz, 'npair-seed0/5way1shot', or in kinds.npz,
    'npair-seed0/within/5way1shot'."""
    return "/".join(filter(None, [model, kind, f"{way}way{shot}shot"]))


def array_of(row: pd.Series, accuracies: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The accuracies of the episodes that a row of the results is the mean of; None if they are not there."""
    names = [array_name(model, row["way"], row["shot"], row.get("kind", "")) for model in model_names(row)]
    return next((accuracies[name] for name in names if name in accuracies), None)


def model_names(row: pd.Series) -> list[str]:
    """The names that the model of a row may have in episodes.npz and as the folder of its checkpoints.

    Rows of older versions do not hold the name: it may contain the backbone, or the one shot that the model is for; the
    fullest name comes first.
    """
    model = row.get("model")
    if isinstance(model, str) and model:
        return [model]
    backbone, shot = row["backbone"].replace(":", "-"), f"{row['shot']}shot"
    return [
        "-".join(filter(None, [row["learner"], row["variant"], *marks, f"seed{row['seed']}"]))
        for marks in ([backbone, shot], [backbone], [shot], [])
    ]


def summarised(results: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows of runs with training seeds put together: ALIKE, way, shot and the columns below, in percent.

    accuracy        the mean over the trainings
    ci95, interval  'seeds' if there are several: Student's t over the means of the trainings; else 'episodes', the
                    interval of the papers
    seeds           how many trainings
    episodes_ci95   the papers' half-width, over the draw of episodes; of several trainings the root mean square of
                    their half-widths, which is an upper bound of the half-width of their mean
    spread          the standard deviation over the episodes that gives episodes_ci95
    """

    def together(rows: pd.DataFrame) -> pd.Series:
        several = len(rows) > 1
        mean, ci95 = over_seeds(rows["accuracy"].to_numpy()) if several else rows[["accuracy", "ci95"]].iloc[0]
        return pd.Series(
            {
                "accuracy": mean,
                "ci95": ci95,
                "interval": "seeds" if several else "episodes",
                "seeds": len(rows),
                "episodes_ci95": np.sqrt((rows["ci95"] ** 2).mean()),
                "spread": np.sqrt((rows["ci95"] ** 2 * rows["episodes"]).mean()) / 1.96,
                **marks_of(rows),
            }
        )

    keys = [*ALIKE, *CELL]
    kept = results.drop_duplicates([*keys, "seed"], keep="last")
    return kept.groupby(keys, sort=False)[list(kept.columns.drop(keys))].apply(together).reset_index()


def labels(results: pd.DataFrame, seeds: bool = True) -> pd.Series:
    """The label of each row in tables: 'npair', 'siamese (koch)', with the seed, or the backbone, if there are several;
    a backbone that averages over mirror images is always named.

    A learner that knows more than a support set and one query is of another league and is marked: '[transductive]'. So
    are rows whose model used unlabelled images, models whose weights saw test classes, models that start from an
    earlier training on their base classes, trainings that collapsed, and rows that were kept though their code or
    packages have changed.
    """
    several = seeds and results["seed"].nunique() > 1
    families = results["backbone"].str.partition("-")[0]  # conv4-linear is a Conv-4 too
    backbones = results.groupby(["learner", "variant"])["backbone"].transform("nunique") > 1
    backbones |= (families.nunique() > 1) | results["backbone"].str.endswith(MIRRORED)
    said = _said(results, MODEL if several else LEARNER)
    found = []
    for index, row, has_several in zip(results.index, results.to_dict("records"), backbones):
        label = f"{row['learner']} ({row['variant']})" if row["variant"] else row["learner"]
        label += f", {row['backbone']}" if has_several else ""
        label += f", seed {row['seed']}" if several else ""
        marks = [mark for column, mark in LEAGUE.items() if row[column]]
        marks += [UNLABELLED] * (row.get("unlabelled") is True)
        marks += [f"imported, {row['imported']}"] if row.get("imported") in (PAIRED, UNPAIRED) else []
        marks += said[index]
        found.append(f"{label} [{', '.join(marks)}]" if marks else label)
    return pd.Series(found, index=results.index, dtype=object)


def marks_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The columns collapsed, kept, trained_on, seen, imported and starts_from of several rows put together; rows that
    do not have them have no marks."""

    def together(column: str) -> str:
        return ", ".join(dict.fromkeys(one for one in rows.get(column, ()) if isinstance(one, str) and one))

    return {
        "collapsed": any(isinstance(one, bool | np.bool_) and one for one in rows.get("collapsed", ())),
        **{column: together(column) for column in ("kept", "trained_on", "seen", "imported", "starts_from")},
    }


def _said(results: pd.DataFrame, model: list[str]) -> dict[Any, list[str]]:
    """The marks of each row's model, all rows with one `model` together: 'collapsed', 'other torch'."""
    said: dict[Any, list[str]] = {index: [] for index in results.index}
    every = marks_of(results)
    if not (every["seen"] or every["collapsed"] or every["kept"] or every["starts_from"]):
        return said  # grouping would take most of the time of a table
    for _, rows in results.groupby(model, sort=False, dropna=False):
        found = marks_of(rows)
        words = [_SEEN.get(one, f"saw {one} test classes") for one in found["seen"].split(", ") if one]
        words += [f"from {found['starts_from']}"] * bool(found["starts_from"])
        words += ["collapsed"] * found["collapsed"] + [found["kept"]] * bool(found["kept"])
        said |= dict.fromkeys(rows.index, words)
    return said
