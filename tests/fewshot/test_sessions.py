"""Class-incremental sessions: a plain loop over draws and sessions, what draws depend on, files, and who is refused."""

import itertools
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal, toy_bank, toy_splits
from embedded import Given, Plain, clustered, learner_of

import fewshot.benchmark
from episodes import EpisodeSampler
from episodes.draws import stream
from episodes.sessions import session_sampler
from fewshot import Traits
from fewshot.benchmark import run_benchmark
from fewshot.clamping import clamped_sessions
from fewshot.config import Evaluation, Sessions, load_config
from fewshot.learners.base import scores_of
from fewshot.learners.prototypical import Prototypical
from fewshot.protocols.base import NotComparable
from fewshot.protocols.registry import PROTOCOLS, protocol_sheets
from fewshot.protocols.sessions import Increments, increment
from fewshot.records import LEAGUE
from fewshot.report import page
from fewshot.report.figures import accuracy_by_session, learner_styles
from fewshot.report.sessions import by_session
from fewshot.run_folder import read_sheets
from fewshot.statistics import over_episodes

USUAL = {"sessions": 3, "way": 2, "shot": 3, "query": 4, "draws": 6}
OPTIONS = {"baseline": {"head_epochs": 1}}  # it fits a head to each session


def banks(size: int = 6, spread: float = 0.8) -> list[Given]:
    """Embeddings of 8 novel classes, and training and held-out images of 5 base classes, not all easy to tell apart."""
    base = clustered(5, 13, size, spread, seed=1).unflatten(0, (5, 13))
    novel = Given(clustered(8, 9, size, spread, seed=0), [9] * 8)
    return [novel, *(Given(part.flatten(0, 1), [part.shape[1]] * 5, "train") for part in (base[:, :10], base[:, 10:]))]


def measured(learner, data=None, seed=0, **wanted) -> Increments:
    return increment(learner, *(data or banks()), Sessions(**{**USUAL, **wanted}), seed)[0]


def plain_loop(learner, data, base_scores, seed=0, **wanted) -> tuple[np.ndarray, np.ndarray]:
    """Base and novel shares (draws, sessions), one query at a time; base_scores: of an embedding (D,), (classes,)."""
    own = Sessions(**{**USUAL, **wanted})
    novel, _, held_out = data
    sampler = EpisodeSampler(novel.bank, own.sessions * own.way, own.shot, own.query, seed)
    of_base, of_novel = np.zeros((2, own.draws, own.sessions))

    def answer(image, episode, session):
        found = [base_scores(image)]
        for one in range(session + 1):
            support = novel.embeddings[episode.support[:, one * own.way : (one + 1) * own.way]]
            found.append(scores_of(learner, support, image[None, None], stream(one, episode.keys))[0, 0])
        return int(torch.cat(found).argmax())

    for draw, session in itertools.product(range(own.draws), range(own.sessions)):
        episode = sampler.episodes(draw, 1)

        classes = len(base_scores(novel.embeddings[0]))
        right = [
            answer(novel.embeddings[image], episode, session) == classes + place
            for place in range((session + 1) * own.way)
            for image in episode.query[0, place]
        ]
        of_novel[draw, session] = np.mean(right)
        answers = [answer(image, episode, session) for image in held_out.embeddings]
        of_base[draw, session] = np.mean(np.array(answers) == held_out.bank.labels.numpy())
    return of_base, of_novel


@pytest.mark.parametrize("name", ["prototypical", "imprinted", "baseline"])
def test_shares_are_those_of_a_plain_loop(name):
    data = banks()
    if name == "imprinted":  # its embeddings have length one
        data = [
            Given(one.embeddings / one.embeddings.norm(dim=1, keepdim=True), one.bank.sizes.tolist()) for one in data
        ]
    learner = learner_of(name, 6, classes=5, **({"head_epochs": 5} if name == "baseline" else {}))

    def base_scores(image):
        if name == "prototypical":
            return learner.scores(data[1].embeddings.view(1, 5, 10, 6), image[None, None])[0, 0]
        return learner.base_logits(image[None, None])[0, 0]

    with torch.no_grad():
        found, expected = measured(learner, data, draws=3), plain_loop(learner, data, base_scores, draws=3)
    assert found.base[:, 1:] == pytest.approx(expected[0])
    assert found.novel[:, 1:] == pytest.approx(expected[1])
    assert 0 < found.novel[:, 1:].mean() < 1


