"""What a change of settings gains: equal seeds beside each other, with the interval over seeds or over episodes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from episodes import InputError
from fewshot.ablation import RunResults, changes, left_out, sheet
from fewshot.config import load_config
from fewshot.records import LEAGUE
from fewshot.statistics import over_seeds, paired

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PLAIN, HARD = REFERENCE / "mining-icons-plain", REFERENCE / "mining-icons-hard"
EPISODES = 50


def run(name: str, *seeds: int, learner: str = "npair", gain: float = 0.0, seed: int = 0, **more) -> RunResults:
    """A run of one learner, each training seed with other accuracies; `gain` is added to each of the seeds."""
    rows, accuracies = [], {}
    for number in seeds:
        values = np.random.default_rng(number).uniform(0.2, 0.8, EPISODES) + gain * (1 + number)
        accuracies[f"{learner}-seed{number}/5way1shot"] = values
        row = {"dataset": "omniglot", "protocol": "vinyals", "split": "test", "learner": learner, "variant": ""}
        row |= {"backbone": "conv4", "way": 5, "shot": 1, "query": 15, "episodes": EPISODES, "seed": number}
        row |= {"accuracy": 100 * values.mean(), "data_version": 1, "episodes_version": 1, "imported": ""}
        row |= {"image_size": 28, "model": f"{learner}-seed{number}", **dict.fromkeys(LEAGUE, False)}
        row |= {"collapsed": False, "kept": "", "seen": "", "trained_on": ""}
        rows.append(row | more)
    config = load_config("quick", [learner], dataset="omniglot")
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"seed": seed})})
    return RunResults(name, pd.DataFrame(rows), accuracies, config, {"classes": 5, "images": 100, "checksum": "a"})


def both(*runs: RunResults, name: str = "run") -> RunResults:
    """Several learners in one run."""
    accuracies = {name: values for one in runs for name, values in one.accuracies.items()}
    rows = pd.concat([one.rows for one in runs], ignore_index=True)
    return runs[0]._replace(name=name, rows=rows, accuracies=accuracies)


def test_seeds_are_paired_and_the_interval_is_over_them():
    (row,) = changes(run("base", 0, 1, 2), run("more", 0, 1, 2, 3, gain=0.01)).to_dict("records")
    expected = over_seeds([1.0, 2.0, 3.0])
    assert (row["seeds"], row["interval"]) == (3, "seeds")
    assert (row["difference"], row["ci95"]) == pytest.approx(tuple(expected))
    assert row["accuracy"] - row["base_accuracy"] == pytest.approx(2.0)


def test_one_seed_has_the_interval_over_episodes():
    base, more = run("base", 0), run("more", 0, 1, gain=0.01)
    more.accuracies["npair-seed0/5way1shot"][:10] += 0.05
    more.rows.loc[0, "accuracy"] = 100 * more.accuracies["npair-seed0/5way1shot"].mean()
    (row,) = changes(base, more).to_dict("records")
    names = ["npair-seed0/5way1shot"]
    expected = paired(*(100 * one.accuracies[name] for one in (more, base) for name in names))
    assert (row["seeds"], row["interval"]) == (1, "episodes")
    assert (row["difference"], row["ci95"], row["episodes_ci95"]) == pytest.approx((*expected[:2], expected[1]))


def test_a_run_without_accuracies_of_episodes_has_no_interval_over_them():
    bare = run("bare", 0)._replace(accuracies={})
    (row,) = changes(run("base", 0), bare).to_dict("records")
    assert np.isnan(row["ci95"])
    assert sheet(changes(run("base", 0), bare), bare).cells.loc["bare", "5-way 1-shot"].endswith("(+0.00 ± –)")


def test_a_changed_backbone_is_a_change_and_several_backbones_are_compared_one_by_one():
    base, wide = run("base", 0, 1), run("wide", 0, 1, gain=0.02, backbone="conv4-128")
    assert list(changes(base, wide)["backbone"]) == ["conv4-128"]
    nca = run("", 0, 1, learner="nca", backbone="conv4-128")
    two = both(base, run("", 0, 1, backbone="conv4-64"), nca, run("", 0, 1, learner="siamese"), name="two")
    found = changes(both(base, run("", 0, 1, learner="nca"), name="base"), two)
    assert list(zip(found["learner"], found["backbone"])) == [("npair", "conv4"), ("nca", "conv4-128")]
    assert left_out(found, base, two) == ["npair, conv4-64", "siamese"]
    assert list(sheet(found, base).cells.index) == ["two: npair, conv4 against npair", "two: nca"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (run("other", 0, learner="nca"), "they have no learner in common"),
        (run("other", 7), "they have no training seed in common"),
        (run("other", 0, seed=1), "their test episodes are of other seeds, 1 and 0"),
        (run("other", 0, query=5), "they have no way, shot and number of queries in common"),
        (run("other", 0, episodes=40), "they have other numbers of episodes"),
        (run("other", 0, dataset="glyphs"), "they are of other data sets"),
        (run("other", 0, data_version=2), "they are of other versions"),
        (run("other", 0, imported="other episodes"), "they are of other data sets"),
        (run("other", 0)._replace(images={"classes": 6, "images": 100}), "their test images are not the same"),
        (run("other", 0)._replace(images={"classes": 5, "images": 100, "checksum": "b"}), "their test images are not"),
    ],
)
def test_what_is_not_the_same_is_not_compared(other, reason):
    with pytest.raises(InputError, match=f"other cannot be compared with base: {reason}"):
        changes(run("base", 0), other)


def test_images_of_another_size_have_another_checksum():
    large = run("large", 0, image_size=84)._replace(images={"classes": 5, "images": 100, "checksum": "b"})
    (row,) = changes(run("base", 0), large).to_dict("records")
    assert row["change"] == "size = 84"


def test_fewer_training_images_and_another_validation_are_changes():
    other = run("other", 0)
    validation = other.config.validation.model_copy(update={"way": 7})
    data = other.config.data.model_copy(update={"held_out": 4})
    (row,) = changes(
        run("base", 0), other._replace(config=other.config.model_copy(update={"data": data, "validation": validation}))
    ).to_dict("records")
    assert row["change"] == "held_out = 4, validation.way = 7"


def test_the_table_names_what_changed_and_what_is_marked():
    base, other = run("base", 0), run("other", 0, collapsed=True)
    settings = {"npair": other.config.learner["npair"].model_copy(update={"steps": 7, "options": {"temperature": 2.0}})}
    other = other._replace(config=other.config.model_copy(update={"learner": settings}))
    table = sheet(changes(base, both(other, name="other")), base)
    assert table.cells["change"].to_dict() == {"other: npair [collapsed] against npair": "steps = 7, temperature = 2.0"}
    assert list(sheet(changes(base, run("other", 0)), base).cells.index) == ["other"]
    named = both(other, run("", 0, learner="nca"), name="other")
    named_base = both(base, run("", 0, learner="nca"), name="base")
    assert "other: npair [collapsed] against npair" in sheet(changes(named_base, named), named_base).cells.index


def test_cells_of_other_numbers_of_seeds_say_so():
    fives = run("", 0, shot=5, model="five")
    fives.accuracies["five/5way5shot"] = fives.accuracies.pop("npair-seed0/5way1shot")
    base, other = (both(run("", 0, 1, 2), fives, name=name) for name in ("base", "other"))
    assert list(sheet(changes(base, other), base).cells["seeds"]) == ["1 to 3"]


def test_the_table_has_a_row_for_each_run_and_learner_and_bold_gains():
    base = both(run("", 0, 1, 2), run("", 0, 1, 2, learner="nca"), name="base")
    more = both(run("", 0, 1, 2, gain=0.1), run("", 0, 1, 2, learner="nca", gain=-0.1), name="more")
    table = sheet(changes(base, more), base)
    assert list(table.cells.index) == ["more: npair", "more: nca"]
    assert list(table.best["5-way 1-shot"]) == [False, False]  # 10, 20, 30 points: the interval holds 0
    steady = run("steady", 0, 1, 2)
    for values in steady.accuracies.values():
        values += 0.1
    steady.rows["accuracy"] += 10
    alone = run("base", 0, 1, 2)
    table = sheet(changes(alone, steady), alone)
    assert list(table.cells.index) == ["steady"]
    assert list(table.best["5-way 1-shot"]) == [True]
    assert table.cells.loc["steady", "5-way 1-shot"].endswith("(+10.00 ± 0.00)")


def test_the_command_repeats_the_committed_experiment(call):
    said = call("compare", HARD, "--base", PLAIN)
    assert said.code == 0
    assert "64.45 (−1.01 ± 0.62)" in said.out  # results/README.md, over seeds
    assert "Bold is a gain" in said.out


@pytest.mark.parametrize("ending", ["md", "csv", "tex"])
def test_the_command_writes_files(call, tmp_path, ending):
    assert (
        call(
            "compare", REFERENCE / "mining-icons-hard", PLAIN, "--base", PLAIN, "--output", tmp_path / f"a.{ending}"
        ).code
        == 0
    )
    text = (tmp_path / f"a.{ending}").read_text()
    assert "mining-icons-hard" in text
    if ending == "csv":
        assert set(pd.read_csv(tmp_path / "a.csv")["run"]) == {"mining-icons-hard"}  # not the base itself


def test_the_command_refuses_what_it_cannot_compare(call, tmp_path):
    shutil.copytree(PLAIN, tmp_path / "damaged")
    (tmp_path / "damaged" / "config.toml").unlink()
    for given, reason in [
        ((PLAIN, "--base", PLAIN), "is compared with itself alone"),
        ((HARD, "--base", PLAIN, "--all"), "leave out --published and --all"),
        ((HARD, "--base", tmp_path / "none"), "is no run's folder and holds none"),
        ((HARD, "--base", tmp_path / "damaged"), "has no config.toml"),
        ((REFERENCE / "quick-omniglot", "--base", PLAIN), "they are of other data sets"),
        ((REFERENCE / "gallery-orl_faces", "--base", PLAIN), "holds a run that has tested no episodes"),
    ]:
        said = call("compare", *given)
        assert said.code == 2
        assert reason in said.err
        assert "Traceback" not in said.err


def test_runs_that_do_not_fit_are_left_out_and_named(call, tmp_path):
    for name in ("mining-icons-plain", "mining-icons-hard", "quick-omniglot"):
        shutil.copytree(REFERENCE / name, tmp_path / name)
    (tmp_path / "mining-icons-hard").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    said = call("compare", tmp_path, "--base", PLAIN)  # its copy is another run of the same name
    assert said.code == 0
    assert "left out: quick-omniglot cannot be compared with" in said.out
    assert "caf?" in said.out
    assert "(+0.00 ± 0.00)" in said.out
