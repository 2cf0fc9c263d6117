"""What every command has: an example, how much it prints, completion; and what would run, and a run in place of one."""

import argparse
import re
import shlex
import shutil
import subprocess
import tomllib

import pandas as pd
import pytest
from rich.console import Console

from baselines import presets
from episodes.locks import locked
from fewshot.cli import leaves, parser_of_commands
from fewshot.commands.presets import _of_dataset
from fewshot.config import load_config

COMMANDS = dict(leaves(parser_of_commands()))


@pytest.fixture(scope="module")
def benched(call_once, preset, tmp_path_factory):
    """The folder of a run of two models, in a folder of its own; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert call_once("bench", "--preset", preset, "--output", folder, "--device", "cpu", "--workers", "1").code == 0
    return folder


@pytest.fixture
def run(benched, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(benched, tmp_path / "run")


# examples, and how much is printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_that_it_takes(name):
    example = re.search(r"fewshot [^)\">]+", COMMANDS[name].epilog).group()
    options = parser_of_commands().parse_args(shlex.split(example)[1:])
    assert callable(options.command)


def test_quiet_prints_the_tables_and_no_progress_and_the_log_of_the_run_has_it(call, preset, tmp_path):
    common = "bench", "--preset", preset, "--learner", "npair", "--device", "cpu", "--workers", "1"
    quiet = call(*common, "--output", tmp_path / "quiet", "--quiet")
    assert quiet.code == 0
    assert "Written to" in quiet.out
    assert "training 4 steps" not in quiet.out
    assert "training 4 steps" in (tmp_path / "quiet" / "run.log").read_text()


def test_verbose_tells_each_validation_with_its_time(call, preset, tmp_path):
    common = "bench", "--preset", preset, "--learner", "npair", "--device", "cpu", "--workers", "1"
    said = call(*common, "--output", tmp_path / "verbose", "--verbose")
    lines = re.findall(r"^\d{4}-\d\d-\d\d \S+ npair: step (\d), loss .* on validation classes$", said.out, re.MULTILINE)
    assert lines == ["2", "4"]


def test_quiet_and_verbose_are_no_wish(capsys):
    with pytest.raises(SystemExit):
        parser_of_commands().parse_args(["bench", "--quiet", "--verbose"])
    assert "not allowed with" in capsys.readouterr().err


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_takes_the_script_that_completes_every_command(call, shell):
    said = call("completion", shell)
    assert said.code == 0
    for name, parser in COMMANDS.items():
        assert name in said.out
        assert all(flag in said.out for action in parser._actions for flag in action.option_strings)
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=said.out, text=True, check=True)


def test_bash_completes_a_command_and_an_option(call):
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is not installed")
    asked = 'COMP_WORDS=(fewshot bench --overw); COMP_CWORD=2; _shtab_fewshot; echo "${COMPREPLY[@]}"'
    done = subprocess.run([bash, "-c", f"{call('completion', 'bash').out}\n{asked}"], capture_output=True, text=True)
    assert done.stdout.split() == ["--overwrite"]


# presets


def test_presets_lists_each_preset_with_what_it_is_for(call):
    said = call("presets")
    assert said.code == 0
    assert all(f"{name}, for {kind}" in said.out for name, files in presets().items() for kind in files)
    assert "A first table in about" in said.out
    assert max(map(len, said.out.splitlines())) <= 100


@pytest.mark.parametrize(("name", "dataset"), [("quick", None), ("quick", "mini_imagenet"), ("pretrained", "glyphs")])
def test_a_printed_preset_is_one_to_start_from(call, tmp_path, name, dataset):
    said = call("presets", name, *(["--dataset", dataset] if dataset else []))
    own = tmp_path / "my.toml"
    own.write_text(said.out)
    assert not dataset or load_config(str(own), learners=["prototypical"]).data.dataset.startswith(dataset)
    learners = ["prototypical"]
    mine, theirs = (load_config(one, learners=learners, dataset=dataset).model_dump() for one in (str(own), name))
    differing = {key for key in theirs if mine[key] != theirs[key]}
    assert differing <= {"preset", "data"}  # without a data set to fall back on


@pytest.mark.parametrize("name", ["my pictures 😀/", 'a "b"'])
@pytest.mark.parametrize(
    "path", [path for files in presets().values() for path in files.values()], ids=lambda p: p.parent.name
)
def test_every_printed_preset_names_the_data_set_that_was_asked_for(name, path):
    text = _of_dataset(path.read_text(encoding="utf-8"), name)
    found, before = tomllib.loads(text), tomllib.loads(path.read_text(encoding="utf-8"))
    assert found.pop("data")["dataset"] == name
    before.pop("data", None)
    assert found == before


def test_an_unknown_preset_is_told(call):
    said = call("presets", "quik")
    assert said.code == 2
    assert "quik" in said.err
    assert "quick" in said.err


# what would run


def test_a_dry_run_tells_steps_images_and_times_of_earlier_runs_and_writes_nothing(call, preset, run):
    later = run.parent / "later"
    said = call("bench", "--preset", preset, "--steps", 8, "--learner", "npair,siamese", "--output", later, "--dry-run")
    assert (said.code, later.exists()) == (0, False)
    rows = {line.split("│")[1].strip(): line for line in said.out.splitlines() if "-seed0" in line}
    assert re.search(r"its own +│ +8 +│ +160 +│ +\d+ s", rows["npair-seed0"])
    assert re.search(r"its own +│ +8 +│ +240 +│ +\? ", rows["siamese-contrastive-seed0"])
    assert "2 of 2 models would run and train on 400 images" in said.out
    assert "without the 1 model that none of them has" in said.out


def test_a_dry_run_tells_which_learners_share_a_training(call, preset, tmp_path):
    learners = "simpleshot,baseline"
    said = call("bench", "--preset", preset, "--learner", learners, "--output", tmp_path / "run", "--dry-run")
    assert said.code == 0
    assert re.search(r"baseline-seed0 .*shared with simpleshot-cl2n-seed0", said.out)
    assert "no earlier run tells how long" in said.out


def test_a_dry_run_cuts_no_name_in_a_narrow_terminal(call, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.cli.Console", lambda **_: Console(width=60, force_terminal=False))
    learners = "simpleshot,transductive-finetuning"
    said = call("bench", "--preset", preset, "--learner", learners, "--output", tmp_path / "run", "--dry-run")
    rows = [line.split("│")[1:3] for line in said.out.splitlines() if line.startswith("│")]
    names, trainings = ("".join(cell.strip() for cell in cells) for cells in zip(*rows))
    assert names == "simpleshot-cl2n-seed0transductive-finetuning-seed0"
    assert trainings.replace(" ", "") == "itsownsharedwithsimpleshot-cl2n-seed0"


def test_a_dry_run_leaves_out_what_is_finished(call, preset, run):
    said = call("bench", "--preset", preset, "--learner", "npair", "--output", run, "--resume", "--dry-run")
    assert "finished earlier" in said.out
    assert "0 of 1 model would run" in said.out


@pytest.mark.parametrize(
    "more",
    [
        ["--resume", "--steps", 9],
        ["--resume", "--size", 16],
        ["--resume", "--episodes", 7],
        ["--resume", "--device", "cuda:77"],
        ["--overwrite", "--protocol", "domains"],
        ["--overwrite", "--protocol", "kinds", "--kind", "listed:no-such-file.csv"],
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_a_dry_run_refuses_what_the_run_would_refuse(call, preset, run, more):
    same = ["bench", "--preset", preset, "--learner", "npair", "--output", run, *more]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    dry = call(*same, "--dry-run")
    assert dry.code == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert call(*same).err == dry.err


# a new run in the place of an old one


def test_overwrite_begins_a_new_run_and_keeps_the_old_one_beside_it(call, preset, run):
    before = (run / "results.csv").read_text()
    said = call("bench", "--preset", preset, "--learner", "npair", "--output", run, "--device", "cpu", "--overwrite")
    assert said.code == 0
    assert set(pd.read_csv(run / "results.csv")["learner"]) == {"npair"}
    assert (run.with_name("run-1") / "results.csv").read_text() == before
    assert str(run.with_name("run-1")) in said.out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--learner", "npair,npair:"], ""),
        (["--device", "cuda:77"], "GPU"),
        (["--learner", "no-such-learner"], "no-such-learner"),
        (["--resume"], "give one of the two"),
        (["--protocol", "verification,generalised"], ""),
    ],
)
def test_a_mistake_moves_nothing(call, preset, run, wrong, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.log"}
    said = call("bench", "--preset", preset, "--output", run, *wrong, "--overwrite")
    assert said.code == 2
    assert message in said.err
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(run.parent.iterdir()) == [run]


def test_a_run_in_progress_is_not_overwritten(call, preset, run):
    with locked(run / "checkpoints" / "npair-seed0" / ".lock"):
        said = call("bench", "--preset", preset, "--output", run, "--device", "cpu", "--overwrite")
    assert said.code == 2
    assert "another process is at work" in said.err


def test_the_parsers_are_those_of_the_commands_and_actions():
    assert {"bench", "list", "episodes", "presets", "completion"} <= COMMANDS.keys()
    assert all(isinstance(one, argparse.ArgumentParser) for one in COMMANDS.values())