def test_draws_depend_neither_on_each_other_nor_on_the_size_of_batches(monkeypatch):
    for name in ("prototypical", "baseline"):
        learner = learner_of(name, 6, classes=5, **OPTIONS.get(name, {}))
        whole, fewer = measured(learner), measured(learner, draws=2)
        for chunk in (60, 1500):  # five images at a time; two draws at a time
            monkeypatch.setattr("fewshot.protocols.sessions._CHUNK", {"cpu": chunk})
            parts = measured(learner)
            assert (parts.base == whole.base).all()
            np.testing.assert_array_equal(parts.novel, whole.novel)
        monkeypatch.undo()
        np.testing.assert_array_equal(fewer.novel, whole.novel[:2])


def test_a_draw_of_fewer_sessions_is_the_beginning_of_one_of_more():
    learner = learner_of("prototypical", 6)
    short, long = measured(learner, sessions=2), measured(learner, sessions=4)
    assert (short.base == long.base[:, :3]).all()
    np.testing.assert_array_equal(short.novel, long.novel[:, :3])


def test_more_classes_are_never_easier_for_base_queries():
    base = measured(learner_of("prototypical", 6), sessions=4, draws=20).base
    assert (np.diff(base, axis=1) <= 0).all()
    assert base[:, 0].min() == base[:, 0].max() > base[:, -1].mean()


def test_embeddings_that_are_all_the_same_give_chance():
    image = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    same = Given(image.repeat(8 * 20, 1), [20] * 8)
    found = measured(learner_of("prototypical", 8), [same] * 3)
    for share in (found.base[:, 1:], found.novel[:, 1:], found.all[:, 1:]):
        assert share == pytest.approx(np.tile([1 / 10, 1 / 12, 1 / 14], (6, 1)))
    assert found.base[:, 0] == pytest.approx(1 / 8)


def test_measures_by_hand():
    base, novel = np.array([[0.9, 0.8], [0.9, 0.6]]), np.array([[np.nan, 0.4], [np.nan, 0.2]])
    found = Increments(base, novel, base_classes=6, way=2)
    assert found.all == pytest.approx(np.array([[0.9, (6 * 0.8 + 2 * 0.4) / 8], [0.9, (6 * 0.6 + 2 * 0.2) / 8]]))
    after = found.percent(1)
    assert after["base"].mean == pytest.approx(70)
    assert after["harmonic"].mean == pytest.approx(2 * 70 * 30 / 100)
    assert after["drop"] == pytest.approx(over_episodes(np.array([20.0, 40.0])))
    before = found.percent(0)
    assert (before["all"].mean, before["drop"].mean) == pytest.approx((90, 0))
    assert np.isnan([before["novel"].mean, before["harmonic"].mean, *(one.ci95 for one in before.values())]).all()


class Softmax(Prototypical):
    def scores(self, support, query):
        return super().scores(support, query).log_softmax(2)


class Together(Prototypical):
    variants: ClassVar = {"": Traits(transductive=True)}


@pytest.mark.parametrize("cls", [Softmax, Together])
def test_scores_that_do_not_compare_are_refused(cls):
    assert "scores" in refusal(lambda: measured(cls(Plain(6), 4)), NotComparable)


# sessions that a file lists


def listed(path, lines, header="session,class") -> str:
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


GOOD = ["1,class 5", "1,class 0", "2,class 7", "2,class 1", "3,class 2", "3,class 6"]


def test_listed_classes_stay_and_images_are_drawn(tmp_path):
    bank = Given(torch.zeros(8 * 9, 1), [9] * 8).bank
    shuffled = [GOOD[place] for place in (2, 0, 4, 3, 1, 5)]  # sessions need not be in order; their classes keep theirs
    sampler = session_sampler(bank, 3, 2, 3, 4, 0, listed(tmp_path / "order.csv", shuffled))
    drawn = sampler.episodes(0, 200)
    assert (drawn.classes == torch.tensor([5, 0, 7, 1, 2, 6])).all()
    for images in (drawn.support, drawn.query):
        assert (bank.labels[images] == drawn.classes[..., None]).all()
    both = torch.cat([drawn.support, drawn.query], 2)
    assert (both.sort(2).values.diff(dim=2) > 0).all()
    counts = torch.bincount(drawn.support.flatten() % 9, minlength=9)
    assert ((counts - 400).abs() < 90).all()  # 3,600 support images, uniform among 9; the deviation is 19
    one = sampler.episodes(7, 1)
    assert (one.support == drawn.support[7:8]).all()
    assert (one.keys == drawn.keys[7:8]).all()


