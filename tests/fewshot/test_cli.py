"""The command line: what each command writes and prints, and one line for everything that can be wrong."""

import argparse
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import encoded, toy_bank, write_files
from rich.console import Console

import fewshot.benchmark
import fewshot.model_runs
from episodes import InputError, MissingData, load_dataset
from episodes.datasets import SOURCES
from fewshot import Traits, checkpoints
from fewshot.cli import main
from fewshot.commands import evaluate
from fewshot.learners.npair import NPair
from fewshot.learners.registry import LEARNERS
from fewshot.learners.siamese import Siamese
from fewshot.models import ModelSpec
from fewshot.testing.checks import CHECKS

LEARNER = """
from pathlib import Path
from fewshot.learners.prototypical import Prototypical

Path(__file__).with_name("imported").touch()

class Mine(Prototypical):
    pass
"""


@pytest.fixture
def learner_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LEARNER)
    return path


@pytest.fixture
def untrained(monkeypatch):
    """A test fails if it starts a training."""

    def refuse(*_, **__):
        raise AssertionError("trained before the input was checked")

    monkeypatch.setattr(fewshot.model_runs, "train", refuse)


@pytest.fixture(scope="module")
def trained(call_once, preset, tmp_path_factory):
    """The folder of a training by the command line; to be read only."""
    folder = tmp_path_factory.mktemp("cli") / "trained"
    said = call_once("train", "--learner", "npair", "--preset", preset, "--output", folder, "--device", "cpu")
    assert said.code == 0
    return folder


@pytest.fixture
def checkpoint(call, trained, tmp_path):
    """The best checkpoint in a copy of that folder, to be changed."""
    return shutil.copytree(trained, tmp_path / "trained") / "npair-seed0" / "best.pt"


@pytest.fixture(scope="module")
def benched(call_once, preset, tmp_path_factory):
    """What `fewshot bench` printed and the folder that it wrote; to be read only."""
    folder = tmp_path_factory.mktemp("cli") / "a run"
    return call_once("bench", "--preset", preset, "--output", folder, "--device", "cpu"), folder


def refused(said) -> str:
    """The one line that says what was wrong."""
    assert said.code == 2
    assert "Traceback" not in said.out + said.err
    (line,) = said.err.splitlines()
    assert line.startswith("fewshot: ")
    return line


def test_bench_prints_the_table_and_where_it_is(benched):
    said, folder = benched
    assert said.code == 0
    for row in pd.read_csv(folder / "results.csv").itertuples():
        assert f"{row.accuracy:.2f} ± {row.ci95:.2f}" in said.out
    assert f"Written to {folder}" in said.out
    assert "Traceback" not in said.err


def test_bench_says_which_learners_can_be_told_apart_and_where_nothing_is_published(benched):
    said, _ = benched
    assert "Which can be told apart" in said.out
    assert "There are no published numbers of this data set" in said.out
    assert "comparable" not in said.out


def test_bench_shows_the_published_numbers_where_there_are_some(call, preset, toy_banks, tmp_path, monkeypatch):
    bank = toy_bank(30, 24, size=28)
    banks = {split: replace(bank, dataset="omniglot", protocol="vinyals", split=split) for split in toy_banks}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])
    said = call("bench", "--preset", preset, "--learner", "npair", "--output", tmp_path / "run", "--device", "cpu")
    assert said.code == 0
    assert "omniglot (vinyals), 5-way 1-shot, comparable" in said.out
    assert "Snell et al. 2017" in said.out
    assert said.out.index("queries a class") < said.out.index("comparable")


def test_bench_names_its_files_and_what_comes_next(benched):
    said, folder = benched
    written = said.out[said.out.index("Written to") :]
    for name in re.findall(r"\w+\.(?:csv|md|npz)", written):
        assert (folder / name).is_file()
    assert f"Next: fewshot report '{folder}'" in written


def test_evaluate_repeats_the_numbers_of_the_run(call, benched):
    _, folder = benched
    for row in pd.read_csv(folder / "results.csv", keep_default_na=False).itertuples():
        name = "-".join(filter(None, [row.learner, row.variant, "seed0"]))
        path = folder / "checkpoints" / name / "best.pt"
        said = call("evaluate", path, "--way", row.way, "--shot", row.shot, "--query", row.query, "--episodes", 40)
        assert said.code == 0
        assert f"{row.accuracy:.2f} ± {row.ci95:.2f}" in said.out


