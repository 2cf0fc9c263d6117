"""The report of a run: one page that needs nothing but itself, with every number of the run, and figures as files."""

import dataclasses
import io
import json
import re
import shutil
import tomllib
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from conftest import refusal

from baselines import published
from episodes import InputError
from fewshot import checkpoints, shown
from fewshot.benchmark import run_benchmark
from fewshot.comparison import compare
from fewshot.config import load_config
from fewshot.records import LEARNER
from fewshot.report import data as report_data
from fewshot.report import figures, write_report


class Page(HTMLParser):
    """A page's text, its tags, and whatever it would have to fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.addresses, self.alts, self.links = "", [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "srcset", "data", "action") if name in given]
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.alts.append(given["alt"])

    def handle_data(self, data):
        self.text += data

    @property
    def drawings(self) -> list[str]:
        head = "data:image/svg+xml,"
        return [urllib.parse.unquote(one[len(head) :]) for one in self.addresses if one.startswith(head)]


@pytest.fixture(scope="module")
def quick(toy_banks):
    """Every data set is the toy one, and maps are small; the patch can be extended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot.report.data.load_dataset", lambda name, split, **_: toy_banks[split])
        patch.setattr("fewshot.shown.MAP_CLASSES", 3)
        patch.setattr("fewshot.shown.MAP_IMAGES", 5)
        yield patch


@pytest.fixture(scope="module")
def run(preset, toy_banks, quick, tmp_path_factory) -> Path:
    """The folder of a small run."""
    path = tmp_path_factory.mktemp("runs") / "toy <run> & co"
    run_benchmark(load_config(preset), toy_banks, path, device="cpu", progress=False)
    return path


@pytest.fixture(scope="module")
def written(run, quick, tmp_path_factory) -> Path:
    """The folder of its report."""
    folder = tmp_path_factory.mktemp("report")
    assert write_report(run, output=folder) == folder / "report.html"
    return folder


@pytest.fixture
def copy(run, quick, tmp_path):
    """A copy of the run, to be changed; its report leaves out the drawing, which is slow."""
    with quick.context() as patch:
        patch.setattr(
            "fewshot.report.figures.drawn", lambda figure, form: b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
        )
        yield Path(shutil.copytree(run, tmp_path / "run"))


def report(folder: Path) -> Page:
    return Page(write_report(folder))


def literature() -> pd.DataFrame:
    """Published numbers, as if they were of the toy data set."""
    return published("omniglot", "vinyals", way=5, shot=1).assign(dataset="toy", protocol="random", image_size=16)


def test_the_page_fetches_nothing(written):
    page = Page(written / "report.html")
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses if address not in page.links)
    assert all(link.startswith(("data:", "#", "https:")) for link in page.links)  # what a reader may follow
    assert not re.search(r"url\((?!%23)|@import", page.source)  # %23 is #: of a place in the same drawing
    assert "default-src 'none'" in page.source
    for drawing in page.drawings:
        for _, element in ElementTree.iterparse(_file(drawing)):
            links = [value for name, value in element.attrib.items() if name.endswith(("href", "src"))]
            assert all(link.startswith(("data:", "#")) for link in links)
    assert (written / "report.html").stat().st_size < 5e6


def test_every_learner_and_number_is_in_the_page(run, written):
    page = Page(written / "report.html")
    results = pd.read_csv(run / "results.csv", keep_default_na=False)
    for row in results.itertuples():
        assert row.learner in page.text
        assert f"{row.accuracy:.2f} ± {row.ci95:.2f}" in page.text
    assert run.name in page.text
    assert page.text.count("validate_every = 2") >= 2  # the configuration
    assert '"checksum"' in page.text  # the environment


