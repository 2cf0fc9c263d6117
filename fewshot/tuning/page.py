"""A search as one page for readers, search.html, which loads nothing from a network."""

import math
from typing import Any

import jinja2
import pandas as pd

from fewshot.config import Training
from fewshot.records import duration
from fewshot.tuning.results import Found, last_accuracy, state_of
from fewshot.tuning.space import values_of
from fewshot.tuning.study import Search

_WIDTH, _HEIGHT = 340, 150  # of the drawing of a learner's trials, without the margins for its labels


def search_page(search: Search, found: list[Found], gains: pd.DataFrame) -> str:
    """The page: the gains of all learners, and for each its trials, its chosen values and their importance."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fewshot.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    by_name = {one.learner: one for one in found}
    codes = [len({trial.user_attrs["code"] for trial in one.trials}) for one in found]
    return environment.get_template("search.html").render(
        search=search,
        gains=gains.to_dict("records"),
        cards=[_card(by_name[name]) for name in gains["learner"]],
        width=_WIDTH,
        height=_HEIGHT,
        codes=max(codes, default=0),
        time=duration(gains["seconds"].sum()),
        images=int(gains["images"].sum()),
    )


def _card(found: Found) -> dict[str, Any]:
    """What the page shows of a learner."""
    names = list(found.trials[0].params)
    columns = [_values(one.user_attrs["settings"], names) if one else {} for one in (found.start, found.chosen)]
    return {
        "name": found.learner,
        "points": _points(found),
        "settings": [
            (name, *(_said(column.get(name, "–")) for column in columns), found.importance.get(name)) for name in names
        ],
        "failures": [(one.user_attrs["place"], one.user_attrs["failure"]) for one in found.trials if _failed(one)],
    }


def _points(found: Found) -> dict[str, Any]:
    """The trials as points of the drawing, from left to right, with the lowest and the highest accuracy."""
    shown = [(one, last_accuracy(one)) for one in found.trials if not math.isnan(last_accuracy(one))]
    low = min((accuracy for _, accuracy in shown), default=0.0)
    high = max((accuracy for _, accuracy in shown), default=100.0)
    wide = max(1, max((one.user_attrs["place"] for one in found.trials), default=1))
    points = []
    for one, accuracy in shown:
        place, state = one.user_attrs["place"], state_of(one)
        points.append(
            {
                "x": round(_WIDTH * place / wide, 1),
                "y": round(_HEIGHT * (high - accuracy) / max(high - low, 1e-9), 1),
                "state": "chosen" if one is found.chosen else state,
                "said": f"trial {place}: {accuracy:.2f} %, {state}",
            }
        )
    return {"all": points, "low": low, "high": high, "last": wide}


def _values(settings: dict[str, Any], names: list[str]) -> dict[str, Any]:
    values = values_of(Training.model_validate(settings))
    return {name: values[name] for name in names}


def _said(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _failed(trial: Any) -> bool:
    return state_of(trial) == "failed"
