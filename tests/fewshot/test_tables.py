"""Tables: the best in bold, an interval beside every mean, and what the numbers are."""

import pandas as pd
import pytest
from rich.console import Console

from fewshot import tables


def rows(*learners: dict) -> pd.DataFrame:
    """Tidy rows of 5-way 1-shot and 5-way 5-shot; `accuracy` holds the two means."""
    common = {"dataset": "omniglot", "split": "test", "backbone": "conv4", "way": 5, "query": 15, "episodes": 10_000}
    common |= {"train_seconds": 1.0, "eval_seconds": 1.0, "protocol": "vinyals", "image_size": 28, "ci95": 0.126}
    default = {"variant": "", "seed": 0, "transductive": False}
    return pd.DataFrame(
        [
            {**common, **default, **learner, "shot": shot, "accuracy": mean}
            for learner in learners
            for shot, mean in zip((1, 5), learner["accuracy"])
        ],
        columns=tables.COLUMNS,
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


def printed(results: pd.DataFrame, width: int) -> str:
    console = Console(width=width, file=None, record=True)
    with console.capture() as captured:
        tables.show(results, console)
    return captured.get()


def test_markdown_has_the_best_of_each_column_in_bold_and_ties_as_printed(results):
    page = tables.markdown(results)
    assert cells(page, "npair") == ["npair", "**97.12 ± 0.13**", "**99.00 ± 0.13**"]
    assert cells(page, "siamese") == ["siamese (koch)", "96.50 ± 0.13", "**99.00 ± 0.13**"]
    assert cells(page, "my_own") == ["my_own", "95.00 ± 0.13", "98.50 ± 0.13"]


def test_latex_has_the_best_of_each_column_in_bold_and_ties_as_printed(results):
    page = tables.latex(results)
    best = r"\textbf{97.12 $\pm$ 0.13}", r"\textbf{99.00 $\pm$ 0.13}"
    assert cells(page, "npair", "&") == ["npair", *best]
    assert cells(page, "siamese", "&") == ["siamese (koch)", r"96.50 $\pm$ 0.13", best[1]]


def test_latex_is_a_booktabs_table_with_escaped_text(results):
    results["protocol"] = "my_split 50%"
    page = tables.latex(results)
    assert all(rule in page for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{"))
    assert r"my\_own" in page
    assert r"my\_split 50\%" in page
    assert r"95 \% interval" in page
    assert "±" not in page
    assert page.count("{") == page.count("}")


@pytest.mark.parametrize("page", [tables.markdown, tables.latex, lambda results: printed(results, 160)])
def test_a_table_says_what_its_numbers_are(results, page):
    text = page(results)
    for part in ("omniglot", "vinyals", "test classes", "28x28", "10,000 episodes", "15 queries", "interval"):
        assert part in text


@pytest.mark.parametrize("page", [tables.markdown, tables.latex, lambda results: printed(results, 160)])
def test_a_transductive_learner_is_marked(page):
    results = rows(
        {"learner": "npair", "accuracy": (97.0, 99.0)},
        {"learner": "peeking", "accuracy": (98.0, 99.5), "transductive": True},
    )
    marked = [line for line in page(results).splitlines() if "transductive" in line]
    assert len(marked) == 1
    assert "peeking" in marked[0]


@pytest.mark.parametrize("page", [tables.markdown, tables.latex, lambda results: printed(results, 160)])
def test_several_seeds_are_told_apart_and_one_is_not_mentioned(results, page):
    assert "seed" not in page(results)
    several = page(
        rows(
            {"learner": "npair", "accuracy": (97.0, 99.0), "seed": 0},
            {"learner": "npair", "accuracy": (96.0, 98.0), "seed": 1},
        )
    )
    assert "npair, seed 0" in several
    assert "npair, seed 1" in several


def test_columns_are_in_the_order_of_way_and_shot(results):
    twenty = results.assign(way=20)
    text, _ = tables.wide(pd.concat([twenty, results]))
    assert text.columns.tolist() == ["5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"]


def test_learners_are_in_the_order_of_the_rows(results):
    assert tables.wide(results)[0].index.tolist() == ["npair", "siamese (koch)", "my_own"]


def test_a_cell_that_was_not_run_is_a_dash(results):
    text, best = tables.wide(results.drop(index=0))
    assert text.loc["npair", "5-way 1-shot"] == "–"
    assert not best.loc["npair", "5-way 1-shot"]
    assert r"--" in tables.latex(results.drop(index=0))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_shows_every_number_whole(width):
    names = ["siamese", "prototypical", "imprinted", "npair"]
    few = rows(
        *({"learner": name, "variant": "euclidean", "accuracy": (90.11 + i, 95.57 + i)} for i, name in enumerate(names))
    )
    results = pd.concat([few, few.assign(way=20, accuracy=few["accuracy"] - 10)])
    words = printed(results, width).split()
    for number in [*results["accuracy"], 0.13]:
        assert f"{number:.2f}" in words


def test_text_from_outside_is_not_taken_for_markup():
    results = rows({"learner": "odd", "variant": "[red]", "accuracy": (97.0, 99.0)})
    assert "[red]" in printed(results, 160)
