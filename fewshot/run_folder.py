"""RunFolder: the files of one run, each written whole or not at all, and opened again when a run continues."""

import contextlib
import datetime
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import tomli_w
import torch

from episodes import ImageBank, InputError
from episodes.locks import locked
from fewshot import latex, tables
from fewshot.advice import advice
from fewshot.array_files import ArrayFile
from fewshot.config import Config, read_config
from fewshot.devices import describe, training_precision
from fewshot.files import replace_text, writing
from fewshot.protocols.base import Protocol
from fewshot.protocols.registry import PROTOCOLS, check_protocols
from fewshot.provenance import key_of
from fewshot.record_files import Damaged, read_arrays, read_environment, read_object, read_rows
from fewshot.records import DATA, LATER, LEARNER, MODEL, ROW

# columns that older runs lack, and their values there
_LATER = {"text": False, "external": False, **LATER}

_EPISODES = PROTOCOLS["episodes"]
_PAUSE = 10.0  # seconds between two makings of the tables during a run: making them can take longer than to add a row
_SHARE = 20.0  # at least so many times as long as making them took: the tables of many models take seconds

_Name = TypeVar("_Name")

log = logging.getLogger("fewshot")


class RunFolder:
    """The files of the run at `path`: results/README.md says what is in them.

    order: the models of this run (ModelSpec.row). Rows of their learners are in this order, whichever model is finished
    first.

    Raises InputError if the folder cannot be written, or holds a run that `config` and `banks` do not continue.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        banks: dict[str, ImageBank],
        device: torch.device,
        resume: bool,
        order: Sequence[tuple[str, str, str, int]] = (),
    ) -> None:
        self.path = path
        self._order = list(dict.fromkeys(model[:3] for model in order))
        environment = describe_environment(banks, device)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if (path / "config.toml").exists():
                with _reading(path):
                    config = self._joined(config, environment["data"], resume)
                check_protocols(config.evaluation, banks)
            elif found := [one.table for one in PROTOCOLS.values() if (path / one.table).exists()]:
                raise InputError(
                    f"{path} holds {found[0]} without the config.toml of its settings: bring that file back, or choose"
                    " another folder with --output"
                )
            with writing(path):
                (path / "checkpoints").mkdir(exist_ok=True)
                replace_text(path / "config.toml", tomli_w.dumps(config.model_dump()))
                if not (path / "environment.json").exists():
                    replace_text(path / "environment.json", json.dumps(environment, indent=2) + "\n")
            self.config, self._environment = config, environment
            self._archives: dict[str, ArrayFile] = {}
            self._read()
        self._behind = {name for name in self._rows if _is_newer(path / PROTOCOLS[name].table, path / "results.md")}
        self._made: dict[str, dict[Any, str]] = {}  # parts of the files of each test protocol, which are not made again
        self._due = -math.inf  # when the tables may be made again

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process changes the files of the run, but for its checkpoints and its log."""
        with contextlib.ExitStack() as stack:
            with writing(self.path):
                stack.enter_context(locked(self.path / ".lock"))
            yield

    def _read(self) -> None:
        """Read the files again: other processes may have added rows."""
        self._rows: dict[str, pd.DataFrame] = {}
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        with _reading(self.path):
            for name, protocol in PROTOCOLS.items():
                if (self.path / protocol.table).exists():
                    found = _read(protocol, self.path, lambda path: self._archive(path.name).read())
                    rows, arrays = _whole(protocol, *found)
                    if len(rows):
                        self._rows[name], self._arrays[name] = rows, arrays
            keys = self.path / "keys.json"
            parts = read_object(keys) if keys.exists() else {}
        self._parts: dict[str, dict[str, Any]] = {
            key: one for key, one in parts.items() if isinstance(one, dict) and key_of(one) == key
        }

    def _archive(self, name: str) -> ArrayFile:
        return self._archives.setdefault(name, ArrayFile(self.path / name))

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Inside, no other process trains or measures the model called `name`; the rows of other processes are read.

        Raises Busy if another process does so already.
        """
        home = self.checkpoints(name)
        with contextlib.ExitStack() as stack:
            with writing(self.path):
                home.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(home / ".lock", wait=False))
            with self._alone():
                self._read()
            yield

    @property
    def results(self) -> pd.DataFrame:
        """The tidy rows of all learners whose episodes are finished, also those of earlier calls."""
        return self._rows.get(_EPISODES.name, pd.DataFrame(columns=list(_EPISODES.columns)))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, what the run says goes to run.log too, and tables may be behind the rows for some seconds; at the end
        all files are up to date, however the run ends."""
        with writing(self.path):
            handler = logging.FileHandler(self.path / "run.log", encoding="utf-8", errors="replace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
            self._catch_up()
        except BaseException:
            with contextlib.suppress(InputError):  # what ends the run is told, and not that the disk is full as well
                self._catch_up()
            raise
        finally:
            log.removeHandler(handler)
            handler.close()

    def checkpoints(self, name: str) -> Path:
        """The folder of the checkpoints of the learner and seed called `name`."""
        return self.path / "checkpoints" / name

    def rows(
        self, protocol: str, learner: str, variant: str, backbone: str, seed: int, shots: Sequence[int]
    ) -> pd.DataFrame | None:
        """The rows of a model by a test protocol, of these shots if the protocol tests by shot; None if rows are
        missing."""
        rows = self._rows.get(protocol, pd.DataFrame())
        if not len(rows):
            return None
        rows = rows[(rows[MODEL] == [learner, variant, backbone, seed]).all(axis=1)]
        if PROTOCOLS[protocol].by_shot:
            return rows[rows["shot"].isin(shots)] if set(shots) <= set(rows["shot"]) else None
        return rows if len(rows) else None

    def parts(self, key: str) -> dict[str, Any] | None:
        """What the rows of this key depend on (see fewshot/provenance.py); None if there is no record of the key."""
        return self._parts.get(key)

    def mark(self, judge: Callable[[str, pd.Series], str]) -> None:
        """Mark each row with what `judge` says of its test protocol and the row: what differs, or '' if the row is
        current.

        If the marks of a test protocol's rows change, or their order, its rows are written again.
        """
        with self._alone():
            self._read()
            changed = []
            for protocol, before in self._rows.items():
                rows = _ordered(before, self._order)
                rows["kept"] = [judge(protocol, row) for _, row in rows.iterrows()]
                if not rows.equals(before):
                    changed.append(protocol)
                    self._rows[protocol] = rows
            for protocol in changed:
                self._write(protocol)

    def add(
        self,
        protocol: str,
        rows: list[dict[str, Any]],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        model: str,
        parts: Mapping[str, Any],
        kept: str = "",
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the rows of one model by one test protocol, in place of older ones.

        arrays: what the protocol keeps of each trial. model: the name of the model's folder. parts: what the rows
        depend on; the rows keep the key of these parts. kept: the mark of the rows. environment: of the machine
        that ran the model (see describe_environment), if it is another one.
        """
        key = key_of(parts)
        rows = [{**_LATER, **row, "key": key, "kept": kept} for row in rows]
        with self._alone():
            self._read()
            self._parts[key] = dict(parts)
            new = pd.DataFrame(rows, columns=list(PROTOCOLS[protocol].columns))
            self._rows[protocol] = _with_rows(self._rows.get(protocol, new[:0]), new, self._order)
            self._arrays.setdefault(protocol, {}).update(arrays or {})
            with writing(self.path):
                self._write_environment(model, environment or self._environment)
                replace_text(self.path / "keys.json", json.dumps(self._parts, indent=1) + "\n")
            self._write(protocol)

    def _write_environment(self, model: str, environment: Mapping[str, Any]) -> None:
        """environment.json: that of this process, and for each model that of the process that ran it."""
        with _reading(self.path):
            models = read_environment(self.path / "environment.json").get("models", {})
        own = {name: value for name, value in environment.items() if name != "data"}
        content = {**self._environment, "models": {**models, model: own}}
        replace_text(self.path / "environment.json", json.dumps(content, indent=2) + "\n")

    def _write(self, protocol: str) -> None:
        """Write the rows and arrays of a test protocol; the csv file last, since it says what is finished. Its tables
        follow at once if the last ones are old enough."""
        kind = PROTOCOLS[protocol]
        with writing(self.path):
            for name, part in kind.archives(self._arrays[protocol]).items():
                if part or name == kind.arrays:
                    self._archive(name).write(part)
            replace_text(self.path / kind.table, self._rows[protocol].to_csv(index=False))
        self._behind.add(protocol)
        if time.monotonic() >= self._due:
            self._make_tables()

    def _catch_up(self) -> None:
        """Make the tables that are behind the rows."""
        if self._behind:
            with self._alone():
                self._read()
                self._make_tables()

    def _make_tables(self) -> None:
        """Write what is made of the rows and arrays alone: the tables of the run, and the files of each test protocol
        that is behind."""
        began = time.monotonic()
        with writing(self.path):
            for protocol in sorted(self._behind & self._rows.keys()):
                rows, arrays = self._rows[protocol], self._arrays[protocol]
                made = self._made.setdefault(protocol, {})
                for name, text in PROTOCOLS[protocol].files(rows, arrays, self.path.resolve().name, made).items():
                    replace_text(self.path / name, text)
            sheets = _sheets(self._rows, self._arrays)
            replace_text(self.path / "results.tex", latex.page(sheets, self.path.resolve().name))
            replace_text(self.path / "references.bib", latex.bibliography(sheets))
            arrays = self._arrays.get(_EPISODES.name, {})
            replace_text(self.path / "results.md", page(sheets, self.results, arrays, self.config.data.dataset))
        self._behind.clear()
        now = time.monotonic()
        self._due = now + max(_PAUSE, _SHARE * (now - began))

    def _joined(self, config: Config, data: dict[str, Any], resume: bool) -> Config:
        """The configuration of the run in this folder, with `config`'s learners, seeds and test protocols added."""
        check_free(self.path, resume)
        earlier = _continued(self.path, config, data)
        finished, new = earlier.evaluation, config.evaluation
        kept: dict[str, Any] = {name: getattr(finished, name) for name in finished.protocols if hasattr(finished, name)}
        names = [name for name in PROTOCOLS if name in (*finished.protocols, *new.protocols)]
        learners = {**earlier.learner, **config.learner}
        together = {
            "seeds": sorted({*earlier.seeds, *config.seeds}),
            "learner": {name: learners[name] for name in in_order(learners, list(config.learner))},
            "evaluation": new.model_copy(update={**kept, "protocols": names}),
        }
        return config.model_copy(update=together)


def check_continues(path: Path, config: Config, banks: dict[str, ImageBank], device: torch.device) -> None:
    """InputError if the folder `path` holds a run that `config` and `banks` do not continue."""
    if (path / "config.toml").exists():
        with _at_rest(path), _reading(path):
            _continued(path, config, describe_environment(banks, device)["data"])


def _continued(path: Path, config: Config, data: dict[str, Any]) -> Config:
    """The configuration of the run in `path`; InputError if `config` on images of this `data` does not continue it."""
    earlier = read_config(path / "config.toml")
    _check_settings(path, earlier, config)
    environment = path / "environment.json"
    before = read_environment(environment)["data"] if environment.exists() else data
    for split in before.keys() & data.keys():
        if before[split] != data[split]:
            name = split if split in config.evaluation.domains.datasets else config.data.dataset
            raise InputError(f"{path} holds a run on other images of {name}: choose another one with --output")
    return earlier


def _check_settings(path: Path, earlier: Config, config: Config) -> None:
    """InputError if a run of `config` differs from the run of `earlier` in a setting that all of its rows share."""
    other = "choose another folder with --output"
    shared = set(earlier.evaluation.protocols) & set(config.evaluation.protocols)
    ignored = {"protocols", *PROTOCOLS} - shared  # settings of test protocols that only one of the runs has
    for part in ("data", "evaluation", "validation"):
        before, now = (getattr(one, part).model_dump() for one in (earlier, config))
        for name in before:
            if before[name] != now[name] and (part != "evaluation" or name not in ignored):
                raise InputError(
                    f"{path} holds a run with {name} = {before[name]} in [{part}], not {now[name]}: {other}"
                )
    for asked in sorted(earlier.learner.keys() & config.learner.keys()):
        if earlier.learner[asked] != config.learner[asked]:
            raise InputError(f"{path} holds a run of {asked} with other settings: {other}")


def _is_newer(path: Path, other: Path) -> bool:
    return not other.exists() or path.stat().st_mtime_ns > other.stat().st_mtime_ns


def check_free(path: Path, resume: bool) -> None:
    """InputError if the folder `path` holds a run and `resume` is not set."""
    if not resume and (path / "config.toml").exists():
        raise InputError(
            f"{path} already holds a run: add --resume to continue it (finished learners are not run again) or"
            " --overwrite to begin a new one, or choose another folder with --output"
        )


def read_results(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The tidy rows of the run in `path`, and the accuracy of every episode; InputError if `path` is no run."""
    if not (path / "results.csv").is_file():
        raise _no_results(path)
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        return _read_exactly(_EPISODES, path)


def read_test_images(path: Path) -> dict[str, Any]:
    """How many test classes and images the run in `path` has, and their checksum; nothing if the run does not tell."""
    told = path / "environment.json"
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        images: dict[str, Any] = read_environment(told)["data"].get("test", {}) if told.is_file() else {}
        return images


def read_protocols(path: Path) -> dict[str, pd.DataFrame]:
    """The rows of each test protocol that was run, except episodes; InputError if damaged."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        others = [one for one in PROTOCOLS.values() if one is not _EPISODES and (path / one.table).exists()]
        return {one.name: _read_exactly(one, path)[0] for one in others}


def read_rows_of(path: Path) -> dict[str, pd.DataFrame]:
    """The rows of each test protocol of the run in `path`, which may be in progress; InputError if damaged."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        there = [one for one in PROTOCOLS.values() if (path / one.table).exists()]
        return {one.name: read_rows(path / one.table, one.columns, {**_LATER, **one.later}) for one in there}


def read_kept(path: Path, protocol: str) -> dict[str, np.ndarray]:
    """What a test protocol of the run keeps of each trial; InputError if damaged."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        return _read_exactly(PROTOCOLS[protocol], path)[1]


def read_sheets(path: Path) -> list[tables.Sheet]:
    """The tables of the run in `path`, those of results.md; InputError if the run is damaged."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        there = [one for one in PROTOCOLS.values() if (path / one.table).exists()]
        found = {one.name: _read_exactly(one, path) for one in there}
    return _sheets({name: rows for name, (rows, _) in found.items()}, {name: kept for name, (_, kept) in found.items()})


def page(sheets: Sequence[tables.Sheet], results: pd.DataFrame, arrays: Mapping[str, np.ndarray], dataset: str) -> str:
    """results.md: the tables of a run on `dataset`, and which head to take, if its episodes can tell."""
    found = advice(results, arrays, dataset)
    return "\n".join([tables.markdown(sheets), *(f"{line}\n" for line in (found.lines if found else []))])


def find_runs(path: Path) -> list[Path]:
    """`path` if it is a run's folder, else the runs' folders in `path`; InputError if there are none."""
    found = [path] if (path / "results.csv").is_file() else sorted(one.parent for one in path.glob("*/results.csv"))
    if not found:
        raise _no_results(path)
    return found


def _no_results(path: Path) -> InputError:
    """The error for a folder that holds neither a results.csv nor folders with one."""
    if (path / "config.toml").is_file():
        return InputError(f"{path} holds a run that has tested no episodes: this command takes a run with results.csv")
    return InputError(f"{path} is no run's folder and holds none: name a folder that 'fewshot bench' has written")


def _read(
    protocol: Protocol, path: Path, arrays_in: Callable[[Path], Mapping[str, np.ndarray]] = read_arrays
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows and arrays of a test protocol; a column that older runs lack is filled."""
    rows = read_rows(path / protocol.table, protocol.columns, {**_LATER, **protocol.later})
    there = [name for name in protocol.archives({}) if name == protocol.arrays or (path / name).exists()]
    return rows, {name: array for file in there for name, array in arrays_in(path / file).items()}


def _read_exactly(protocol: Protocol, path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """As _read; Damaged if a row contradicts its arrays."""
    rows, arrays = _read(protocol, path)
    for why in filter(None, protocol.unlike(rows, arrays)):
        raise Damaged(why)
    return rows, arrays


def _whole(
    protocol: Protocol, rows: pd.DataFrame, arrays: dict[str, np.ndarray]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The rows of the models whose rows all agree with their arrays, since a model is measured as a whole.

    Rows contradict their arrays if a run was killed during writing.
    """
    reasons = protocol.unlike(rows, arrays)
    for why in filter(None, reasons):
        log.warning("%s: this is run again", why)
    wrong = rows.loc[[bool(why) for why in reasons], MODEL].itertuples(index=False, name=None)
    again = rows[MODEL].apply(tuple, axis=1).isin(set(wrong))
    return rows[~again].reset_index(drop=True), arrays


def _sheets(rows: Mapping[str, pd.DataFrame], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> list[tables.Sheet]:
    """All tables of a run, by test protocol."""
    there = [name for name in PROTOCOLS if len(rows.get(name, ()))]
    return [sheet for name in there for sheet in PROTOCOLS[name].sheets(rows[name], arrays.get(name, {}))]


def _with_rows(before: pd.DataFrame, new: pd.DataFrame, order: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """All rows, new ones in place of older ones of one model, data set and cell (records.ROW)."""
    cell = [name for name in ROW if name in new]
    together = pd.concat([before, new]) if len(before) else new
    return _ordered(together.drop_duplicates([*MODEL, *DATA, *cell], keep="last"), order)


def _ordered(rows: pd.DataFrame, order: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """The rows by learner as in_order has them, then by seed and cell."""
    learners = list(rows[LEARNER].itertuples(index=False, name=None))
    places = {learner: place for place, learner in enumerate(in_order(dict.fromkeys(learners), order))}
    keys = ["place", "seed", *(name for name in ROW if name in rows)]
    placed = rows.assign(place=[places[learner] for learner in learners]).sort_values(keys, kind="stable")
    return placed.drop(columns="place").reset_index(drop=True)


def in_order(found: Iterable[_Name], order: Sequence[_Name]) -> list[_Name]:
    """What was found, with those that are in `order` in that order among each other, and all others in their places."""
    known = list(found)
    ranked = iter(sorted((one for one in known if one in order), key=order.index))
    return [next(ranked) if one in order else one for one in known]


@contextlib.contextmanager
def _at_rest(path: Path) -> Iterator[None]:
    """Inside, no run in progress changes the files of `path`; a folder that cannot be locked is read without a lock."""
    with contextlib.ExitStack() as stack:
        if (path / ".lock").exists():
            with contextlib.suppress(OSError):
                stack.enter_context(locked(path / ".lock"))
        yield


@contextlib.contextmanager
def _reading(path: Path, cure: str = "remove that folder or choose another one with --output") -> Iterator[None]:
    """Turns what a damaged file of an earlier run raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, Damaged) as error:
        raise InputError(f"the run in {path} is damaged ({error}): {cure}") from error


def describe_environment(banks: dict[str, ImageBank], device: torch.device) -> dict[str, Any]:
    """What a run depends on besides its configuration: the date (UTC), software, machine, and the data's checksums."""
    packages = ("fewshot", "torch", "torchvision", "numpy", "pandas")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": describe(device),
        "training_precision": str(training_precision("auto", device)).removeprefix("torch."),
        "data": {
            split: {"classes": bank.classes, "images": len(bank), "checksum": bank.checksum}
            for split, bank in banks.items()
        },
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