def test_listed_classes_arrive_in_their_session(tmp_path):
    """Held-out images of base class 0 are nearer to novel class 5 than to the training images of their own class."""
    places = torch.tensor([50.0, 60, 70, 80, 90, 0, 110, 120])
    novel = Given(places.repeat_interleave(9)[:, None], [9] * 8)
    train, held_out = (Given(torch.tensor([[at], [20.0], [30.0]]), [1] * 3, "train") for at in (1.0, 0.0))
    for session in (1, 2, 3):
        lines = GOOD[2:]
        lines[2 * session - 2 : 2 * session - 2] = GOOD[:2]
        lines = [f"{1 + place // 2},{line[2:]}" for place, line in enumerate(lines)]
        order = listed(tmp_path / f"{session}.csv", lines)
        found = measured(learner_of("prototypical", 1), [novel, train, held_out], order=order)
        expected = [1.0 if before < session else 2 / 3 for before in range(4)]
        assert found.base == pytest.approx(np.tile(expected, (6, 1)))
        assert (found.novel[:, 1:] == 1).all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0,class 5", *GOOD[1:]], "line 2 of ORDER has the session '0': write a whole number from 1 to 3"),
        ([*GOOD[:5], "four,class 6"], "line 7 of ORDER has the session 'four'"),
        ([*GOOD[:5], "3,class 66"], "in line 7 of ORDER: 'class 66': did you mean 'class 6'"),
        ([*GOOD[:5], "3,class 0"], "line 7 of ORDER names the class 'class 0' for the second time"),
        (GOOD[:5], "ORDER lists 1 class of session 3: list 2"),
        ([*GOOD, "3,class 3"], "ORDER lists 3 classes of session 3: list 2"),
        (["1"], "line 2 of ORDER has 1 cell, but the header 2"),
    ],
)
def test_a_wrong_order_is_told_with_its_line(tmp_path, lines, message):
    bank, path = Given(torch.zeros(8 * 9, 1), [9] * 8).bank, tmp_path / "order.csv"
    said = refusal(lambda: session_sampler(bank, 3, 2, 3, 4, 0, listed(path, lines)))
    assert message.replace("ORDER", str(path)) in said


def test_an_order_that_cannot_be_read_is_told(tmp_path):
    bank, path = Given(torch.zeros(8 * 9, 1), [9] * 8).bank, tmp_path / "order.csv"
    assert "cannot be read" in refusal(lambda: session_sampler(bank, 3, 2, 3, 4, 0, str(path)))
    listed(path, GOOD, header="session,name")
    assert "needs a header with the columns session, class" in refusal(
        lambda: session_sampler(bank, 3, 2, 3, 4, 0, str(path))
    )
    listed(path, GOOD)
    assert "'class 5' of 9 images: 3 shots and 7 queries need 10" in refusal(
        lambda: session_sampler(bank, 3, 2, 3, 7, 0, str(path))
    )


def test_a_row_depends_on_what_its_order_says(tmp_path):
    path = tmp_path / "order.csv"
    settings = []
    for lines in (GOOD, GOOD[::-1], GOOD):
        wanted = Evaluation(sessions=Sessions(order=listed(path, lines)))
        settings.append(PROTOCOLS["sessions"].settings(wanted, ()))
    assert settings[0] == settings[2] != settings[1]


# runs

PRESET = """
learners = ["nearest-pixel", "imprinted"]
[data]
held_out = 4
[evaluation]
protocols = ["sessions"]
[evaluation.sessions]
sessions = 3
way = 2
shot = 2
query = 3
draws = 8
[validation]
way = 5
query = 3
episodes = 10
[training]
steps = 2
validate_every = 2
precision = "float32"
backbone = "conv4-32"
[learner.nearest-pixel]
backbone = "pixels"
"""


@pytest.fixture(scope="module")
def toy_banks():
    return toy_splits(10, 12)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("presets") / "sessions.toml"
    found.write_text(PRESET)
    return found


