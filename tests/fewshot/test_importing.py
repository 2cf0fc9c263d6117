"""Accuracies of another code base become a run; only episodes that are declared the same are compared one by one."""

import numpy as np
import pandas as pd
import pytest

from episodes import InputError
from fewshot import records
from fewshot.importing import import_run, read_accuracies
from fewshot.record_files import read_arrays
from fewshot.run_folder import read_results

EPISODES = 40


def accuracies(learner: str = "theirs", mean: float = 80.0, **more) -> pd.DataFrame:
    """A line for each episode."""
    values = np.clip(mean + 10 * np.random.default_rng(0).normal(size=EPISODES), 0, 100).round(2)
    about = {"learner": learner, "dataset": "omniglot", "protocol": "vinyals", "way": 5, "shot": 1, "query": 15}
    return pd.DataFrame({**about, "episode": range(EPISODES), "accuracy": values, **more})


@pytest.fixture
def file(tmp_path):
    """Writes accuracies as a csv file."""

    def write(*parts: pd.DataFrame):
        pd.concat(parts).to_csv(tmp_path / "theirs.csv", index=False)
        return tmp_path / "theirs.csv"

    return write


@pytest.fixture
def own_run(tmp_path, file):
    """A run's folder whose rows are the suite's own."""
    import_run(file(accuracies("npair", 82.0)), "x", tmp_path / "own")
    rows = pd.read_csv(tmp_path / "own" / "results.csv", keep_default_na=False)
    rows.assign(imported="", data_version=2, episodes_version=3).to_csv(tmp_path / "own" / "results.csv", index=False)
    return tmp_path / "own"


def test_rows_and_episodes_are_those_of_the_file(file, tmp_path):
    shuffled = accuracies().sample(frac=1, random_state=0)
    import_run(file(shuffled), "other-code", tmp_path / "run")
    rows, arrays = read_results(tmp_path / "run")
    assert rows[["learner", "variant", "way", "shot", "query", "episodes"]].values.tolist() == [
        ["theirs", "other-code", 5, 1, 15, EPISODES]
    ]
    assert rows["accuracy"][0] == pytest.approx(accuracies()["accuracy"].mean(), abs=1e-4)
    (array,) = arrays.values()
    assert (100 * array).round(2).tolist() == accuracies()["accuracy"].tolist()


def test_an_empty_file_is_told_to_be_empty(tmp_path):
    (tmp_path / "none.csv").touch()
    with pytest.raises(InputError, match=r"none.csv is empty: its first line names the columns"):
        read_accuracies(tmp_path / "none.csv")


def test_a_learner_of_two_backbones_is_two_models(file, tmp_path):
    import_run(file(accuracies(backbone="conv4"), accuracies(mean=60.0, backbone="resnet12")), "x", tmp_path / "run")
    rows, arrays = read_results(tmp_path / "run")
    assert rows["model"].tolist() == ["theirs-x-conv4-seed0", "theirs-x-resnet12-seed0"]
    assert len(arrays) == 2


def test_the_mark_that_spreadsheets_begin_a_file_with_is_no_part_of_it(file):
    path = file(accuracies())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_accuracies(path)) == EPISODES


