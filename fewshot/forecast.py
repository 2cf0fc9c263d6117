"""What a run would do: its models, which of them share a training, their steps and images, and about how long."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from episodes import InputError
from episodes.batches import batches_from
from fewshot.config import read_config
from fewshot.plan import Planned
from fewshot.records import LEARNER
from fewshot.run_folder import find_runs, read_rows_of
from fewshot.shared_training import leaders_of
from fewshot.status import status_of

_Kind = tuple[str, str, str, int]  # of models whose times are alike: learner, variant, backbone, image size
_Times = tuple[float, float]  # seconds of training for each image of a batch, seconds of all tests


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What one model of a run would do.

    finished  whether the run's folder has its rows already
    images    that its training reads, repeats included
    follows   the model whose training it shares; '' if it trains by itself
    seconds   of training and testing, by models of earlier runs; None if none of them is of this learner, backbone and
              image size
    """

    name: str
    finished: bool
    steps: int
    images: int
    follows: str
    seconds: float | None


def forecasts(models: Sequence[Planned], folder: Path) -> list[Forecast]:
    """One for each of the models that would run into `folder`; earlier runs are those in `folder` and beside it."""
    leaders, times = leaders_of(models), _times_of(folder.parent)
    known = status_of(folder).models if (folder / "config.toml").exists() else []
    finished = {model.name for model in known if model.state == "finished"}
    made = []
    for spec in (model.spec for model in models):
        images = spec.settings.steps * len(batches_from(spec.settings.batches))
        found = times.get((spec.learner, spec.variant, spec.backbone, spec.size))
        made.append(
            Forecast(
                name=spec.name,
                finished=spec.name in finished,
                steps=spec.settings.steps,
                images=images,
                follows=leaders.get(spec.name, ""),
                seconds=found and found[0] * images + found[1],
            )
        )
    return made


def _times_of(folder: Path) -> dict[_Kind, _Times]:
    """The mean times of the models of the runs in `folder`; a run that cannot be read counts for nothing."""
    found: dict[_Kind, list[_Times]] = defaultdict(list)
    try:
        runs = find_runs(folder)
    except InputError:
        runs = []
    for run in runs:
        try:
            for kind, times in _times_in(run):
                found[kind].append(times)
        except InputError:
            continue
    means = {kind: [statistics.fmean(part) for part in zip(*several)] for kind, several in found.items()}
    return {kind: (training, testing) for kind, (training, testing) in means.items()}


def _times_in(run: Path) -> Iterator[tuple[_Kind, _Times]]:
    """The times of each finished model of a run."""
    config = read_config(run / "config.toml")
    rows = read_rows_of(run)["episodes"].groupby("model")
    for model in status_of(run).models:
        if model.state != "finished" or model.name not in rows.groups:
            continue
        own = rows.get_group(model.name)
        learner, variant, backbone = own.iloc[0][LEARNER]
        images = model.steps * len(batches_from(config.learner[model.learner].batches))
        training = float(own["train_seconds"].max())
        kind = learner, variant, backbone, int(own["image_size"].iloc[0])
        yield kind, (training / images if images else 0.0, model.seconds - training)
