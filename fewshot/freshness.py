"""Which rows of a model a run's folder holds, and whether a run of now would give the same rows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from episodes import InputError
from fewshot import checkpoints, provenance
from fewshot.config import Evaluation
from fewshot.models import ModelSpec
from fewshot.plan import Planned
from fewshot.protocols.registry import PROTOCOLS
from fewshot.run_folder import RunFolder

log = logging.getLogger("fewshot")
_PARTS = (  # what the numbers of a model depend on, of what its checkpoints say
    *("variant", "seed", "held_out", "data", "channels", "size", "classes", "settings", "validation", "weights"),
    *provenance.RENEWED,
)
_Said = Callable[[dict[str, Any] | None, dict[str, Any]], str]  # provenance.told or provenance.mark


def rows_of(model: Planned, folder: RunFolder, protocol: str) -> pd.DataFrame | None:
    """The rows of a model by a test protocol; None if rows are missing, or if the protocol tests another model."""
    if not (model.first or PROTOCOLS[protocol].by_shot):
        return None
    return folder.rows(protocol, *model.spec.row, model.shots)


def waiting(model: Planned, folder: RunFolder, wanted: Sequence[str], keep: bool) -> list[str]:
    """The test protocols that must still test a model: the wanted ones whose rows are missing and, unless `keep`, all
    whose rows are marked."""
    left = []
    for protocol in PROTOCOLS:
        rows = rows_of(model, folder, protocol)
        if rows is None:
            again = protocol in wanted and (model.first or PROTOCOLS[protocol].by_shot)
        else:
            again = not keep and bool((rows["kept"] != "").any())
        if again:
            left.append(protocol)
    return left


def parts_of(
    model: Planned, spec: ModelSpec, protocol: str, evaluation: Evaluation, images: Mapping[str, str]
) -> dict[str, Any]:
    """What the rows of a model by a test protocol depend on.

    spec: of the training, that of the model or an earlier one; images: the checksums of all banks.
    """
    settings = PROTOCOLS[protocol].settings(evaluation, model.shots)
    about = spec.to_checkpoint()
    return {
        **{name: about[name] for name in _PARTS},
        "packages": spec.packages and {**spec.packages, **provenance.shared_packages(protocol)},
        "evaluation": {**settings, "seed": evaluation.seed},
        "images": PROTOCOLS[protocol].images(evaluation, images),
        "scoring": provenance.protocol_code(protocol),
    }


def check_same(model: Planned, folder: RunFolder) -> None:
    """InputError if the folder holds a model of this name with other settings, or of another learner."""
    spec, path = model.spec, folder.checkpoints(model.spec.name) / "best.pt"
    if not path.exists() or all(rows_of(model, folder, protocol) is None for protocol in PROTOCOLS):
        return
    before = ModelSpec.from_checkpoint(checkpoints.load(path), path)
    changed = spec.changes(before)
    other = " and ".join(sorted(changed & {"settings", "weights"}))
    if other and "learner" not in changed:
        raise InputError(f"{folder.path} holds {spec.label} with other {other}: choose another one with --output")
    if "learner" in changed and changed & {"source", "settings"}:
        raise InputError(
            f"{folder.path} holds another learner called {spec.label}, {before.asked}: rename one, or choose another"
            " folder with --output"
        )


def mark(folder: RunFolder, models: Sequence[Planned], images: Mapping[str, str]) -> None:
    """Mark the rows whose parts differ from those of a run of now, before anything is shown or run.

    For models that this run does not name, only the parts that all models share are compared, so that no learner's file
    runs.
    """
    by_shot = {(*model.spec.row, shot): model for model in models for shot in model.shots}
    first = {model.spec.row: model for model in models if model.first}
    code = provenance.suite_code()

    def judge(protocol: str, row: pd.Series) -> str:
        known = row["learner"], row["variant"], row["backbone"], row["seed"]
        model = by_shot.get((*known, row["shot"])) if PROTOCOLS[protocol].by_shot else first.get(known)
        if model is not None:
            return _difference(model, folder, protocol, row["key"], images, provenance.mark)
        shared = {"code": code, "packages": provenance.shared_packages(protocol)}
        return provenance.mark(folder.parts(row["key"]), shared)

    folder.mark(judge)


def tell_stale(folder: RunFolder, models: Sequence[Planned], images: Mapping[str, str], keep: bool) -> None:
    """Log one line for each model whose rows are not what would be run now, and one for models that are not named."""
    for model in models:
        reasons: dict[str, None] = {}
        for protocol in PROTOCOLS:
            rows = rows_of(model, folder, protocol)
            for key in () if rows is None else rows.loc[rows["kept"] != "", "key"]:
                reasons[_difference(model, folder, protocol, key, images, provenance.told)] = None
        if reasons:
            done = "they are kept and marked" if keep else "it is run again; --keep shows them as they are"
            log.warning("%s: its rows are of %s: %s", model.spec.label, " and ".join(reasons), done)
    named = {model.spec.row for model in models}
    rows = folder.results[folder.results["kept"] != ""]
    found = rows[["learner", "variant", "backbone", "seed"]].itertuples(index=False, name=None)
    if others := sorted({row[0] for row in found if row not in named}):
        log.warning(
            "Rows of %s are of other code or packages than now: they are marked; --learner runs them again",
            ", ".join(others),
        )


def _difference(
    model: Planned, folder: RunFolder, protocol: str, key: str, images: Mapping[str, str], said: _Said
) -> str:
    """What `said` makes of the difference between the rows of `key` and what would be run now; '' without one."""
    now = parts_of(model, model.spec, protocol, folder.config.evaluation, images)
    return "" if key == provenance.key_of(now) else said(folder.parts(key), now)
