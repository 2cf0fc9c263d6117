"""RunFolder: the files of one run, each written whole or not at all, and re-opened when a run goes on."""

import contextlib
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch

from episodes import ImageBank, InputError
from episodes.locks import locked
from fewshot import tables
from fewshot.comparison import compare
from fewshot.comparison import sheets as comparison_sheets
from fewshot.config import PROTOCOLS, Config, read_config
from fewshot.devices import describe, training_precision
from fewshot.files import replace_text, replacing, writing
from fewshot.protocols.rows import COLUMNS
from fewshot.protocols.sheets import protocol_sheets
from fewshot.provenance import key_of
from fewshot.record_files import Damaged, read_environment, read_episodes, read_object, read_rows, unlike_episodes
from fewshot.records import CELL, LATER, LEARNER, MODEL
from fewshot.records import COLUMNS as EPISODE_COLUMNS

# columns that older runs lack, and what holds there
_LATER = {"ci95_open": np.nan, "text": False, "external": False, **LATER}
_LATER_OF = {"retrieval": {"nmi_std": np.nan}}  # more such columns of the other protocols

log = logging.getLogger("fewshot")


class RunFolder:
    """The files of the run at `path`: results/README.md says what is in them.

    results  the tidy rows of all learners whose episodes are finished, also those of earlier calls
    Raises InputError where the folder cannot be written, or holds a run that `config` and `banks` do not continue.
    """

    def __init__(
        self, path: Path, config: Config, banks: dict[str, ImageBank], device: torch.device, resume: bool
    ) -> None:
        self.path = path
        environment = describe_environment(banks, device)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if (path / "config.toml").exists():
                with _reading(path):
                    config = self._joined(config, environment["data"], resume)
            elif found := [
                name for name in ("results.csv", *(f"{one}.csv" for one in COLUMNS)) if (path / name).exists()
            ]:
                raise InputError(
                    f"{path} holds {found[0]} without the config.toml that says of what settings: bring that back, or"
                    " choose another folder with --output"
                )
            with writing(path):
                (path / "checkpoints").mkdir(exist_ok=True)
                replace_text(path / "config.toml", tomli_w.dumps(config.model_dump()))
                if not (path / "environment.json").exists():
                    replace_text(path / "environment.json", json.dumps(environment, indent=2) + "\n")
            self.config, self._environment = config, environment
            self._read()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process changes the files of the run, but for its checkpoints and its log."""
        with contextlib.ExitStack() as stack:
            with writing(self.path):
                stack.enter_context(locked(self.path / ".lock"))
            yield

    def _read(self) -> None:
        """Take what the folder holds: other processes may have added to it."""
        self.results = pd.DataFrame(columns=EPISODE_COLUMNS)
        self._accuracies: dict[str, np.ndarray] = {}
        with _reading(self.path):
            if (self.path / "results.csv").exists():
                self.results, self._accuracies = _read(self.path)
                self._leave_out_unlike()
            self._protocols = _read_protocols(self.path)
            keys = self.path / "keys.json"
            parts = read_object(keys) if keys.exists() else {}
        self._parts: dict[str, dict[str, Any]] = {
            key: one for key, one in parts.items() if isinstance(one, dict) and key_of(one) == key
        }

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Inside, no other process trains or measures the model called `name`; what others have added is there."""
        home = self.checkpoints(name)
        with contextlib.ExitStack() as stack:
            with writing(self.path):
                home.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(home / ".lock", f"is at work on {name} in {self.path}"))
            with self._alone():
                self._read()
            yield

    def _leave_out_unlike(self) -> None:
        """Take out rows that are not the mean of their episodes, as where a run was killed while it wrote them."""
        reasons = unlike_episodes(self.results, self._accuracies)
        for why in filter(None, reasons):
            log.warning("%s: this is run again", why)
        self.results = self.results[[not why for why in reasons]].reset_index(drop=True)

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Inside, what the run says goes to run.log too."""
        with writing(self.path):
            handler = logging.FileHandler(self.path / "run.log", encoding="utf-8", errors="replace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()

    def checkpoints(self, name: str) -> Path:
        """Where the checkpoints of the learner and seed called `name` are."""
        return self.path / "checkpoints" / name

    def rows(
        self, protocol: str, learner: str, variant: str, backbone: str, seed: int, shots: Sequence[int]
    ) -> pd.DataFrame | None:
        """The rows of a model and a protocol; of episodes, those of these shots. None where some are missing."""
        rows = self.results if protocol == "episodes" else self._protocols.get(protocol, pd.DataFrame())
        if not len(rows):
            return None
        wanted = {"learner": learner, "variant": variant, "backbone": backbone, "seed": seed}
        rows = rows[(rows[list(wanted)] == list(wanted.values())).all(axis=1)]
        if protocol == "episodes":
            return rows[rows["shot"].isin(shots)] if set(shots) <= set(rows["shot"]) else None
        return rows if len(rows) else None

    def parts(self, key: str) -> dict[str, Any] | None:
        """What the rows of this key depend on (see fewshot/provenance.py); None where there is no record of it."""
        return self._parts.get(key)

    def mark(self, judge: Callable[[str, pd.Series], str]) -> None:
        """Mark each row with what `judge` says of it and its protocol: what it was kept from, '' where it is current.

        The tables of the folder are written again where that changes them.
        """
        with self._alone():
            self._read()
            changed = []
            for protocol, rows in {"episodes": self.results, **self._protocols}.items():
                said = [judge(protocol, row) for _, row in rows.iterrows()]
                if list(rows["kept"]) != said:
                    changed.append(protocol)
                    rows["kept"] = said
            for protocol in changed:
                self._write(protocol)

    def add(
        self,
        protocol: str,
        rows: list[dict[str, Any]],
        accuracies: Mapping[str, np.ndarray] | None = None,
        *,
        model: str,
        parts: Mapping[str, Any],
        kept: str = "",
    ) -> None:
        """Add the rows of one model and protocol, in place of older ones, and bring all files up to date.

        accuracies: of episodes. model: what its folder is called. parts: what the rows depend on, of which they keep
        the key. kept: what they are marked with.
        """
        key = key_of(parts)
        rows = [{**row, "key": key, "kept": kept} for row in rows]
        with self._alone():
            self._read()
            self._parts[key] = dict(parts)
            if protocol == "episodes":
                self.results = _with_rows(self.results, pd.DataFrame(rows, columns=EPISODE_COLUMNS))
                self._accuracies.update(accuracies or {})
            else:
                new = pd.DataFrame(rows, columns=COLUMNS[protocol])
                self._protocols[protocol] = _with_rows(self._protocols.get(protocol, new[:0]), new)
            with writing(self.path):
                self._write_environment(model)
                replace_text(self.path / "keys.json", json.dumps(self._parts, indent=1) + "\n")
            self._write(protocol)

    def _write_environment(self, model: str) -> None:
        """environment.json: that of this process, and for each model that of the process that ran it."""
        with _reading(self.path):
            models = read_environment(self.path / "environment.json").get("models", {})
        own = {name: value for name, value in self._environment.items() if name != "data"}
        content = {**self._environment, "models": {**models, model: own}}
        replace_text(self.path / "environment.json", json.dumps(content, indent=2) + "\n")

    def _write(self, protocol: str) -> None:
        """The files that the rows of `protocol` are in; its csv file last, since it says what is finished."""
        with writing(self.path):
            sheets = _sheets(self.results, self._accuracies, self._protocols)
            replace_text(self.path / "results.md", tables.markdown(sheets))
            replace_text(self.path / "results.tex", tables.latex(sheets))
            if protocol == "episodes":
                self._write_episodes()
            else:
                replace_text(self.path / f"{protocol}.csv", self._protocols[protocol].to_csv(index=False))

    def _write_episodes(self) -> None:
        with replacing(self.path / "episodes.npz") as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **self._accuracies)
        pairs = tables.differences(self.results, self._accuracies)
        replace_text(self.path / "differences.csv", pairs.to_csv(index=False, float_format="%.6g"))
        comparison = compare(self.results, run=self.path.resolve().name)
        replace_text(self.path / "comparison.md", tables.markdown(comparison_sheets(comparison, every=True)))
        replace_text(self.path / "results.csv", self.results.to_csv(index=False))

    def _joined(self, config: Config, data: dict[str, Any], resume: bool) -> Config:
        """The configuration of the run that is there with the learners of `config` added."""
        other = "choose another folder with --output"
        check_free(self.path, resume)
        earlier = read_config(self.path / "config.toml")
        for part in ("data", "evaluation", "validation"):
            before, now = (getattr(one, part).model_dump() for one in (earlier, config))
            both = set(earlier.evaluation.protocols) & set(config.evaluation.protocols)
            for name in before:
                compared = name != "protocols" and (name not in PROTOCOLS or name in both)
                if compared and before[name] != now[name]:
                    raise InputError(
                        f"{self.path} holds a run with {name} = {before[name]} in [{part}], not {now[name]}: {other}"
                    )
        for spec in sorted(earlier.learner.keys() & config.learner.keys()):
            if earlier.learner[spec] != config.learner[spec]:
                raise InputError(f"{self.path} holds a run of {spec} with other settings: {other}")
        environment = self.path / "environment.json"
        if environment.exists() and read_environment(environment)["data"] != data:
            raise InputError(f"{self.path} holds a run on other images of {config.data.dataset}: {other}")
        finished = earlier.evaluation
        evaluation = {name: getattr(finished, name) for name in finished.protocols if hasattr(finished, name)}
        together = {*finished.protocols, *config.evaluation.protocols}
        evaluation["protocols"] = [name for name in PROTOCOLS if name in together]
        return config.model_copy(
            update={
                "seeds": sorted({*earlier.seeds, *config.seeds}),
                "learner": {**earlier.learner, **config.learner},
                "evaluation": config.evaluation.model_copy(update=evaluation),
            }
        )


def check_free(path: Path, resume: bool) -> None:
    """InputError where the folder `path` holds a run that is not to be gone on with."""
    if not resume and (path / "config.toml").exists():
        raise InputError(
            f"{path} already holds a run: add --resume to go on with it (finished learners stay as they are), or choose"
            " another folder with --output"
        )


def read_results(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The tidy rows of the run in `path`, and the accuracy of every episode; InputError where that is no run."""
    if not (path / "results.csv").is_file():
        raise InputError(f"{path} holds no results of a run: name a folder that 'fewshot bench' has written")
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        return _read_whole(path)


