"""The published numbers have a source and one schema, in percent; numbers that contradict each other are all kept."""

import pandas as pd
import pytest
from conftest import toy_bank

import baselines
from baselines.published import BACKBONES, FAMILIES, LEAGUES, NOT_RUNNABLE
from episodes import InputError
from episodes.datasets import SOURCES
from episodes.kinds import kind_sampler
from fewshot.backbones import BACKBONES as NETWORKS
from fewshot.learners import learner_names

COLUMNS = (
    "dataset protocol kind method variant family backbone image_size way shot query episodes accuracy ci95 league"
    " method_in_suite paper title year arxiv read_from note"
)
KEY = ["dataset", "protocol", "kind", "method", "variant", "backbone", "way", "shot", "paper"]
ORDER = ["dataset", "protocol", "kind", "family", "method", "year", "paper", "variant", "backbone", "way", "shot"]
NUMBERS = ["image_size", "way", "shot", "query", "episodes", "accuracy", "ci95", "year"]
PROTOTYPICAL = {"method": "Prototypical Networks", "paper": "Snell et al. 2017", "variant": "Euclidean"}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return baselines.published()


def printed(**columns) -> list[float]:
    """The accuracies of the rows with these values, by way and shot."""
    return baselines.published(**columns).sort_values(["way", "shot"])["accuracy"].tolist()


def test_columns_are_those_of_the_schema(table):
    assert " ".join(table) == COLUMNS


def test_accuracies_are_percent_and_above_chance(table):
    assert (table["accuracy"] > 100 / table["way"]).all()
    assert (table["accuracy"] <= 100).all()


def test_intervals_are_half_widths_in_percent(table):
    assert table["ci95"].dropna().between(0.04, 4).all()  # the widest are of a library that tests on few episodes


def test_ways_and_shots_are_those_that_papers_use(table):
    shaped = table[table["kind"] != "any"]  # episodes of kind any have ways and shots of their own
    assert set(shaped["way"]) == {5, 10, 20}
    assert set(shaped["shot"]) == {1, 5, 10, 20}
    assert table.loc[table["kind"] == "any", ["way", "shot"]].isna().all(axis=None)


def test_kinds_of_episodes_are_those_of_the_suite(table):
    assert set(table["kind"]) == {"uniform", "dirichlet:2", "any"}
    for kind in set(table["kind"]):
        kind_sampler(kind, toy_bank(60, 110), 5, 1, 15, seed=0)


def test_dirichlet_queries_have_their_own_rows():
    """PT-MAP takes queries as balanced: with Dirichlet queries a method that looks at no other query is above it."""
    veilleux = {"paper": "Veilleux et al. 2021", "kind": "dirichlet:2"}
    assert printed(method="SimpleShot", **veilleux) == [63.0, 80.1, 84.0, 86.1]
    assert printed(method="PT-MAP", **veilleux) == [60.1, 67.1, 68.8, 70.4]


def test_images_queries_and_episodes_are_of_sensible_numbers(table):
    assert set(table["image_size"].dropna()) == {24, 28, 32, 84, 105, 128, 224}
    assert table["query"].dropna().between(1, 30).all()
    assert table["episodes"].dropna().between(9, 10_000).all()


def test_leagues_and_families_are_of_closed_sets(table):
    assert set(table["league"]) == set(LEAGUES)
    assert set(table["family"]) == set(FAMILIES)


def test_every_row_has_a_source(table):
    assert (table[["paper", "title", "read_from"]] != "").all(axis=None)


def test_only_repositories_have_no_year(table):
    undated = table.loc[table["year"].isna(), "paper"]
    assert undated.str.contains(r" README$| report$").all()
    assert table["year"].dropna().between(2015, 2026).all()


def test_arxiv_numbers_look_like_them(table):
    assert table["arxiv"].str.fullmatch(r"(\d{4}\.\d{5}|doi:\S+|openreview:\S+)?").all()


def test_second_hand_numbers_say_who_quotes_them(table):
    second_hand = table["read_from"].str.contains("summary|list of papers|thesis|note on|PaddlePedia|T-NAS")
    second_hand |= table["variant"].str.endswith("as reported")
    assert second_hand.any()
    assert table.loc[second_hand, "note"].str.contains("quoted by").all()


def test_text_is_never_nan_nor_padded(table):
    text = table.drop(columns=NUMBERS)
    assert text.notna().all(axis=None)
    assert (text == text.apply(lambda column: column.str.strip())).all(axis=None)


def test_a_method_has_one_spelling(table):
    names = pd.Series(table["method"].unique())
    assert names.str.lower().str.replace(r"[^a-z0-9+]|networks?$", "", regex=True).is_unique


def test_a_method_is_of_one_family(table):
    assert (table.groupby("method")["family"].nunique() == 1).all()


