"""What each learner of a run cost: parameters, images, and seconds of training and of evaluation."""

import contextlib
import math

import pandas as pd

from episodes import InputError
from episodes.datasets import find_source
from fewshot import tables
from fewshot.backbones import BACKBONES, gives_maps, make_backbone
from fewshot.config import LearnerSettings
from fewshot.records import LEARNER, MODEL, duration
from fewshot.report.data import Run, read_about
from fewshot.tables import Sheet


def cost_sheet(run: Run, order: list[tuple[str, ...]]) -> Sheet:
    """One line a learner, in this order of their values of LEARNER; means over training seeds."""
    lines = {}
    for learner in order:
        rows = run.results[(run.results[LEARNER] == list(learner)).all(axis=1)]
        models = rows.groupby([*MODEL, "model"], dropna=False)
        settings = settings_of(run, learner)
        images = settings.steps * math.prod(settings.batches.values()) if settings and settings.batches else 0
        lines[run.styles[learner].label] = {
            "training": duration(models["train_seconds"].max().mean()),
            "images trained on": f"{images:,}" if images else "–",
            "parameters": _parameters(run, rows),
            "evaluation": duration(models["eval_seconds"].sum().mean()),
            "device": ", ".join(dict.fromkeys(rows["device"])),
        }
    cells = pd.DataFrame.from_dict(lines, orient="index").rename_axis("learner")
    note = (
        "Times are means over training seeds. “Images trained on” is the number of training steps times the images of a"
        " batch, by the settings: an image counts each time that a batch has it. “Parameters” are those of the backbone"
        " without the learner's own. “Evaluation” is the time of all ways and shots together. Times of different"
        " devices, or of a machine with other work, do not compare"
    )
    if "time" in read_about(run):
        note += (
            ". The time at the head of this page is the wall time of the run, as its about.toml states it: models may"
            " have trained side by side, so the sums of this table may be larger"
        )
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Sheet("Cost", tables.caption(run.results), cells, best, note)


def settings_of(run: Run, learner: tuple[str, ...]) -> LearnerSettings | None:
    """The settings of a learner, given its values of LEARNER; None if the run's settings do not tell."""
    if run.settings is None:
        return None
    name, variant, backbone = learner
    found = {}
    for asked, settings in run.settings.learner.items():
        base, _, last = asked.partition("@")[0].rpartition(":")  # NAME, NAME:VARIANT or FILE.py:CLASS
        if settings.backbone == backbone and name in (base, last):
            found[last if name == base else ""] = settings
    return found.get(variant) or (next(iter(found.values())) if len(found) == 1 else None)


def _parameters(run: Run, rows: pd.DataFrame) -> str:
    """The parameters of the backbone; '–' if they are not known without weights from elsewhere."""
    first = rows.iloc[0]
    if run.settings is None or not (first["backbone"] in BACKBONES or gives_maps(first["backbone"])):
        return "–"
    with contextlib.suppress(InputError):
        channels = find_source(run.config.data.dataset)[0].channels
        backbone = make_backbone(first["backbone"], channels, int(first["image_size"]))
        return f"{sum(one.numel() for one in backbone.parameters()):,}"
    return "–"
