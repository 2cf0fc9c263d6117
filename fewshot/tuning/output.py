"""The files that a search writes: a preset, tables and a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from optuna.trial import FrozenTrial

from episodes.locks import locked
from fewshot.config import Config, Training
from fewshot.files import replace_text, writing
from fewshot.tuning.page import search_page
from fewshot.tuning.results import Found, found_in, gains_of, last_accuracy, state_of
from fewshot.tuning.space import values_of
from fewshot.tuning.study import Search, SearchFolder, read_search


def write_results(folder: SearchFolder) -> pd.DataFrame:
    """Write what the search has found so far to its folder: tuned.toml, gains.csv, importance.csv, trials.csv and
    search.html; the gains.

    They are of all learners of the search, those too that another process has added since this one opened it.
    """
    with writing(folder.path), locked(folder.path / ".results"):
        search = read_search(folder.path)
        found = found_in(folder, search.config.learner)
        gains = gains_of(found)
        _write(folder.path, search, found, gains)
    return gains


def _write(path: Path, search: Search, found: list[Found], gains: pd.DataFrame) -> None:
    importance = [(one.learner, name, share) for one in found for name, share in one.importance.items()]
    tables = {
        "gains": gains,
        "importance": pd.DataFrame(importance, columns=["learner", "option", "importance"]),
        "trials": pd.DataFrame([_trial_row(one.learner, trial) for one in found for trial in one.trials]),
    }
    for name, table in tables.items():
        replace_text(path / f"{name}.csv", table.to_csv(index=False))
    if preset := _preset(search.config, found):
        replace_text(path / "tuned.toml", tomli_w.dumps(preset))
    replace_text(path / "search.html", search_page(search, found, gains))


def _preset(config: Config, found: list[Found]) -> dict[str, Any]:
    """A preset with the chosen settings of each learner; empty if there is none."""
    settings = {one.learner: one.chosen.user_attrs["settings"] for one in found if one.chosen is not None}
    if not settings:
        return {}
    chosen = {name: {key: value for key, value in one.items() if value != {}} for name, one in settings.items()}
    parts = config.model_dump(include={"data", "evaluation", "validation"})
    return {"learners": list(chosen), **parts, "learner": chosen}


def _trial_row(learner: str, trial: FrozenTrial) -> dict[str, Any]:
    about: Mapping[str, Any] = trial.user_attrs
    values = values_of(Training.model_validate(about["settings"]))
    return {
        "learner": learner,
        "trial": about["place"],
        "state": state_of(trial),
        "quarters": len(trial.intermediate_values),
        "accuracy": round(last_accuracy(trial), 4),
        "seen": about["images"],
        "seconds": about["seconds"],
        "failure": about.get("failure", ""),
        **{name: values[name] for name in trial.params},
    }
