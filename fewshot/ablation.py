"""What a change of settings gains: learners beside the same learners of a base run, on the same episodes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from episodes import InputError
from fewshot.config import Config, read_config
from fewshot.files import in_utf8
from fewshot.records import CELL, DATA, UNPAIRED, VERSIONS, array_of, labels
from fewshot.run_folder import read_results, read_test_images
from fewshot.statistics import over_seeds, paired
from fewshot.tables import Sheet, caption

_LEARNER = ["learner", "variant"]  # the backbone may be what was changed
# what two rows must share, and what is told if no two rows share it and all that is before it
_SHARED = {
    ("dataset", "protocol", "split"): "they are of other data sets or split protocols",
    ("way", "shot", "query"): "they have no way, shot and number of queries in common",
    ("episodes",): "they have other numbers of episodes",
    tuple(VERSIONS): "they are of other versions of the data set or of the episodes (0 is unknown)",
    tuple(_LEARNER): "they have no learner in common",
    ("seed",): "they have no training seed in common",
}
_KEYS = [name for columns in _SHARED for name in columns]
_CHANGES = 3  # that the table names
COLUMNS = [
    *["run", "base", *DATA, *_LEARNER, "backbone", "label", "change", *CELL, "seeds", "accuracy", "base_accuracy"],
    *["difference", "ci95", "interval", "episodes_ci95"],
]
_NOTE = (
    "A cell is the accuracy in the run and, in brackets, its difference from the accuracy of the same learner in the"
    " base run, in points, on the same episodes. The accuracies are of the training seeds that both runs have. With"
    " several seeds they are means, and ± is the 95 % interval over the differences of equal seeds (Student's t), which"
    " covers another training. With one seed, ± is the 95 % interval over the episodes (paired t test), which does not"
    " cover another training. Bold is a gain of more than its interval. The intervals are not corrected for the number"
    " of cells"
)


class RunResults(NamedTuple):
    """A run by its name: the tidy rows of its uniform episodes, the accuracies of each one, its settings, and what its
    environment.json tells of the test images."""

    name: str
    rows: pd.DataFrame
    accuracies: Mapping[str, np.ndarray]
    config: Config
    images: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, name: str) -> Self:
        """The run in the folder `path`; InputError if there is none, or if it is damaged."""
        rows, accuracies = read_results(path)
        if not (path / "config.toml").is_file():
            raise InputError(f"{path} has no config.toml, which holds the seed of its test episodes")
        config = read_config(path / "config.toml")
        return cls(in_utf8(name), rows, accuracies, config, read_test_images(path))


def changes(base: RunResults, run: RunResults) -> pd.DataFrame:
    """A row for each learner, way and shot that both runs have tested on the same episodes: COLUMNS.

    seeds          training seeds that both runs have; all other columns are of these
    change         the settings of the learner that differ from those in `base`, as far as config.toml tells
    difference     the accuracy in `run` minus that in `base`, in points, the mean over the seeds
    ci95, interval 'seeds': Student's t over the differences of each seed; 'episodes' if there is one seed
    episodes_ci95  of the paired t test over the episodes, of the mean over the seeds; nan if episodes are not kept

    A learner of several backbones is compared backbone by backbone. InputError if there is nothing to compare.
    """
    ours, theirs = _named(run), _named(base)
    if why := _why_not_comparable(base, run, ours, theirs):
        raise InputError(f"{run.name} cannot be compared with {base.name}: {why}")
    several = _with_backbones(ours) | _with_backbones(theirs)
    rows = []
    for (learner, variant), own in ours.groupby(_LEARNER, sort=False):
        keys = [*_KEYS, "backbone"] if (learner, variant) in several else _KEYS
        both = own.merge(theirs, on=keys, suffixes=("", "_base"))
        for _, pairs in both.groupby(["label", *CELL], sort=False):
            rows.append({"run": run.name, "base": base.name, **_row(pairs, base, run, ours, theirs)})
    return pd.DataFrame(rows, columns=COLUMNS)


def left_out(found: pd.DataFrame, base: RunResults, run: RunResults) -> list[str]:
    """The labels of the learners of `run` that `base` has no counterpart of, by the rows of `changes`."""
    every = _named(run).drop_duplicates("label")
    there = set(found.loc[found["run"] == run.name, "label"].str.partition(" against ")[0])
    return [label for label in every["label"] if label not in there]


def sheet(found: pd.DataFrame, base: RunResults) -> Sheet:
    """The table of the rows of `changes` of several runs, all beside `base`."""
    one_learner = len(found[[*_LEARNER, "backbone"]].drop_duplicates()) == base.rows["learner"].nunique() == 1
    marked = found["label"].str.contains(" [", regex=False)  # such as [collapsed], which no table may leave out
    names = found["run"].where(one_learner & ~marked, found["run"] + ": " + found["label"])
    widths = found["ci95"].map("{:.2f}".format).replace("nan", "–")
    rows = found.assign(
        name=names,
        column=[f"{way}-way {shot}-shot" for way, shot in zip(found["way"], found["shot"])],
        text=found["accuracy"].map("{:.2f}".format)
        + found["difference"].map(" ({:+.2f} ± ".format).str.replace("-", "−")
        + widths
        + ")",
        above=found["difference"] > found["ci95"],
    )
    columns = rows.sort_values(CELL)["column"].unique()

    def wide(values: str) -> pd.DataFrame:
        table = rows.pivot(index="name", columns="column", values=values)
        return table.reindex(index=names.unique(), columns=columns).rename_axis(index="run", columns=None)

    cells, bold = wide("text").fillna("–"), wide("above").eq(True)
    for place, column in enumerate(["change", "seeds"]):
        cells.insert(place, column, rows.groupby("name")[column].agg(_range if column == "seeds" else "first"))
        bold.insert(place, column, False)
    about = re.sub(r", [^,]*pixels|, features", "", caption(base.rows))  # the size of the images may be what changed
    return Sheet("", f"{about}, and the difference from {base.name} in points", cells, bold, _NOTE, words=1)


def _named(run: RunResults) -> pd.DataFrame:
    """The rows with their labels and places, without imported ones that may be of other episodes."""
    rows = run.rows.assign(label=labels(run.rows, seeds=False), place=range(len(run.rows)))
    return rows[rows["imported"] != UNPAIRED] if "imported" in rows else rows


def _why_not_comparable(base: RunResults, run: RunResults, ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Why no row of `ours` has a counterpart in `theirs`; '' if one has."""
    keys: list[str] = []
    for columns, told in _SHARED.items():
        keys += columns
        if ours[keys].merge(theirs[keys].drop_duplicates()).empty:
            return told
    seeds = [one.config.evaluation.seed for one in (run, base)]
    if seeds[0] != seeds[1]:
        return f"their test episodes are of other seeds, {seeds[0]} and {seeds[1]}"
    return "their test images are not the same" if _other_images(base, run) else ""


