"""RunFolder: the files of one run, each written whole or not at all, and re-opened when a run goes on."""

import contextlib
import json
import logging
import os
import platform
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch

from episodes import ImageBank, InputError
from fewshot import tables
from fewshot.comparison import compare
from fewshot.comparison import sheets as comparison_sheets
from fewshot.config import Config, read_config
from fewshot.devices import describe, training_precision
from fewshot.files import replace_text, replacing, writing

_LEARNER = ["learner", "variant", "backbone"]
_LATER = {"ci95_open": np.nan, "text": False, "external": False}  # columns that older runs lack, and what holds there

log = logging.getLogger("fewshot")


class RunFolder:
    """The files of the run at `path`: results/README.md says what is in them.

    results  the tidy rows of all finished learners, also those of earlier calls
    Raises InputError where the folder cannot be written, or holds a run that `config` and `banks` do not continue.
    """

    def __init__(
        self, path: Path, config: Config, banks: dict[str, ImageBank], device: torch.device, resume: bool
    ) -> None:
        self.path = path
        environment = describe_environment(banks, device)
        with writing(path):
            if (path / "config.toml").exists():
                with _reading(path):
                    config = self._joined(config, environment["data"], resume)
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            replace_text(path / "config.toml", tomli_w.dumps(config.model_dump()))
            if not (path / "environment.json").exists():
                replace_text(path / "environment.json", json.dumps(environment, indent=2) + "\n")
        self._environment = environment
        self.results = pd.DataFrame(columns=tables.COLUMNS)
        self._accuracies: dict[str, np.ndarray] = {}
        with _reading(path):
            if (path / "results.csv").exists():
                self.results, self._accuracies = _read(path)

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Inside, what the run says goes to run.log too."""
        with writing(self.path):
            handler = logging.FileHandler(self.path / "run.log")
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

    def has(self, learner: str, variant: str, backbone: str, seed: int, shots: Sequence[int]) -> bool:
        """Whether the rows of a learner and seed are there, for all these shots."""
        wanted = {"learner": learner, "variant": variant, "backbone": backbone, "seed": seed}
        rows = self.results[(self.results[list(wanted)] == list(wanted.values())).all(axis=1)]
        return set(shots) <= set(rows["shot"])

    def add(self, rows: list[dict[str, Any]], accuracies: dict[str, np.ndarray]) -> None:
        """Add the rows of one learner and seed, in place of older ones, and bring all files up to date.

        results.csv comes last, since it says what is finished.
        """
        new = pd.DataFrame(rows, columns=tables.COLUMNS)
        together = pd.concat([self.results, new]) if len(self.results) else new
        together = together.drop_duplicates([*_LEARNER, "seed", "way", "shot"], keep="last")
        place = together.groupby(_LEARNER, sort=False).ngroup()
        together = together.assign(place=place).sort_values(["place", "seed", "way", "shot"], kind="stable")
        self.results = together.drop(columns="place").reset_index(drop=True)
        self._accuracies.update(accuracies)
        with writing(self.path):
            with replacing(self.path / "episodes.npz") as unfinished, unfinished.open("wb") as file:
                np.savez_compressed(file, **self._accuracies)
            replace_text(self.path / "environment.json", json.dumps(self._environment, indent=2) + "\n")
            sheets = tables.sheets(self.results, self._accuracies)
            replace_text(self.path / "results.md", tables.markdown(sheets))
            replace_text(self.path / "results.tex", tables.latex(sheets))
            pairs = tables.differences(self.results, self._accuracies)
            replace_text(self.path / "differences.csv", pairs.to_csv(index=False, float_format="%.6g"))
            comparison = compare(self.results, run=self.path.resolve().name)
            replace_text(self.path / "comparison.md", tables.markdown(comparison_sheets(comparison, every=True)))
            replace_text(self.path / "results.csv", self.results.to_csv(index=False))

    def _joined(self, config: Config, data: dict[str, Any], resume: bool) -> Config:
        """The configuration of the run that is there with the learners of `config` added."""
        other = "choose another folder with --output"
        if not resume:
            raise InputError(
                f"{self.path} already holds a run: add --resume to go on with it (finished learners stay as they are),"
                f" or {other}"
            )
        earlier = read_config(self.path / "config.toml")
        for part in ("data", "evaluation", "validation"):
            before, now = (getattr(one, part).model_dump() for one in (earlier, config))
            for name in before:
                if before[name] != now[name]:
                    raise InputError(
                        f"{self.path} holds a run with {name} = {before[name]} in [{part}], not {now[name]}: {other}"
                    )
        for spec in sorted(earlier.learner.keys() & config.learner.keys()):
            if earlier.learner[spec] != config.learner[spec]:
                raise InputError(f"{self.path} holds a run of {spec} with other settings: {other}")
        environment = self.path / "environment.json"
        if environment.exists() and json.loads(environment.read_text())["data"] != data:
            raise InputError(f"{self.path} holds a run on other images of {config.data.dataset}: {other}")
        return config.model_copy(
            update={"seeds": sorted({*earlier.seeds, *config.seeds}), "learner": {**earlier.learner, **config.learner}}
        )


def read_results(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The tidy rows of the run in `path`, and the accuracy of every episode; InputError where that is no run."""
    if not (path / "results.csv").is_file():
        raise InputError(f"{path} holds no results of a run: name a folder that 'fewshot bench' has written")
    with _reading(path, "copy it again, or run it again"):
        return _read(path)


def find_runs(path: Path) -> list[Path]:
    """`path` where it is a run's folder, else the runs' folders in it; InputError where there are none."""
    found = [path] if (path / "results.csv").is_file() else sorted(one.parent for one in path.glob("*/results.csv"))
    if not found:
        raise InputError(f"{path} is no run's folder and holds none: name a folder that 'fewshot bench' has written")
    return found


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """What results.csv and episodes.npz hold; a column that runs did not always have is filled where it is missing."""
    results = pd.read_csv(path / "results.csv", keep_default_na=False, na_values={"ci95_open": [""]})
    results = results.assign(**{name: value for name, value in _LATER.items() if name not in results})
    if set(results.columns) != set(tables.COLUMNS):
        raise ValueError("results.csv has other columns")
    with np.load(path / "episodes.npz", allow_pickle=False) as arrays:
        return results[tables.COLUMNS].astype({"ci95_open": float}), dict(arrays)


@contextlib.contextmanager
def _reading(path: Path, cure: str = "remove that folder or choose another one with --output") -> Iterator[None]:
    """Turns what a damaged file of an earlier run raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"the run in {path} is damaged ({type(error).__name__}: {error}): {cure}") from error


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
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
