"""Damaged runs, checkpoints, presets and odd arguments: each ends in a sentence or a result, never in a traceback."""

import contextlib
import os
import pickle
import shlex
import shutil
import signal
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from damage import NUMBERS, TEXTS, drawn, spoil_arrays, spoil_bytes, spoil_checkpoint, spoil_preset, spoil_table

import fewshot.model_runs
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.training import train

SECONDS = 10  # of computing until a command counts as hung; six times as long for waiting, as others may compute


def cases(count: int, fast: int):
    """Test cases 0 .. `count` - 1, of which the first `fast` are in every test run."""
    numbers = [pytest.param(number, marks=[] if number < fast else pytest.mark.slow) for number in range(count)]
    return pytest.mark.parametrize("number", numbers)


class Hung(BaseException):
    """A command takes too long."""


@contextlib.contextmanager
def limited():
    """Inside, the code must compute for at most SECONDS, and must not wait forever."""

    def stop(*_):
        raise Hung

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, 6 * SECONDS)}
    before = {kind: signal.signal(kind, stop) for kind, _ in timers.values()}
    try:
        for timer, (_, seconds) in timers.items():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


@pytest.fixture(scope="module")
def toy_run(preset, toy_banks, tmp_path_factory) -> Path:
    """The folder of a small run of two protocols, which keeps few embeddings, since t-SNE of many is slow."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    config = load_config(preset, protocols=["episodes", "retrieval"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.shown.MAP_CLASSES", 2)
        patch.setattr("fewshot.shown.MAP_IMAGES", 5)
        run_benchmark(config, toy_banks, folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def run(toy_run, tmp_path) -> Path:
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


@pytest.fixture
def survives(call, toy_banks, monkeypatch):
    """Calls the command line, and checks that it ends soon, in a result or in one sentence."""
    monkeypatch.setattr("fewshot.report.data.load_dataset", lambda name, split, **_: toy_banks[split])
    monkeypatch.setattr("fewshot.shown.MAP_CLASSES", 2)
    monkeypatch.setattr("fewshot.shown.MAP_IMAGES", 5)
    monkeypatch.setattr("fewshot.report.figures.drawn", lambda *_: b'<svg xmlns="http://www.w3.org/2000/svg"></svg>')

    def briefly(learner, train_bank, validation_bank, settings, **more):
        return train(
            learner,
            train_bank,
            validation_bank,
            settings.model_copy(update={"steps": min(settings.steps, 4)}),
            **{**more, "progress": False},
        )

    monkeypatch.setattr(fewshot.model_runs, "train", briefly)

    def command(*arguments) -> int:
        with limited():
            try:
                said = call(*arguments)
            except SystemExit as stop:  # of argparse, which prints usage lines
                return int(stop.code)
        assert said.code in (0, 2)
        assert "Traceback" not in said.out + said.err
        if said.code == 2:
            assert said.err.splitlines()[-1].startswith("fewshot: ")
        return said.code

    return command


@cases(240, fast=6)
def test_damaged_run_folders(run, preset, survives, number):
    chance = drawn("run", number)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "best.pt")
    weights = [8 if path.name in ("results.csv", "retrieval.csv", "episodes.npz") else 1 for path in files]
    (path,) = chance.choices(files, weights)
    spoil = {".csv": spoil_table, ".npz": spoil_arrays}.get(path.suffix, spoil_bytes)
    if chance.random() < 0.3:
        spoil = spoil_bytes
    if chance.random() < 0.1:
        path.unlink()
    else:
        spoil(path, chance)
    survives("compare", run)
    survives("report", run)
    survives("bench", "--resume", "--preset", preset, "--output", run, "--device", "cpu")


@cases(120, fast=4)
def test_altered_checkpoints(run, preset, survives, number):
    chance = drawn("checkpoint", number)
    path = run / "checkpoints" / chance.choice(["npair-seed0", "prototypical-euclidean-seed0"])
    best, last = path / "best.pt", path / "last.pt"
    spoil_checkpoint(chance.choice([best, last]), chance)
    if chance.random() < 0.1:
        spoil_bytes(chance.choice([best, last]), chance)
    survives("evaluate", best, "--way", 3, "--query", 2, "--episodes", 4)
    survives("report", run)
    (run / "retrieval.csv").unlink()
    survives("bench", "--resume", "--preset", preset, "--output", run, "--device", "cpu", "--protocol", "retrieval")
    (run / "results.csv").unlink(missing_ok=True)
    survives("bench", "--resume", "--preset", preset, "--output", run, "--device", "cpu")


@cases(100, fast=6)
def test_altered_presets(preset, tmp_path, survives, number):
    table = tomllib.loads(Path(preset).read_text(encoding="utf-8"))
    table |= {"seeds": [0], "data": {"dataset": "omniglot", "size": 16, "held_out": 2}}
    table["learner"] |= {"prototypical:cosine": {"options": {"scale": 5.0, "shot": 1}, "per_shot": {"1": {"steps": 2}}}}
    table["training"] |= {
        "learning_rate": 0.01,
        "schedule": "milestones",
        "milestones": {"2": 0.5},
        "weight_decay": 0.0,
    }
    table["evaluation"] |= {"seed": 0, "generalised": {"way": 2, "shots": [1], "query": 2, "episodes": 4}}
    own = tmp_path / "own.toml"
    spoil_preset(own, table, drawn("preset", number))
    survives("bench", "--preset", own, "--output", tmp_path / "run", "--device", "cpu")


def argument_list(number: int, places: dict[str, str]) -> list[str]:
    """Arguments for one command, some of them sensible."""
    chance = drawn("arguments", number)
    odd = [*map(str, NUMBERS), *TEXTS, ",", "a,b", "-", "--", "x" * 5000, "\udce9", *places.values()]
    commands = {
        f"evaluate {places['checkpoint']}": "way shot query episodes seed split protocol dataset learner device",
        f"bench --preset {places['preset']}": "learner dataset seed size held-out protocol device output",
        "train --learner npair": "preset dataset seed size held-out device",
        "data show toy": "split way shot query seed episode size",
        "data check toy": "size",
        f"compare {places['run']}": "output",
        f"report {places['run']}": "output",
        "backbones --backbone conv4-32": "size batch device",
        "perf": "only",
        "check": "device",
    }
    command = chance.choice(list(commands))
    options = chance.sample(commands[command].split(), k=1 + chance.randrange(min(2, len(commands[command].split()))))
    if command == "perf":
        return ["perf", "--only", chance.choice([",", "x", "", "sampling,y"])]
    given = [part for option in options for part in (f"--{option}", chance.choice(odd))]
    extra = ["--episodes", "4"] if command.startswith("evaluate") and "episodes" not in options else []
    return [*shlex.split(command), *extra, *given]


@cases(80, fast=6)
def test_odd_argument_lists(run, preset, tmp_path, monkeypatch, survives, number):
    monkeypatch.chdir(tmp_path)
    places = {"checkpoint": "run/checkpoints/npair-seed0/best.pt", "preset": preset, "run": "run"}
    survives(*argument_list(number, places))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


def _zip_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.npy", bytes(10**6))


ODD = {
    "a pipe": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "a folder": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "no bytes": lambda path: path.write_bytes(b""),
    "a terabyte of zeros": _sparse,
    "zeros": lambda path: path.write_bytes(bytes(10**5)),
    "an archive": _zip_of_zeros,
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"about": print})),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "UTF-16": lambda path: path.write_text("learners = []", encoding="utf-16"),
    "one line": lambda path: path.write_text("x" * 10**6, encoding="utf-8"),
    "quotes": lambda path: path.write_text('"' * 9999, encoding="utf-8"),
    "nested lists": lambda path: path.write_text("[" * 10**5, encoding="utf-8"),
}
PLACES = [
    "results.csv",
    "retrieval.csv",
    "episodes.npz",
    "environment.json",
    "config.toml",
    "run.log",
    "checkpoints/npair-seed0/best.pt",
    "checkpoints/npair-seed0/last.pt",
    "checkpoints/npair-seed0/training.csv",
    "classes.csv",
    "shown.npz",
]


@cases(len(ODD) * len(PLACES), fast=0)
def test_odd_files_in_every_place_of_a_run(run, preset, survives, number):
    _odd_file(run, preset, survives, list(ODD)[number % len(ODD)], PLACES[number // len(ODD)])


@pytest.mark.parametrize("kind", ODD)
def test_odd_files(run, preset, survives, kind):
    _odd_file(run, preset, survives, kind, PLACES[list(ODD).index(kind) % 6])


def _odd_file(run: Path, preset: str, survives, kind: str, place: str) -> None:
    (run / place).unlink()
    ODD[kind](run / place)
    for command in ("compare", "report"):
        survives(command, run)
    survives("evaluate", run / place, "--episodes", 4)
    survives("bench", "--resume", "--preset", preset, "--output", run, "--device", "cpu")
    survives("bench", "--preset", run / place, "--output", run / "other", "--device", "cpu")