def test_other_episodes_have_no_paired_tests(file, tmp_path):
    import_run(file(accuracies("one"), accuracies("two", 60.0)), "x", tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run" / "differences.csv")) == 0
    page = (tmp_path / "run" / "results.md").read_text()
    assert "no test tells these numbers apart" in page
    assert "paired t tests" not in page
    assert "one (x) [imported, other episodes]" in page


def test_the_same_episodes_are_compared_with_those_of_the_run(file, tmp_path, own_run):
    import_run(file(accuracies("theirs", 60.0)), "code", tmp_path / "run", own_run)
    (pair,) = pd.read_csv(tmp_path / "run" / "differences.csv").to_dict("records")
    assert {pair["first"], pair["second"]} == {"npair (x)", "theirs (code) [imported, same episodes]"}
    # the same random numbers: each episode differs by about 22 points, which only a paired test knows
    assert pair["ci95"] < 2
    rows, _ = read_results(tmp_path / "run")
    assert rows["imported"].tolist() == ["", records.PAIRED]
    # of the versions that the run names: rows of other versions are of other episodes
    assert rows[["data_version", "episodes_version"]].values.tolist() == [[2, 3], [2, 3]]


def test_the_run_is_read_by_compare_and_report(call, file, tmp_path):
    said = call("import", file(accuracies()), "--name", "code", "--output", tmp_path / "run")
    assert (said.code, said.err) == (0, "")
    said = call("compare", tmp_path / "run", "--all")
    assert (said.code, "theirs (code)" in said.out) == (0, True)
    said = call("report", tmp_path / "run")
    assert (said.code, (tmp_path / "run" / "report.html").exists()) == (0, True)


def test_a_backbone_that_is_not_stated_is_comparable_with_nothing(call, file, tmp_path):
    call("import", file(accuracies()), "--name", "code", "--output", tmp_path / "unknown")
    assert call("compare", tmp_path / "unknown").out.strip().splitlines()[-1].startswith("None of the ")
    call("import", file(accuracies(backbone="conv4")), "--name", "code", "--output", tmp_path / "known")
    assert call("compare", tmp_path / "known").out.strip().splitlines()[-1].startswith("Of the ")


def test_a_run_without_settings_is_not_continued(call, preset, file, tmp_path):
    call("import", file(accuracies()), "--name", "code", "--output", tmp_path / "run")
    said = call("bench", "--preset", preset, "--resume", "--output", tmp_path / "run", "--device", "cpu")
    assert said.code == 2
    assert "without the config.toml of its settings" in said.err


FAULTS = {
    "lacks the column query": lambda table: table.drop(columns="query"),
    "unknown column of theirs.csv 'backbones': did you mean 'backbone'?": lambda table: table.assign(backbones="conv4"),
    "accuracy = '101.0', which is not a number from 0 to 100": lambda table: table.assign(accuracy=101.0),
    "has no accuracy above 1: accuracies are in percent": lambda table: table.assign(accuracy=0.5),
    "from 0 on, each once": lambda table: table.assign(episode=table["episode"] + 1),
    "unknown column of theirs.csv 'episodes': did you mean 'episode'?": lambda table: table.assign(episodes=EPISODES),
    "has one of the 5-way 1-shot episodes of theirs": lambda table: table[:1],
    "several values of protocol (vinyals, lake)": lambda table: table.assign(protocol=["vinyals", "lake"] * 20),
    "different numbers of episodes": lambda table: pd.concat([table, table[:20].assign(shot=5)]),
    "has the learner '../theirs'": lambda table: table.assign(learner="../theirs"),
    "theirs.csv holds no accuracies": lambda table: table[:0],
    "theirs.csv has protocol = ''": lambda table: table.assign(protocol=""),
    "theirs.csv has dataset = '=1+1'": lambda table: table.assign(dataset="=1+1"),
    "has theirs several times for one way, shot and seed": lambda table: pd.concat(
        [table.assign(image_size=28), table.assign(image_size=84)]
    ),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_faulty_file_is_refused_with_a_sentence_and_nothing_is_written(sentence, call, file, tmp_path):
    path = file(FAULTS[sentence](accuracies()))
    said = call("import", path, "--name", "code", "--output", tmp_path / "run")
    assert (said.code, len(said.err.strip().splitlines())) == (2, 1)
    assert sentence in said.err
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"protocol": "lake"}, "has protocol = lake and the run"),
        ({"query": 5}, "has query = 5 and the run"),
        ({"shot": 5}, "has 5-way 5-shot episodes and the run"),
    ],
)
def test_episodes_that_cannot_be_the_same_are_refused(change, sentence, call, file, tmp_path, own_run):
    path = file(accuracies().assign(**change))
    said = call("import", path, "--name", "code", "--output", tmp_path / "run", "--episodes-of", own_run)
    assert (said.code, sentence in said.err) == (2, True)


def test_another_number_of_episodes_is_refused(call, file, tmp_path, own_run):
    said = call("import", file(accuracies()[:30]), "--name", "x", "--output", tmp_path / "r", "--episodes-of", own_run)
    assert "30 episodes and the run" in said.err


def test_a_folder_that_exists_is_not_written_to(call, file, tmp_path):
    (tmp_path / "run").mkdir()
    said = call("import", file(accuracies()), "--name", "code", "--output", tmp_path / "run")
    assert (said.code, "exists already" in said.err) == (2, True)


@pytest.mark.parametrize("name", ["", "../up", "two words"])
def test_a_name_is_short_and_plain(name, call, file, tmp_path):
    with pytest.raises(SystemExit) as error:
        call("import", file(accuracies()), "--name", name, "--output", tmp_path / "run")
    assert error.value.code == 2


def test_what_a_file_does_not_say_has_a_value(file):
    table = read_accuracies(file(accuracies()))
    assert set(table["backbone"]) == {"not-stated"}
    assert not table["transductive"].any()


def test_accuracies_of_the_archive_are_shares(file, tmp_path):
    import_run(file(accuracies()), "x", tmp_path / "run")
    (array,) = read_arrays(tmp_path / "run" / "episodes.npz").values()
    assert 0 <= array.min() <= array.max() <= 1
