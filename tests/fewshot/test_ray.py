"""Models on a Ray cluster: the rows of a run without it, also if a node is lost."""

import os
import sys
from pathlib import Path
from types import FunctionType, SimpleNamespace
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch

import fewshot
from episodes import InputError
from fewshot import checkpoints
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.model_runs import Conditions, Measured
from fewshot.plan import plan
from fewshot.scheduling import cluster
from fewshot.scheduling.base import Finished, Job
from fewshot.scheduling.messages import Failed
from fewshot.scheduling.packing import pack_apart, unpack_apart

CLOCK = ["train_seconds", "eval_seconds"]
ROOT = Path(fewshot.__file__).parents[1]


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv", keep_default_na=False, dtype=str).drop(columns=CLOCK)


def test_banks_arrive_whole_with_their_arrays_apart(toy_banks):
    bank = toy_banks["test"]
    packed = pack_apart(toy_banks)
    assert len(packed.rest) < 50_000 < sum(array.nbytes for array in packed.arrays)
    same = unpack_apart(packed)["test"]
    assert same.compute_checksum() == bank.compute_checksum()
    assert same.name == bank.name


@pytest.fixture
def task(preset, toy_banks):
    """Arguments of a task on a node, for one model; the home of the run is on another machine."""
    config = load_config(preset, ["npair"])
    (model,) = plan(config, toy_banks)
    conditions = Conditions(config, toy_banks, device="cpu", progress=False)
    return pack_apart(conditions), Job(model, ["episodes"], Path("/nowhere"))


def test_a_task_sends_checkpoints_before_the_rows_that_are_made_of_them(task):
    messages = list(cluster._run(*task, {}, False, 20))
    kinds = [type(message) for message in messages]
    assert kinds[-1] is Finished
    assert kinds.count(Measured) == 1
    files: dict[str, bytes] = {}
    for message in messages[: kinds.index(Measured)]:
        files |= message.contents if isinstance(message, cluster.Files) else {}
    assert {"last.pt", "best.pt", "training.csv"} <= files.keys()
    assert messages[kinds.index(Measured)].environment["threads"] == 1


def test_a_task_goes_on_from_the_checkpoint_that_came_back(task, tmp_path):
    files = dict(next(m for m in cluster._run(*task, {}, False, 20) if isinstance(m, cluster.Files)).contents)
    (tmp_path / "last.pt").write_bytes(files["last.pt"])
    content = checkpoints.load(tmp_path / "last.pt")
    content |= {"step": 4, "seconds": 1234.5}
    checkpoints.save(tmp_path / "last.pt", {name: value for name, value in content.items() if name != "format"})
    again = list(cluster._run(*task, {"last.pt": (tmp_path / "last.pt").read_bytes()}, True, 20))
    (found,) = (message for message in again if isinstance(message, Measured))
    assert found.rows[0]["train_seconds"] >= 1234.5


def test_a_node_with_other_code_is_refused(task, monkeypatch):
    monkeypatch.setattr("fewshot.provenance.suite_code", lambda: "other")
    (message,) = cluster._run(*task, {}, False, 20)
    assert isinstance(message, Failed)
    assert "another version of the suite" in message.text


