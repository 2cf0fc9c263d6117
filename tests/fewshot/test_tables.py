"""Tables: the best in bold, an interval beside every mean, what the numbers are, and which learners are alike."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from fewshot import latex, records, tables
from fewshot.statistics import holm, paired


def rows(*learners: dict) -> pd.DataFrame:
    """Tidy rows of 5-way 1-shot and 5-way 5-shot; `accuracy` holds the two means."""
    common = {"dataset": "omniglot", "split": "test", "backbone": "conv4", "way": 5, "query": 15, "episodes": 10_000}
    common |= {"train_seconds": 1.0, "eval_seconds": 1.0, "protocol": "vinyals", "image_size": 28, "ci95": 0.126}
    default = {"variant": "", "seed": 0, "transductive": False, "text": False, "external": False, "ci95_open": np.nan}
    return pd.DataFrame(
        [
            {**common, **default, **learner, "shot": shot, "accuracy": mean}
            for learner in learners
            for shot, mean in zip((1, 5), learner["accuracy"])
        ],
        columns=records.COLUMNS,
    )


@pytest.fixture
def results() -> pd.DataFrame:
    return rows(
        {"learner": "npair", "accuracy": (97.123, 99.004)},
        {"learner": "siamese", "variant": "koch", "accuracy": (96.5, 98.996)},
        {"learner": "my_own", "accuracy": (95.0, 98.5)},
    )


def cells(page: str, label: str, separator: str = "|") -> list[str]:
    (line,) = [line for line in page.splitlines() if label in line]
    return [cell.strip() for cell in line.strip(" |\\").split(separator)]


def printed(made: list[tables.Sheet], width: int = 160) -> str:
    console = Console(width=width, file=None, record=True)
    with console.capture() as captured:
        tables.show(made, console)
    return captured.get()


def latex_of(made: list[tables.Sheet]) -> str:
    return latex.page(made, "run")


PAGES = pytest.mark.parametrize("page", [tables.markdown, latex_of, printed])


def test_markdown_has_the_best_of_each_column_in_bold_and_ties_as_printed(results):
    page = tables.markdown(tables.sheets(results))
    assert cells(page, "npair") == ["npair", "**97.12 ± 0.13**", "**99.00 ± 0.13**"]
    assert cells(page, "siamese") == ["siamese (koch)", "96.50 ± 0.13", "**99.00 ± 0.13**"]
    assert cells(page, "my_own") == ["my_own", "95.00 ± 0.13", "98.50 ± 0.13"]


def test_latex_has_the_best_of_each_column_in_bold_and_ties_as_printed(results):
    page = latex_of(tables.sheets(results))
    page = re.sub(r"~\\cite\{.*?\}", "", page)
    best = r"\textbf{97.12 $\pm$ 0.13}", r"\textbf{99.00 $\pm$ 0.13}"
    assert cells(page, "npair", "&") == ["npair", *best]
    assert cells(page, "siamese", "&") == ["siamese (koch)", r"96.50 $\pm$ 0.13", best[1]]


def test_latex_is_a_booktabs_table_with_escaped_text(results):
    results["protocol"] = "my_split 50%"
    page = latex_of(tables.sheets(results))
    assert all(rule in page for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{"))
    assert r"my\_own" in page
    assert r"my\_split 50\%" in page
    assert r"95 \% interval" in page
    assert "±" not in page
    assert page.count("{") == page.count("}")


@PAGES
def test_a_table_says_what_its_numbers_are(results, page):
    text = page(tables.sheets(results)).replace(r"$\times$", "x")
    for part in ("omniglot", "vinyals", "test classes", "28x28", "10,000 episodes", "15 queries", "interval"):
        assert part in text


@PAGES
def test_a_transductive_learner_is_marked(page):
    results = rows(
        {"learner": "npair", "accuracy": (97.0, 99.0)},
        {"learner": "peeking", "accuracy": (98.0, 99.5), "transductive": True},
    )
    marked = [line for line in page(tables.sheets(results)).splitlines() if "transductive" in line]
    assert len(marked) == 1
    assert "peeking" in marked[0]


@PAGES
def test_what_knows_more_than_its_support_set_is_marked_with_all_it_knows(page):
    results = rows(
        {"learner": "reader", "accuracy": (97.0, 99.0), "text": True},
        {"learner": "giant", "accuracy": (98.0, 99.5), "text": True, "external": True},
        {"learner": "npair", "accuracy": (96.0, 98.5)},
    )
    printed = page(tables.sheets(results)).replace("npair~", "npair ").replace("[r]", "")
    assert all(label in printed for label in ("reader [class names]", "giant [class names, external data]", "npair "))
    assert printed.count("[") == 2


@PAGES
def test_several_seeds_are_told_apart_and_one_is_not_mentioned(results, page):
    assert "seed" not in page(tables.sheets(results))
    several = page(
        tables.sheets(
            rows(
                {"learner": "npair", "accuracy": (97.0, 99.0), "seed": 0},
                {"learner": "npair", "accuracy": (96.0, 98.0), "seed": 1},
            )
        )
    )
    assert "npair, seed 0" in several
    assert "npair, seed 1" in several


def test_columns_are_in_the_order_of_way_and_shot(results):
    twenty = results.assign(way=20)
    text = tables.sheets(pd.concat([twenty, results]))[0].cells
    assert text.columns.tolist() == ["5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"]


def test_learners_are_in_the_order_of_the_rows(results):
    assert tables.sheets(results)[0].cells.index.tolist() == ["npair", "siamese (koch)", "my_own"]


def test_a_cell_that_was_not_run_is_a_dash(results):
    sheet = tables.sheets(results.drop(index=0))[0]
    assert sheet.cells.loc["npair", "5-way 1-shot"] == "–"
    assert not sheet.best.loc["npair", "5-way 1-shot"]
    assert r"--" in latex_of(tables.sheets(results.drop(index=0)))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_shows_every_number_whole(width):
    names = ["siamese", "prototypical", "imprinted", "npair"]
    few = rows(
        *({"learner": name, "variant": "euclidean", "accuracy": (90.11 + i, 95.57 + i)} for i, name in enumerate(names))
    )
    results = pd.concat([few, few.assign(way=20, accuracy=few["accuracy"] - 10)])
    words = printed(tables.sheets(results), width).split()
    for number in [*results["accuracy"], 0.13]:
        assert f"{number:.2f}" in words


def test_text_from_outside_is_not_taken_for_markup():
    results = rows({"learner": "odd", "variant": "[red]", "accuracy": (97.0, 99.0)})
    assert "[red]" in printed(tables.sheets(results))


# bold, with the accuracies of episodes


@pytest.fixture
def wavering() -> dict[str, np.ndarray]:
    """The best varies so much that nothing tells it apart from the other two, which differ: letters 'ab', 'a', 'b'."""
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 0.05, 400)
    steady = {
        f"{name}-seed0/5way{shot}shot": mean + hard + generator.normal(0, 0.001, 400)
        for name, mean in (("siamese", 0.71), ("my_own", 0.70))
        for shot in (1, 5)
    }
    swinging = 0.8 * (generator.permutation(400) % 2 - 0.5) + 0.715
    return steady | {f"npair-seed0/5way{shot}shot": swinging for shot in (1, 5)}


def test_bold_is_what_shares_a_letter_with_the_best_in_every_table(plain, wavering):
    made = tables.sheets(plain.assign(ci95_open=2.5), wavering)
    assert [letters(made[-1], name) for name in ("npair", "siamese", "my_own")] == [{"a", "b"}, {"a"}, {"b"}]
    assert [sheet.title for sheet in made] == ["", "Other classes", "Which can be told apart"]
    for sheet in made:
        assert sheet.best["5-way 1-shot"].all()
    assert set(made[-1].cells["rank"]) == {"2.00"}


def test_bold_goes_by_the_episodes_and_not_by_what_is_printed(plain):
    """The printed means of `plain` are all equal."""
    made = tables.sheets(plain, arrays(npair=0.9, siamese=0.8, my_own=0.9))
    assert made[0].best["5-way 1-shot"].to_dict() == {"npair": True, "siamese": False, "my_own": True}
    assert tables.BOLD in made[0].note


def test_over_training_seeds_bold_goes_by_the_mean_over_them_and_each_training_by_its_own():
    results = rows(
        *({"learner": name, "accuracy": (90.0, 95.0), "seed": seed} for name in ("npair", "siamese") for seed in (0, 1))
    )
    over, each, _ = tables.sheets(results, arrays(npair=0.95, siamese=0.9) | arrays(seed=1, npair=0.8, siamese=0.91))
    assert over.best["5-way 1-shot"].to_dict() == {"npair": False, "siamese": True}
    assert each.best.query("`5-way 1-shot`").index.tolist() == ["npair, seed 0"]


def test_where_a_learner_lacks_its_episodes_bold_is_the_best_as_printed(results):
    sheet = tables.sheets(results, arrays(npair=0.7, my_own=0.9))[0]
    assert sheet.best["5-way 1-shot"].to_dict() == {"npair": True, "siamese (koch)": False, "my_own": False}
    assert tables.PRINTED in sheet.note


# several tables


@PAGES
def test_every_sheet_is_on_the_page_with_its_caption_and_its_note(results, page):
    made = tables.sheets(results.assign(ci95_open=2.5))
    text = " ".join(page(made).replace(r"$\pm$", "±").replace("\\", "").replace("--", "–").split()).replace(
        "$times$", "x"
    )
    assert len(made) == 2
    for sheet in made:
        assert sheet.caption in text
        assert sheet.note in text


def test_a_bar_in_a_name_does_not_end_a_cell_of_a_markdown_table(results):
    results["learner"] = results["learner"] + "|x"
    lines = tables.markdown(tables.sheets(results)).splitlines()
    table = [line.replace(r"\|", "") for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert any(r"\|x" in line for line in lines)


def test_titles_are_headings_of_a_markdown_page_and_the_first_table_has_none(results):
    lines = tables.markdown(tables.sheets(results.assign(ci95_open=2.5))).splitlines()
    assert [line for line in lines if line.startswith("#")] == ["## Other classes"]
    assert lines[0].startswith("omniglot (vinyals), test classes")


def test_a_latex_page_has_no_character_that_latex_lacks(results):
    accuracies = arrays(npair=0.97, my_own=0.9)
    results = results[results["variant"] == ""].assign(ci95_open=2.5)
    several = pd.concat([results, results.assign(seed=1)], ignore_index=True)
    several.loc[0, "ci95_open"] = np.nan
    page = latex_of(tables.sheets(several, accuracies))
    assert page.count(r"\toprule") == 4
    assert page.isascii()


def test_latex_takes_every_character_that_a_folder_of_images_may_have_in_its_name(results):
    page = latex_of(tables.sheets(results.assign(dataset="my~birds^2 {new}")))
    assert not re.search(r"(?<!\\)[~^]", page.replace("~\\cite", ""))
    assert r"\{new\}" in page


# training seeds


@pytest.fixture
def three() -> pd.DataFrame:
    """One learner with three training seeds."""
    means = (97.0, 99.0), (96.0, 99.0), (95.0, 99.0)
    return rows(*({"learner": "npair", "accuracy": pair, "seed": seed} for seed, pair in enumerate(means)))


def test_several_seeds_give_a_table_over_seeds_first(three):
    assert [sheet.title for sheet in tables.sheets(three)] == ["Over training seeds", "Each training"]


def test_a_table_over_seeds_has_the_t_interval_of_their_means(three):
    # mean 96, standard deviation 1; 4.302653 is the t quantile of 2 degrees of freedom
    (row,) = tables.sheets(three)[0].cells.to_numpy().tolist()
    assert row == [f"96.00 ± {4.302653 / np.sqrt(3):.2f}", "99.00 ± 0.00"]


def test_a_table_over_seeds_has_a_row_for_each_learner_without_a_seed(three):
    both = pd.concat([three, three.assign(learner="siamese", variant="koch")], ignore_index=True)
    assert tables.sheets(both)[0].cells.index.tolist() == ["npair", "siamese (koch)"]


def test_a_table_over_seeds_says_how_many_and_what_its_interval_covers(three):
    sheet = tables.sheets(three)[0]
    assert "mean of 3 training seeds" in sheet.caption
    assert "Student's t" in sheet.note


def test_one_training_gives_no_interval_over_seeds(three):
    one = rows({"learner": "siamese", "accuracy": (90.0, 95.0)})
    over, each = tables.sheets(pd.concat([three, one], ignore_index=True))
    assert over.cells.index.tolist() == ["npair"]
    assert each.cells.index.tolist() == ["npair, seed 0", "npair, seed 1", "npair, seed 2", "siamese, seed 0"]


def test_learners_with_one_seed_each_have_no_table_over_seeds_though_the_seeds_differ():
    results = rows(
        {"learner": "npair", "accuracy": (97.0, 99.0), "seed": 0},
        {"learner": "siamese", "accuracy": (96.0, 98.0), "seed": 1},
    )
    (sheet,) = tables.sheets(results)
    assert len(sheet.cells) == 2


def test_put_together_one_training_keeps_the_papers_interval_and_several_get_that_over_seeds(three):
    one = rows({"learner": "siamese", "accuracy": (90.0, 95.0)})
    together = records.summarised(pd.concat([three, one], ignore_index=True)).set_index(["learner", "shot"])
    columns = ["accuracy", "ci95", "interval", "seeds"]
    assert together.loc[("siamese", 1), columns].tolist() == [90.0, 0.126, "episodes", 1]
    assert together.loc[("npair", 1), columns].tolist() == [96.0, pytest.approx(2.484138), "seeds", 3]


def test_a_row_that_is_there_twice_is_not_taken_for_two_trainings(three):
    together = records.summarised(pd.concat([three[:2], three[:2]], ignore_index=True))
    assert together["seeds"].tolist() == [1, 1]


# other classes


def test_open_intervals_are_in_a_table_of_their_own_after_the_papers(results):
    made = tables.sheets(results.assign(ci95_open=[2.5, 1.5] * 3))
    assert [sheet.title for sheet in made] == ["", "Other classes"]
    assert made[0].cells.loc["npair"].tolist() == ["97.12 ± 0.13", "99.00 ± 0.13"]
    assert made[1].cells.loc["npair"].tolist() == ["97.12 ± 2.50", "99.00 ± 1.50"]


def test_an_open_interval_that_is_not_known_is_a_dash_and_not_bold(results):
    sheet = tables.sheets(results.assign(ci95_open=[np.nan, 1.5] * 3))[1]
    assert sheet.cells["5-way 1-shot"].tolist() == ["–"] * 3
    assert not sheet.best["5-way 1-shot"].any()
    assert sheet.best["5-way 5-shot"].tolist() == [True, True, False]


def test_the_table_of_other_classes_says_what_its_interval_covers(results):
    sheet = tables.sheets(results.assign(ci95_open=2.5))[1]
    assert "another test set" in sheet.caption
    assert "as many classes" in sheet.note


def test_without_any_open_interval_there_is_no_table_of_other_classes(results):
    assert len(tables.sheets(results)) == 1


# learners told apart


def arrays(seed: int = 0, **means: float) -> dict[str, np.ndarray]:
    """The accuracies of 400 episodes of 5-way 1-shot and of 5-shot for each learner, a little noise about its mean."""
    generator = np.random.default_rng(0)
    hard, noise = generator.normal(0, 0.05, (2, 400)), generator.normal(0, 0.01, (len(means), 2, 400))
    return {
        f"{name}-seed{seed}/5way{shot}shot": mean + hard[place] + noise[i, place]
        for i, (name, mean) in enumerate(means.items())
        for place, shot in enumerate((1, 5))
    }


def alike(results: pd.DataFrame, accuracies: dict[str, np.ndarray]) -> tables.Sheet:
    (sheet,) = [sheet for sheet in tables.sheets(results, accuracies) if sheet.title == "Which can be told apart"]
    return sheet


def letters(sheet: tables.Sheet, learner: str) -> set[str]:
    """The accuracies of 5-way 1-shot."""
    return set(sheet.cells.loc[learner, "5-way 1-shot"].partition(" ")[2])


@pytest.fixture
def plain() -> pd.DataFrame:
    """Three learners without variants."""
    return rows(*({"learner": name, "accuracy": (90.0, 95.0)} for name in ("npair", "siamese", "my_own")))


def test_identical_learners_share_a_letter_and_clearly_different_ones_do_not(plain):
    accuracies = arrays(npair=0.9, siamese=0.7)
    accuracies |= {
        key.replace("npair", "my_own"): values.copy() for key, values in accuracies.items() if "npair" in key
    }
    sheet = alike(plain, accuracies)
    assert letters(sheet, "npair") == letters(sheet, "my_own") == {"a"}
    assert letters(sheet, "siamese") == {"b"}


def test_those_not_told_apart_from_the_best_are_bold(plain):
    sheet = alike(plain, arrays(npair=0.7, siamese=0.9, my_own=0.9) | arrays(my_own=0.8))
    assert sheet.cells.index[0] == "siamese"
    assert sheet.best["5-way 1-shot"].to_dict() == {"siamese": True, "my_own": False, "npair": False}
    assert not sheet.best["rank"].any()


def test_learners_are_in_the_order_of_their_mean_rank(plain):
    one, other = arrays(npair=0.9, siamese=0.8, my_own=0.7), arrays(npair=0.7, siamese=0.9, my_own=0.8)
    sheet = alike(plain, {name: values if "1shot" in name else other[name] for name, values in one.items()})
    assert list(sheet.cells["rank"].items()) == [("siamese", "1.50"), ("npair", "2.00"), ("my_own", "2.50")]


def test_means_are_in_percent_as_in_the_other_tables(plain):
    accuracies = arrays(npair=0.8, siamese=0.9)
    mean = 100 * accuracies["npair-seed0/5way1shot"].mean()
    assert alike(plain, accuracies).cells.loc["npair", "5-way 1-shot"] == f"{mean:.2f} b"


def test_of_several_seeds_the_mean_over_them_is_told_apart():
    """One lucky training is not enough."""
    results = rows(
        *({"learner": name, "accuracy": (90.0, 95.0), "seed": seed} for name in ("npair", "siamese") for seed in (0, 1))
    )
    first, second = arrays(npair=0.95, siamese=0.9), arrays(seed=1, npair=0.8, siamese=0.9)
    sheet = alike(results, first | second)
    mean = 100 * np.mean([one[f"npair-seed{seed}/5way1shot"] for seed, one in enumerate((first, second))])
    assert sheet.cells.loc["npair", "5-way 1-shot"] == f"{mean:.2f} b"
    assert sheet.cells.index.tolist() == ["siamese", "npair"]


def test_one_learner_is_not_told_apart_from_itself(plain):
    one = plain[plain["learner"] == "npair"]
    assert [sheet.title for sheet in tables.sheets(one, arrays(npair=0.9))] == [""]


def test_without_the_accuracies_of_episodes_nobody_is_told_apart(plain):
    assert [sheet.title for sheet in tables.sheets(plain)] == [""]


def test_a_learner_without_accuracies_is_left_out(plain):
    assert set(alike(plain, arrays(npair=0.9, siamese=0.7)).cells.index) == {"npair", "siamese"}


@PAGES
def test_a_page_says_what_the_letters_mean(plain, page):
    text = page(tables.sheets(plain, arrays(npair=0.9, siamese=0.7)))
    assert "cannot be told apart" in " ".join(text.split())


# differences


def test_differences_are_the_paired_ones_in_points(plain):
    accuracies = arrays(npair=0.9, siamese=0.895, my_own=0.89)
    pairs = tables.differences(plain, accuracies).set_index(["shot", "first", "second"])
    first, second = (100 * accuracies[f"{name}-seed0/5way5shot"] for name in ("npair", "my_own"))
    expected = paired(first, second)
    found = pairs.loc[(5, "npair", "my_own"), ["difference", "ci95", "p"]].to_numpy(float)
    assert found == pytest.approx([expected.mean, expected.ci95, expected.p])
    assert found[0] == pytest.approx(1, abs=0.2)


def test_differences_are_corrected_for_the_pairs_of_one_way_and_shot(plain):
    pairs = tables.differences(plain, arrays(npair=0.9, siamese=0.8993, my_own=0.8987))
    assert len(pairs) == 6
    for _, group in pairs.groupby(["way", "shot"]):
        assert group["p_holm"].to_numpy() == pytest.approx(holm(group["p"].to_numpy()))
    assert (pairs["p_holm"] > pairs["p"]).any()


def test_differences_are_those_of_every_two_learners_of_a_way_and_shot(plain):
    pairs = tables.differences(plain, arrays(npair=0.9, siamese=0.8, my_own=0.7))
    expected = [("npair", "siamese"), ("npair", "my_own"), ("siamese", "my_own")]
    found = list(pairs[["way", "shot", "first", "second"]].itertuples(index=False, name=None))
    assert found == [(5, shot, *pair) for shot in (1, 5) for pair in expected]


def test_one_learner_has_no_differences_but_their_columns(plain):
    pairs = tables.differences(plain[plain["learner"] == "npair"], arrays(npair=0.9))
    assert pairs.empty
    assert pairs.columns.tolist() == ["way", "shot", "first", "second", "difference", "ci95", "p", "p_holm"]


# the arrays of models


@pytest.mark.parametrize(
    ("name", "learner"),
    [
        ("npair-seed0", {}),
        ("siamese-koch-seed0", {"learner": "siamese", "variant": "koch"}),
        ("npair-conv4-32-seed0", {"backbone": "conv4-32"}),
        ("npair-5shot-seed0", {}),
        ("npair-conv4-32-5shot-seed0", {"backbone": "conv4-32"}),
        ("npair-timm-resnet10t-seed0", {"backbone": "timm:resnet10t"}),
        ("npair-seed7", {"seed": 7}),
    ],
)
def test_the_accuracies_of_a_row_are_found_by_the_name_of_its_model(name, learner):
    row = rows({"learner": "npair", "accuracy": (90.0, 95.0), **learner}).iloc[1]
    values = np.ones(3)
    assert records.array_of(row, {f"{name}/5way5shot": values, f"{name}/5way1shot": np.zeros(3)}) is values


def test_of_two_models_the_one_for_the_backbone_and_the_shot_counts():
    row = rows({"learner": "npair", "accuracy": (90.0, 95.0), "backbone": "conv4-32"}).iloc[1]
    names = ["npair-conv4-32-5shot", "npair-conv4-32", "npair-5shot", "npair"]
    for i, name in enumerate(names):
        left = {f"{other}-seed0/5way5shot": np.full(3, other) for other in names[i:]}
        assert set(records.array_of(row, left)) == {name}


def test_a_row_that_names_its_model_has_the_array_of_that_model_and_of_no_other():
    row = rows({"learner": "npair", "accuracy": (90.0, 95.0), "model": "npair-5shot-seed0"}).iloc[1]
    values = np.ones(3)
    arrays = {"npair-seed0/5way5shot": np.zeros(3), "npair-5shot-seed0/5way5shot": values}
    assert records.array_of(row, arrays) is values
    assert records.array_of(row, {"npair-seed0/5way5shot": np.zeros(3)}) is None


@pytest.mark.parametrize(
    "name",
    ["npair-seed1/5way5shot", "npair-seed0/20way5shot", "npair-1shot-seed0/5way5shot", "npair-koch-seed0/5way5shot"],
)
def test_the_accuracies_of_another_model_are_not_taken(name):
    row = rows({"learner": "npair", "accuracy": (90.0, 95.0)}).iloc[1]
    assert records.array_of(row, {name: np.ones(3)}) is None


# what learners are called


def test_a_backbone_is_named_where_a_learner_has_several():
    results = rows(
        {"learner": "npair", "accuracy": (90.0, 95.0)},
        {"learner": "npair", "accuracy": (91.0, 96.0), "backbone": "conv4-32"},
        {"learner": "siamese", "accuracy": (89.0, 94.0)},
    )
    assert records.labels(results).unique().tolist() == ["npair, conv4", "npair, conv4-32", "siamese"]


def test_backbones_are_named_where_they_are_of_several_kinds_and_conv4_linear_is_a_conv4():
    results = rows(
        {"learner": "npair", "accuracy": (90.0, 95.0)},
        {"learner": "imprinted", "accuracy": (91.0, 96.0), "backbone": "conv4-linear"},
    )
    assert records.labels(results).unique().tolist() == ["npair", "imprinted"]
    results.loc[results["learner"] == "npair", "backbone"] = "resnet12"
    assert records.labels(results).unique().tolist() == ["npair, resnet12", "imprinted, conv4-linear"]
    results["backbone"] = "conv4-mirrored"  # even if there is no other: it is a measurement of another kind
    assert records.labels(results).unique().tolist() == ["npair, conv4-mirrored", "imprinted, conv4-mirrored"]


# the one-shot challenge


@pytest.fixture
def challenge() -> pd.DataFrame:
    """Two learners with 34 and 13 errors in the 400 trials."""
    results = rows({"learner": "npair", "accuracy": (91.5,)}, {"learner": "siamese", "accuracy": (96.75,)})
    return results.assign(protocol="lake-oneshot", way=20, query=1, episodes=20)


def test_a_challenge_starts_with_its_error_rates_and_their_exact_intervals(challenge):
    sheet = tables.sheets(challenge)[0]
    assert sheet.title == "Error rates"
    interval = scipy.stats.binomtest(34, 400).proportion_ci(0.95, "exact")
    assert sheet.cells.loc["npair"].tolist() == [
        "34 of 400",
        "8.50",
        f"{100 * interval.low:.2f} to {100 * interval.high:.2f}",
    ]


def test_a_challenge_after_several_trainings_starts_with_their_mean_and_its_exact_interval(challenge):
    several = pd.concat([challenge, challenge.assign(seed=1, accuracy=[92.0, 96.75])], ignore_index=True)
    cells = tables.sheets(several)[0].cells
    assert cells.index[:3].tolist() == ["npair, mean of 2 seeds", "siamese, mean of 2 seeds", "npair, seed 0"]
    assert cells["errors"].tolist()[:3] == ["33 of 400", "13 of 400", "34 of 400"]
    for name, errors in (("npair, mean of 2 seeds", 33), ("siamese, mean of 2 seeds", 13)):
        interval = scipy.stats.binomtest(errors, 400).proportion_ci(0.95, "exact")
        assert cells.loc[name, "95 % interval"] == f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
    odd = tables.sheets(several.assign(accuracy=[91.5, 96.75, 91.75, 96.75]))[0].cells
    assert odd.loc["npair, mean of 2 seeds", ["errors", "error rate"]].tolist() == ["33.5 of 400", "8.38"]


@pytest.mark.parametrize("number", [1, 2])
def test_the_challenge_after_a_minimal_training_has_error_rates_too(challenge, number):
    minimal = challenge.assign(protocol=f"lake-oneshot-minimal-{number}")
    assert tables.sheets(minimal)[0].cells.equals(tables.sheets(challenge)[0].cells)


def test_the_fewest_errors_of_a_challenge_are_bold(challenge):
    best = tables.sheets(challenge)[0].best
    assert best["error rate"].to_dict() == {"npair": False, "siamese": True}
    assert best.sum(axis=None) == 1


def test_a_challenge_has_its_accuracies_too(challenge):
    assert tables.sheets(challenge)[1].cells.loc["npair"].tolist() == ["91.50 ± 0.13"]


def test_error_rates_that_cannot_be_told_apart_are_bold_together(challenge):
    generator = np.random.default_rng(2)
    alike = {f"{name}-seed0/20way1shot": generator.normal(0.95, 0.05, 20) for name in ("npair", "siamese")}
    assert tables.sheets(challenge, alike)[0].best["error rate"].tolist() == [True, True]


def test_error_rates_are_those_of_the_challenge_alone(results):
    assert all(sheet.title != "Error rates" for sheet in tables.sheets(results))


def test_a_table_that_is_too_wide_for_a_terminal_is_printed_in_parts_of_whole_cells(capsys):
    heads = [str(session) for session in range(9)]
    cells = pd.DataFrame(
        "50.06 ± 18.68", index=pd.Index(["prototypical (euclidean), seed 0"], name="learner"), columns=heads
    )
    wide = tables.Sheet("Sessions", "Of some data", cells, cells.map(lambda _: False), "A note")
    tables.show([wide], Console(width=80))
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80
    assert said.count("50.06 ± 18.68") == 9
    printed = [line.split() for line in lines if line.split()[:1] == ["learner"]]
    assert [one for line in printed for one in line[1:]] == heads
    assert said.count("A note.") == said.count("Sessions: Of some data") == 1


@pytest.mark.parametrize("width", [80, 100, 120])
def test_columns_of_words_wrap_and_no_number_is_cut(capsys, width):
    words = {
        "change": "classification.smoothing = 0.1, temperature = 64.0",
        "seeds": "3",
        "source": "Snell et al. 2017",
    }
    heads = [f"{way}-way {shot}-shot" for way in (5, 20) for shot in (1, 5)]
    cells = pd.DataFrame(
        {**words, **dict.fromkeys(heads, "57.62 (+1.21 ± 0.12)")}, index=pd.Index(["teacher"], name="run")
    )
    made = tables.Sheet("", "Of some data", cells, cells.map(lambda _: False), "", words=3)
    tables.show([made], Console(width=width))
    said = capsys.readouterr().out
    assert said.count("57.62 (+1.21 ± 0.12)") == 4
    assert all(head in said for head in heads)
    assert max(map(len, said.splitlines())) <= width