def test_other_protocols_have_their_tables(copy, preset, toy_banks):
    config = load_config(preset, protocols=["verification", "retrieval"])
    run_benchmark(config, toy_banks, copy, device="cpu", resume=True, progress=False)
    page = report(copy)
    for protocol, measures in {"verification": ["auc", "eer", "accuracy", "tar"], "retrieval": ["map_at_r"]}.items():
        assert f"{protocol.capitalize()}" in page.text
        for row in pd.read_csv(copy / f"{protocol}.csv").to_dict("records"):
            for name in measures:
                assert f"{row[name]:.2f} ± {row[f'{name}_ci95']:.2f}" in page.text


def test_every_picture_has_words_and_columns_are_sorted_by_buttons(written):
    page = Page(written / "report.html")
    assert len(page.drawings) == len(page.alts) == page.tags.count("img") >= 8
    assert all(page.alts)
    heads = re.findall(r'<th scope="col">(.*?)</th>', page.source)
    assert len(heads) > 2
    assert all(head.startswith('<button type="button">') for head in heads)


def test_figures_are_written_in_both_formats(written):
    names = {path.stem for path in (written / "figures").iterdir()}
    assert {
        "accuracy-3way-1shot",
        "accuracy-5way-1shot",
        "training-accuracy",
        "training-loss",
        "embedding-classes",
    } <= names
    assert {"episode-easy", "episode-typical", "episode-hard", "embedding-npair-seed0"} <= names
    for name in names:
        assert (written / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(written / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
    assert len(list((written / "figures").iterdir())) == 2 * len(names)


def test_the_same_run_gives_the_same_bytes(run, quick, written, tmp_path):
    write_report(run, output=tmp_path)
    files = sorted(path.relative_to(written) for path in written.rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    for file in files:
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes(), file


def test_names_are_text_and_never_code(run, quick, toy_banks, tmp_path):
    names = tuple(f"<script>alert({number})</script>$x_1$\x1b\udcff" for number in range(toy_banks["test"].classes))
    bank = dataclasses.replace(toy_banks["test"], class_names=names)
    with quick.context() as patch:
        patch.setattr("fewshot.report.data.load_dataset", lambda *_, **__: bank)
        patch.setattr("fewshot.report.page.Picture.png", b"")
        page = Page(write_report(run, output=tmp_path))
    assert page.tags.count("script") == 1
    assert any("<script>alert(" in alt for alt in page.alts)
    (episode, *_) = [drawing for drawing in page.drawings if "support" in drawing]
    texts = [element.text for _, element in ElementTree.iterparse(_file(episode)) if element.tag.endswith("text")]
    assert any("<script>alert(" in text for text in texts)


@pytest.mark.parametrize("kept", [True, False])
def test_predictions_are_those_of_the_run(copy, toy_banks, kept):
    if not kept:
        (copy / "shown.npz").unlink()
    read = report_data.read_run(copy)
    models, problems = report_data.find_models(read, 5, 1)
    assert not problems
    assert [model.name for model in models] == ["prototypical-euclidean-seed0", "npair-seed0"]
    assert all((model.learner is None, model.kept is None) == (kept, not kept) for model in models)
    for model in models:
        for number in range(6):
            episode = report_data.episode_of(read, toy_banks["test"], 5, 1, number)
            predicted = report_data.predict(model, toy_banks["test"], episode, number, seed=0)
            share = (predicted == np.arange(5)[:, None]).mean()
            assert share == pytest.approx(read.accuracies[f"{model.name}/5way1shot"][number])


def test_what_a_run_keeps_is_what_its_models_answer(copy, toy_banks):
    """The answers to every query and the distances in the map, without a model and with it."""
    bank = toy_banks["test"]
    read = report_data.read_run(copy)
    kept, _ = report_data.find_models(read, 5, 1)
    (copy / "shown.npz").unlink()
    trained, _ = report_data.find_models(report_data.read_run(copy), 5, 1)
    for one, other in zip(kept, trained, strict=True):
        for number in range(6):
            episode = report_data.episode_of(read, bank, 5, 1, number)
            answers = [report_data.predict(model, bank, episode, number, seed=0) for model in (one, other)]
            assert (answers[0] == answers[1]).all()
        images = torch.from_numpy(one.kept.map.images.ravel())
        found = shown.embeddings_of(other.learner, bank, images, torch.device("cpu")).double()
        away = torch.cdist(*[torch.from_numpy(one.kept.embeddings).double()] * 2)
        expected = torch.cdist(found, found)
        assert (away / away.max() - expected / expected.max()).abs().max() < 0.01


def test_episodes_of_other_queries_than_the_run_kept_are_left_out(copy):
    path = copy / "config.toml"
    config = tomllib.loads(path.read_text())
    config["evaluation"]["query"] += 1
    path.write_text(tomli_w.dumps(config))
    page = report(copy)
    assert f"config.toml tells of episodes of {5 * config['evaluation']['query']} queries, and those of" in page.text
    assert "± " in page.text


def test_the_page_says_where_a_checkpoint_answers_otherwise(copy):
    (copy / "shown.npz").unlink()
    path = copy / "checkpoints" / "npair-seed0" / "best.pt"
    content = checkpoints.load(path)
    weights = {name: torch.zeros_like(value) for name, value in content["learner"].items()}
    checkpoints.save(path, {**content, "learner": weights})
    assert "Here npair gave other answers than in the run." in report(copy).text


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "the run's folder has neither shown.npz nor checkpoints."),
        (lambda run: (run / "checkpoints/npair-seed0/best.pt").write_bytes(b"no"), "Not shown: npair (there is no"),
        (
            lambda run: _renamed_learner(run, "mine.py:Mine"),
            "npair (its code is in mine.py:Mine: if you trust that file, name it with --learner).",
        ),
        (lambda run: _other_checksum(run), "the test images that are here now are not those of the run"),
    ],
)
def test_what_is_missing_is_left_out_with_a_sentence(copy, damage, sentence):
    (copy / "shown.npz").unlink()
    damage(copy)
    page = report(copy)
    assert page.text.count(sentence) >= 1
    assert "± " in page.text


