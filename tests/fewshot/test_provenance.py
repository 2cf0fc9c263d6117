"""Rows are shown as current only if nothing they depend on has changed, and processes may share a folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal
from PIL import Image

import fewshot.benchmark
import fewshot.model_runs
from fewshot import checkpoints, provenance, run_folder
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.learners import find_learner
from fewshot.run_folder import RunFolder, read_results, read_sheets
from fewshot.tables import markdown

ROOT = Path(fewshot.benchmark.__file__).parents[1]
LEARNER = "import fewshot_test_helper\nfrom fewshot.learners.npair import NPair\n\n\nclass Mine(NPair):\n    pass\n"

CONSTANT = (
    "from fewshot.learners.npair import NPair\n\n\nclass Constant(NPair):\n"
    "    def scores(self, support, query):\n        return 0 * super().scores(support, query)\n"
)


def bench(preset, banks, folder, learners=("npair",), **more) -> pd.DataFrame:
    config = load_config(str(preset), list(learners), protocols=more.pop("protocols", None))
    return run_benchmark(config, banks, folder, device="cpu", progress=False, **more)


@pytest.fixture(scope="module")
def finished(preset, toy_banks, tmp_path_factory):
    """The folder of a run of two learners; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    bench(preset, toy_banks, folder, ["npair", "nearest-pixel"])
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def other_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "99.1.0")


@pytest.fixture
def other_code(monkeypatch, tmp_path):
    (tmp_path / "training.py").write_text("# another state of it")
    monkeypatch.setattr(provenance, "_core", lambda: frozenset({tmp_path / "training.py"}))


def as_of_old(run: Path) -> None:
    """Turn a run into one of an older version, whose rows have no keys."""
    (run / "keys.json").unlink()
    rows = pd.read_csv(run / "results.csv", keep_default_na=False, dtype=str)
    rows.drop(columns=["collapsed", "kept", "key"]).to_csv(run / "results.csv", index=False)
    for path in run.glob("checkpoints/*/*.pt"):
        content = torch.load(path, weights_only=True)
        for name in ("code", "packages"):
            content["about"].pop(name)
        torch.save(content, path)


def test_rows_keep_one_key_of_all_that_they_depend_on(finished):
    rows, _ = read_results(finished)
    keys = json.loads((finished / "keys.json").read_text())
    assert set(rows["key"]) == keys.keys()
    for parts in keys.values():
        assert {"settings", "validation", "data", "images", "evaluation", "source", "code"} <= parts.keys()
        assert parts["packages"]["torch"] == torch.__version__
        assert parts["evaluation"]["episodes"] == 40


def test_nothing_is_run_again_where_nothing_has_changed(run, preset, toy_banks, trained, caplog):
    before = (run / "results.csv").read_bytes()
    with caplog.at_level("INFO", "fewshot"):
        bench(preset, toy_banks, run, ["npair", "nearest-pixel"], resume=True)
    assert not trained
    assert "All of it was finished earlier" in caplog.text
    assert (run / "results.csv").read_bytes() == before


def test_rows_of_another_torch_are_said_and_run_again(run, preset, toy_banks, trained, other_torch, caplog):
    before = json.loads((run / "keys.json").read_text())
    then = next(iter(before.values()))["packages"]["torch"]
    rows = bench(preset, toy_banks, run, resume=True)
    said = f"npair, seed 0: its rows are of another torch ({then}, now 99.1.0): it is run again; --keep shows them as"
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1
    assert trained == ["npair"]
    again = rows.query("learner == 'npair'")
    assert set(again["torch"]) == {"99.1.0"}
    assert set(again["kept"]) == {""}


def test_rows_of_other_code_are_kept_where_that_is_asked_for_and_marked(
    run, preset, toy_banks, trained, other_code, caplog
):
    rows = bench(preset, toy_banks, run, resume=True, keep=True)
    assert not trained
    assert "its rows are of another state of the suite's code: they are kept and marked" in caplog.text
    assert set(rows.query("learner == 'npair'")["kept"]) == {"other code"}
    for page in ((run / "results.md").read_text(), markdown(read_sheets(run))):
        assert "npair [other code]" in page
        assert "of an earlier run and were not run again" in page