def test_ray_that_is_missing_is_told_before_any_training(preset, toy_banks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install 'fewshot\[ray\]'"):
        run_benchmark(load_config(preset), toy_banks, tmp_path / "run", device="cpu", ray="auto")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def three_nodes(monkeypatch):
    """A local cluster of three node processes with a core each; the first one is its head."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default, tasks give way to all other programs
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    size = {"num_cpus": 1, "object_store_memory": 100_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(**size)
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_node_gives_the_rows_of_one_process(
    preset, toy_banks, tmp_path, three_nodes, monkeypatch, caplog
):
    own = tmp_path / "own.toml"
    own.write_text(Path(preset).read_text(encoding="utf-8").replace("steps = 4", "steps = 30"))
    config = load_config(str(own), seeds=[0, 1])
    run_benchmark(config, toy_banks, tmp_path / "alone", device="cpu", progress=False, workers=1)
    write, lost = cluster._write, next(iter(three_nodes.worker_nodes))
    returned: set[str] = set()

    def write_and_lose(home, files):
        """Kill a node when a checkpoint of each of three models is there: its model is in the middle."""
        write(home, files)
        returned.add(home.name)
        if len(returned) == 3 and lost in three_nodes.worker_nodes:
            three_nodes.remove_node(lost, allow_graceful=False)

    monkeypatch.setattr(cluster, "_write", write_and_lose)
    with caplog.at_level("INFO", "fewshot"):
        run_benchmark(config, toy_banks, tmp_path / "run", device="cpu", progress=False, ray=three_nodes.address)
    pd.testing.assert_frame_equal(rows(tmp_path / "run"), rows(tmp_path / "alone"))
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("its node was lost") == 1
    assert log.count("episodes measured") == 4  # what was finished is not run again
    for home in (tmp_path / "alone" / "checkpoints").iterdir():
        ours, theirs = (checkpoints.load(path / "best.pt") for path in (tmp_path / "run/checkpoints" / home.name, home))
        assert all(torch.equal(value, ours["learner"][name]) for name, value in theirs["learner"].items())


def test_a_cluster_that_is_not_there_is_told_in_one_sentence(preset, toy_banks, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"no Ray cluster was found at 127\.0\.0\.1:1 "):
        run_benchmark(load_config(preset), toy_banks, tmp_path / "run", device="cpu", ray="127.0.0.1:1")
    assert not (tmp_path / "run").exists()


class Resources:
    """What a cluster says of its resources."""

    def __init__(self, **resources):
        self.cluster_resources = lambda: resources


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, (0, "cpu")), ("auto", 2, (1, "cuda")), ("cpu", 2, (0, "cpu")), ("cuda", 2, (1, "cuda"))],
)
def test_a_task_gets_a_gpu_if_the_cluster_has_one(device, gpus, expected):
    assert cluster.share_of_a_task(Resources(CPU=4.0, GPU=float(gpus)), device) == expected


def test_a_gpu_that_the_cluster_lacks_is_told_before_there_is_a_folder(preset, toy_banks, tmp_path, monkeypatch):
    false = Resources(CPU=4.0)
    false.shutdown = ended = MagicMock()
    monkeypatch.setattr(cluster, "connect", lambda _: false)
    with pytest.raises(InputError, match="cuda was asked for, but the cluster has no GPU"):
        search(preset, toy_banks, tmp_path / "search", ray="auto", device="cuda")
    assert not (tmp_path / "search").exists()
    ended.assert_called_once_with()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_search_on_a_cluster_that_loses_a_node_has_all_its_trials(
    preset, toy_banks, tmp_path, three_nodes, monkeypatch, caplog
):
    pytest.importorskip("optuna")
    from fewshot.tuning import run

    config, lost = load_config(preset, ["npair", "prototypical"]), next(iter(three_nodes.worker_nodes))
    watch = run._Watch.__call__

    def watch_and_lose(self):
        """Kill a node once a trial has ended, when the others are at work."""
        watch(self)
        if any(map(self.folder.finished, self.learners)) and lost in three_nodes.worker_nodes:
            three_nodes.remove_node(lost, allow_graceful=False)

    monkeypatch.setattr(run._Watch, "__call__", watch_and_lose)
    caplog.set_level("WARNING", "fewshot")
    run.tune(config, toy_banks, tmp_path / "search", trials=4, budget=20_000, ray=three_nodes.address, device="cpu")
    trials = pd.read_csv(tmp_path / "search" / "trials.csv")
    assert trials["learner"].value_counts().to_dict() == {"npair": 4, "prototypical": 4}
    assert trials["state"].ne("failed").all()
    assert "a node of the cluster was lost" in caplog.text
    alone = run.tune(config, toy_banks, tmp_path / "alone", trials=1, budget=20_000, device="cpu")
    together = pd.read_csv(tmp_path / "search" / "gains.csv")
    untuned = [frame.set_index("learner")["untuned"].round(3).to_dict() for frame in (alone, together)]
    assert untuned[0] == untuned[1]


def search(preset, banks, folder: Path, **more) -> pd.DataFrame:
    pytest.importorskip("optuna")
    from fewshot.tuning.run import tune

    config = load_config(preset, ["npair"])
    return tune(config, banks, folder, **{"trials": 1, "budget": 20_000, "device": "cpu", **more})


def test_a_search_without_its_cluster_makes_no_folder(preset, toy_banks, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"no Ray cluster was found at 127\.0\.0\.1:1 "):
        search(preset, toy_banks, tmp_path / "search", ray="127.0.0.1:1")
    assert not (tmp_path / "search").exists()


class Lost(Exception):
    """What the false Ray raises for a lost node."""


class FalseRay:
    """What a search uses of Ray, in this process: its first tasks lose their nodes, those after them do nothing."""

    def __init__(self, cores: int, lost: int) -> None:
        self.cores, self.lost, self.started = cores, lost, 0
        self.util, self.exceptions = MagicMock(), SimpleNamespace(RayError=Lost, RayTaskError=ZeroDivisionError)
        self.put = self.get_runtime_context = self.shutdown = MagicMock()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cores}

    def remote(self, what: object) -> MagicMock:
        made = MagicMock()
        if isinstance(what, FunctionType):
            made.options.return_value.remote = self._start
        return made

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return tasks[:1], tasks[1:]

    def get(self, wanted: object) -> None:
        if isinstance(wanted, int) and wanted <= self.lost:
            raise Lost

    def _start(self, *_: object) -> int:
        self.started += 1
        return self.started


def on_false(ray: FalseRay, folder: Path) -> None:
    pytest.importorskip("optuna")
    from fewshot.tuning.cluster import on_cluster

    on_cluster(ray, MagicMock(path=folder), {}, ["npair"], "cpu", print, lambda: None)


def test_a_search_goes_on_if_a_node_of_many_cores_is_lost(tmp_path):
    ray = FalseRay(cores=8, lost=6)
    on_false(ray, tmp_path)
    assert ray.started == 8 + 6


@pytest.mark.parametrize(
    ("cores", "lost", "said"),
    [(1, 3, "has lost its node 3 times"), (0, 0, "no node of the Ray cluster has a core for trials")],
)
def test_a_search_that_its_cluster_cannot_run_ends_in_one_sentence(cores, lost, said, tmp_path):
    with pytest.raises(InputError, match=said):
        on_false(FalseRay(cores, lost), tmp_path)