def names_of_figures(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "figures").iterdir()}


def test_a_run_without_checkpoints_shows_what_it_kept(copy):
    before = report(copy).alts
    shutil.rmtree(copy / "checkpoints")
    page = report(copy)
    assert page.alts == [alt for alt in before if not alt.startswith(("Training", "Accuracy on validation"))]
    assert "Training curves are left out: the run's folder holds no checkpoints." in page.text
    assert "ictures" not in "".join(re.findall(r"([^.]*) (?:is|are) left out", page.text))


def test_a_run_without_checkpoints_that_kept_nothing_has_its_other_sections(copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "shown.npz").unlink()
    page = report(copy)
    assert "Pictures of episodes and embeddings are left out: the run's folder has neither" in page.text
    names = names_of_figures(copy)
    assert {"accuracy-3way-1shot", "accuracy-5way-1shot", "confused-npair-seed0"} <= names
    assert not {name for name in names if name.startswith(("training", "episode", "embedding"))}


def test_maps_need_neither_images_nor_weights(copy, quick):
    def missing(*_, **__):
        raise InputError("no images")

    shutil.rmtree(copy / "checkpoints")
    with quick.context() as patch:
        patch.setattr("fewshot.report.data.load_dataset", missing)
        page = report(copy)
    assert "Pictures of episodes are left out: the data set is not at hand: 'fewshot report RUN --data" in page.text
    assert "no images" not in page.text
    names = names_of_figures(copy)
    assert {"embedding-classes", "embedding-npair-seed0", "embedding-prototypical-euclidean-seed0"} <= names
    assert any(alt.startswith("The classes: class 0") for alt in page.alts)