def test_train_writes_a_checkpoint_that_evaluate_takes(call, checkpoint):
    said = call("evaluate", checkpoint, "--way", 3, "--query", 3, "--episodes", 20, "--split", "validation")
    assert said.code == 0
    assert "3-way 1-shot" in said.out
    assert "validation classes" in said.out


def test_train_is_refused_where_there_is_a_training_and_goes_on_with_resume(call, preset, checkpoint):
    command = "train", "--learner", "npair", "--preset", preset, "--output", checkpoint.parents[1], "--device", "cpu"
    assert "already holds a training: add --resume" in refused(call(*command))
    before = checkpoints.load(checkpoint)["learner"]
    assert call(*command, "--resume").code == 0
    after = checkpoints.load(checkpoint)["learner"]
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_learner_from_a_file_stands_in_the_table(call, preset, learner_file, tmp_path):
    learners = f"npair,{learner_file}:Mine"
    said = call("bench", "--preset", preset, "--learner", learners, "--output", tmp_path / "run", "--device", "cpu")
    assert said.code == 0
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["learner"]) == {"npair", "Mine"}
    assert re.search(r"^Mine", said.out, re.MULTILINE)


def test_evaluate_runs_a_file_only_where_it_is_named(call, preset, learner_file, tmp_path):
    spec = f"{learner_file}:Mine"
    call("train", "--learner", spec, "--preset", preset, "--output", tmp_path, "--device", "cpu")
    (path,) = tmp_path.glob("Mine*/best.pt")
    trace = tmp_path / "imported"
    trace.unlink()
    command = "evaluate", path, "--way", 3, "--query", 3, "--episodes", 20
    assert "--learner" in refused(call(*command))
    assert not trace.exists()
    assert call(*command, "--learner", spec).code == 0
    assert trace.exists()


def test_a_checkpoint_that_is_evaluated_on_another_data_set_is_of_external_data(call, checkpoint):
    command = "evaluate", checkpoint, "--way", 3, "--query", 3, "--episodes", 20
    at_home, away = call(*command), call(*command, "--dataset", "omniglot:lake")
    assert (at_home.code, away.code) == (0, 0)
    assert "npair [external data" in away.out
    assert "external" not in at_home.out


def test_an_interruption_says_how_to_go_on(call, preset, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fewshot.model_runs, "train", interrupt)
    said = call("bench", "--preset", preset, "--output", tmp_path / "run")
    assert said.code == 130
    assert "--resume" in said.err
    assert "Traceback" not in said.err


def test_an_interrupted_bench_is_finished_with_resume(call, preset, tmp_path, monkeypatch):
    command = "bench", "--preset", preset, "--output", tmp_path / "run", "--device", "cpu"
    loss = LEARNERS["npair"].loss

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LEARNERS["npair"], "loss", interrupt)
    assert call(*command).code == 130
    monkeypatch.setattr(LEARNERS["npair"], "loss", loss)
    said = call(*command, "--resume")
    assert said.code == 0
    assert "prototypical (euclidean), seed 0: finished earlier" in said.out
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == 4


def test_several_seeds_by_the_command_line(call, preset, tmp_path):
    command = "bench", "--preset", preset, "--learner", "npair", "--output", tmp_path / "run", "--device", "cpu"
    assert call(*command, "--seed", "0,3").code == 0
    assert pd.read_csv(tmp_path / "run" / "results.csv")["seed"].tolist() == [0, 0, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learner", "npiar"], "unknown learner 'npiar': did you mean 'npair'"),
        (["--learner", "siamese:koh"], "unknown variant of siamese 'koh': did you mean 'koch'"),
        (["--learner", "nowhere.py:Mine"], "there is no learner file nowhere.py"),
        (["--preset", "quik"], "unknown preset 'quik': did you mean 'quick'"),
        (["--preset", "nowhere.toml"], "there is no preset file nowhere.toml"),
        (["--dataset", "omniglto"], "unknown data set 'omniglto': did you mean 'omniglot'"),
        (["--dataset", "omniglot:lak"], "unknown split protocol of omniglot 'lak': did you mean 'lake'"),
        (["--device", "cude"], "unknown device 'cude': did you mean 'cuda'"),
        (["--device", "cuda"], "CUDA was asked for"),
        (["--output", "/proc/x"], "the output folder /proc/x cannot be written"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "train"])
