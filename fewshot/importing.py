"""Accuracies of single episodes that another code base measured, as a run that tables, comparisons and reports read."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodes import InputError
from episodes.datasets import SOURCES
from episodes.errors import unknown_name
from fewshot import latex, tables
from fewshot.files import no_formula, replace_text, write_arrays, writing
from fewshot.protocols.registry import PROTOCOLS
from fewshot.record_files import Damaged, read_cells, read_table
from fewshot.records import COLUMNS, DATA, LATER, LEAGUE, MODEL, PAIRED, UNPAIRED, VERSIONS, array_name
from fewshot.run_folder import read_results
from fewshot.statistics import over_episodes

NAME = re.compile(r"[\w.+-]{1,60}")
ABOUT_NAME = "letters, digits, '.', '_', '+' and '-', 60 at most"
NEEDED = ("learner", "dataset", "protocol", "way", "shot", "query", "episode", "accuracy")
# columns that a file may have: what each is of a learner, and what it is if the file does not say so
_ABOUT: dict[str, Any] = {"backbone": "not-stated", "image_size": 0, "seed": 0, **dict.fromkeys(LEAGUE, False)}
_EPISODES = PROTOCOLS["episodes"]

_Arrays = Mapping[str, np.ndarray]


def read_accuracies(path: Path) -> pd.DataFrame:
    """The accuracies of a csv file, in percent: one row for each learner, way, shot and episode.

    Columns: NEEDED, and those of _ABOUT. Raises InputError if the file cannot be read, lacks a column, has one that
    there is not, or a cell that its column does not allow; if it is of several data sets; or if it holds shares.
    """
    try:
        for column in read_cells(path):
            if column not in (*NEEDED, *_ABOUT):
                raise unknown_name(f"column of {path.name}", column, [*NEEDED, *_ABOUT])
        table = read_table(path)
    except (OSError, Damaged) as error:
        raise InputError(f"the accuracies in {path} cannot be read: {error}") from error
    for column in NEEDED:
        if column not in table:
            raise InputError(f"{path.name} lacks the column {column}: it needs {', '.join(NEEDED)}")
    if table.empty:
        raise InputError(f"{path.name} holds no accuracies: write a line for each learner and episode")
    for column in (*DATA, "query"):
        if table[column].nunique() > 1:
            found = ", ".join(map(str, table[column].unique()[:3]))
            raise InputError(f"{path.name} has several values of {column} ({found}): make a file of each")
    for learner in table["learner"].unique():
        if not NAME.fullmatch(learner):
            raise InputError(f"{path.name} has the learner {learner[:80]!r}: a name has {ABOUT_NAME}")
    for column in DATA:
        name = table[column].iloc[0]
        if not (name and name.isprintable() and no_formula(name) == name):
            raise InputError(f"{path.name} has {column} = {name[:80]!r}: write its name, which begins with no sign")
    if 0 < table["accuracy"].max() <= 1:
        raise InputError(f"{path.name} has no accuracy above 1: accuracies are in percent, from 0 to 100")
    absent = {column: value for column, value in _ABOUT.items() if column not in table}
    return table.assign(**absent)


def import_run(path: Path, name: str, output: Path, episodes_of: Path | None = None) -> None:
    """Write the accuracies of the csv file `path` as a run to the new folder `output`.

    name         of the code base; the variant of the rows
    episodes_of  a run's folder whose episodes these are, number by number: the new run holds the rows of that run too,
                 and paired tests compare all of them. Without it, no test is paired, not even among learners of the
                 file

    Raises InputError if `output` exists, or if the episodes cannot be those of the run `episodes_of`.
    """
    if output.exists():
        raise InputError(f"{output} exists already: choose another folder with --output")
    table = read_accuracies(path)
    before, arrays = read_results(episodes_of) if episodes_of else (pd.DataFrame(columns=COLUMNS), {})
    if episodes_of:
        _check_same(table, before, path.name, episodes_of)
    rows, own = _rows(table, name, path.name, before)
    if (repeated := rows.duplicated([*MODEL, "way", "shot"])).any():
        learner = rows.loc[repeated, "learner"].iloc[0]
        raise InputError(
            f"{path.name} has {learner} several times for one way, shot and seed, as with several image sizes or"
            " leagues: give each a name of its own"
        )
    rows = pd.concat([before, rows], ignore_index=True) if len(before) else rows
    if (repeated := rows.duplicated([*MODEL, "way", "shot"])).any():
        learner = rows.loc[repeated, "learner"].iloc[0]
        raise InputError(f"{episodes_of} has {learner} ({name}) already: choose another --name")
    _write(output, rows, {**arrays, **own}, episodes_of)


def _check_same(table: pd.DataFrame, run: pd.DataFrame, file: str, folder: Path) -> None:
    """InputError if the accuracies of the file cannot be of the episodes of the run."""
    for column in (*DATA, "query"):
        theirs, ours = table[column].iloc[0], run[column].iloc[0]
        if theirs != ours:
            raise InputError(f"{file} has {column} = {theirs} and the run {folder} {ours}: these are other episodes")
    missing = set(zip(table["way"], table["shot"])) - set(zip(run["way"], run["shot"]))
    if missing:
        way, shot = min(missing)
        raise InputError(f"{file} has {way}-way {shot}-shot episodes and the run {folder} has none")
    count, wanted = int(table["episode"].max()) + 1, int(run["episodes"].iloc[0])
    if count != wanted:
        raise InputError(f"{file} has {count:,} episodes and the run {folder} {wanted:,}: these are other episodes")


def _rows(table: pd.DataFrame, name: str, file: str, run: pd.DataFrame) -> tuple[pd.DataFrame, _Arrays]:
    """The tidy rows and the arrays of the accuracies; `run`: the rows of the same episodes, none if there are none."""
    source = SOURCES.get(table["dataset"].iloc[0])
    size = run["image_size"].iloc[0] if len(run) else source.size if source else 1
    rows, arrays = [], {}
    for _, part in table.groupby(["learner", *_ABOUT, "way", "shot"], sort=False):
        about = {str(column): value for column, value in part.drop(columns=["episode", "accuracy"]).iloc[0].items()}
        shares = (
            _in_order(part, f"the {about['way']}-way {about['shot']}-shot episodes of {about['learner']}", file) / 100
        )
        mean, ci95 = over_episodes(100 * shares)
        several = table.loc[table["learner"] == about["learner"], "backbone"].nunique() > 1
        model = "-".join([about["learner"], name, *([about["backbone"]] * several), f"seed{about['seed']}"])
        arrays[array_name(model, about["way"], about["shot"])] = shares
        row: dict[str, Any] = {
            **dict.fromkeys(COLUMNS, ""),
            **LATER,
            **about,
            "variant": name,
            "split": "test",
            "model": model,
        }
        row |= {"episodes": len(shares), "accuracy": round(mean, 4), "ci95": round(ci95, 4), "ci95_open": np.nan}
        row |= {"image_size": about["image_size"] or size, "train_seconds": 0.0, "eval_seconds": 0.0}
        # of the versions that the run names: rows of other versions are never paired with these
        row |= {column: run[column].iloc[0] for column in VERSIONS if len(run)}
        rows.append(row | {"imported": PAIRED if len(run) else UNPAIRED})
    made = pd.DataFrame(rows, columns=COLUMNS)
    if made["episodes"].nunique() > 1:
        raise InputError(f"{file} has different numbers of episodes: give every learner, way and shot the same number")
    return made, arrays


def _in_order(part: pd.DataFrame, what: str, file: str) -> np.ndarray:
    """The accuracies (E,) of the episodes of one learner, way and shot, by their numbers; InputError if one is missing
    or repeated."""
    part = part.sort_values("episode", kind="stable")
    if len(part) < 2:
        raise InputError(f"{file} has one of {what}: an interval needs two or more")
    if part["episode"].tolist() != list(range(len(part))):
        raise InputError(f"{file} does not number {what} from 0 on, each once: give each episode one line")
    return part["accuracy"].to_numpy()


def _write(output: Path, rows: pd.DataFrame, arrays: _Arrays, settings_of: Path | None) -> None:
    """The files of the run; the folder appears whole or not at all."""
    unfinished = output.with_name(f".unfinished.{os.getpid()}.{output.name}")
    with writing(output):
        unfinished.mkdir(parents=True)
        try:
            write_arrays(unfinished / _EPISODES.arrays, arrays)
            replace_text(unfinished / _EPISODES.table, rows.to_csv(index=False))
            for file, text in _EPISODES.files(rows, arrays, output.resolve().name, {}).items():
                replace_text(unfinished / file, text)
            made = _EPISODES.sheets(rows, arrays)
            replace_text(unfinished / "results.md", tables.markdown(made))
            replace_text(unfinished / "results.tex", latex.page(made, output.resolve().name))
            replace_text(unfinished / "references.bib", latex.bibliography(made))
            for file in ("config.toml", "environment.json", "keys.json"):
                if settings_of and (settings_of / file).exists():
                    shutil.copyfile(settings_of / file, unfinished / file)
            unfinished.rename(output)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