def _other_images(base: RunResults, run: RunResults) -> bool:
    """Whether the test images differ, if both runs tell of them; images of another size have another checksum."""
    if not (run.images and base.images):
        return False
    same_size = set(run.rows["image_size"]) == set(base.rows["image_size"])
    told = ["classes", "images", *(["checksum"] if same_size else [])]
    return any(run.images.get(name) != base.images.get(name) for name in told)


def _with_backbones(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """The learners, with their variants, that have several backbones."""
    counts = rows.groupby(_LEARNER)["backbone"].nunique()
    return set(counts[counts > 1].index)


def _row(
    pairs: pd.DataFrame, base: RunResults, run: RunResults, ours: pd.DataFrame, theirs: pd.DataFrame
) -> dict[str, Any]:
    """The row of one learner, way and shot from its rows in both runs, one a seed."""
    first = pairs.iloc[0]
    own = _accuracies(ours.loc[ours["place"].isin(pairs["place"])], run)
    other = _accuracies(theirs.loc[theirs["place"].isin(pairs["place_base"])], base)
    gains = (pairs["accuracy"] - pairs["accuracy_base"]).to_numpy()
    over = paired(own, other).ci95 if own is not None and other is not None else np.nan
    several = len(pairs) > 1
    return {
        **first[[*DATA, *_LEARNER, "backbone", *CELL]],
        "label": first["label"] + (f" against {first['label_base']}" if first["label"] != first["label_base"] else ""),
        "change": _change(first, base, run),
        "seeds": len(pairs),
        "accuracy": pairs["accuracy"].mean(),
        "base_accuracy": pairs["accuracy_base"].mean(),
        "difference": gains.mean(),
        "ci95": over_seeds(gains).ci95 if several else over,
        "interval": "seeds" if several else "episodes",
        "episodes_ci95": over,
    }


def _accuracies(rows: pd.DataFrame, run: RunResults) -> np.ndarray | None:
    """The accuracies (E,) in percent, the mean over the rows; None if one of them kept none."""
    found = [array for _, row in rows.iterrows() if (array := array_of(row, run.accuracies)) is not None]
    return 100 * np.mean(found, axis=0) if len(found) == len(rows) else None


def _change(pair: pd.Series, base: RunResults, run: RunResults) -> str:
    """The settings in `run` that differ from those in `base`, for the learner of a pair of rows; '–' if none does."""
    own = _settings(run.config, pair["learner"], pair["variant"], pair["backbone"])
    other = _settings(base.config, pair["learner"], pair["variant"], pair.get("backbone_base", pair["backbone"]))
    own["size"], other["size"] = pair["image_size"], pair["image_size_base"]
    own, other = own | _of_all(run.config), other | _of_all(base.config)
    found = [f"{name} = {_short(value)}" for name, value in own.items() if value != other.get(name, value)]
    if len(found) > _CHANGES:
        return f"{', '.join(found[:_CHANGES])} and {len(found) - _CHANGES} more"
    return ", ".join(found) or "–"


def _of_all(config: Config) -> dict[str, Any]:
    """The settings that all learners of a run train with: which images, and which episodes choose the checkpoint."""
    validation = {f"validation.{name}": value for name, value in config.validation.model_dump().items()}
    return config.data.model_dump(include={"held_out", "min_images", "skip_damaged"}) | validation


def _short(value: Any) -> Any:
    """A value, of a path its last part."""
    return in_utf8(Path(value).name) if isinstance(value, str) and "/" in value else value


def _settings(config: Config, learner: str, variant: str, backbone: str) -> dict[str, Any]:
    """The settings of a learner, those in tables too, by their names; none if several may be the learner's."""
    every = {asked: one for asked, one in config.learner.items() if re.split("[:@]", asked)[0] == learner}
    exact = [one for asked, one in every.items() if asked.split("@")[0] == f"{learner}:{variant}"]
    named = exact or [one for asked, one in every.items() if ":" not in asked.split("@")[0]]
    fitting = [one for one in named if one.backbone == backbone] or named
    if len(fitting) != 1:
        return {}
    found: dict[str, Any] = {}
    for name, value in fitting[0].model_dump().items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def _range(counts: pd.Series) -> str:
    return str(counts.max()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