def test_wrong_arguments_are_told_in_one_line(
    call, preset, tmp_path, untrained, monkeypatch, command, arguments, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    usual = {"--preset": preset, "--learner": "npair", "--output": tmp_path / "run"}
    usual |= {arguments[0]: arguments[1]}
    assert message in refused(call(command, *(part for pair in usual.items() for part in pair)))
    assert not (tmp_path / "run" / "results.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nstep = 3\n", "unknown key 'step': did you mean 'steps'"),
        ("[trainin]\nsteps = 3\n", "unknown key 'trainin': did you mean 'training'"),
        ("[training]\nsteps = 'many'\n", "steps = 'many' is invalid"),
        ("steps = = 3\n", "cannot be read"),
        ("[evaluation]\nways = []\n", "ways"),
    ],
)
def test_wrong_presets_are_told_in_one_line_before_any_training(call, tmp_path, untrained, text, message):
    path = tmp_path / "own.toml"
    path.write_text("learners = ['npair']\n" + text)
    assert message in refused(call("bench", "--preset", path, "--output", tmp_path / "run"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ways = [31]\nquery = 3\n", "test: ways = [30], not [31]: there are 30 classes for test"),
        (
            "shots = [24]\nquery = 3\n",
            "test: shots = [23], not [24]; query = 1, not 3: there are 30 classes for test, the small",
        ),
    ],
)
def test_ways_and_shots_that_the_images_cannot_fill_are_told_and_fitted(call, tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(
        f"learners = ['nearest-pixel']\n[training]\nbackbone = 'pixels'\n[evaluation]\nepisodes = 4\n{text}"
    )
    said = call("bench", "--preset", path, "--output", tmp_path / "run")
    assert said.code == 0
    assert message in said.out + said.err


def test_a_preset_without_learners_is_told_in_one_line(call, tmp_path, untrained):
    path = tmp_path / "own.toml"
    path.write_text("learners = []\n")
    assert "learner" in refused(call("bench", "--preset", path, "--output", tmp_path / "run"))


def test_no_such_class_in_a_file(call, learner_file, preset, tmp_path):
    said = call("bench", "--preset", preset, "--learner", f"{learner_file}:Yours", "--output", tmp_path / "run")
    assert "has no class Yours: it has Mine" in refused(said)


def test_a_data_set_that_is_asked_for_and_missing_is_an_error(call, preset, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise MissingData("Omniglot is not here")

    monkeypatch.setattr(fewshot.benchmark, "load_dataset", missing)
    said = call("bench", "--preset", preset, "--dataset", "omniglot", "--output", tmp_path / "run")
    assert refused(said) == "fewshot: Omniglot is not here"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no checkpoint"),
        (lambda path: path.write_text("text"), "cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(b"\x00" * 100), "cannot be read as a checkpoint"),
        (lambda path: torch.save({"weights": torch.zeros(3)}, path), "is not a checkpoint of this suite"),
        (lambda path: checkpoints.save(path, {"learner": {}}), "x.pt"),
        (lambda path: checkpoints.save(path, {"about": {}, "learner": {}}), "x.pt"),
        (lambda path: checkpoints.save(path, {"about": 3, "learner": {}}), "x.pt"),
    ],
    ids=["missing", "text", "bytes", "foreign", "says nothing", "says too little", "says nonsense"],
)
def test_wrong_checkpoints_are_told_in_one_line(call, tmp_path, write, message):
    write(tmp_path / "x.pt")
    assert message in refused(call("evaluate", tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--way", 31], "31"),
        (["--way", 0], "way"),
        (["--shot", 25], "need 28 images a class"),
        (["--episodes", 1], "episodes"),
        (["--episodes", 0], "episodes"),
        (["--learner", "siamese"], "is of the learner npair, not of siamese"),
        (["--learner", "nowhere.py:Mine"], "there is no learner file nowhere.py"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_wrong_wishes_of_an_evaluation_are_told_in_one_line(call, checkpoint, arguments, message):
    assert message in refused(call("evaluate", checkpoint, "--query", 3, *arguments))


def test_weights_that_do_not_fit_are_told_in_one_line(call, checkpoint):
    content = checkpoints.load(checkpoint)
    del content["learner"][next(iter(content["learner"]))]
    checkpoints.save(checkpoint, {key: value for key, value in content.items() if key != "format"})
    assert "does not hold the weights of such a learner" in refused(call("evaluate", checkpoint, "--query", 3))


@pytest.mark.parametrize("arguments", [["--seed", "one"], ["--seed", "1,"], ["--output"], ["--nonsense"], []])
def test_unknown_arguments_are_told_by_usage_lines(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments] if arguments else [])
    assert caught.value.code == 2
    assert "usage: fewshot" in capsys.readouterr().err


def test_a_seed_that_is_no_seed_is_told(call, preset, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        call("train", "--learner", "npair", "--preset", preset, "--output", tmp_path, "--seed", 2**70)


def test_learners_lists_every_learner_and_variant(call):
    shown, markdown = call("learners"), call("learners", "--markdown")
    assert (shown.code, markdown.code) == (0, 0)
    rows = [[cell.strip() for cell in line.split("|")] for line in markdown.out.splitlines()]
    assert rows[0][1:-1] == ["learner", "variants", "paper", "kind", "what it does"]
    listed = {row[1]: row[2:4] for row in rows[2:]}
    papers = {name: [traits.paper for traits in cls.variants.values()] for name, cls in LEARNERS.items()}
    assert listed == {
        name: [", ".join(filter(None, cls.variants)), ", ".join(dict.fromkeys(papers[name]))]
        for name, cls in LEARNERS.items()
    }
    assert {line.split()[0] for line in shown.out.splitlines() if line.strip()} >= LEARNERS.keys()


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_no_line_of_the_listing_is_too_long_and_no_word_is_broken(call, monkeypatch, columns):
    rows = [line.split("|")[1:-1] for line in call("learners", "--markdown").out.splitlines()[2:]]
    monkeypatch.setattr("fewshot.cli.Console", lambda **_: Console(width=columns, force_terminal=False))
    said = call("learners").out
    assert max(map(len, said.splitlines())) == columns
    assert {word for row in rows for cell in row for word in cell.split()} <= set(said.split())


@pytest.fixture
def unable(monkeypatch) -> str:
    """The name of a learner that needs a package which is not installed."""
    monkeypatch.setattr(Siamese, "variants", {"contrastive": Traits(needs=("foo",))})
    return "siamese"


def test_a_learner_that_cannot_run_here_is_listed_with_the_reason(call, unable):
    said = call("learners")
    assert (said.code, "Pairs of one class" in said.out) == (0, True)
    sentence = "siamese needs more to run here: it needs the package foo: pip install foo"
    assert sentence in said.out.splitlines()
    assert said.err == ""


def test_bench_all_runs_every_learner_that_can_in_its_default_variant(call, preset, tmp_path, unable, monkeypatch):
    monkeypatch.setattr("fewshot.config.suite_learners", lambda: ["npair", "prototypical", unable])
    command = "bench", "--preset", preset, "--learner", "all", "--device", "cpu"
    said = call(*command, "--output", tmp_path / "run")
    assert said.code == 0
    assert "siamese is left out: it needs the package foo" in said.out
    rows = pd.read_csv(tmp_path / "run" / "results.csv", keep_default_na=False)
    assert {(row.learner, row.variant) for row in rows.itertuples()} == {("npair", ""), ("prototypical", "euclidean")}


def test_check_prints_promise_by_promise_and_is_silent_where_all_hold(call):
    said = call("check", "prototypical")
    assert (said.code, said.err) == (0, "")
    assert "prototypical (euclidean, cosine)" in said.out
    for check in CHECKS:
        assert " ".join(check.promise.split()[:4]) in said.out
    assert "left out: there is no GPU here" in said.out or torch.cuda.is_available()


def test_check_all_is_every_learner_of_the_suite_that_can_run(call, unable, monkeypatch):
    monkeypatch.setattr("fewshot.commands.check.suite_learners", lambda: ["nearest-pixel", unable])
    said = call("check", "all")
    assert said.code == 0
    assert "siamese is left out: it needs the package foo" in said.out
    assert "nearest-pixel" in said.out
    assert "siamese cannot run here: it needs the package foo" in refused(call("check", "siamese"))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            "loss(self, images, labels): return images @ labels",
            "Mine:euclidean and Mine:cosine break loss (The loss of the batches",
        ),
        (
            "scores(self, support, query): return query",
            "Mine:euclidean and Mine:cosine break score_shape (Scores are floats (E, Q, N))",
        ),
        ("scores(self, support, query): return 1 / 0", "raised ZeroDivisionError in "),
        ("scores(self, support): return 1", "raised TypeError in "),
    ],
)
def test_check_of_a_broken_learner_says_which_promise_in_one_line(call, tmp_path, method, said):
    path = broken_learner(tmp_path, method)
    line = refused(call("check", f"{path}:Mine"))
    assert said in line
    assert f"{path}, line 6: " in line or "raised" not in said


def test_a_learner_file_that_cannot_be_loaded_says_the_line(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unloadable.py").write_text("import os\n\nraise ValueError('why')\n")
    for path in ("unloadable.py", tmp_path / "unloadable.py"):
        assert f"{path} cannot be loaded: ValueError in line 3: why" in refused(call("check", f"{path}:Mine"))


def broken_learner(folder, method: str):
    path = folder / "broken.py"
    path.write_text(
        "from fewshot.learners.prototypical import Prototypical\n\n\n"
        f"class Mine(Prototypical):\n    'Broken.'\n    def {method}\n"
    )
    return path


FAULTS = {
    "loss(self, images, labels): return images @ labels": "Mine.loss raised RuntimeError in {}, line 6: ",
    "loss(self, images): return 0": "Mine.loss raised TypeError in {}, line 6: Mine.loss() takes 2",
    "loss(self, images, labels): return 0.5": "the loss of Mine ({}, line 6) must be a scalar tensor",
    "loss(self, images, labels): return self.embed(images)": "not (180, 64) of float32",
    "begin_validation(self, base): raise ValueError('why\\nnot')": "raised ValueError in {}, line 6: why not",
    "scores(self, support, query): return [][1]": "Mine.scores raised IndexError in {}, line 6: list index",
    "scores(self, support, query): return None": "Mine.loss raised AttributeError in ",  # which calls scores
    "episode_scores(self, *_): return None": "the scores of Mine ({}, line 6) must have the shape (E, Q, N)",
    "episode_scores(self, data, episodes): return data.embeddings": "= (1, 15, 5), as floats, not (720, 64) of float32",
    "episode_scores(self, data, episodes): return data.no": "Mine.episode_scores raised AttributeError in {}, line 6: ",
    "__init__(self, *_, **__): raise KeyError(3)": "Mine.__init__ raised KeyError in {}, line 6: 3",
    "check_batches(self, batches): return batches.no": "Mine.check_batches raised AttributeError in {}, line 6: ",
}


@pytest.mark.parametrize("method", FAULTS)
def test_what_a_learner_from_a_file_does_wrong_in_a_run_is_told_with_its_place(call, preset, tmp_path, method):
    path = broken_learner(tmp_path, method)
    command = "bench", "--preset", preset, "--learner", f"{path}:Mine", "--device", "cpu"
    said = call(*command, "--output", tmp_path / "run")
    assert FAULTS[method].format(path) in refused(said._replace(err=said.err.splitlines()[-1]))  # bars before it


def test_a_bug_of_the_suite_keeps_its_traceback(call, preset, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(NPair, "loss", fail)
    with pytest.raises(ZeroDivisionError):
        call("bench", "--preset", preset, "--learner", "npair", "--output", tmp_path / "run", "--device", "cpu")


def test_data_list_lists_every_data_set_and_protocol(call):
    said = call("data", "list")
    assert said.code == 0
    for name, source in SOURCES.items():
        (place,) = [number for number, line in enumerate(said.out.splitlines()) if line.split()[:1] == [name]]
        below = " ".join(said.out.splitlines()[place:]).replace(",", " ").split()  # long cells have several lines
        assert set(source.protocols) <= set(below)


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_no_name_in_the_list_of_data_sets_is_cut(call, monkeypatch, columns):
    monkeypatch.setattr("fewshot.cli.Console", lambda **_: Console(width=columns, force_terminal=False))
    said = call("data", "list").out
    protocols = {name for source in SOURCES.values() for name in source.protocols}
    assert SOURCES.keys() | protocols <= set(said.replace(",", " ").split())
    assert "…" not in said


def test_data_prepare_says_what_it_made(call, toy_banks, monkeypatch):
    said = call("data", "prepare", "glyphs")
    assert said.code == 0
    assert "toy (random) test: 30 classes, 720 images of 16x16" in said.out
    assert "unknown data set 'glyfs': did you mean 'glyphs'" in refused(call("data", "prepare", "glyfs"))


@pytest.mark.parametrize(
    ("protocol", "name"),
    [("retrieval", "way"), ("verification", "episodes"), ("sessions", "episodes"), ("query_gallery", "query")],
)
def test_evaluate_refuses_a_setting_that_the_test_protocol_lacks(call, checkpoint, protocol, name, monkeypatch):
    monkeypatch.setattr("fewshot.commands.evaluate.load_dataset", None)  # no image is read before
    said = refused(call("evaluate", checkpoint, "--protocol", protocol, f"--{name}", 3))
    assert f"{protocol} has no {name}: leave out --{name}" in said


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--protocol", "kinds", "--kind", "nonsense"], "unknown kind of episodes 'nonsense'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--output", __file__], "is no folder: choose another one with --output"),
    ],
)
def test_evaluate_refuses_before_it_reads_images(call, checkpoint, given, reason, monkeypatch):
    monkeypatch.setattr("fewshot.commands.evaluate.load_dataset", None)
    assert reason in refused(call("evaluate", checkpoint, *given))


def test_evaluate_passes_the_queries_on_to_every_test_protocol_that_has_them():
    for protocol in ("generalised", "sessions", "kinds", "open_set", "domain"):
        given = argparse.Namespace(protocol=protocol, way=None, shot=None, query=3, episodes=None, seed=0, kind=None)
        assert getattr(evaluate._wanted(given), protocol).query == 3


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_a_cluster_and_processes_of_this_machine_exclude_each_other(call, command, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(command, "--ray", "auto", "--workers", 2)
    assert "argument --workers: not allowed with argument --ray" in capsys.readouterr().err


def test_a_checkpoint_is_not_evaluated_as_something_else(call, checkpoint, toy_banks, monkeypatch):
    assert "is of the learner npair, not of siamese" in refused(call("evaluate", checkpoint, "--learner", "siamese"))
    coloured = replace(toy_banks["test"], images=toy_banks["test"].images.repeat(1, 3, 1, 1))
    monkeypatch.setattr("fewshot.commands.evaluate.load_dataset", lambda name, split, **_: coloured)
    said = "the model takes images of 1 channel, and those of toy (random) test have 3: name the data set with :grey"
    assert said in refused(call("evaluate", checkpoint))


def test_images_of_other_channels_are_refused_before_they_are_decoded(call, checkpoint, toy_banks, monkeypatch):
    monkeypatch.setattr("fewshot.commands.evaluate.load_dataset", None)
    said = refused(call("evaluate", checkpoint, "--dataset", "mini_imagenet"))
    assert "takes images of 1 channel, and those of mini_imagenet have 3: name the data set with :grey behind" in said


def test_a_checkpoint_says_enough_to_build_its_learner(checkpoint):
    content = checkpoints.load(checkpoint)
    spec = ModelSpec.from_checkpoint(content, checkpoint)
    learner = spec.build(NPair)
    checkpoints.restore(learner, content, checkpoint)
    assert (learner.name, learner.backbone.embedding_size) == ("npair", 64)
    with pytest.raises(InputError, match=r"siamese cannot be made .* unexpected keyword argument 'regularisation'"):
        spec.build(Siamese)


@pytest.mark.parametrize(
    ("dataset", "protocol", "folder"),
    [("glyphs", SOURCES["glyphs"].protocols[0], "tiny-glyphs"), ("omniglot", "lake", "tiny-omniglot-lake")],
)
def test_default_folder_is_named_for_preset_data_set_and_protocol(
    call, preset, toy_banks, tmp_path, monkeypatch, dataset, protocol, folder
):
    banks = {split: replace(bank, dataset=dataset, protocol=protocol) for split, bank in toy_banks.items()}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])
    monkeypatch.chdir(tmp_path)
    assert call("bench", "--preset", preset, "--dataset", f"{dataset}:{protocol}", "--learner", "npair").code == 0
    assert (tmp_path / "results" / folder / "results.csv").is_file()


def test_a_checkpoint_is_tested_on_all_classes_of_a_folder_in_its_colours(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.commands.evaluate.load_dataset", load_dataset)
    random = np.random.default_rng(0)
    files = {
        f"kind {number}/{image}.png": encoded(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for number, images in enumerate((6, 6, 2))
        for image in range(images)
    }
    path = write_files(tmp_path / "scans", files)
    options = ["--split", "all", "--way", 2, "--query", 3, "--episodes", 20]
    assert f"those of {path} have 3: name the data set with :grey" in refused(
        call("evaluate", checkpoint, "--dataset", path, *options)
    )
    said = call("evaluate", checkpoint, "--dataset", f"{path}:grey:inverted", "--min-images", 4, *options)
    assert said.code == 0, said.err
    assert "1 class of fewer than 4 images is left out: kind 2 (2)" in said.err
    assert "2-way 1-shot" in said.out
