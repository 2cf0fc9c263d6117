"""The board of many runs, and the order, the verdicts and the costs that pages show."""

import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Browser, find_browser
from conftest import refusal

from baselines import published
from fewshot.benchmark import run_benchmark
from fewshot.comparison import compare
from fewshot.config import load_config
from fewshot.records import LEARNER
from fewshot.report import standings, write_board, write_report
from fewshot.report.cost import cost_sheet, settings_of
from fewshot.report.data import read_about, read_run
from fewshot.report.figures import axis_start, differences_map
from fewshot.report.published import VERDICTS, published_rows
from fewshot.report.ranking import at_a_glance, difference_grids, ranked_learners
from fewshot.report.rendering import paper_link
from fewshot.report.standings import Entry, Panel, panels_of

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


class Outline(HTMLParser):
    """What a page has for readers who do not see it: levels of headings, controls without a label, and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.unnamed: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self._labels = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._labels += tag == "label"
        self.ids += [given["id"]] if "id" in given else []
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("input", "select") and not self._labels:
            self.unnamed.append(tag)
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(tag)
        if given.get("role") == "region" and not given.get("aria-label"):
            self.unnamed.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        else:
            self.loads += [given[name] for name in ("src", "href", "srcset", "action") if name in given]

    def handle_endtag(self, tag):
        self._labels -= tag == "label"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The board of two committed runs, and the reports of both: of four learners, and of 22."""
    home = tmp_path_factory.mktemp("pages")
    for name in ("quick-omniglot", "quick-omniglot-all"):
        shutil.copytree(REFERENCE / name, home / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.report.page.Picture.png", b"")  # which takes half of the time
        made = {name: write_report(home / name) for name in ("quick-omniglot", "quick-omniglot-all")}
    return {"board": write_board(home), **made}


@pytest.fixture(scope="module")
def runs():
    """The two committed runs."""
    return [read_run(REFERENCE / name) for name in ("quick-omniglot", "quick-omniglot-all")]


@pytest.fixture(scope="module")
def panel(runs) -> Panel:
    """Their ranking of 20-way 1-shot."""
    wanted = ("omniglot (vinyals)", "inductive", "20-way 1-shot")
    (found,) = [panel for panel in panels_of(runs) if (panel.split, panel.league, panel.task) == wanted]
    return found


def entry(accuracy: float, width: float, **more) -> Entry:
    names = {"name": f"{accuracy}", "half": width, "decimals": 2, "backbone": "conv4", "size": "28"}
    return Entry(accuracy=accuracy, width=width, **names, source="a", link="", family="ours", **more)


def test_pages_have_an_outline_names_and_nothing_to_load(pages):
    for page in pages.values():
        text = page.read_text(encoding="utf-8")
        outline = Outline(text)
        assert len(text.encode()) < 5e6
        assert outline.levels[0] == 1
        assert outline.levels.count(1) == 1
        assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:]))
        assert not outline.unnamed
        assert all(address.startswith("data:") for address in outline.loads)
        assert len(outline.ids) == len(set(outline.ids))
        assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
        assert "default-src 'none'" in text


def test_every_learner_and_published_number_of_a_task_has_one_place(runs, panel):
    theirs = published("omniglot", "vinyals", way=20, shot=1, kind="uniform", league="inductive")
    assert sorted(place.entry.source for place in panel.places if place.entry.run < 0) == sorted(theirs["paper"])
    for number, run in enumerate(runs):
        rows = run.results.query("way == 20 and shot == 1 and not text")
        shown = [place.entry.accuracy for place in panel.places if place.entry.run == number]
        assert sorted(shown) == sorted(rows["accuracy"])


def test_the_source_of_each_number_is_one_click_away(pages, panel):
    text = pages["board"].read_text(encoding="utf-8")
    for place in panel.places:
        if place.entry.run >= 0:
            assert place.entry.link == f"#run-{place.entry.run}"
            assert f'id="run-{place.entry.run}"' in text
    assert "make bench LEARNER=all OUTPUT=results/quick-omniglot-all" in text
    assert 'href="https://arxiv.org/abs/1703.05175"' in text  # Snell et al. 2017
    assert 'href="quick-omniglot/report.html"' in text