SOURCE = """
import torch
from fewshot import Learner

class Mine(Learner):
    def loss(self, images, labels):
        embeddings = self.embed(images)
        return torch.nn.functional.mse_loss(embeddings, torch.ones_like(embeddings))

    def scores(self, support, query):
        return -torch.cdist(query, support.mean(2))
"""


@pytest.fixture
def own(preset, toy_banks, quick, tmp_path) -> tuple[Path, str]:
    """A run of a learner from a file, and the name of that learner."""
    source = tmp_path / "mine.py"
    source.write_text(SOURCE)
    run = tmp_path / "own"
    run_benchmark(load_config(preset, [f"{source}:Mine"]), toy_banks, run, device="cpu", progress=False)
    return run, f"{source}:Mine"


def test_a_learner_from_a_file_is_shown_although_its_file_is_gone(own):
    run, name = own
    Path(name.partition(":")[0]).unlink()
    report(run)
    assert {"episode-hard", "embedding-Mine-seed0"} <= names_of_figures(run)


def test_a_file_runs_only_if_it_is_trusted(own):
    run, name = own
    (run / "shown.npz").unlink()
    assert "if you trust that file, name it with --learner" in report(run).text
    assert "episode-hard" not in names_of_figures(run)
    page = Page(write_report(run, trusted=[name]))
    assert {"episode-hard", "embedding-Mine-seed0"} <= names_of_figures(run)
    assert "--learner" not in page.text


def test_a_trusted_learner_that_the_run_has_not_is_refused(copy, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    said = refusal(lambda: write_report(copy, trusted=[f"{tmp_path}/mine.py:Mine"]))
    assert "has no learner Mine" in said


def test_the_command_trusts_the_files_that_it_is_given(call, own):
    run, name = own
    (run / "shown.npz").unlink()
    assert call("report", run, "--learner", name).code == 0
    assert "embedding-Mine-seed0" in names_of_figures(run)
    said = call("report", run.parent, "--learner", name)
    assert (said.code, "leave out --learner" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("npair-seed0/5way1shot/answers", lambda answers: (answers + 1) % 5),
        ("npair-seed0/5way1shot/answers", lambda answers: answers[1:]),
        ("npair-seed0/5way1shot/answers", lambda answers: answers.astype(float)),
        ("npair-seed0/5way1shot/embeddings", lambda embeddings: embeddings[1:]),
        ("npair-seed0/5way1shot/embeddings", lambda embeddings: embeddings * np.nan),
        ("shown_images", lambda images: images[:, ::-1]),
        ("shown_classes", lambda names: names[1:]),
    ],
)
def test_what_contradicts_the_run_is_refused(copy, name, change):
    with np.load(copy / "shown.npz") as archive:
        arrays = dict(archive)
    np.savez(copy / "shown.npz", **{**arrays, name: change(arrays[name])})
    assert "shown.npz holds" in refusal(lambda: write_report(copy))


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert str(tmp_path) in refusal(lambda: write_report(tmp_path))
    assert not list(tmp_path.iterdir())


def test_published_numbers_stand_beside_ours(copy, quick):
    with quick.context() as patch:
        patch.setattr("fewshot.report.page.compare", lambda results: compare(results, literature()))
        page = report(copy)
    assert "comparable results; " in page.text
    assert "Beside published results, 5-way 1-shot" in page.alts
    assert (copy / "figures" / "published-5way-1shot.svg").exists()


def test_a_panel_shows_the_best_comparable_results_and_those_of_our_families(run):
    comparison = compare(report_data.read_run(run).results, literature())
    panel, told = report_data.panel_of(comparison)
    theirs = panel[panel["learner"].isna()]
    assert set(panel["learner"].dropna()) == {("prototypical", "euclidean", "conv4"), ("npair", "", "conv4")}
    assert theirs["comparable"].all()
    assert 0 < len(theirs) <= 20
    assert "comparable results; " in told