def test_the_mark_goes_when_the_state_is_the_old_one_again(run, preset, toy_banks, monkeypatch, trained):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.1.0")
        assert set(bench(preset, toy_banks, run, resume=True, keep=True)["kept"]) == {"other torch"}
    assert set(bench(preset, toy_banks, run, resume=True, keep=True)["kept"]) == {""}
    assert not trained


def test_learners_that_are_not_named_are_marked_and_not_run(run, preset, toy_banks, trained, other_code, caplog):
    rows = bench(preset, toy_banks, run, resume=True)
    assert trained == ["npair"]
    assert "Rows of nearest-pixel are of other code or packages than now" in caplog.text
    assert rows.groupby("learner")["kept"].unique().map(list).to_dict() == {
        "npair": [""],
        "nearest-pixel": ["other code"],
    }


def test_old_rows_are_marked_before_anything_is_run_again(run, preset, toy_banks, other_torch, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fewshot.model_runs, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench(preset, toy_banks, run, resume=True)
    assert "npair [other torch]" in (run / "results.md").read_text()


@pytest.mark.parametrize("keep", [False, True])
def test_of_a_run_from_before_keys_it_is_said_what_is_unknown(run, preset, toy_banks, trained, caplog, keep):
    as_of_old(run)
    assert len(read_results(run)[0]) == 4
    assert "[" not in markdown(read_sheets(run))
    rows = bench(preset, toy_banks, run, resume=True, keep=keep)
    assert "npair, seed 0: its rows are of unknown code" in caplog.text
    assert trained == ([] if keep else ["npair"])
    assert set(rows.query("learner == 'npair'")["kept"]) == ({"unknown code"} if keep else {""})


def test_a_module_that_a_learner_file_imports_counts(preset, toy_banks, tmp_path, trained, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    helper, file = tmp_path / "fewshot_test_helper.py", tmp_path / "mine.py"
    helper.write_text("SCALE = 1\n")
    file.write_text(LEARNER)
    for times, content in enumerate(("SCALE = 1\n", "SCALE = 1\n", "SCALE = 2\n")):
        helper.write_text(content)
        bench(preset, toy_banks, tmp_path / "run", [f"{file}:Mine"], resume=times > 0)
    assert trained == ["Mine", "Mine"]
    assert "its rows are of another state of its own code" in caplog.text
    sys.modules.pop("fewshot_test_helper")


def test_code_that_trains_or_scores_counts_and_code_that_shows_does_not():
    core = {path.relative_to(ROOT).as_posix() for path in provenance._core()}
    counted = {"training", "evaluation", "recording", "augmentation", "learners/base", "backbones/conv4"}
    assert {f"fewshot/{name}.py" for name in counted} | {"episodes/sampler.py", "episodes/batches.py"} <= core
    own = {path.name for path in provenance._modules(find_learner("prototypical")[0]).values()}
    assert own == {"prototypical.py", "episodic.py", "losses.py", "masks.py"}
    shown = {"cli.py", "page.py", "figures.py", "tables.py", "comparison.py", "run_folder.py", "sheets.py"}
    assert not shown & {*own, *(Path(name).name for name in core)}


CODE = '''"""What it is."""

def scale(x: float = 1.0) -> float:
    """Twice x."""
    return 2 * x  # a factor
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("What it is", "Something else", True),
        ('    """Twice x."""\n', "", True),
        ("  # a factor", "", True),
        ("(x: float = 1.0)", "(\n    x: float = 1.0,\n)", True),
        ("2 * x", "3 * x", False),
        ("1.0", "1.5", False),
        ("scale", "factor", False),
        ("return 2 * x", 'x = """Twice x."""; return x', False),
    ],
)
def test_code_counts_and_what_is_said_about_it_does_not(tmp_path, old, new, same):
    assert old in CODE
    digests = []
    for text in (CODE, CODE.replace(old, new)):
        (tmp_path / "a.py").write_text(text)
        digests.append(provenance._digest([tmp_path / "a.py"]))
    assert (digests[0] == digests[1]) == same


def test_a_file_that_is_no_python_counts_as_it_is(tmp_path):
    digests = set()
    for text in ("def", "def ", f"x = {'-' * 3000}1", f"x = {'-' * 3001}1"):
        (tmp_path / "a.py").write_text(text)
        digests.add(provenance._digest([tmp_path / "a.py"]))
    assert len(digests) == 4


def of_whole_files(paths) -> str:
    """A digest as versions before 0.2 made them."""
    contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


@pytest.mark.parametrize("same", [True, False])
def test_rows_with_digests_of_whole_files_are_current_if_the_files_are_the_same(
    run, preset, toy_banks, trained, monkeypatch, same
):
    def older(paths):
        return of_whole_files(paths) if same else "of other files"

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_digest", older)
        shutil.rmtree(run)
        bench(preset, toy_banks, run, ["npair"], protocols=["episodes", "verification"])
    before = json.loads((run / "keys.json").read_text())
    assert {parts["code"] for parts in before.values()} == {older(provenance._core())}
    assert trained == ["npair"]
    bench(preset, toy_banks, run, ["npair"], resume=True)
    assert trained == ["npair"] * (1 if same else 2)
    assert not pd.read_csv(run / "results.csv", keep_default_na=False)["kept"].any()
    assert (json.loads((run / "keys.json").read_text()).keys() == before.keys()) == same
    bench(preset, toy_banks, run, ["npair"], protocols=["retrieval"], resume=True)  # by the model that was there
    assert trained == ["npair"] * (1 if same else 2)
    assert not pd.read_csv(run / "retrieval.csv", keep_default_na=False)["kept"].any()


def test_packages_that_a_learner_works_through_count():
    packages = {name: provenance.packages(find_learner(name)[0]) for name in ("npair", "maml", "metric", "sklearn")}
    assert packages["npair"].keys() == {"torch", "torchvision", "numpy"}
    for name, package in {"maml": "learn2learn", "metric": "pytorch_metric_learning", "sklearn": "sklearn"}.items():
        assert packages[name].keys() - packages["npair"].keys() == {package}
        assert packages[name][package][0].isdigit()


def test_another_state_of_a_protocol_measures_again_and_trains_nothing(run, preset, toy_banks, trained, monkeypatch):
    bench(preset, toy_banks, run, protocols=["verification"], resume=True)
    before = pd.read_csv(run / "verification.csv")["key"].item()
    monkeypatch.setattr(provenance, "protocol_code", lambda protocol: f"other {protocol}")
    bench(preset, toy_banks, run, protocols=["verification"], resume=True)
    assert pd.read_csv(run / "verification.csv")["key"].item() != before
    assert not trained


def test_settings_that_rows_did_not_know_yet_count_as_their_defaults(finished):
    now = next(iter(json.loads((finished / "keys.json").read_text()).values()))
    assert now["settings"]["weights"] == ""
    before = {**now, "settings": {name: value for name, value in now["settings"].items() if name != "weights"}}
    assert provenance.key_of(before) != provenance.key_of(now)
    assert provenance.difference(before, now) == []
    assert provenance.difference(before, {**now, "settings": {**now["settings"], "weights": "x"}}) == ["settings"]


def test_a_record_of_what_rows_depend_on_that_was_changed_by_hand_counts_as_none(run, preset, toy_banks):
    keys = json.loads((run / "keys.json").read_text())
    for parts in keys.values():
        parts["packages"]["torch"] = "1.0"
    (run / "keys.json").write_text(json.dumps(keys))
    rows, device = read_results(run)[0], torch.device("cpu")
    folder = RunFolder(run, load_config(preset, ["npair"]), toy_banks, device, resume=True)
    assert {folder.parts(key) for key in rows["key"]} == {None}


@pytest.mark.parametrize("resume", [False, True])
def test_rows_whose_settings_are_lost_are_not_taken_for_those_of_this_run(run, preset, toy_banks, trained, resume):
    (run / "config.toml").unlink()
    said = refusal(lambda: bench(preset, toy_banks, run, resume=resume))
    assert "holds results.csv without the config.toml" in said
    assert not trained


def test_the_environment_of_each_learner_is_kept(run, preset, toy_banks, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    bench(preset, toy_banks, run, ["siamese"], resume=True)
    models = json.loads((run / "environment.json").read_text())["models"]
    assert models.keys() == {"npair-seed0", "nearest-pixel-seed0", "siamese-contrastive-seed0"}
    assert {name for name, one in models.items() if one["threads"] == 77} == {"siamese-contrastive-seed0"}


def test_images_replaced_at_equal_size_and_time_are_other_images(preset, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    random, pictures = np.random.default_rng(0), tmp_path / "pictures"
    for label in range(25):
        (pictures / f"{label:02d}").mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / f"{label:02d}" / f"{number}.bmp")

    def run() -> pd.DataFrame:
        config = load_config(preset, ["nearest-pixel"], dataset=str(pictures), size=16)
        config, banks = fewshot.benchmark.open_data(config)
        return run_benchmark(config, banks, tmp_path / "run", device="cpu", resume=True, progress=False)

    run()
    for path in pictures.rglob("0.bmp"):
        before = path.stat()
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    assert "holds a run on other images" in refusal(run)


def add(folder: RunFolder, learner: str) -> None:
    """Add one row of a learner to a run."""
    row = {"dataset": "toy", "split": "test", "variant": "", "backbone": "conv4", "way": 5, "shot": 1, "query": 3}
    row |= {"episodes": 2, "seed": 0, "accuracy": 50.0, "ci95": 1.0, "ci95_open": 1.0, "protocol": "random"}
    row |= {"image_size": 16, "transductive": False, "text": False, "external": False, "collapsed": False}
    row |= {"train_seconds": 1.0, "eval_seconds": 1.0, "learner": learner}
    values = {f"{learner}-seed0/5way1shot": np.array([0.4, 0.6])}
    folder.add("episodes", [row], values, model=f"{learner}-seed0", parts={"code": learner})


@pytest.mark.parametrize(("takes", "pause"), [(0.1, 10), (3.0, 60)])
def test_tables_take_at_most_a_twentieth_of_a_run(preset, toy_banks, tmp_path, monkeypatch, takes, pause):
    clock = [1000.0]
    monkeypatch.setattr("fewshot.run_folder.time.monotonic", lambda: clock[0])
    page = run_folder.page

    def slowly(*arguments):
        clock[0] += takes
        return page(*arguments)

    monkeypatch.setattr(run_folder, "page", slowly)
    names = ["npair", "siamese", "nca"]
    folder = RunFolder(tmp_path / "run", load_config(preset, names), toy_banks, torch.device("cpu"), resume=False)
    with folder.running():
        for name, later, shown in zip(names, (0, pause - 1, 1), (["npair"], ["npair"], names)):
            clock[0] += later
            add(folder, name)
            text = (tmp_path / "run" / "results.md").read_text()
            assert [one for one in names if f"| {one}" in text] == shown
        add(folder, "triplet")
        assert "triplet" not in (tmp_path / "run" / "results.md").read_text()
    assert "triplet" in (tmp_path / "run" / "results.md").read_text()


def test_a_run_whose_rows_all_contradict_their_arrays_is_run_again(preset, toy_banks, tmp_path):
    device, config = torch.device("cpu"), load_config(preset, ["npair"])
    add(RunFolder(tmp_path / "run", config, toy_banks, device, resume=False), "npair")
    table = tmp_path / "run" / "results.csv"
    table.write_text(table.read_text().replace(",50.0,", ",51.0,"))
    folder = RunFolder(tmp_path / "run", config, toy_banks, device, resume=True)
    folder.mark(lambda protocol, row: "")
    assert not len(folder.results)
    add(folder, "npair")
    assert read_results(tmp_path / "run")[0]["accuracy"].tolist() == [50.0]


def test_what_two_processes_add_to_one_folder_is_all_there(preset, toy_banks, tmp_path):
    """The second process opens the folder before the first has added rows, and adds its own rows after the first."""
    device, evaluation = torch.device("cpu"), []
    for name in ("npair", "siamese", "nca"):
        folder = RunFolder(tmp_path / "run", load_config(preset, [name]), toy_banks, device, resume=bool(evaluation))
        evaluation.append((name, folder))
    for name, folder in evaluation:
        add(folder, name)
    rows, accuracies = read_results(tmp_path / "run")
    assert rows["learner"].tolist() == ["npair", "siamese", "nca"]
    assert len(accuracies) == len(json.loads((tmp_path / "run" / "keys.json").read_text())) == 3
    assert list(tomllib.loads((tmp_path / "run" / "config.toml").read_text())["learner"]) == ["npair", "siamese", "nca"]


BENCH = """
import os
import sys
from conftest import toy_bank
import fewshot.benchmark
from fewshot.cli import main

seeds = {"train": 1, "validation": 2, "test": 3}
fewshot.benchmark.load_dataset = lambda name, split, **_: toy_bank(30, 24, seed=seeds[split], split=split)
children = []
for name in sys.argv[1].split(","):  # what is slow to import is there once; all begin at once
    children.append(os.fork())
    if not children[-1]:
        os._exit(main([*sys.argv[2:], "--learner", name]))
sys.exit(max(os.waitpid(child, 0)[1] > 0 for child in children))
"""
TEN = ["prototypical", "npair", "siamese", "nca", "triplet", "histogram", "imprinted", "nearest-pixel", "ridge"]
TEN += ["matching"]


@pytest.mark.slow
def test_ten_processes_that_run_ten_learners_in_one_folder_at_once_lose_nothing(preset, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        Path(preset)
        .read_text(encoding="utf-8")
        .replace("[training]", "[training]\nbatches = {classes = 10, images = 4}")
    )
    own.write_text(own.read_text() + "[learner.imprinted]\nbatches = {size = 16}\n")
    (tmp_path / "bench.py").write_text(BENCH)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, tmp_path / "bench.py", ",".join(TEN), "bench", "--resume", "--device", "cpu"]
    command += ["--preset", own, "--output", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, accuracies = read_results(tmp_path / "run")
    assert sorted(rows["learner"]) == sorted(2 * TEN)
    assert len(accuracies) == 20
    assert set(tomllib.loads((tmp_path / "run" / "config.toml").read_text())["learner"]) == set(TEN)
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["models"]) == 10
    assert not list((tmp_path / "run").rglob(".unfinished.*"))


def test_a_collapsed_training_is_said_once_and_marked(preset, toy_banks, tmp_path, caplog):
    file = tmp_path / "mine.py"
    file.write_text(CONSTANT)
    rows = bench(preset, toy_banks, tmp_path / "run", [f"{file}:Constant", "nearest-pixel"])
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == 1
    assert "no better than guessing, which has 20.00 %" in said[0]
    assert rows.groupby("learner")["collapsed"].all().to_dict() == {"Constant": True, "nearest-pixel": False}
    assert "Constant [collapsed]" in (tmp_path / "run" / "results.md").read_text()
    bench(preset, toy_banks, tmp_path / "run", [f"{file}:Constant"], protocols=["retrieval"], resume=True)
    assert pd.read_csv(tmp_path / "run" / "retrieval.csv")["collapsed"].tolist() == [True]


def test_a_training_that_learns_something_is_not_marked(finished):
    assert not read_results(finished)[0]["collapsed"].any()
    assert checkpoints.load(finished / "checkpoints" / "npair-seed0" / "best.pt")["collapsed"] is False