def test_learners_of_one_run_tie_as_its_paired_tests_say(runs, panel):
    entries = [place.entry for place in panel.places if place.entry.run == 1]
    tests = {1: standings._told_apart(runs[1])[20, 1]}
    found = standings._panel("a", "inductive", "20-way 1-shot", entries, tests)
    ranks = {place.entry.name: place.rank for place in found.places}
    told = list(ranks.items())[:6]
    # 93.51, 93.48 and 93.45: the paired tests tell the first from the third, and neither from the second
    assert told == [
        ("siamese (contrastive)", "1"),
        ("prototypical (euclidean)", "2–3"),
        ("triplet (squared)", "2–3"),
        ("histogram", "4"),
        ("relation", "5"),
        ("nca", "6"),
    ]


def test_entries_tie_if_their_intervals_leave_the_difference_open():
    entries = [entry(90.0, 0.3, run=0), entry(89.6, 0.3, run=1), entry(80.0, 0.1, run=2), entry(70.0, 0.1, run=3)]
    found = standings._panel("a", "inductive", "5-way 1-shot", entries, {number: {} for number in range(4)})
    assert [place.rank for place in found.places] == ["1–2", "1–2", "3", "4"]
    paired = {0: {frozenset({"x", "y"}): True}}
    entries = [entry(90.0, 0.3, run=0, label="x"), entry(89.9, 0.3, run=0, label="y")]
    found = standings._panel("a", "inductive", "5-way 1-shot", entries, paired)
    assert [place.rank for place in found.places] == ["1", "2"]


def test_the_floor_does_not_stretch_an_axis():
    means, widths = pd.Series([94.0, 93.0, 92.0, 91.0]), pd.Series([0.1] * 4)
    start = axis_start(means, widths, pd.Series([False] * 4))
    assert 90 < start < 90.9
    with_floor = pd.concat([means, pd.Series([26.0])], ignore_index=True)
    floors = pd.Series([False] * 4 + [True])
    assert axis_start(with_floor, pd.Series([0.1] * 5), floors) == start
    assert axis_start(pd.Series([26.0]), pd.Series([0.1]), pd.Series([True])) < 26


def test_learners_are_in_the_order_of_their_mean_ranks(runs, pages):
    ranks = ranked_learners(runs[1])
    assert list(ranks.values()) == sorted(ranks.values())
    assert list(ranks)[-1] == ("nearest-pixel", "", "pixels")
    text = pages["quick-omniglot-all"].read_text(encoding="utf-8")
    table = text[text.index('aria-label="Accuracies"') :].partition("</table>")[0]
    shown = re.findall(r'<th scope="row">.*?<span>([^<]*?) ?<', table)
    assert shown[:3] == ["prototypical (euclidean), conv4", "histogram, conv4", "siamese (contrastive), conv4"]
    assert table.count(">floor<") == 1


def test_a_glance_says_who_is_ahead_and_whether_it_is_told_apart(runs):
    sheet = at_a_glance(runs[1], compare(runs[1].results))
    task = sheet.cells.loc["20-way 1-shot"]
    assert task["best learner"] == "siamese (contrastive), conv4: 94.17"
    assert task["second"] == "prototypical (euclidean), conv4: 93.51"
    assert task["told apart"].startswith("yes: 0.66 ±")
    assert task["best comparable result"] == "Prototypical Networks (Snell et al. 2017): 96.0"
    assert task["ours minus best comparable"].startswith("−1.83 ±")
    assert sheet.cells.loc["5-way 5-shot", "told apart"].startswith("no: ")
    assert "one trained model of each learner (one training seed)" in sheet.note
    assert "√(a² + b² + c²) + d" in sheet.note


def test_a_glance_says_how_many_training_seeds_a_learner_has(runs):
    again = dataclasses.replace(runs[1], results=pd.concat([runs[1].results, runs[1].results.assign(seed=1)]))
    assert "the mean over its training seeds (2)" in at_a_glance(again, compare(runs[1].results)).note


def test_a_glance_explains_no_comparison_that_it_does_not_have(runs):
    sheet = at_a_glance(runs[1], compare(runs[1].results).assign(verdict="not comparable"))
    assert set(sheet.cells["best comparable result"]) == {"none is comparable"}
    assert "±" not in sheet.note.partition("another training may change the answer.")[2]