def test_where_nothing_is_comparable_the_nearest_stand_hollow_with_what_differs(run):
    comparison = compare(report_data.read_run(run).results, literature().assign(image_size=84))
    panel, told = report_data.panel_of(comparison)
    theirs = panel[panel["learner"].isna()]
    assert 0 < len(theirs) <= 8
    assert not theirs["comparable"].any()
    assert theirs["note"].str.contains("84x84 pixels").all()
    assert "No published result can be compared with ours" in told


def test_the_nearest_have_the_fewest_reasons_however_long_these_are(run):
    known = literature().query("way == 5 and shot == 1").iloc[[0] * 10].assign(league="inductive", variant="")
    known = known.assign(method=[f"method {number}" for number in range(10)], backbone="none", protocol="not-stated")
    known.iloc[4, known.columns.get_indexer(["backbone", "protocol"])] = (
        "resnet12",
        report_data.read_run(run).results["protocol"].iloc[0],
    )
    panel, _ = report_data.panel_of(compare(report_data.read_run(run).results, known))
    notes = panel[panel["learner"].isna()].set_index("label")["note"]
    (one,) = [note for label, note in notes.items() if "method 4 " in label]
    assert one == "backbone resnet12, ours conv4"
    assert set(notes) - {one} == {"split not stated; no network"}


def test_episodes_are_the_best_the_median_and_the_worst_and_of_equal_ones_the_first(run):
    read = report_data.read_run(run)
    accuracies = {
        "a/5way1shot": np.array([0.6, 0.2, 0.8, 0.8, 0.2, 0.6]),
        "b/5way1shot": np.array([0.6, 0.4, 1.0, 1.0, 0.4, 0.6]),
        "b/5way5shot": np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
    }
    chosen = report_data.choose_episodes(dataclasses.replace(read, accuracies=accuracies), 5, 1)
    assert chosen == {"easy": 2, "typical": 0, "hard": 1}
    same = {"a/5way1shot": np.ones(3)}
    chosen = report_data.choose_episodes(dataclasses.replace(read, accuracies=same), 5, 1)
    assert chosen == {"easy": 0, "typical": 1, "hard": 2}


def test_a_bank_of_some_images_holds_these_and_their_classes(toy_banks):
    bank = toy_banks["test"]
    images = torch.tensor([100, 3, 101, 3])
    part, numbers, classes = shown.cut_out(bank, images)
    assert numbers.tolist() == [3, 100, 101]
    assert torch.equal(part.images, bank.images[numbers])
    assert part.class_names == tuple(bank.class_names[number] for number in classes)
    assert part.sizes.tolist() == [1, 2]


def test_embeddings_that_are_all_the_same_have_a_map_too(run, quick, toy_banks):
    (model, _), _ = report_data.find_models(report_data.read_run(run), 5, 1)
    images = shown.map_of(toy_banks["test"]).images
    same = shown.reduced(torch.ones(images.size, 8))
    points = report_data.embed_flat(dataclasses.replace(model, kept=model.kept._replace(embeddings=same)), None, images)
    assert points.shape == (images.size, 2)
    assert np.isfinite(points).all()


def test_no_two_of_many_learners_look_alike():
    styles = figures.learner_styles({(str(number),): str(number) for number in range(40)})
    looks = {(style.colour, style.marker) for style in styles.values()}
    assert len(looks) == 40


LONG = "prototypical (euclidean), resnet12"
STYLES = figures.learner_styles({("prototypical", "", ""): LONG, ("siamese", "", ""): "siamese (contrastive), conv4"})


def laid_out(figure):
    """Where a part of the figure is drawn, in pixels."""
    figure.draw_without_rendering()
    return lambda part: part.get_window_extent()


def test_the_words_below_training_curves_stand_apart_from_the_legend():
    history = pd.DataFrame({"step": [10, 20], "accuracy": [50.0, 99.0], "ci95": [2.0, 3.0]})
    figure = figures.training_curve([(style, history) for style in STYLES.values()], "accuracy")
    place, (axes,) = laid_out(figure), figure.axes
    assert axes.get_xlabel() == "training steps"
    assert place(axes.xaxis.label).y0 > place(figure.legends[0]).y1


