"""All measurements in turn, each in a fresh process; each result is written as soon as it is there."""

import dataclasses
import json
import logging
import math
import multiprocessing
import os
import resource
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from episodes import InputError
from episodes.errors import unknown_name
from fewshot.devices import choose_device
from fewshot.files import read_text, replace_text, writing
from fewshot.learners import find_learner, learner_names
from fewshot.learners.registry import traits_of
from fewshot.performance import summary, targets, work
from fewshot.performance.generated import CHARACTERS, PHOTOGRAPHS, Shape
from fewshot.performance.work import Effort
from fewshot.run_folder import describe_environment

PARTS = ("sampling", "evaluation", "training", "growth", "profile", "target")
USUAL = PARTS[:-1]  # the last part takes three quarters of an hour on two cores

log = logging.getLogger("fewshot")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One contender at one task; `function` of `arguments` does it and returns samples in `unit`.

    faster: whether higher samples are better (a rate) or lower ones (a time)
    """

    part: str
    task: str
    contender: str
    unit: str
    function: Callable[..., work.Found]
    arguments: tuple[Any, ...]
    faster: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        return self.part, self.task, self.contender


def measure(
    folder: Path,
    only: list[str] | None = None,
    *,
    quick: bool = False,
    resume: bool = False,
    data: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure the parts `only` (by default all but 'target') and write perf.csv, perf.md and figures to `folder`.

    quick: each measurement is short, as a test that all of them work. With `resume` the rows in `folder` are kept, so
    that an interrupted run goes on; InputError if the rows come from another machine, other versions, or if only one of
    the two runs is quick.
    """
    for part in only or ():
        if part not in PARTS:
            raise unknown_name("part", part, PARTS)
    rows, environment = _opened(folder, _environment(quick), resume)
    finished = {(row["part"], row["task"], row["contender"]) for row in rows}
    waiting = [one for one in _measurements(only or USUAL, quick, data) if one.key not in finished]
    effort = Effort(0.01, 2, 0.1) if quick else Effort()
    with tqdm(waiting, unit="measurement", disable=None if progress else True) as bar:
        for one in bar:
            bar.set_description(f"{one.part}: {one.task}, {one.contender}")
            rows.append(_row(one, effort))
            with writing(folder):
                replace_text(folder / "perf.csv", pd.DataFrame(rows, columns=summary.COLUMNS).to_csv(index=False))
    table = pd.DataFrame(rows, columns=summary.COLUMNS)
    with writing(folder):
        summary.write(table, environment, folder)
    return table


def _measurements(parts: list[str] | tuple[str, ...], quick: bool, data: str | None) -> list[Measurement]:
    every = {
        "sampling": _sampling,
        "evaluation": _evaluation,
        "training": _training,
        "growth": _growth,
        "profile": _profile,
        "target": lambda quick: _target(quick, data),
    }
    return [one for part in PARTS if part in parts for one in every[part](quick)]


_ALL = ("fewshot", "easyfsl", "learn2learn", "plain loop")


def _sampling(quick: bool) -> list[Measurement]:
    wanted = []
    for shape in map(_small, (CHARACTERS, PHOTOGRAPHS)) if quick else (CHARACTERS, PHOTOGRAPHS):
        for way, shot in ((5, 1), (20, 5)):
            for kind, function in (("indices", work.sample_indices), ("images", work.sample_images)):
                task = f"{kind}, {shape.name}, {way}-way {shot}-shot"
                wanted += [
                    Measurement("sampling", task, contender, "episodes/s", function, (contender, shape, way, shot))
                    for contender in _ALL
                ]
    return wanted


def _evaluation(quick: bool) -> list[Measurement]:
    wanted = []
    episodes = 50 if quick else 10_000
    networks = [("conv4", CHARACTERS, 20, 100), ("conv4", PHOTOGRAPHS, 600, 20), ("resnet12", PHOTOGRAPHS, 16, 2)]
    if quick:
        networks = [("conv4", _small(CHARACTERS), 20, 2), ("conv4", _small(PHOTOGRAPHS), 16, 2)]
    for backbone, shape, embedded, checked in networks:
        task = f"{backbone}, {shape.name} at {shape.size}x{shape.size}, {episodes:,} episodes"
        wanted += [
            Measurement(
                "evaluation",
                task,
                contender,
                "s",
                work.evaluate_images,
                (contender, backbone, shape, episodes, embedded, checked),
                False,
            )
            for contender in ("fewshot", "easyfsl", "plain loop")
        ]
    episodes = 1000 if quick else 10**6
    wanted += [
        Measurement(
            "evaluation",
            f"cached embeddings of 64, {episodes:,} episodes",
            contender,
            "s",
            work.evaluate_cached,
            (contender, CHARACTERS, 64, episodes),
            False,
        )
        for contender in ("fewshot", "easyfsl", "plain loop")
    ]
    return wanted