def test_the_verdict_is_a_word_and_the_reason_has_its_own_column(runs, pages):
    text = pages["quick-omniglot-all"].read_text(encoding="utf-8")
    table = text[text.index('aria-label="Published results"') :].partition("</table>")[0]
    verdicts = re.findall(r'<td class="word"><span class="verdict [a-z-]+">([^<]*)</span></td>', table)
    reasons = re.findall(r'<td class="word"><small>([^<]*)</small></td>', table)
    assert len(verdicts) == len(reasons) == len(published_rows(compare(runs[1].results)))
    assert set(verdicts) <= set(VERDICTS)
    assert [verdict == "not comparable" for verdict in verdicts] == [reason != "" for reason in reasons]


def test_the_page_explains_the_rank_and_the_time_where_it_shows_them(pages):
    text = " ".join(pages["quick-omniglot-all"].read_text(encoding="utf-8").split())
    assert text.index("The rank, 1 the best, is the mean of a learner") < text.index("<details")
    assert "Intervals that cover other test classes" in text
    assert "Other classes" not in text
    assert "the wall time of the run" in text


def test_the_numbers_of_columns_leave_room_for_each_other():
    for count in (3, 12, 13, 40):
        names = [f"learner {number}" for number in range(count)]
        figure = differences_map(names, np.zeros((count, count)), np.eye(count) == 0, "5-way 1-shot")
        shown = [int(label.get_text()) for label in figure.axes[0].get_xticklabels()]
        assert shown[0] == 1
        assert len(shown) <= 12
        assert shown == list(range(1, count + 1)) or count > 12


def test_differences_are_those_of_the_means_and_have_two_sides(runs):
    for task, (names, values, apart) in difference_grids(runs[0]).items():
        way, shot = (int(number) for number in re.findall(r"\d+", task))
        rows = runs[0].results[(runs[0].results[["way", "shot"]] == [way, shot]).all(axis=1)]
        means = {runs[0].styles[tuple(row[LEARNER])].label: row["accuracy"] for _, row in rows.iterrows()}
        expected = np.subtract.outer([means[name] for name in names], [means[name] for name in names])
        assert np.allclose(values, expected, atol=1e-3)
        assert (apart == apart.T).all()


def test_each_published_result_stands_beside_the_best_of_ours(runs):
    comparison = compare(runs[1].results)
    rows = published_rows(comparison)
    assert len(rows) == 176
    (snell,) = [
        row
        for row in rows
        if row["task"] == "20-way 1-shot"
        and row["published"] == "96.0"
        and row["link"]
        and row["paper"] == "Snell et al. 2017"
        and row["method"] == "Prototypical Networks (Euclidean)"
    ]
    assert snell["ours"] == "siamese (contrastive), conv4: 94.17"
    assert snell["verdict"] == "below"
    assert snell["family"] == "prototypical"
    assert all(bool(row["reasons"]) == (row["verdict"] == "not comparable") for row in rows)