@pytest.mark.parametrize("count", [2, 3, 12, 30])
def test_the_map_of_differences_has_whole_names_and_room_above_its_bar(count):
    names, values = [LONG] * count, np.arange(float(count**2)).reshape(count, count)
    figure = figures.differences_map(names, values, np.eye(count) == 0, "5-way 1-shot")
    place, (axes, bar) = laid_out(figure), figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{LONG}  {n}" for n in range(1, count + 1)]
    gap = min(place(label).y0 for label in axes.get_xticklabels()) - bar.get_window_extent().y1
    assert gap > 3 / 72 * figure.dpi  # three points
    assert place(axes).width > figure.bbox.width / 3


def interval_ends(axes, across: int) -> list[float]:
    """Where the intervals of the marks end, along the horizontal axis (0) or the vertical one (1)."""
    bars = [bar for container in axes.containers for bar in container.lines[2]]
    return sorted(np.concatenate([np.concatenate(bar.get_segments()) for bar in bars])[:, across])


def test_no_interval_is_drawn_outside_0_to_100(run):
    rows = report_data.read_run(run).results.query("way == 5").assign(accuracy=[98.0, 3.0], ci95=[7.0, 5.0])
    learners = [tuple(learner) for learner in rows[LEARNER].to_numpy()]
    styles = dict(zip(learners, STYLES.values()))
    (dots,) = figures.dot_plot(rows, "", styles).axes
    assert interval_ends(dots, 0) == [0, 8, 91, 100]
    panel = rows[["accuracy", "ci95"]].assign(learner=learners, label="", printed="", comparable=True, note="")
    (forest,) = figures.forest(panel, "", styles).axes
    assert interval_ends(forest, 0) == [0, 8, 91, 100]
    curve = figures.Curve(STYLES["siamese", "", ""], np.arange(2), np.array([98.0, 3.0]), np.array([7.0, 5.0]))
    (lines,) = figures.accuracy_by_session([curve], "").axes
    assert interval_ends(lines, 1) == [0, 8, 91, 100]
    history = pd.DataFrame({"step": [10, 20], "accuracy": [3.0, 98.0], "ci95": [5.0, 7.0]})
    (trained,) = figures.training_curve([(curve.style, history)], "accuracy").axes
    heights = trained.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 100)


def _file(drawing: str) -> io.BytesIO:
    return io.BytesIO(drawing.encode())


def _renamed_learner(run: Path, spec: str) -> None:
    path = run / "checkpoints" / "npair-seed0" / "best.pt"
    content = checkpoints.load(path)
    checkpoints.save(path, {**content, "about": {**content["about"], "learner": spec}})


def _other_checksum(run: Path) -> None:
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    environment["data"]["test"]["checksum"] = "another"
    path.write_text(json.dumps(environment))


def test_answers_by_class_are_shown(run, written):
    page = Page(written / "report.html")
    assert "Answers by class" in page.text
    rows = pd.read_csv(run / "classes.csv", keep_default_na=False)
    shown = rows[(rows["way"] == 5) & (rows["shot"] == 1)]
    assert set(shown["learner"]) == {"prototypical", "npair"}
    for row in shown.itertuples():
        assert f"{row.low:.2f} to {row.high:.2f}" in page.text
        assert row.hardest in page.text
    for name in ("confused-npair-seed0", "hardest-npair-seed0"):
        assert (written / "figures" / f"{name}.png").exists()
    assert any(" taken for B " in alt for alt in page.alts)
    assert any(re.search(r"image \d+ of class \d+, class \d+: wrong \d+ of", alt) for alt in page.alts)