def test_a_source_prints_a_number_once(table):
    assert not table.duplicated(KEY).any()


def test_rows_stand_in_order(table):
    pd.testing.assert_frame_equal(table, table.sort_values(ORDER, kind="stable").reset_index(drop=True))


def test_learners_that_it_names_are_those_of_the_suite(table):
    assert set(table["method_in_suite"]) - {""} <= set(learner_names())


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"glyphs", "icons", "orl_faces"}))
def test_every_data_set_of_the_suite_has_numbers_of_its_usual_protocol(name):
    assert not baselines.published(name, SOURCES[name].protocols[0]).empty


def test_its_data_sets_are_those_of_the_suite_or_of_meta_dataset(table):
    others = table[~table["dataset"].isin(set(SOURCES))]
    assert others["protocol"].str.startswith("meta-dataset-").all()


@pytest.mark.parametrize(
    ("dataset", "protocol", "families"),
    [
        (
            "omniglot",
            "vinyals",
            "nearest-neighbour siamese matching prototypical meta-learning fine-tuning transfer generative",
        ),
        ("omniglot", "pooled", "siamese prototypical relation meta-learning"),
        ("omniglot", "lake-oneshot", "human generative siamese prototypical transfer nearest-neighbour"),
        (
            "mini_imagenet",
            "ravi",
            "siamese matching prototypical relation meta-learning cosine-classifier fine-tuning transfer closed-form"
            " metric-loss generative graph other",
        ),
        (
            "tiered_imagenet",
            "ren",
            "prototypical relation meta-learning cosine-classifier fine-tuning transfer closed-form graph other",
        ),
        (
            "cifar_fs",
            "bertinetto",
            "prototypical relation meta-learning cosine-classifier fine-tuning transfer closed-form graph other",
        ),
        ("fc100", "oreshkin", "prototypical meta-learning fine-tuning transfer closed-form other"),
        (
            "cub",
            "closer-look",
            "matching prototypical relation meta-learning cosine-classifier fine-tuning transfer graph other",
        ),
    ],
)
def test_every_family_with_published_numbers_is_there(dataset, protocol, families):
    assert set(baselines.published(dataset, protocol)["family"]) == set(families.split())


@pytest.mark.parametrize(
    ("dataset", "leagues"),
    [
        ("omniglot", {"inductive", "transductive"}),
        ("mini_imagenet", {"inductive", "transductive", "external-data", "class-names"}),
        ("tiered_imagenet", {"inductive", "transductive", "class-names"}),
        ("cifar_fs", {"inductive", "transductive", "external-data", "class-names"}),
        ("cub", {"inductive", "transductive", "class-names"}),
    ],
)
def test_every_league_with_published_numbers_is_there(dataset, leagues):
    assert set(baselines.published(dataset)["league"]) >= leagues


@pytest.mark.parametrize(
    ("columns", "accuracies"),
    [
        ({"dataset": "omniglot", "protocol": "vinyals", **PROTOTYPICAL}, [98.8, 99.7, 96.0, 98.9]),
        ({"dataset": "mini_imagenet", "protocol": "ravi", **PROTOTYPICAL}, [49.42, 68.20]),
        (
            {"dataset": "omniglot", "method": "Siamese", "variant": "cosine, fine-tuned"},  # Vinyals et al. 2016
            [97.3, 98.4, 88.1, 97.0],
        ),
        (
            {"dataset": "omniglot", "method": "Matching Networks", "variant": "cosine, no fine-tuning"},
            [98.1, 98.9, 93.8, 98.5],
        ),
        ({"dataset": "mini_imagenet", "protocol": "vinyals-80-20", "variant": "FCE, fine-tuned"}, [46.6, 60.0]),
        (
            {"dataset": "mini_imagenet", "method": "Matching Networks", "variant": "FCE", "protocol": "ravi"},
            [43.56, 55.31],
        ),
        ({"dataset": "mini_imagenet", "paper": "Finn et al. 2017", "variant": "second order"}, [48.70, 63.11]),
        ({"dataset": "omniglot", "paper": "Sung et al. 2018"}, [99.6, 99.8, 97.6, 99.1]),
        (
            {
                "dataset": "mini_imagenet",
                "paper": "Gidaris & Komodakis 2018",
                "backbone": "conv4",
                "family": "matching",
            },
            [53.65, 65.76],
        ),
        (
            {
                "dataset": "mini_imagenet",
                "paper": "Gidaris & Komodakis 2018",
                "backbone": "conv4-128",
                "family": "cosine-classifier",
            },
            [56.62, 72.82],
        ),
        (
            {
                "dataset": "mini_imagenet",
                "paper": "Lee et al. 2019",
                "backbone": "resnet12",
                "method": "Prototypical Networks",
            },
            [59.25, 75.60],
        ),
        (
            {
                "dataset": "mini_imagenet",
                "paper": "Lee et al. 2019",
                "backbone": "resnet12",
                "method": "MetaOptNet",
                "variant": "SVM",
            },
            [62.64, 78.63],
        ),
        (
            {"dataset": "mini_imagenet", "paper": "LibFewShot README", "method": "RENet", "backbone": "conv4"},
            [57.62, 74.14],
        ),
        ({"dataset": "fc100", "method": "EASY", "backbone": "resnet12-x3", "league": "transductive"}, [54.13, 66.86]),
        ({"dataset": "mini_imagenet", "method": "TIM", "variant": "GD", "way": 10}, [56.1, 72.8]),
        ({"dataset": "cifar_fs", "method": "PT-MAP"}, [87.69, 90.68]),
        ({"dataset": "cub", "method": "DeepBDC", "variant": "transfer"}, [84.01, 94.02]),
        ({"dataset": "cub", "method": "S2M2", "variant": "with rotations", "backbone": "wrn28_10"}, [80.68, 90.85]),
        ({"dataset": "tiered_imagenet", "method": "DeepEMD", "variant": "FCN"}, [72.65, 86.03]),
        ({"dataset": "omniglot", "protocol": "meta-dataset-all", "method": "URL"}, [94.51]),
        ({"dataset": "omniglot", "protocol": "lake-oneshot", "method": "BPL", "variant": ""}, [96.7]),
        ({"dataset": "omniglot", "protocol": "lake-oneshot", "method": "Human"}, [95.5]),
        ({"dataset": "omniglot", "protocol": "lake-oneshot", "method": "Siamese"}, [92.0]),
        ({"dataset": "omniglot", "protocol": "koch", "method": "Siamese", "backbone": "koch"}, [92.0]),
    ],
)
def test_numbers_are_those_that_the_paper_prints(columns, accuracies):
    assert printed(**columns) == accuracies


