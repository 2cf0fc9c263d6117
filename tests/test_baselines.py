"""The published numbers are facts with a source, one schema, and in percent."""

import pandas as pd
import pytest

import baselines


@pytest.fixture
def table() -> pd.DataFrame:
    return baselines.published("omniglot", "vinyals")


def test_accuracies_are_percent(table):
    assert table["accuracy"].between(1, 100).all()
    assert table["ci95"].dropna().between(0, 5).all()


def test_every_row_says_protocol_league_and_source(table):
    assert set(table["way"]) == {5, 20}
    assert set(table["shot"]) == {1, 5}
    assert set(table["setting"]) <= {"inductive", "transductive"}
    assert table[["method", "paper", "year"]].notna().all(axis=None)


def test_no_number_is_there_twice(table):
    assert not table.duplicated(["method", "variant", "way", "shot"]).any()


def test_prototypical_networks_as_in_the_paper(table):
    rows = table[table["method"] == "Prototypical Networks"].sort_values(["way", "shot"])
    assert rows["accuracy"].tolist() == [98.8, 99.7, 96.0, 98.9]


def test_another_protocol_has_none_of_them():
    assert baselines.published("omniglot", "lake").empty


def test_presets_are_found_by_name():
    assert set(baselines.presets()) >= {"quick", "paper"}