def test_names_of_classes_are_escaped(copy):
    with np.load(copy / "confusion.npz") as archive:
        arrays = dict(archive)
    hostile = [f"<script>{number}</script>" for number in range(30)]
    np.savez(copy / "confusion.npz", **{**arrays, "class_names": np.array(hostile)})
    page = report(copy)
    assert "<script>7" not in page.source
    assert "&lt;script&gt;7" in page.source


def test_the_name_of_a_model_chooses_no_path(copy):
    rows = pd.read_csv(copy / "results.csv", keep_default_na=False)
    rows["model"] = "../../" + rows["model"]
    rows.to_csv(copy / "results.csv", index=False)
    for file in ("episodes.npz", "confusion.npz"):
        with np.load(copy / file) as archive:
            arrays = {name if "/" not in name else f"../../{name}": archive[name] for name in archive.files}
        np.savez(copy / file, **arrays)
    report(copy)
    assert not [path for path in copy.parent.rglob("*confused*") if path.parent != copy / "figures"]


def without_answers(run: Path, checkpoints: bool = True) -> None:
    (run / "confusion.npz").unlink()
    (run / "classes.csv").unlink()
    if not checkpoints:
        shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize(("there", "advice"), [(True, "; 'fewshot evaluate' counts them again"), (False, ".")])
def test_a_run_without_answers_by_class_says_so(copy, there, advice):
    without_answers(copy, there)
    text = report(copy).text
    assert f"are left out: the run's folder holds none of these results; older versions kept none{advice}" in text
    assert "so the hardest class is not known" in text


def test_the_page_begins_with_the_hardest_class_of_the_best_learner(copy):
    rows = pd.read_csv(copy / "classes.csv", keep_default_na=False)
    results = pd.read_csv(copy / "results.csv", keep_default_na=False)
    top = report(copy).text.partition("Told apart")[0]
    for cell, own in results.groupby(["way", "shot"]):
        best = own.sort_values("accuracy").iloc[-1]
        of_best = rows[(rows["way"] == cell[0]) & (rows["shot"] == cell[1]) & (rows["learner"] == best["learner"])]
        worst = of_best.sort_values("accuracy", kind="stable").iloc[0]
        assert f"{worst['class']}: {worst['accuracy']:.2f}" in top


def test_the_table_of_classes_is_enough_for_the_tables(copy):
    """Committed runs have classes.csv without the counts behind it."""
    tables = [report(copy).source]
    (copy / "confusion.npz").unlink()
    tables.append(report(copy).source)
    found = [re.findall(r"<td[^>]*>\d+\.\d\d to \d+\.\d\d</td>", source) for source in tables]
    assert len(found[0]) > 10
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda rows: rows.drop(columns="low"), "classes.csv has other columns"),
        (lambda rows: rows.assign(accuracy="much"), "classes.csv holds no numbers"),
    ],
)
def test_a_damaged_table_of_classes_is_told(copy, damage, words):
    damage(pd.read_csv(copy / "classes.csv", keep_default_na=False)).to_csv(copy / "classes.csv", index=False)
    (copy / "confusion.npz").unlink()  # the report reads the table if there are no counts
    assert words in refusal(lambda: write_report(copy))


def test_a_table_of_classes_that_contradicts_the_results_is_not_shown(copy):
    rows = pd.read_csv(copy / "classes.csv", keep_default_na=False)
    rows.assign(accuracy=rows["accuracy"] / 2).to_csv(copy / "classes.csv", index=False)
    (copy / "confusion.npz").unlink()
    assert "Answers by class are left out" in report(copy).text


def test_tables_of_classes_need_no_images(copy, quick):
    def missing(*_, **__):
        raise InputError("no images")

    with quick.context() as patch:
        patch.setattr("fewshot.report.data.load_dataset", missing)
        page = report(copy)
    assert "Pictures are left out: the data set is not at hand: 'fewshot report RUN --data DIR' takes" in page.text
    assert "taken for" in page.text