@pytest.mark.parametrize(
    ("number", "address"),
    [
        ("1703.05175", "https://arxiv.org/abs/1703.05175"),
        ("doi:10.1126/science.aab3050", "https://doi.org/10.1126/science.aab3050"),
        ("openreview:rJY0-Kcll", "https://openreview.net/forum?id=rJY0-Kcll"),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_a_paper_has_an_address(number, address):
    assert paper_link(number) == address


def test_costs_are_those_of_the_settings(runs):
    run = runs[1]
    cells = cost_sheet(run, list(run.styles)).cells
    siamese = run.config.learner["siamese"]
    images = siamese.steps * siamese.batches["classes"] * siamese.batches["images"]
    assert cells.loc["siamese (contrastive), conv4", "images trained on"] == f"{images:,}"
    assert cells.loc["siamese (contrastive), conv4", "parameters"] == "111,936"
    assert cells.loc["siamese (contrastive), conv4", "training"] == "6 min"
    assert cells.loc["nearest-pixel, pixels", ["images trained on", "parameters"]].tolist() == ["–", "0"]
    assert all(settings_of(run, learner) is not None for learner in run.styles)


def test_the_command_and_the_date_are_told(runs, preset, toy_banks, tmp_path):
    assert read_about(runs[1])["command"] == "make bench LEARNER=all OUTPUT=results/quick-omniglot-all"
    run_benchmark(load_config(preset), toy_banks, tmp_path / "a run", device="cpu", progress=False)
    about = read_about(read_run(tmp_path / "a run"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d( to \d{4}-\d\d-\d\d)?", about["date"])
    assert f"--preset '{tmp_path / 'a run' / 'config.toml'}'" in about["command"]


def test_report_of_a_folder_of_runs_writes_the_board(call, tmp_path):
    shutil.copytree(REFERENCE / "quick-omniglot", tmp_path / "runs" / "a <b>run")
    said = call("report", tmp_path / "runs")
    assert (said.code, said.out) == (0, f"Written to {tmp_path / 'runs' / 'board.html'}\n")
    text = (tmp_path / "runs" / "board.html").read_text()
    assert "<b>run" not in text
    assert "a &lt;b&gt;run" in text
    said = call("report", tmp_path / "runs", "--output", tmp_path / "runs" / "a <b>run")
    assert said.code == 0
    said = call("report", tmp_path / "runs", "--output", tmp_path / "runs" / "a <b>run")
    assert said.code == 2
    assert "board.html is there already" in said.err


def test_the_board_of_the_committed_runs_has_all_of_them(tmp_path):
    text = write_board(REFERENCE, tmp_path).read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", text) == sorted(path.parent.name for path in REFERENCE.glob("*/results.csv"))
    assert len(text.encode()) < 5e6


def test_a_folder_without_runs_has_no_board(tmp_path):
    assert "holds none" in refusal(lambda: write_board(tmp_path))
    assert not list(tmp_path.iterdir())


# what sticks out of the window or of its own box, but for what scrolls by itself
_STICKS_OUT = """[...document.body.querySelectorAll("*")]
  .filter(one => !one.closest(".scroll, pre, svg, [hidden], select"))
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .concat([...document.querySelectorAll("th, td, h1, h2, p, label, summary")]
    .filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1)).map(one => one.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(find_browser(), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1400, 768, 390])
def test_nothing_sticks_out_at_any_width(browser, pages, width):
    for page in pages.values():
        browser.open(page, width)
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert browser.run(_STICKS_OUT) == []


def test_the_choices_of_a_board_show_one_panel_and_the_filter_its_rows(browser, pages):
    browser.open(pages["board"], 1400)
    shown = "[...document.querySelectorAll('.panel')].filter(one => !one.hidden).map(one => one.dataset.task)"
    assert browser.run(shown) == ["5-way 1-shot"]
    choose = """(name, value) => { const one = document.querySelector(`[name=${name}]`); one.value = value;
      one.dispatchEvent(new Event("input", {bubbles: true})); }"""
    browser.run(f"({choose})('task', '20-way 1-shot')")
    assert browser.run(shown) == ["20-way 1-shot"]
    browser.run(f"({choose})('text', 'snell')")
    rows = "[...document.querySelectorAll('.panel:not([hidden]) tbody tr')].filter(one => !one.hidden)"
    texts = browser.run(f"{rows}.map(one => one.textContent.toLowerCase())")
    assert texts
    assert all("snell" in text for text in texts)


def test_the_published_results_fit_a_screen_and_what_follows_is_near(browser, pages):
    browser.open(pages["quick-omniglot-all"], 1400)
    assert browser.run("(one => one.scrollWidth - one.clientWidth)(document.querySelector('.long .scroll'))") == 0
    assert browser.run("document.querySelector('.long').offsetHeight") < 900
    assert browser.run("Math.max(...[...document.querySelectorAll('.long tr')].map(one => one.offsetHeight))") < 120


def test_print_opens_folds_and_shows_the_last_column(browser, pages):
    browser.open(pages["quick-omniglot-all"], 688)  # A4 without margins
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('details')].every(one => one.open)")
    wide = "[...document.querySelectorAll('table')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.run(f"{wide}.map(one => one.textContent.slice(0, 100))") == []
    browser.call("Emulation.setEmulatedMedia", media="")