@pytest.mark.parametrize(
    ("columns", "accuracies"),
    [
        ({"dataset": "omniglot", "method": "Siamese", "way": 20, "shot": 1}, {88.1, 88.2}),
        ({"dataset": "omniglot", "paper": "Snell et al. 2017", "way": 20, "shot": 5}, {98.9, 99.0}),
        ({"dataset": "mini_imagenet", "method": "R2D2", "backbone": "conv4-512", "shot": 1}, {51.2, 51.8}),
        ({"dataset": "mini_imagenet", "method": "Dynamic few-shot", "shot": 1}, {56.20, 56.62}),
        ({"dataset": "mini_imagenet", "method": "SimpleShot", "backbone": "conv4", "shot": 5}, {66.92, 65.12}),
        (
            {"dataset": "mini_imagenet", "method": "Prototypical Networks", "backbone": "conv4", "shot": 1},
            {49.42, 44.42, 53.30, 53.47},
        ),
        (
            {"dataset": "mini_imagenet", "paper": "Ravi & Larochelle 2017", "shot": 1},  # which is nearest neighbours?
            {28.86, 41.08},
        ),
        ({"dataset": "cub", "method": "Prototypical Networks", "backbone": "conv4", "shot": 5}, {70.77, 76.39}),
        ({"dataset": "cub", "method": "MAML", "backbone": "conv4", "shot": 1}, {54.73, 55.92}),
        ({"dataset": "tiered_imagenet", "method": "Prototypical Networks", "shot": 1}, {60.2, 68.23}),
    ],
)
def test_of_a_conflict_every_side_is_there_with_a_note(columns, accuracies):
    sides = baselines.published(**columns).query("accuracy in @accuracies")
    assert set(sides["accuracy"]) == accuracies
    assert (sides["note"] != "").all()


def test_statistics_of_the_queries_count_as_transductive(table):
    rows = table[table["note"].str.contains("query batch statistics")]
    assert {"MAML", "Reptile"} <= set(rows["method"])
    assert set(rows["league"]) == {"transductive"}


def test_a_row_that_is_called_transductive_is_of_that_league(table):
    called = table[["variant", "note"]].apply(lambda column: column.str.contains(r"\btransductive\b")).any(axis=1)
    assert {"Relation Networks", "Reptile", "MAML"} <= set(table.loc[called, "method"])
    assert set(table.loc[called, "league"]) == {"transductive"}


def test_a_row_whose_split_is_said_to_be_random_is_not_of_the_listed_split(table):
    omniglot = table[table["dataset"] == "omniglot"]
    random = omniglot[omniglot["note"].str.contains("all characters at random")]
    assert {"Finn et al. 2017", "Sung et al. 2018", "Nichol et al. 2018"} == set(random["paper"])
    assert set(random["protocol"]) == {"pooled"}


