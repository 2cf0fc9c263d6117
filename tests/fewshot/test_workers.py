"""Models side by side: the same rows as one after the other, also after kills, and no process outlives its run."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tqdm import tqdm

import fewshot
from episodes import InputError
from episodes.bank import cached_bank
from episodes.locks import Busy, locked
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.model_runs import Conditions, obtain
from fewshot.plan import plan
from fewshot.run_folder import RunFolder, in_order
from fewshot.scheduling import base
from fewshot.scheduling.local import _ProgressLine
from fewshot.scheduling.packing import pack, unpack
from fewshot.scheduling.share import Share, devices_of, share_of

ROOT = Path(fewshot.__file__).parents[1]
_LONG = 600  # seconds, on a machine that has other work
CLOCK = ["train_seconds", "eval_seconds"]
RUN = """
import signal
import sys
import fewshot.benchmark
from conftest import toy_bank
from fewshot.cli import main

if __name__ == "__main__":  # a worker imports this file, too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also if the tests run in the background of a shell
    seeds = {"train": 1, "validation": 2, "test": 3}
    fewshot.benchmark.load_dataset = lambda name, split, **_: toy_bank(30, 24, seed=seeds[split], split=split)
    sys.exit(main(sys.argv[1:]))
"""

HOLDING = """
from pathlib import Path
from episodes.locks import locked
with locked(Path({path!r})):
    print("locked", flush=True)
    input()
"""


def rows(folder: Path) -> pd.DataFrame:
    """The rows of results.csv without the clock; every other cell as it was written."""
    return pd.read_csv(folder / "results.csv", keep_default_na=False, dtype=str).drop(columns=CLOCK)


def check_same_run(folder: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(rows(folder), rows(other))
    for name in ("differences.csv", "config.toml", "results.md"):
        assert (folder / name).read_text() == (other / name).read_text(), name
    for name in ("episodes.npz", "confusion.npz", "shown.npz"):
        with np.load(folder / name) as ours, np.load(other / name) as theirs:
            assert ours.files
            assert set(ours.files) == set(theirs.files)
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours.files)


@pytest.fixture(scope="module")
def alone(preset, toy_banks, tmp_path_factory) -> Path:
    """The folder of a run of four models by one worker."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_benchmark(load_config(preset, seeds=[0, 1]), toy_banks, folder, device="cpu", progress=False, workers=1)
    return folder


def test_two_workers_give_the_rows_of_one(preset, toy_banks, alone, tmp_path, caplog):
    folder, config = tmp_path / "run", load_config(preset, seeds=[0, 1])
    with caplog.at_level("INFO", "fewshot"):
        run_benchmark(config, toy_banks, folder, device="cpu", progress=False, workers=2)
    check_same_run(folder, alone)
    said = (folder / "run.log").read_text()
    assert said.count("training 4 steps") == 4  # what workers log is in the log of the run
    assert "CPU, 1 thread, 2 models side by side" in said