def read_protocols(path: Path) -> dict[str, pd.DataFrame]:
    """The rows of verification, retrieval and generalised, of those that were run; InputError where damaged."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        return _read_protocols(path)


def read_sheets(path: Path) -> list[tables.Sheet]:
    """The tables of the run in `path`, those of results.md; InputError where that is a damaged one."""
    with _at_rest(path), _reading(path, "copy it again, or run it again"):
        results, accuracies = _read_whole(path) if (path / "results.csv").exists() else (pd.DataFrame(), {})
        return _sheets(results, accuracies, _read_protocols(path))


def find_runs(path: Path) -> list[Path]:
    """`path` where it is a run's folder, else the runs' folders in it; InputError where there are none."""
    found = [path] if (path / "results.csv").is_file() else sorted(one.parent for one in path.glob("*/results.csv"))
    if not found:
        raise InputError(f"{path} is no run's folder and holds none: name a folder that 'fewshot bench' has written")
    return found


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """What results.csv and episodes.npz hold; a column that runs did not always have is filled where it is missing."""
    results = read_rows(path / "results.csv", EPISODE_COLUMNS, _LATER)
    return results, read_episodes(path / "episodes.npz")


def _read_whole(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """As _read; Damaged where a row is not the mean of its episodes."""
    results, accuracies = _read(path)
    for why in filter(None, unlike_episodes(results, accuracies)):
        raise Damaged(why)
    return results, accuracies


def _read_protocols(path: Path) -> dict[str, pd.DataFrame]:
    """The rows of the other protocols, of those that were run."""
    found = {}
    for protocol, columns in COLUMNS.items():
        if (path / f"{protocol}.csv").exists():
            later = {**LATER, **_LATER_OF.get(protocol, {})}
            found[protocol] = read_rows(path / f"{protocol}.csv", columns, later)
    return found


def _sheets(
    results: pd.DataFrame, accuracies: Mapping[str, np.ndarray], protocols: Mapping[str, pd.DataFrame]
) -> list[tables.Sheet]:
    """All tables of a run, those of the episodes first."""
    made = tables.sheets(results, accuracies) if len(results) else []
    return made + [sheet for name in COLUMNS if name in protocols for sheet in protocol_sheets(name, protocols[name])]


def _with_rows(before: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Both together, new rows in place of older ones of the same model, way and shot; learners as they came."""
    cell = [*(name for name in CELL if name in new)]
    together = pd.concat([before, new]) if len(before) else new
    together = together.drop_duplicates([*MODEL, *cell], keep="last")
    place = together.groupby(LEARNER, sort=False).ngroup()
    together = together.assign(place=place).sort_values(["place", "seed", *cell], kind="stable")
    return together.drop(columns="place").reset_index(drop=True)


@contextlib.contextmanager
def _at_rest(path: Path) -> Iterator[None]:
    """Inside, no run that goes on changes the files of `path`; where one may not lock it, as if there were none."""
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
    """What a run depends on besides its configuration: software, machine, and the data's checksums."""
    packages = ("fewshot", "torch", "torchvision", "numpy", "pandas")
    return {
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