def test_every_protocol_is_one_of_the_suite_or_has_a_reason_why_not(table):
    there = set(table[["dataset", "protocol"]].itertuples(index=False, name=None))
    ours = {(name, protocol) for name, source in SOURCES.items() for protocol in source.protocols}
    assert there - ours == set(NOT_RUNNABLE)
    assert all(len(reason.split()) > 5 for reason in NOT_RUNNABLE.values())


def test_every_row_can_be_run_or_has_a_reason_why_not(table):
    reasons = baselines.why_not_runnable(table)
    runs = table[reasons == ""]
    assert len(runs) > 300
    assert (runs["method_in_suite"] != "").all()
    assert all((name, protocol) not in NOT_RUNNABLE for name, protocol in set(zip(runs["dataset"], runs["protocol"])))
    assert set(runs["backbone"]) <= set(BACKBONES)
    assert reasons[reasons != ""].map(lambda reason: len(reason.split()) > 5).all()


def test_the_backbones_that_can_be_run_are_those_of_the_suite():
    assert set(BACKBONES) - {"none"} <= set(NETWORKS)


def test_the_best_row_is_the_highest_of_its_data_set_league_and_family_of_backbones(table):
    rows = baselines.best()
    cell = ["dataset", "protocol", "kind", "league", "backbones", "way", "shot"]
    assert not rows.duplicated(cell).any()
    joined = table.assign(backbones=table["backbone"].str.partition("-")[0]).merge(
        rows, on=cell, suffixes=("", "_best")
    )
    assert len(joined) == len(table)
    assert (joined["accuracy"] <= joined["accuracy_best"]).all()


@pytest.mark.parametrize(
    ("columns", "method", "accuracy"),
    [
        ({"league": "inductive", "shot": 1}, "EASY", 71.75),
        ({"league": "transductive", "shot": 1}, "EASY", 84.04),
        ({"league": "external-data", "shot": 5}, "P>M>F", 99.8),
    ],
)
def test_the_best_of_mini_imagenet_is_known(columns, method, accuracy):
    rows = baselines.best("mini_imagenet", "ravi", kind="uniform", way=5, **columns)
    found = rows[rows["method"] == method]["accuracy"]
    assert found.max() == accuracy


def test_class_names_and_other_data_are_leagues_of_their_own(table):
    assert set(table.loc[table["method"] == "P>M>F", "league"]) == {"external-data"}
    assert set(table.loc[table["method"] == "SemFew", "league"]) == {"class-names"}


def test_episodes_within_an_alphabet_stand_apart_from_pooled_ones():
    one_net = {"dataset": "omniglot", "paper": "omniglot-eval README", "way": 20, "shot": 1}
    assert printed(protocol="lake", **one_net) == [89.3]
    assert printed(protocol="lake-within-alphabet", **one_net) == [75.8]


def test_all_rows_are_there_without_a_filter(table):
    assert 950 <= len(table) < 3000


def test_a_filter_keeps_a_value_of_a_column():
    rows = baselines.published("mini_imagenet", "ravi", way=5, shot=1, family="relation", backbone="conv4")
    assert set(rows["method"]) == {"Relation Networks"}
    assert rows[["dataset", "protocol", "way", "shot", "backbone"]].drop_duplicates().values.tolist() == [
        ["mini_imagenet", "ravi", 5, 1, "conv4"]
    ]


def test_a_filter_keeps_several_values():
    rows = baselines.published(dataset=["cub", "fc100"], year=range(2020, 2024))
    assert set(rows["dataset"]) == {"cub", "fc100"}
    assert set(rows["year"]) == {2020, 2021, 2022, 2023}


def test_a_filter_of_none_keeps_all(table):
    assert len(baselines.published(None, league=None)) == len(table)


def test_rows_are_numbered_anew():
    rows = baselines.published("omniglot", league="transductive")
    assert rows.index.tolist() == list(range(len(rows)))


def test_a_protocol_without_numbers_gives_an_empty_table(table):
    rows = baselines.published("omniglot", "ravi")
    assert rows.empty
    assert list(rows) == list(table)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"dataset": "omniglott"}, "unknown data set 'omniglott': did you mean 'omniglot'?"),
        ({"family": ["siamese", "prototype"]}, "unknown family 'prototype': did you mean 'prototypical'?"),
        ({"league": 3}, "unknown league '3': choose one of class-names, external-data, inductive, not-stated,"),
        ({"ways": 5}, "unknown column of the published numbers 'ways': did you mean 'way'?"),
    ],
)
def test_a_value_or_column_that_no_row_has_is_told(columns, sentence):
    with pytest.raises(InputError) as error:
        baselines.published(**columns)
    assert str(error.value).startswith(sentence)


def test_presets_are_found_by_name():
    assert set(baselines.presets()) >= {"quick", "paper"}
