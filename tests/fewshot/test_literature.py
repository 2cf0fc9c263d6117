"""A user's own published numbers stand beside ours and those of the suite, if each cell is what its column allows."""

import numpy as np
import pandas as pd
import pytest

from baselines import published
from episodes import InputError
from fewshot.literature import with_own

HEAD = "dataset,protocol,method,backbone,image_size,way,shot,accuracy,ci95,league,paper"
LINE = "omniglot,vinyals,My Method,conv4,28,20,1,94.2,0.3,inductive,Me 2026"


@pytest.fixture
def file(tmp_path):
    def write(*lines: str):
        (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "own.csv"

    return write


def test_own_rows_follow_those_of_the_suite_with_the_same_columns_and_types(file):
    rows, known = with_own(file(HEAD, LINE)), published()
    pd.testing.assert_frame_equal(rows[:-1], known)
    assert rows.dtypes.equals(known.dtypes)
    row = rows.iloc[-1]
    assert (row["method"], row["accuracy"], row["ci95"], row["kind"]) == ("My Method", 94.2, 0.3, "uniform")
    assert (row["family"], row["note"]) == ("other", "")
    assert pd.isna(row["episodes"])


def test_the_table_of_the_suite_may_be_a_file_of_ones_own(file, tmp_path):
    published().to_csv(tmp_path / "all.csv", index=False)
    pd.testing.assert_frame_equal(with_own(tmp_path / "all.csv"), published())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([HEAD, LINE.replace(",20,", ",0,")], "line 2 of own.csv has way = '0', which is not a whole number from 1"),
        (
            [HEAD, LINE, LINE.replace("94.2", "194.2")],
            "line 3 of own.csv has accuracy = '194.2', which is not a number",
        ),
        ([HEAD, LINE.replace("inductive", "best")], "has league = 'best', which is not one of inductive, transductive"),
        ([HEAD, LINE.replace("Me 2026", "")], "line 2 of own.csv has no paper, which every published number needs"),
        ([HEAD.replace("shot", "shots"), LINE], "unknown column of own.csv 'shots': did you mean 'shot'?"),
        ([HEAD[:-6], LINE[:-8]], "own.csv lacks the column paper: published numbers need dataset, protocol"),
        ([HEAD], "own.csv holds no rows"),
        ([HEAD, LINE[:-8]], "line 2 of own.csv has 10 cells, and its head 11"),
        ([HEAD, LINE.replace("94.2", "nan")], "has accuracy = 'nan'"),
        ([HEAD, LINE, LINE], "line 3 of own.csv repeats a line before"),
        ([HEAD + ",year", LINE + ",26"], "has year = '26', which is not a whole number from 1,900 to 2,100"),
    ],
)
def test_each_fault_has_its_sentence(lines, sentence, file):
    with pytest.raises(InputError, match=r"own\.csv") as error:
        with_own(file(*lines))
    assert sentence in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        with_own(tmp_path / "own.csv")


def test_compare_shows_them_in_the_tables(call, file, tmp_path):
    accuracies = pd.DataFrame(
        {"learner": "npair", "dataset": "omniglot", "protocol": "vinyals", "way": 20, "shot": 1, "query": 15}
        | {"backbone": "conv4", "episode": range(50), "accuracy": np.linspace(90, 97, 50)}
    )
    accuracies.to_csv(tmp_path / "accuracies.csv", index=False)
    assert call("import", tmp_path / "accuracies.csv", "--name", "x", "--output", tmp_path / "run").code == 0
    said = call("compare", tmp_path / "run", "--published", file(HEAD, LINE))
    assert (said.code, said.err) == (0, "")
    assert "My Method" in said.out
    assert "My Method" not in call("compare", tmp_path / "run").out
    said = call("compare", tmp_path / "run", "--published", file(HEAD, LINE.replace("94.2", "x")))
    assert (said.code, said.out) == (2, "")
