"""The commands of a job array: run in any order, they make the run that one command would make."""

import random
import shlex

import pandas as pd

CLOCK = ["train_seconds", "eval_seconds"]


def planned(call, *arguments) -> list[list[str]]:
    said = call("bench", *arguments, "--plan")
    assert said.code == 0
    return [shlex.split(line) for line in said.out.splitlines()]


def test_a_plan_has_a_command_for_each_learner_and_seed_with_the_other_options(call_plain, tmp_path):
    given = "--dataset", "glyphs", "--way", "5,20", "--keep", "--output", tmp_path / "my run"
    found = planned(call_plain, "--learner", "npair,siamese:koch", "--seed", "0,2", *given)
    assert [words[:6] for words in found] == [
        ["fewshot", "bench", "--learner", learner, "--seed", seed]
        for learner in ("npair", "siamese:koch")
        for seed in ("0", "2")
    ]
    ends = ["--dataset", "glyphs", "--way", "5,20", "--keep", "--output", str(tmp_path / "my run")]
    assert all(words[6:] == [*ends, "--workers", "1", "--resume"] for words in found)
    assert not (tmp_path / "my run").exists()


def test_the_commands_in_any_order_make_the_run_of_one_command(call, preset, tmp_path):
    common = "--preset", preset, "--seed", "0,1", "--device", "cpu"
    assert call("bench", *common, "--output", tmp_path / "one", "--workers", "1").code == 0
    commands = planned(call, *common, "--output", tmp_path / "array")
    assert len(commands) == 4
    random.Random(3).shuffle(commands)
    for words in commands:
        assert call(*words[1:]).code == 0
    said = call("bench", *common, "--output", tmp_path / "array", "--workers", "1", "--resume")
    assert said.code == 0
    assert "training 4 steps" not in said.out
    one, array = (
        pd.read_csv(tmp_path / name / "results.csv", keep_default_na=False, dtype=str).drop(columns=CLOCK)
        for name in ("one", "array")
    )
    pd.testing.assert_frame_equal(array, one)
    for name in ("config.toml", "results.md", "differences.csv"):
        assert (tmp_path / "array" / name).read_text() == (tmp_path / "one" / name).read_text()
