"""Beside the literature: a verdict from both intervals, else a reason, and the source of every number."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import fewshot.comparison
from baselines import published
from fewshot import latex, records, tables
from fewshot.comparison import COLUMNS, compare, sheets
from fewshot.run_folder import read_results

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
RUN = REFERENCE / "quick-omniglot"


def paper(accuracy: float = 95.0, ci95: float = np.nan, **more) -> dict:
    """A published row that compares with those of `ours`."""
    row = {"dataset": "omniglot", "protocol": "vinyals", "kind": "uniform", "method": "Some Networks", "variant": ""}
    row |= {"family": "other", "backbone": "conv4", "image_size": 28, "way": 5, "shot": 1, "query": 15}
    row |= {"episodes": 100_000}
    row |= {"accuracy": accuracy, "ci95": ci95, "league": "inductive", "method_in_suite": "", "paper": "Some et al."}
    row |= {"title": "Some Networks", "year": 2020, "arxiv": "", "read_from": "paper, Table 1", "note": ""}
    return row | more


def literature(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=published().columns).astype({"image_size": "Int64", "ci95": float})


def ours(accuracy: float = 96.0, ci95: float = 0.3, **more) -> dict:
    """A tidy row of a run."""
    row = {"dataset": "omniglot", "split": "test", "learner": "npair", "variant": "", "backbone": "conv4", "way": 5}
    row |= {"shot": 1, "query": 15, "episodes": 10_000, "seed": 0, "accuracy": accuracy, "ci95": ci95}
    row |= {"ci95_open": np.nan, "train_seconds": 1.0, "eval_seconds": 1.0, "protocol": "vinyals", "image_size": 28}
    return row | {"transductive": False, "text": False, "external": False} | more


def results(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=records.COLUMNS)


def compared(mine: dict, theirs: dict) -> pd.Series:
    """The one row of a comparison of one number with one."""
    (row,) = compare(results(mine), literature(theirs)).to_dict("records")
    return pd.Series(row)


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    """The comparison of the committed runs; to be read only."""
    runs = [REFERENCE / name for name in ("quick-mini_imagenet", "quick-omniglot")]
    return pd.concat([compare(read_results(run)[0], run=run.name) for run in runs], ignore_index=True)


# verdicts


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(95.4, "above"), (95.5, "within"), (96.0, "within"), (96.5, "within"), (96.6, "below")]
)
def test_a_verdict_needs_more_than_both_intervals_and_the_rounding(accuracy, verdict):
    row = compared(ours(96.0, 0.3), paper(accuracy, 0.4))
    assert row["difference"] == pytest.approx(96 - accuracy)
    assert row["difference_ci95"] == pytest.approx(0.5 + 0.05)  # sqrt(0.3^2 + 0.4^2), and half a digit
    assert (row["verdict"], row["reasons"]) == (verdict, [])


@pytest.mark.parametrize(
    ("accuracy", "verdict"), [(96.33, "within"), (95.67, "within"), (96.36, "above"), (95.64, "below")]
)
def test_the_half_unit_of_the_last_digit_may_be_all_the_difference(accuracy, verdict):
    row = compared(ours(accuracy, 0.3), paper(96.0, 0.0))
    assert row["difference_ci95"] == pytest.approx(0.35)
    assert row["verdict"] == verdict


def test_a_source_with_two_decimals_has_the_smaller_rounding():
    """96.0 stands for 96.00 if the source has a 93.26."""
    rows = compare(results(ours(96.32, 0.3)), literature(paper(96.0, 0), paper(93.26, 0, method="Other Networks")))
    assert rows["decimals"].tolist() == [2, 2]
    assert rows["difference_ci95"].tolist() == pytest.approx([0.305, 0.305])
    assert rows["verdict"].tolist() == ["above", "above"]


def test_decimals_are_those_of_each_source():
    rows = compare(results(ours()), literature(paper(96.0), paper(93.26, paper="Other et al.")))
    assert rows["decimals"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("episodes", "times", "how"), [(10_000, 1, "episodes"), (400, 5, "episodes"), (pd.NA, np.sqrt(10), "assumed")]
)
def test_a_paper_without_an_interval_gets_that_of_its_episodes_with_our_spread(episodes, times, how):
    """Ours has 10,000 episodes; if the source does not state theirs, 1,000 are assumed."""
    row = compared(ours(96.0, 0.3), paper(95.0, episodes=episodes))
    assert (row["reckoned_ci95"], row["reckoned_from"]) == (pytest.approx(0.3 * times), how)
    assert row["difference_ci95"] == pytest.approx(np.hypot(0.3, 0.3 * times) + 0.05)
    assert np.isnan(row["published_ci95"])  # it stays what was printed


def test_a_printed_interval_is_taken_as_it_is():
    row = compared(ours(96.0, 0.3), paper(95.0, 0.4))
    assert (row["reckoned_ci95"], row["reckoned_from"]) == (0.4, "interval")


def test_two_samples_of_one_accuracy_are_seldom_told_apart():
    """The same method measured twice, theirs on 1,000 episodes and printed without an interval."""
    generator, apart = np.random.default_rng(0), 0
    for _ in range(40):
        mine, theirs = (96 + generator.normal(0, 10, count) for count in (10_000, 1000))
        row = compared(ours(mine.mean(), 1.96 * mine.std() / 100), paper(round(theirs.mean(), 2), episodes=1000))
        apart += row["verdict"] != "within"
    assert apart <= 4


def test_several_seeds_leave_the_choice_of_episodes_open_too():
    """Three trainings that agree on the same few episodes say nothing of other episodes."""
    three = results(*(ours(96.0, 0.5, seed=seed) for seed in range(3)))
    (row,) = compare(three, literature(paper(95.5, 0.0))).to_dict("records")
    assert row["ci95"] == 0
    assert row["difference_ci95"] == pytest.approx(0.5 + 0.05)
    assert row["verdict"] == "within"


def test_the_intervals_over_seeds_and_over_episodes_are_joined():
    three = results(*(ours(mean, 0.4, seed=seed) for seed, mean in enumerate((95.0, 96.0, 97.0))))
    (row,) = compare(three, literature(paper(94.0, 0.3))).to_dict("records")
    assert row["difference_ci95"] == pytest.approx(np.sqrt(4.302653**2 / 3 + 0.4**2 + 0.3**2) + 0.05)


def test_several_seeds_count_as_one_with_the_interval_over_seeds():
    # mean 96, standard deviation 1; 4.302653 is the t quantile of 2 degrees of freedom
    three = results(*(ours(mean, 0.1, seed=seed) for seed, mean in enumerate((95.0, 96.0, 97.0))))
    (row,) = compare(three, literature(paper(94.0))).to_dict("records")
    assert (row["accuracy"], row["interval"], row["label"]) == (96.0, "seeds", "npair")
    assert row["ci95"] == pytest.approx(4.302653 / np.sqrt(3))
    assert row["verdict"] == "within"
    assert compared(ours(96.0, 0.1), paper(94.0))["verdict"] == "above"  # what one of them would have said


def test_one_seed_has_the_papers_interval():
    row = compared(ours(96.0, 0.3), paper())
    assert (row["interval"], row["ci95"]) == ("episodes", 0.3)


def test_another_data_set_way_or_shot_is_not_set_beside_ours():
    others = literature(paper(dataset="mini_imagenet"), paper(way=20), paper(shot=5))
    assert compare(results(ours()), others).empty


def test_the_published_numbers_are_what_is_compared_with(reference):
    known = published()[["method", "accuracy", "paper"]].itertuples(index=False, name=None)
    found = reference[["method", "published", "source"]].itertuples(index=False, name=None)
    assert set(found) <= set(known)


# what is not comparable, and why


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"protocol": "lake"}, "another split: lake"),
        ({"protocol": "pooled"}, "another split: pooled"),
        ({"protocol": "lake-within-alphabet"}, "another split: lake-within-alphabet (not in the suite)"),
        ({"league": "transductive"}, "transductive"),
        ({"league": "external-data"}, "trained on more data"),
        ({"league": "class-names"}, "uses the names of classes"),
        ({"league": "not-stated"}, "does not say whether it is transductive"),
        ({"backbone": "resnet12"}, "backbone resnet12, ours conv4"),
        ({"backbone": "conv4-32"}, "backbone conv4-32, ours conv4"),
        ({"protocol": "not-stated"}, "split not stated"),
        ({"backbone": ""}, "backbone not stated"),
        ({"backbone": "none"}, "no network"),
        ({"image_size": 84}, "84x84 pixels, ours 28x28"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_measured_otherwise_is_not_comparable_and_says_why(odd, reason):
    row = compared(ours(99.0), paper(80.0, **odd))
    assert (row["verdict"], row["reasons"]) == ("not comparable", [reason])


def test_all_reasons_are_told_the_weightiest_first():
    row = compared(ours(), paper(protocol="lake", league="transductive", backbone="", image_size=84))
    assert row["reasons"] == [
        *("another split: lake", "transductive", "backbone not stated", "84x84 pixels, ours 28x28")
    ]


@pytest.mark.parametrize("odd", [{"backbone": "none", "image_size": 105}, {"backbone": ""}, {"backbone": "koch"}])
def test_the_one_shot_challenge_compares_whole_systems(odd):
    mine, theirs = ours(94.75, 2.5, protocol="lake-oneshot"), paper(92.0, protocol="lake-oneshot", **odd)
    assert compared(mine, theirs)["verdict"] == "above"


def test_another_split_is_no_part_of_the_challenge():
    mine, theirs = ours(94.75, 2.5, protocol="lake-oneshot"), paper(92.0, backbone="none")
    assert compared(mine, theirs)["reasons"] == ["another split: vinyals", "no network"]


def test_an_image_size_that_is_not_stated_is_no_reason():
    assert compared(ours(99.0), paper(80.0, image_size=pd.NA))["verdict"] == "above"


@pytest.mark.parametrize(("mine", "theirs"), [("conv4-linear", "conv4"), ("conv4-3pool-linear", "conv4-3pool")])
def test_a_backbone_without_its_last_relu_is_of_the_same_kind(mine, theirs):
    assert compared(ours(99.0, backbone=mine), paper(80.0, backbone=theirs))["verdict"] == "above"


def test_a_mean_over_mirror_images_is_not_what_papers_measure():
    for mine in ("conv4-mirrored", "conv4-linear-mirrored"):
        assert compared(ours(99.0, backbone=mine), paper(80.0))["reasons"] == ["ours averages over mirror images"]


def test_a_backbone_of_another_depth_is_not_of_the_same_kind():
    row = compared(ours(99.0, backbone="conv4-3pool-linear"), paper(80.0, backbone="conv4"))
    assert (row["verdict"], row["reasons"]) == ("not comparable", ["backbone conv4, ours conv4-3pool-linear"])


def test_a_transductive_result_of_ours_compares_with_transductive_ones_alone():
    leagues = ["inductive", "transductive", "external-data", "class-names", "not-stated"]
    rows = compare(results(ours(transductive=True)), literature(*(paper(90.0, league=league) for league in leagues)))
    reasons = rows.set_index("league")["reasons"].map("; ".join)
    assert reasons[reasons == ""].index.tolist() == ["transductive"]
    assert reasons["inductive"] == "inductive"
    assert rows.set_index("league").loc["transductive", "verdict"] == "above"


@pytest.mark.parametrize(
    ("mine", "comparable", "of_inductive"),
    [
        ({"text": True}, "class-names", "ours uses the names of classes"),
        ({"external": True}, "external-data", "ours trained on more data"),
        ({"text": True, "external": True}, None, "ours trained on more data; ours uses the names of classes"),
        (
            {"text": True, "learner": "clip", "variant": "zero-shot"},
            None,
            "ours uses the names of classes; ours sees no support images",
        ),
    ],
)
def test_what_of_ours_knows_more_compares_within_its_league_alone(mine, comparable, of_inductive):
    leagues = ["inductive", "transductive", "external-data", "class-names", "not-stated"]
    rows = compare(results(ours(**mine)), literature(*(paper(90.0, league=league) for league in leagues)))
    reasons = rows.set_index("league")["reasons"].map("; ".join)
    assert reasons[reasons == ""].index.tolist() == ([comparable] if comparable else [])
    assert reasons["inductive"] == of_inductive


def test_runs_from_before_leagues_compare_as_they_did(reference):
    before = pd.read_csv(REFERENCE / "quick-mini_imagenet" / "results.csv", nrows=1)
    assert not {"text", "external"} & set(before.columns)
    assert (reference[["text", "external"]] == False).all(axis=None)  # noqa: E712  booleans, and not empty
    assert not reference["reasons"].map("; ".join).str.contains("ours uses|ours trained|ours sees").any()


def test_every_row_has_a_verdict_or_a_reason(reference):
    apart = reference["verdict"] == "not comparable"
    assert (reference["reasons"].map(len) > 0).equals(apart)
    assert set(reference.loc[~apart, "verdict"]) == {"above", "within", "below"}


def test_nothing_comparable_was_measured_otherwise(reference):
    same = reference[reference["verdict"] != "not comparable"]
    assert (same["published_protocol"] == same["protocol"]).all()
    assert (same["league"] == "inductive").all()
    assert (same["published_backbone"] == same["backbone"].str.removesuffix("-linear")).all()
    assert (same["published_size"].isna() | (same["published_size"] == same["image_size"])).all()


# tables


FOUR = literature(
    paper(95.0, method="Low"),
    paper(99.0, method="Elsewhere", protocol="lake"),
    paper(97.0, method="High", variant="tuned"),
    paper(98.0, method="Other", league="transductive"),
)


def test_a_table_has_the_best_published_number_first_and_ours_as_columns():
    mine = results(ours(), ours(97.5, learner="siamese", variant="koch"))
    (sheet,) = sheets(compare(mine, FOUR, run="mine"))
    assert sheet.caption == "mine: omniglot (vinyals), 5-way 1-shot, comparable"
    assert sheet.cells.index.tolist() == ["ours", "High (tuned)", "Low"]
    assert sheet.cells.columns.tolist() == ["source", "backbone", "published", "npair", "siamese (koch)"]
    assert sheet.cells.loc["ours"].tolist() == ["", "", "", "96.00 ± 0.30", "97.50 ± 0.30"]


def test_a_cell_is_ours_minus_theirs_and_the_verdict():
    (sheet,) = sheets(compare(results(ours()), FOUR))
    assert sheet.cells["npair"].tolist()[1:] == ["−1.00 below", "+1.00 above"]


def test_above_and_within_are_bold_and_below_is_not():
    several = literature(*(paper(mean, method=f"{mean}") for mean in (95.0, 96.0, 97.0)))
    (sheet,) = sheets(compare(results(ours()), several))
    assert sheet.best.iloc[:, -1].to_dict() == {"ours": False, "97.0": False, "96.0": True, "95.0": True}
    assert not sheet.best[["source", "published"]].any(axis=None)


def test_published_numbers_are_as_their_source_printed_them():
    several = literature(
        paper(95.0, 0.5, method="One"),
        paper(94.0, method="Two"),
        paper(93.10, 0.8, method="Three", paper="Other et al."),
        paper(92.25, method="Four", paper="Other et al."),
    )
    (sheet,) = sheets(compare(results(ours()), several))
    assert sheet.cells["published"].tolist()[1:] == ["95.0 ± 0.5", "94.0", "93.10 ± 0.80", "92.25"]


def test_a_number_whose_episodes_are_assumed_is_marked_and_the_note_says_so():
    several = literature(paper(95.0, 0.5, method="One"), paper(94.0, method="Two", episodes=pd.NA))
    (sheet,) = sheets(compare(results(ours()), several))
    assert sheet.cells["published"].to_dict() == {"ours": "", "One": "95.0 ± 0.5", "Two": "94.0*"}
    assert "* marks a number whose source does not state how many" in sheet.note


def test_what_is_not_comparable_is_left_out_where_something_is():
    assert len(sheets(compare(results(ours()), FOUR))) == 1


def test_all_of_it_stands_in_tables_apart_another_split_last():
    same, otherwise, split = sheets(compare(results(ours()), FOUR), every=True)
    assert same.cells.index.tolist()[1:] == ["High (tuned)", "Low"]
    assert otherwise.cells["why not comparable"].to_dict() == {"ours": "", "Other": "transductive"}
    assert split.cells.index.tolist()[1:] == ["Elsewhere"]
    assert split.caption.endswith("another split")


def test_what_is_not_comparable_has_no_verdict_and_no_bold():
    for sheet in sheets(compare(results(ours()), FOUR), every=True)[1:]:
        assert not sheet.best.any(axis=None)
        assert sheet.cells.iloc[1, -1] in {"−2.00", "−3.00"}
        assert "orientation only" in sheet.note


def test_where_nothing_is_comparable_the_nearest_are_shown_with_the_reason():
    far = [paper(90.0 + i, method=f"Far {i}", backbone="resnet12", league="transductive") for i in range(9)]
    near = [paper(80.0, method="Near", image_size=84), paper(81.0, method="Next", protocol="lake", image_size=84)]
    (sheet,) = sheets(compare(results(ours()), literature(*far, *near)))
    assert "nothing is comparable" in sheet.caption
    assert sheet.cells.index.tolist()[1:] == [f"Far {i}" for i in (8, 7, 6, 5, 4, 3, 2)] + ["Near"]
    assert (sheet.cells["why not comparable"][1:] != "").all()


def test_the_nearest_never_stand_among_the_comparable(reference):
    for sheet in sheets(reference, every=True) + sheets(reference):
        comparable = sheet.caption.endswith(", comparable")
        assert ("why not comparable" in sheet.cells) != comparable


@pytest.fixture
def peeking() -> pd.DataFrame:
    """The comparison of an inductive learner and a transductive one."""
    return compare(results(ours(), ours(97.5, learner="peeking", transductive=True)), FOUR)


def test_a_row_that_compares_with_one_of_ours_alone_is_a_dash_for_the_other(peeking):
    same, otherwise, _ = sheets(peeking, every=True)
    npair, transductive = "npair", "peeking [transductive]"
    assert same.cells.loc["Other", [npair, transductive]].tolist() == ["–", "−0.50 below"]
    assert otherwise.cells.loc["Other", [npair, transductive]].tolist() == ["−2.00", "–"]


def test_ours_are_in_the_order_of_the_run_in_every_table(peeking):
    for sheet in sheets(peeking, every=True):
        ours_of_it = [name for name in sheet.cells.columns if name in ("npair", "peeking [transductive]")]
        assert ours_of_it == sorted(ours_of_it)


def test_more_learners_than_stand_beside_each_other_have_tables_of_five_the_best_first():
    accuracies = [90.0, 97.0, 92.0, 96.0, 91.0, 95.0, 93.0]
    many = compare(results(*(ours(each, learner=f"at-{each:.0f}") for each in accuracies)), literature(paper()))
    first, second = sheets(many, every=True)
    assert list(first.cells.columns[-5:]) == ["at-97", "at-96", "at-95", "at-93", "at-92"]
    assert list(second.cells.columns[-2:]) == ["at-91", "at-90"]
    assert "our learners 6 to 7 of 7" in second.caption


def test_many_learners_stand_in_one_table_beside_the_best_published_number_of_each():
    accuracies = [90.0, 97.0, 92.0, 96.0, 91.0, 95.0, 93.0]
    learners = [ours(each, learner=f"at-{each:.0f}") for each in accuracies]
    # an approximate copy of the best, which sees all queries of an episode at once and compares with its like alone
    papers = literature(paper(94.0), paper(95.5, method="Best"), paper(99.0, method="Other", league="transductive"))
    many = compare(results(*learners), papers)
    (sheet,) = sheets(many)
    assert list(sheet.cells.index) == [f"at-{each:.0f}" for each in sorted(accuracies, reverse=True)]
    assert sheet.cells["best comparable"].str.startswith("Best, ").all()
    assert sheet.cells.loc["at-97", "difference"] == "+1.50 above"
    assert sheet.cells.loc["at-90", "difference"] == "−5.50 below"
    sides = sheet.cells[["above ours", "within", "below ours"]]
    assert sides.loc["at-97"].tolist() == ["0", "0", "2"]
    assert sides.loc["at-90"].tolist() == ["2", "0", "0"]
    assert sheet.best["difference"].tolist() == [not cell.endswith("below") for cell in sheet.cells["difference"]]


def test_of_many_learners_without_a_comparable_number_the_nearest_are_shown():
    learners = [ours(90.0 + number, learner=f"number-{number}") for number in range(7)]
    (sheet,) = sheets(compare(results(*learners), literature(paper(league="transductive"))))
    assert "nothing is comparable; nearest" in sheet.caption
    assert sheet.cells.columns[-1] == "number-2"


def test_every_row_of_every_table_names_its_source(reference):
    known = set(published()["paper"])
    for sheet in sheets(reference, every=True):
        assert set(sheet.cells["source"][1:]) <= known


def test_every_published_number_of_the_data_set_is_in_one_table(reference):
    rows = reference[(reference["run"] == "quick-omniglot") & (reference["way"] == 20) & (reference["shot"] == 5)]
    found = sheets(rows, every=True)
    here = published(dataset="omniglot", way=20, shot=5)
    assert sorted(name for sheet in found for name in sheet.cells["source"][1:]) == sorted(here["paper"])


def test_tables_do_not_depend_on_the_order_of_the_literature():
    one, other = (sheets(compare(results(ours()), part), every=True) for part in (FOUR, FOUR[::-1]))
    for sheet, again in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(sheet.cells, again.cells)


def test_a_name_in_the_literature_is_not_taken_for_markup():
    console = Console(width=160)
    with console.capture() as captured:
        tables.show(sheets(compare(results(ours()), literature(paper(method="[red]Some")))), console)
    assert "[red]Some" in captured.get()


def test_a_narrow_terminal_shows_every_name_whole():
    """A cut name may lose the only difference of two rows: conv4-… is conv4-32, conv4-64 and conv4-128."""
    console = Console(width=80)
    odd = paper(method="Prototypical Networks", backbone="conv4-128", paper="Gidaris & Komodakis 2018")
    mine = [ours(learner=name, variant="contrastive") for name in ("siamese", "prototypical", "imprinted", "npair")]
    with console.capture() as captured:
        tables.show(sheets(compare(results(*mine), literature(odd))), console)
    assert "…" not in captured.get()


def test_a_data_set_without_published_numbers_has_no_table():
    found = compare(results(ours(dataset="toy")))
    assert found.columns.tolist() == COLUMNS
    assert sheets(found, every=True) == sheets(found) == []
    assert tables.markdown([]) == latex.page([], "cmp") == ""


def test_a_method_that_several_sources_have_is_written_to_latex_for_each():
    several = literature(paper(95.0), paper(97.0, paper="Other et al."), paper(94.0, note="re-run"))
    page = latex.page(sheets(compare(results(ours()), several)), "cmp")
    assert page.count("Some Networks, ") == 3
    assert page.count(r"\textbf{") == 2


def test_a_latex_page_is_booktabs_with_escaped_text():
    odd = paper(95.0, 0.5, method="Rock & Roll_1", variant="50 % of #2", paper="A_B & C")
    page = latex.page(sheets(compare(results(ours(learner="my_own")), literature(odd), run="run_1 & 2")), "cmp")
    assert all(rule in page for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{run\_1 \& 2: "))
    assert r"Rock \& Roll\_1 (50 \% of \#2), A\_B \& C, conv4 & 95.0 $\pm$ 0.5 & \textbf{+1.00 above}" in page
    assert r"& my\_own \\" in page
    assert r"96.00 $\pm$ 0.30" in page
    assert page.isascii()


# the command line


@pytest.fixture
def run(tmp_path):
    """A copy of the files of a committed run that compare needs, to be changed."""
    folder = tmp_path / "runs" / "quick-omniglot"
    folder.mkdir(parents=True)
    for name in ("results.csv", "episodes.npz"):
        shutil.copy(RUN / name, folder)
    return folder


@pytest.fixture
def few(monkeypatch):
    """The literature is short, so that calls are fast."""
    monkeypatch.setattr(fewshot.comparison, "published", lambda: FOUR)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def refused(said) -> str:
    assert said.code == 2
    assert "Traceback" not in said.out + said.err
    (line,) = said.err.splitlines()
    return line


def test_a_changed_digit_in_the_results_changes_the_verdict(call, run, tmp_path):
    """Each comparison computes the verdicts anew from the rows of the run, which its episodes must confirm."""
    text = (run / "results.csv").read_text(encoding="utf-8")
    with np.load(run / "episodes.npz") as arrays:
        episodes = dict(arrays)
    accuracy = read(run / "results.csv").query("way == 5 and shot == 1")["accuracy"].max()
    assert text.count(f",{accuracy},") == 1
    found = []
    for place, changed in enumerate((accuracy, round(accuracy - 1, 4))):
        (run / "results.csv").write_text(text.replace(f",{accuracy},", f",{changed},"), encoding="utf-8")
        if changed != accuracy:
            assert "but the mean of its episodes is" in refused(call("compare", run))
            (name,) = [name for name, values in episodes.items() if abs(100 * values.mean() - accuracy) < 1e-4]
            np.savez(run / "episodes.npz", **{**episodes, name: episodes[name] - 0.01})
        assert call("compare", run, "--output", tmp_path / f"{place}.csv").code == 0
        found.append(read(tmp_path / f"{place}.csv"))
    before, after = found
    other = before["verdict"] != after["verdict"]
    assert other.any()
    assert set(before.loc[other, "accuracy"]) == {accuracy}
    assert set(before.loc[other, "verdict"]) <= {"above", "within"}
    assert set(after.loc[other, "verdict"]) <= {"within", "below"}


def test_the_same_run_compares_to_the_same_bytes(call, run, tmp_path, few):
    for name in ("one.csv", "two.csv", "one.md", "two.md"):
        assert call("compare", run, "--output", tmp_path / name).code == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.md").read_bytes() == (tmp_path / "two.md").read_bytes()


def test_compare_leaves_the_run_as_it_is(call, run, few):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert call("compare", run).code == 0
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_compare_prints_a_table_for_each_way_and_shot_that_has_published_numbers(call, run, few):
    said = call("compare", run)
    assert said.code == 0
    assert said.out.count("5-way 1-shot, comparable") == 1
    assert "20-way" not in said.out
    assert "High (tuned)" in said.out
    assert "Elsewhere" not in said.out


def test_all_that_is_not_comparable_is_printed_where_it_is_asked_for(call, run, few):
    said = call("compare", run, "--all")
    assert "Elsewhere" in said.out
    assert "another split: lake" in said.out


def test_a_csv_has_every_row_with_its_verdict_and_its_source(call, run, tmp_path, few):
    said = call("compare", run, "--output", tmp_path / "c.csv")
    assert f"Written to {tmp_path / 'c.csv'}" in said.out
    rows = read(tmp_path / "c.csv")
    assert rows.columns.tolist() == [*COLUMNS[:-1], "reason"]
    assert len(rows) == len(FOUR) * len(read(run / "results.csv").query("way == 5 and shot == 1"))
    assert (rows[["verdict", "source"]] != "").all(axis=None)


def test_a_markdown_page_has_what_is_not_comparable_too(call, run, tmp_path, few):
    call("compare", run, "--output", tmp_path / "c.md", "--all")
    page = (tmp_path / "c.md").read_text()
    for name in ("High (tuned)", "Elsewhere", "another split: lake", "| **+", "Some et al."):
        assert name in page


def test_a_latex_page_has_what_is_not_comparable_too(call, run, tmp_path, few):
    assert call("compare", run, "--output", tmp_path / "c.tex", "--all").code == 0
    page = (tmp_path / "c.tex").read_text()
    assert page.count(r"\toprule") == page.count(r"\bottomrule") == 6  # two share the learners of each of three
    assert "Elsewhere" in page


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_page_has_what_is_comparable_alone_unless_all_of_it_is_asked_for(call, run, tmp_path, few, suffix):
    path = tmp_path / f"c.{suffix}"
    assert call("compare", run, "--output", path).code == 0
    assert "High (tuned)" in path.read_text()
    assert "Elsewhere" not in path.read_text()


def test_another_suffix_is_refused_in_one_sentence(call, run, tmp_path, few):
    line = refused(call("compare", run, "--output", tmp_path / "c.xlsx"))
    assert line == "fewshot: a comparison is written as .csv, .md, .tex, not as 'c.xlsx'"
    assert not (tmp_path / "c.xlsx").exists()


def test_a_folder_that_is_no_run_is_refused_in_one_sentence(call, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        assert f"{path} is no run's folder and holds none" in refused(call("compare", path))


def test_one_folder_that_is_no_run_is_refused_among_those_that_are(call, run, tmp_path):
    assert "nowhere" in refused(call("compare", run, tmp_path / "nowhere"))


@pytest.mark.parametrize("damage", ["results.csv", "episodes.npz"])
def test_a_damaged_run_is_refused_in_one_sentence(call, run, damage):
    (run / damage).write_text("half")
    assert f"the run in {run} is damaged" in refused(call("compare", run))


def test_the_output_of_a_comparison_is_not_told_as_the_way_out_of_a_damaged_run(call, run):
    (run / "episodes.npz").write_text("half")
    assert "--output" not in refused(call("compare", run))


def test_a_folder_of_runs_is_all_of_them(call, tmp_path):
    said = call("compare", REFERENCE, "--output", tmp_path / "c.csv")
    assert said.code == 0
    files = {path.parent.name: path for path in REFERENCE.glob("*/results.csv")}
    known = set(published()["dataset"])
    runs = [name for name, path in sorted(files.items()) if pd.read_csv(path)["dataset"].isin(known).any()]
    assert len(runs) >= 4
    assert read(tmp_path / "c.csv")["run"].unique().tolist() == runs


def test_the_tables_of_a_folder_of_runs_name_the_run(call, tmp_path):
    for name in ("quick-mini_imagenet", "quick-omniglot"):
        shutil.copytree(REFERENCE / name, tmp_path / name)
    said = call("compare", tmp_path)
    assert "quick-mini_imagenet: mini_imagenet (ravi), 5-way 1-shot, nothing is comparable; nearest" in said.out
    assert "quick-omniglot: omniglot (vinyals), 5-way 1-shot, comparable" in said.out


def test_two_runs_of_one_name_have_tables_of_their_own(call, run, tmp_path, few):
    other = shutil.copytree(run, tmp_path / "others" / run.name)
    said = call("compare", run, other, "--output", tmp_path / "c.csv")
    assert said.code == 0
    assert read(tmp_path / "c.csv")["run"].nunique() == 2
    assert call("compare", run, other).out.count("5-way 1-shot, comparable") == 2


def test_a_run_that_is_named_twice_is_there_once(call, run, few):
    said = call("compare", run, run.parent)
    assert said.code == 0
    assert said.out.count("5-way 1-shot, comparable") == 1


def test_the_folder_one_is_in_has_its_name(call, run, few, monkeypatch):
    monkeypatch.chdir(run)
    assert "quick-omniglot: omniglot (vinyals)" in call("compare", ".").out


def test_a_run_without_published_numbers_prints_no_table_and_stands_in_nobodys_way(call, run, few):
    toy = run.parent / "toy"
    shutil.copytree(run, toy)
    text = (toy / "results.csv").read_text()
    (toy / "results.csv").write_text(text.replace("omniglot,", "toy,"))
    alone = call("compare", toy)
    assert (alone.code, alone.err) == (0, "")
    assert "±" not in alone.out
    both = call("compare", run.parent)
    assert both.code == 0
    assert both.out.count(", comparable") == 1


def test_a_comparison_without_any_row_is_written_as_its_columns(call, run, tmp_path, few):
    text = (run / "results.csv").read_text()
    (run / "results.csv").write_text(text.replace("omniglot,", "toy,"))
    assert call("compare", run, "--output", tmp_path / "c.csv").code == 0
    assert read(tmp_path / "c.csv").columns.tolist() == [*COLUMNS[:-1], "reason"]


# kinds of episodes, and the sentence at the end


def test_only_published_numbers_of_the_same_kind_of_episodes_are_set_beside_ours():
    both = literature(paper(90.0), paper(80.0, kind="dirichlet:2", method="Other Networks"))
    assert compare(results(ours()), both)["method"].tolist() == ["Some Networks"]
    found = compare(results(ours()), both, kind="dirichlet:2")
    assert found[["kind", "method"]].values.tolist() == [["dirichlet:2", "Other Networks"]]
    (sheet,) = sheets(found)
    assert sheet.caption == "omniglot (vinyals), 5-way 1-shot, dirichlet:2, comparable"


def test_a_run_with_dirichlet_queries_is_compared_with_numbers_that_have_them(monkeypatch, call, tmp_path):
    """What `compare` lays beside kinds.csv are the rows of that kind."""
    kinds = pd.concat([results(ours(dataset="mini_imagenet", protocol="ravi"))] * 2).assign(
        kind=["uniform", "dirichlet:2"], backbone="resnet18", image_size=84, learner="pt-map", transductive=True
    )
    monkeypatch.setattr("fewshot.commands.compare.read_protocols", lambda run: {"kinds": kinds})
    said = call("compare", RUN, "--output", tmp_path / "c.csv")
    assert said.code == 0
    rows = pd.read_csv(tmp_path / "c.csv", keep_default_na=False)
    dirichlet = rows[rows["kind"] == "dirichlet:2"]
    assert set(dirichlet["source"]) == {"Veilleux et al. 2021"}
    assert set(dirichlet[dirichlet["verdict"] != "not comparable"]["league"]) == {"transductive"}


def test_the_sentence_counts_each_published_result_once_beside_our_best():
    mine = results(ours(96.0), ours(98.0, learner="siamese"))
    theirs = literature(
        *(paper(mean, method=f"{mean}") for mean in (99.5, 98.1, 97.0, 90.0)),
        paper(99.0, method="elsewhere", protocol="lake"),
    )
    assert fewshot.comparison.summary(compare(mine, theirs)) == (
        "Of the 4 comparable published results, ours lies below 1, within the intervals of 1 and above 2; each is"
        " beside the best of our results that it compares with, and 1 others are not comparable."
    )


def test_the_sentence_says_if_nothing_is_comparable():
    said = fewshot.comparison.summary(compare(results(ours()), literature(paper(protocol="lake"))))
    assert said == "None of the 1 published results of these data sets, ways and shots is comparable with ours."


def test_compare_ends_with_the_sentence(call, tmp_path):
    last = call("compare", RUN).out.strip().splitlines()[-1]
    assert last.startswith("Of the 44 comparable published results, ")
    call("compare", RUN, "--output", tmp_path / "c.md")
    assert (tmp_path / "c.md").read_text().strip().splitlines()[-1] == last