@contextlib.contextmanager
def started(folder: Path, preset: str, script: Path, *more: str):
    """A process of `fewshot bench --workers 2`."""
    script.write_text(RUN, encoding="utf-8")
    command = [sys.executable, script, "bench", "--preset", preset, "--seed", "0,1", "--output", folder, "--device"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [*map(str, command), "cpu", "--workers", "2", "--resume", *more],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(process: subprocess.Popen) -> set[int]:
    """The worker processes that a process has started."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not listed.exists():
        pytest.skip("this system does not list the children of a process")
    found = map(int, listed.read_text(encoding="utf-8").split())
    return {one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()}


def ended(processes: set[int], seconds: float = 60) -> bool:
    """Whether all the processes end within some seconds."""
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{one}").exists() for one in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def killed_and_resumed(preset: str, folder: Path, kills: int, seed: int) -> None:
    """Kill a run `kills` times, each time after a random number of messages and a random time, by a random signal to
    the run or to one of its workers; then let it end."""
    chance = random.Random(seed)
    for number in range(kills):
        with started(folder, preset, folder.with_suffix(".py")) as process:
            for _ in range(chance.randint(2, 12)):
                process.stdout.readline()
            time.sleep(chance.random() * 0.5)
            workers = children(process) if process.poll() is None else set()
            victims = [process.pid, process.pid, *workers] if process.poll() is None else []
            if victims:
                os.kill(victims[number % 2 * chance.randrange(len(victims))], chance.choice([9, 15, signal.SIGINT]))
                process.kill() if chance.random() < 0.5 else None
            process.communicate(timeout=_LONG)
            assert ended(workers)
    with started(folder, preset, folder.with_suffix(".py")) as process:
        said, _ = process.communicate(timeout=_LONG)
        assert process.returncode == 0, said


def test_a_run_that_is_killed_with_its_workers_goes_on_to_the_same_rows(preset, alone, tmp_path):
    killed_and_resumed(preset, tmp_path / "run", kills=2, seed=1)
    pd.testing.assert_frame_equal(rows(tmp_path / "run"), rows(alone))


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_goes_on_to_the_same_rows(preset, alone, tmp_path):
    killed_and_resumed(preset, tmp_path / "run", kills=20, seed=2)
    pd.testing.assert_frame_equal(rows(tmp_path / "run"), rows(alone))


def test_a_worker_that_is_killed_is_told_in_one_sentence(preset, tmp_path):
    with started(tmp_path / "run", preset, tmp_path / "run.py") as process:
        while "training" not in process.stdout.readline():
            pass
        workers = children(process)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        said, _ = process.communicate(timeout=_LONG)
        assert process.returncode == 2
    assert "was killed by signal 9" in said.splitlines()[-1]
    assert "--resume continues the run" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(preset, tmp_path):
    endless = "--steps", "1000000"  # or a quick run is over before the signal comes
    with started(tmp_path / "run", preset, tmp_path / "run.py", *endless) as process:
        while "training" not in process.stdout.readline():
            pass
        workers = children(process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=_LONG)
        assert process.returncode == 130
        assert ended(workers)
    assert "interrupted; the same command with --resume continues the run" in said
    assert "Traceback" not in said


def test_an_error_of_a_worker_is_an_error_of_the_run(toy_banks, tmp_path):
    file = tmp_path / "mine.py"
    body = "        raise KeyError('my mistake')\n"
    file.write_text(
        "from fewshot.learners.prototypical import Prototypical\n\n\nclass Mine(Prototypical):\n"
        f"    def loss(self, images, labels):\n{body}"
    )
    preset = tmp_path / "own.toml"
    preset.write_text(
        f"learners = ['{file}:Mine', 'npair']\n[evaluation]\nways = [3]\nshots = [1]\nquery = 3\nepisodes = 20\n"
        "[validation]\nway = 5\nquery = 3\nepisodes = 10\n[training]\nsteps = 2\n"
    )
    config = load_config(str(preset))
    with pytest.raises(InputError, match=r"Mine\.loss raised KeyError in .*mine\.py, line 6.*my mistake"):
        run_benchmark(config, toy_banks, tmp_path / "run", device="cpu", progress=False, workers=2)


def test_another_process_may_run_one_of_the_models_meanwhile(preset, toy_banks, tmp_path, caplog):
    """The run does its other models first, and then waits for that process."""
    folder = tmp_path / "run"
    config = load_config(preset, seeds=[0, 1])
    taken = folder / "checkpoints" / "prototypical-euclidean-seed0"
    taken.mkdir(parents=True)
    other = HOLDING.format(path=str(taken / ".lock"))
    with subprocess.Popen(
        [sys.executable, "-c", other], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.MonkeyPatch.context() as patch:
            add = fewshot.run_folder.RunFolder.add

            def added(self, **found):
                add(self, **found)
                if len(self.results) == 6 and process.poll() is None:
                    process.communicate("go on\n")

            patch.setattr(fewshot.run_folder.RunFolder, "add", added)
            with caplog.at_level("INFO", "fewshot"):
                run_benchmark(config, toy_banks, folder, device="cpu", progress=False, workers=1)
    log = (folder / "run.log").read_text()
    assert log.index("npair, seed 1: episodes measured") < log.index("prototypical (euclidean), seed 0: training")
    assert rows(folder)[["learner", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["prototypical", "0"],
        ["prototypical", "1"],
        ["npair", "0"],
        ["npair", "1"],
    ]


def test_a_run_that_waits_takes_the_model_that_is_given_up_first(preset, toy_banks, tmp_path, monkeypatch, caplog):
    folder, config = tmp_path / "run", load_config(preset)
    homes = [folder / "checkpoints" / name for name in ("npair-seed0", "prototypical-euclidean-seed0")]
    held = [contextlib.ExitStack() for _ in homes]
    for home, one in zip(homes, held):
        home.mkdir(parents=True)
        one.enter_context(locked(home / ".lock"))

    def given_up(_seconds: float) -> None:
        """The next of the models is free after each pause."""
        held.pop(0).close()

    monkeypatch.setattr(base, "time", SimpleNamespace(sleep=given_up))
    with caplog.at_level("INFO", "fewshot"):
        run_benchmark(config, toy_banks, folder, device="cpu", progress=False, workers=1)
    said = [record.getMessage() for record in caplog.records]
    trained = [one for one in said if "training" in one]
    assert [one.split(",")[0] for one in trained] == ["npair", "prototypical (euclidean)"]
    assert said.index(f"Other processes are at work on what is left of {folder}: waiting for them") < said.index(
        trained[0]
    )
    assert not held


class Simulated:
    """Workers that only count the time: a training takes as many seconds as `seconds` says, a test takes one."""

    sharing = 2

    def __init__(self, seconds: dict[str, int]) -> None:
        self.seconds, self.now, self.begun = seconds, 0, []
        self._ends: list[tuple[int, str]] = []

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def free(self) -> bool:
        return len(self._ends) < self.sharing

    def start(self, job: base.Job) -> None:
        name = job.model.spec.name
        assert bool(job.protocols) == job.trained
        self.begun.append((self.now, "test" if job.trained else "train", name[-5:]))
        self._ends.append((self.now + (1 if job.trained else self.seconds[name]), name))

    def results(self):
        self._ends.sort()
        self.now, name = self._ends.pop(0)
        yield base.Finished(name)


def test_tests_come_at_once_but_after_the_last_trainings(preset, toy_banks, tmp_path):
    config = load_config(preset, learners=["npair"], seeds=[0, 1, 2, 3])
    models = plan(config, toy_banks)
    folder = RunFolder(tmp_path / "run", config, toy_banks, torch.device("cpu"), resume=False)
    workers = Simulated({model.spec.name: seconds for model, seconds in zip(models, (6, 2, 3, 2))})
    base.run_models(models, folder, ["episodes"], keep=False, workers=workers, leaders={})
    assert workers.begun == [
        (0, "train", "seed0"),
        (0, "train", "seed1"),
        (2, "train", "seed2"),  # two are left for two workers: the test of seed 1 waits
        (5, "train", "seed3"),
        (6, "test", "seed1"),
        (7, "test", "seed2"),
        (7, "test", "seed0"),
        (8, "test", "seed3"),
    ]


def test_while_many_models_are_left_each_is_tested_after_its_training(preset, toy_banks, tmp_path):
    config = load_config(preset, learners=["npair"], seeds=list(range(5)))
    models = plan(config, toy_banks)
    folder = RunFolder(tmp_path / "run", config, toy_banks, torch.device("cpu"), resume=False)
    workers = Simulated({model.spec.name: 9 if model.spec.seed == 0 else 2 for model in models})
    base.run_models(models, folder, ["episodes"], keep=False, workers=workers, leaders={})
    assert workers.begun[1:5] == [
        (0, "train", "seed1"),
        (2, "test", "seed1"),
        (3, "train", "seed2"),
        (5, "train", "seed3"),  # two are left
    ]


def test_a_model_that_shares_a_training_waits_for_the_training_and_not_for_the_test(preset, toy_banks, tmp_path):
    models = plan(load_config(preset, learners=["npair"], seeds=[0, 1, 2]), toy_banks)
    names = [model.spec.name for model in models]
    folder = RunFolder(tmp_path / "run", load_config(preset, learners=["npair"]), toy_banks, torch.device("cpu"), False)
    workers = Simulated(dict(zip(names, (4, 1, 9))))
    leaders = {names[1]: names[0]}
    base.run_models(models, folder, ["episodes"], keep=False, workers=workers, leaders=leaders)
    assert workers.begun[:3] == [(0, "train", "seed0"), (0, "train", "seed2"), (4, "train", "seed1")]


def test_a_test_whose_checkpoint_is_gone_is_refused_and_trains_nothing(preset, toy_banks, tmp_path):
    config = load_config(preset, learners=["npair"])
    (model,) = plan(config, toy_banks)
    with pytest.raises(InputError, match=r"best\.pt is gone since its training"):
        obtain(model, Conditions(config, toy_banks), tmp_path, torch.device("cpu"), trained=True)


def test_a_lock_that_is_held_is_busy_for_those_who_do_not_wait(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(Busy), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


def test_learners_stand_in_the_order_of_the_run_and_others_keep_their_places():
    assert in_order(["c", "a"], ["a", "b", "c"]) == ["a", "c"]
    assert in_order(["x", "c", "y", "a", "b"], ["a", "b", "c"]) == ["x", "a", "y", "b", "c"]
    assert in_order(["b", "a"], []) == ["b", "a"]


@pytest.fixture
def threads():
    """The number of PyTorch's threads can be set for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_workers_are_as_many_as_cores_if_several_models_train_on_images(preset, toy_banks, threads):
    config, cpu = load_config(preset), torch.device("cpu")
    models = plan(config, toy_banks)
    threads(4)
    assert share_of("auto", models, toy_banks, cpu) == Share(2, True)  # there are two models
    assert share_of("auto", models[:1], toy_banks, cpu) == Share(1, False)
    assert share_of("auto", models, toy_banks, torch.device("cuda")) == Share(1, False)
    assert share_of("auto", models, {"test": toy_banks["test"]}, cpu) == Share(1, False)
    assert share_of(None, models, toy_banks, cpu) == Share(1, False)
    assert share_of(1, models, toy_banks, cpu) == Share(1, True)
    assert share_of(3, models, toy_banks, torch.device("cuda")) == Share(2, False)
    threads(1)
    assert share_of("auto", models, toy_banks, cpu) == Share(1, True)


def test_what_a_progress_bar_of_a_worker_says_is_sent_and_the_rest_is_written(monkeypatch, capsys):
    sent: list = []
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    monkeypatch.setattr(sys, "stderr", _ProgressLine(sent.append))
    with tqdm(total=5, desc="npair", unit="step", disable=False, ncols=80) as bar:
        bar.set_postfix({"loss": "0.250"})
        bar.update(5)
    sys.stderr.write("a warning\n")
    assert capsys.readouterr().err == "a warning\n"
    assert sent[-1].text.startswith("100% 5/5 [")
    assert sent[-1].text.endswith("loss=0.250]")


def test_gpus_are_given_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(torch.device("cuda"), 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices_of(torch.device("cuda:1"), 2) == ["cuda:1", "cuda:1"]
    assert devices_of(torch.device("cpu"), 2) == ["cpu", "cpu"]


def test_a_prepared_bank_is_mapped_by_another_process_and_not_copied(toy_banks):
    bank = toy_banks["test"]
    packed = pack(bank)
    assert len(packed) > bank.images.nbytes
    same = unpack(packed)
    assert torch.equal(same.images, bank.images)
    prepared = cached_bank("toy", lambda: contents(bank))
    packed = pack(prepared)
    assert len(packed) < bank.images.nbytes / 4
    same = unpack(packed)
    assert torch.equal(same.images, bank.images)
    assert same.compute_checksum() == prepared.checksum
    part = prepared.only(torch.arange(0, len(bank), 24))  # no view of the file
    assert torch.equal(unpack(pack(part)).images, bank.images[::24])


def contents(bank):
    from episodes.bank import Contents

    def fill(array):
        array[:] = bank.images.numpy()

    return Contents(bank.images.shape[1:], bank.sizes.tolist(), bank.class_names, bank.group_names, fill, {})


PARENT = """
import multiprocessing, time
from fewshot.scheduling.children import end_with_parent

def child(connection):
    end_with_parent()
    connection.send(True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,), daemon=True)
    process.start()
    ours.recv()
    print(flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_ends_with_the_one_that_started_it(how, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, env=environment) as parent:
        parent.stdout.readline()
        parent.send_signal(how)
        parent.communicate(timeout=30)  # until the child, too, has closed the output that both have