def _training(quick: bool) -> list[Measurement]:
    shape = _small(CHARACTERS) if quick else CHARACTERS
    wanted = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        names = [name for name in learner_names() if traits_of(find_learner(name)[0]).trains]
        contenders = {name: ["fewshot"] for name in names}
        contenders["prototypical"] += ["easyfsl", "learn2learn", "plain loop"]
        for name in sorted(["prototypical"] if quick else names, key=lambda name: name != "prototypical"):
            task = f"{name}, conv4, 28x28, {device}"
            wanted += [
                Measurement(
                    "training", task, contender, "images/s", work.train_steps, (contender, name, "conv4", shape, device)
                )
                for contender in contenders[name]
            ]
    return wanted


def _growth(quick: bool) -> list[Measurement]:
    amounts = {
        "episodes": [10**3, 10**4, 10**5, 10**6],
        "classes": [10**2, 10**3, 10**4, 10**5],
        "images": [10**4, 10**5, 10**6],
        "embedding size": [16, 64, 256, 1024, 4096],
    }
    if quick:
        amounts = {what: several[:2] for what, several in amounts.items() if what != "images"}
    return [
        Measurement("growth", f"{what}: {amount}", "fewshot", "s", work.grow, (what, amount), False)
        for what, several in amounts.items()
        for amount in several
    ]


def _profile(quick: bool) -> list[Measurement]:
    shape = _small(CHARACTERS) if quick else CHARACTERS
    units = {"training": "images/s", "embedding": "images/s", "scoring": "episodes/s"}
    return [
        Measurement("profile", what, "fewshot", unit, work.profile_work, (what, shape)) for what, unit in units.items()
    ]


def _target(quick: bool, data: str | None) -> list[Measurement]:
    return [
        Measurement(
            "target", name, contender, "s", targets.time_to, (contender, name, data, 2 if quick else 10**6), False
        )
        for name in targets.LEARNERS
        for contender in targets.contenders(name)
    ]


def _small(shape: Shape) -> Shape:
    return dataclasses.replace(shape, classes=20, images=20, size=min(shape.size, 28))


def _row(one: Measurement, effort: Effort) -> dict[str, Any]:
    """One row of the table: the median of the samples and their range, or why the measurement failed."""
    row = {"part": one.part, "task": one.task, "contender": one.contender, "unit": one.unit, "faster": one.faster}
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    if sys.platform == "win32":
        context = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fewshot.performance.work"])
    reading, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, one.function, (*one.arguments, effort)), daemon=True)
    process.start()
    sending.close()
    try:
        found = reading.recv()
    except EOFError:
        found = {"hindered": "its process died, perhaps for want of memory"}
    except BaseException:  # Ctrl-C, above all
        process.terminate()
        raise
    process.join()
    samples = found.pop("samples", [])
    if samples:
        row |= {"median": statistics.median(samples), "low": min(samples), "high": max(samples)}
    row |= {"repeats": len(samples), **{name: found.pop(name, None) for name in ("counted", "agreement", "hindered")}}
    row |= {name: found.pop(name, math.nan) for name in ("peak_mb", "added_mb")}
    return row | {"details": json.dumps(found) if found else ""}


def _child(sending: Any, function: Callable[..., work.Found], arguments: tuple[Any, ...]) -> None:
    """The work of the fresh process, which sends back the result and its peak memory."""
    before = _peak()
    try:
        found = function(*arguments)
    except Exception as error:  # the other measurements go on, and the table says why this one is missing
        found = {"hindered": str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"}
    sending.send({**found, "peak_mb": round(_peak(), 1), "added_mb": round(_peak() - before, 1)})


def _peak() -> float:
    """The most memory that this process has had so far, in MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _environment(quick: bool) -> dict[str, Any]:
    found = describe_environment({}, choose_device("auto"))
    for name in ("easyfsl", "learn2learn"):
        try:
            found["packages"][name] = version(name)
        except PackageNotFoundError:
            found["packages"][name] = "not installed"
    del found["data"]
    return {**found, "load": round(os.getloadavg()[0], 2), "quick": quick}


def _opened(folder: Path, environment: dict[str, Any], resume: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows that `folder` holds, and the environment of the first call, which is written there; InputError if the
    folder holds rows that this call must not continue."""
    other = "choose another folder with --output"
    table, described = folder / "perf.csv", folder / "environment.json"
    if table.exists():
        if not resume:
            raise InputError(f"{folder} holds measurements already: add --resume to go on with them, or {other}")
        try:
            read = pd.read_csv(table).astype(object).to_dict("records")
            rows = [{str(name): value for name, value in row.items()} for row in read]
            earlier = json.loads(read_text(described))
            missing = set(summary.COLUMNS) - set(rows[0])
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f"the measurements in {folder} are damaged: remove that folder, or {other}") from error
        changed = [name for name in environment if name != "load" and earlier.get(name) != environment[name]]
        if changed or missing:
            raise InputError(f"{folder} holds measurements with another {', '.join(changed or missing)}: {other}")
        return rows, earlier
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(described, json.dumps(environment, indent=2) + "\n")
    return [], environment