def bench(path, banks, folder, **more) -> pd.DataFrame:
    run_benchmark(load_config(str(path)), banks, folder, device="cpu", progress=False, **more)
    return pd.read_csv(folder / "sessions.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def finished(path, toy_banks, tmp_path_factory):
    """The folder of a run; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    bench(path, toy_banks, folder)
    return folder


def test_a_run_has_a_row_for_each_session(finished):
    rows = pd.read_csv(finished / "sessions.csv")
    assert list(rows.columns) == list(PROTOCOLS["sessions"].columns)
    assert rows["learner"].tolist() == ["nearest-pixel"] * 4 + ["imprinted"] * 4
    assert rows["session"].tolist() == [0, 1, 2, 3] * 2
    assert rows["classes"].tolist() == [10, 12, 14, 16] * 2
    assert rows["base_known"].unique().tolist() == ["8 images", "weights"]
    assert rows.loc[rows["session"] == 0, ["novel", "harmonic", "all_ci95"]].isna().all(axis=None)
    lost = rows.groupby("learner")["all"].transform("first") - rows["all"]
    assert rows["drop"].tolist() == pytest.approx(lost.tolist(), abs=1e-3)
    page = (finished / "results.md").read_text()
    for title in ("all classes so far", "base classes", "novel classes so far", "harmonic mean of novel and base"):
        assert f"## Sessions, {title}" in page
    last = rows[rows["session"] == 3].iloc[0]
    assert f"{last['drop']:.2f} ± {last['drop_ci95']:.2f}" in page


def test_a_finished_run_is_not_measured_again(path, toy_banks, finished, monkeypatch):
    monkeypatch.setattr(fewshot.benchmark, "measure", lambda *_: pytest.fail("it was measured again"))
    before = (finished / "sessions.csv").read_bytes()
    bench(path, toy_banks, finished, resume=True)
    assert (finished / "sessions.csv").read_bytes() == before


def test_rows_that_contradict_their_draws_are_told(finished, tmp_path):
    rows, arrays = pd.read_csv(finished / "sessions.csv"), dict(np.load(finished / "sessions.npz"))
    unlike = PROTOCOLS["sessions"].unlike
    assert set(unlike(rows, arrays)) == {""}
    name = f"{rows['model'].iloc[0]}/novel"
    said = unlike(rows, {**arrays, name: np.where(np.isnan(arrays[name]), np.nan, 0)})
    assert said[0] == ""
    assert "sessions.csv says novel" in said[1]
    assert "lacks the draws of nearest-pixel, session 0" in unlike(rows, {**arrays, name: arrays[name][:5]})[0]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("held_out = 4\n", "", "sessions asks about images of base classes that training has not seen"),
        ("sessions = 3", "sessions = 6", "12-way episodes need 12 classes"),
        ("query = 3\ndraws", "query = 11\ndraws", "2 shots and 11 queries need 13 images a class"),
        ("draws = 8", 'draws = 8\norder = "/none/order.csv"', "/none/order.csv cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_training(
    path, toy_banks, tmp_path, monkeypatch, before, after, message
):
    monkeypatch.setattr(fewshot.benchmark, "train", lambda *_, **__: pytest.fail("it trained"))
    preset = tmp_path / "other.toml"
    assert before in PRESET
    preset.write_text(PRESET.replace(before, after))
    assert message in refusal(lambda: bench(preset, toy_banks, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_sessions_fit_small_data(caplog):
    with caplog.at_level("WARNING", "fewshot"):
        found = clamped_sessions(Sessions(), toy_bank(21, 8, split="test"))
    assert (found.sessions, found.shot, found.query) == (4, 5, 3)
    assert "sessions: sessions = 4, not 8; query = 3, not 15" in caplog.text
    assert clamped_sessions(Sessions(), toy_bank(4, 8)) == Sessions()  # refused later


def test_arguments_replace_way_shot_and_query(path):
    wanted = load_config(str(path), ways=[3], shots=[4], query=5).evaluation.sessions
    assert (wanted.way, wanted.shot, wanted.query, wanted.draws) == (3, 4, 5, 8)
    wanted = load_config(str(path), ways=[3, 5], shots=[1, 5]).evaluation.sessions
    assert (wanted.way, wanted.shot, wanted.query) == (2, 2, 3)


def test_a_checkpoint_has_the_numbers_of_its_run(call, path, tmp_path):
    run = "--preset", path, "--learner", "imprinted", "--device", "cpu", "--output", tmp_path / "run"
    assert call("bench", *run).code == 0
    last = pd.read_csv(tmp_path / "run" / "sessions.csv").iloc[1]
    checkpoint = tmp_path / "run" / "checkpoints" / last["model"] / "best.pt"
    options = "--protocol", "sessions", "--way", 2, "--shot", 2, "--query", 3, "--device", "cpu"
    said = call("evaluate", checkpoint, *options)
    assert (said.code, "over 100 draws" in said.out) == (0, True)
    said = call("evaluate", checkpoint, *options, "--split", "train")
    assert (said.code, "sessions needs classes that are not trained on" in said.err) == (2, True)


# tables


def of_two(**more) -> pd.DataFrame:
    """Rows of two learners after 0, 1 and 2 sessions, the first better by a point in every accuracy."""
    common = {"dataset": "toy", "split": "test", "variant": "", "backbone": "conv4", "seed": 0, "image_size": 16}
    common |= {"protocol": "random", "way": 5, "shot": 5, "query": 15, "draws": 100, "order": "", **more}
    common |= {"base_classes": 60, "base_known": "weights", **dict.fromkeys(LEAGUE, False)}
    made = []
    for off, learner in enumerate(["one", "two"]):
        for session in range(3):
            means = {"all": 80.0 - off, "base": 85.0 - off, "drop": 2.0 * session + off}
            means |= dict.fromkeys(("novel", "harmonic"), 70.0 - off if session else np.nan)
            widths = {f"{name}_ci95": 1.0 if session else np.nan for name in means}
            made.append({**common, **means, **widths, "learner": learner, "session": session})
    return pd.DataFrame(made, columns=PROTOCOLS["sessions"].columns)


STYLES = learner_styles({(name, "", "conv4"): name for name in ("one", "two", "absent")})


def test_the_figure_has_the_numbers_of_the_rows():
    rows = of_two()
    for measure, sessions in {"base": [0, 1, 2], "novel": [1, 2]}.items():
        curves = by_session(rows, STYLES, measure)
        assert [curve.style.label for curve in curves] == ["one", "two"]
        for curve in curves:
            own = rows[(rows["learner"] == curve.style.label) & rows["session"].isin(sessions)]
            assert curve.places.tolist() == sessions
            assert curve.means.tolist() == own[measure].tolist()
            assert curve.widths.tolist() == own[f"{measure}_ci95"].fillna(0).tolist()
        axes = accuracy_by_session(curves, "base").axes[0]
        assert [line.get_xdata().tolist() for line in axes.lines] == [sessions] * 2


def test_the_figure_of_several_seeds_has_their_means_and_t_intervals():
    first = of_two()
    rows = pd.concat([first, first.assign(seed=1, base=first["base"] + 2)])
    (curve, _) = by_session(rows, STYLES, "base")
    assert curve.means.tolist() == [86.0] * 3
    assert curve.widths == pytest.approx([12.706 * 2**0.5 / 2**0.5] * 3, rel=1e-4)


def test_a_report_has_a_figure_for_base_novel_and_all_classes(tmp_path):
    run = SimpleNamespace(protocols={"sessions": of_two()}, styles=STYLES)
    section = page._sessions(run)
    assert [picture.name for picture in section.pictures] == ["sessions-base", "sessions-novel", "sessions-all"]
    assert "one from 85.00 to 85.00; two from 84.00 to 84.00" in section.pictures[0].alt
    assert section.pictures[0].svg.count(b"two") == 1


def test_tables_have_a_column_for_each_session_and_the_drop():
    every, base, novel, harmonic = protocol_sheets("sessions", of_two())
    assert list(every.cells.columns) == ["0", "1", "2", "PD"]
    assert every.cells.loc["one"].tolist() == ["80.00", "80.00 ± 1.00", "80.00 ± 1.00", "4.00 ± 1.00"]
    assert every.best["PD"].tolist() == [True, False]
    assert [list(sheet.cells.columns) for sheet in (base, novel, harmonic)] == [["0", "1", "2"], ["1", "2"], ["1", "2"]]
    assert "which classes, in which order, and which images are drawn" in every.caption + every.note
    (listed_order, *_) = protocol_sheets("sessions", of_two(order="cifar.csv"))
    assert "in the order of cifar.csv" in listed_order.caption


def test_several_seeds_have_tables_of_their_own_first():
    seeds = pd.concat([of_two(), of_two(seed=1).assign(all=lambda rows: rows["all"] + 2)])
    over, *_ = protocol_sheets("sessions", seeds)
    assert "mean of 2 training seeds" in over.caption
    assert over.cells.loc["one", "2"] == "81.00 ± 12.71"  # 12.706 is the t quantile of 1 degree of freedom


def test_the_tables_of_a_run_come_from_its_files(finished):
    assert next(sheet.title for sheet in read_sheets(finished)) == "Sessions, all classes so far"
