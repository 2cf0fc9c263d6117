"""Answers by class and by image: counted as a plain loop counts them, kept with the run, and told if damaged."""

import io
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal, toy_bank
from damage import spoil_arrays

from episodes import EpisodeSampler, ImageBank, InputError, ListedEpisodes
from fewshot import class_records
from fewshot.backbones import make_backbone
from fewshot.benchmark import run_benchmark
from fewshot.class_records import (
    ClassAnswers,
    answers_of,
    class_table,
    confused,
    hardest_images,
    hardness,
    image_name,
    to_arrays,
)
from fewshot.config import load_config
from fewshot.confusion import Counts, count_answers
from fewshot.evaluation import evaluate
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.records import CELL, MODEL
from fewshot.run_folder import read_results
from fewshot.statistics import proportion, proportions


@pytest.fixture(scope="module")
def whole(preset, toy_banks, tmp_path_factory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_benchmark(load_config(preset, ["prototypical", "npair"]), toy_banks, folder, device="cpu", progress=False)
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def again(preset, toy_banks, folder: Path) -> pd.DataFrame:
    config = load_config(preset, ["prototypical", "npair"])
    return run_benchmark(config, toy_banks, folder, device="cpu", resume=True, progress=False)


def saved(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize(("way", "query", "episodes"), [(2, 1, 2), (5, 15, 40), (20, 3, 7)])
def test_counts_are_those_of_a_plain_loop(way, query, episodes, monkeypatch):
    monkeypatch.setattr("fewshot.confusion._QUERIES", 3 * way * query)  # several chunks
    sampler = EpisodeSampler([18, 20, *[16] * 20], way, 1, query, seed=3)
    answers = torch.randint(way, (episodes, way * query), generator=torch.Generator().manual_seed(0)).byte().numpy()
    counts = count_answers(sampler, answers)
    asked, wrong, pairs = np.zeros(358, int), np.zeros(358, int), {}
    for number in range(episodes):
        episode = sampler.episodes(number, 1)
        for position, image in enumerate(episode.query[0].flatten().tolist()):
            true, answered = (int(episode.classes[0, one]) for one in (position // query, answers[number, position]))
            asked[image] += 1
            if true != answered:
                wrong[image] += 1
                pairs[true, answered] = pairs.get((true, answered), 0) + 1
    assert counts.asked.tolist() == asked.tolist()
    assert counts.wrong.tolist() == wrong.tolist()
    assert counts.pairs.tolist() == [[*pair, times] for pair, times in sorted(pairs.items())]


def test_evaluation_counts_every_query_once():
    bank = toy_bank(8, 20)
    found = evaluate(NearestPixel(make_backbone("pixels", 1, 16), 5), bank, way=5, query=4, episodes=50, device="cpu")
    counts = count_answers(EpisodeSampler(bank, 5, 1, 4, 0), found.answers)
    assert counts.asked.sum() == 50 * 20
    assert counts.asked.sum() - counts.wrong.sum() == round(found.values.sum() * 20)
    assert counts.pairs[:, 2].sum() == counts.wrong.sum()


def test_more_ways_than_a_byte_holds():
    bank = toy_bank(260, 2, size=4)
    found = evaluate(NearestPixel(make_backbone("pixels", 1, 4), 5), bank, way=260, query=1, episodes=2, device="cpu")
    assert (found.answers == np.arange(260)).mean() == pytest.approx(found.values.mean())


def test_listed_episodes_are_counted():
    images = torch.zeros(12, 1, 4, 4, dtype=torch.uint8)
    names = tuple("abcd")
    bank = ImageBank(images, torch.arange(5) * 3, names, ("one", "one", "two", "two"), listed=True)
    counts = count_answers(ListedEpisodes(bank), np.array([[0, 0, 1, 0], [0, 0, 1, 1]]))
    assert counts.asked.tolist() == [0, 1, 1] * 4
    assert counts.pairs.tolist() == [[1, 0, 1]]


def test_many_exact_intervals_are_those_of_one_at_a_time():
    right, asked = np.array([0, 0, 3, 7, 7]), np.array([0, 5, 7, 7, 9])
    low, high = proportions(right, asked)
    assert (low[0], high[0]) == (0, 1)
    for place in range(1, 5):
        assert (low[place], high[place]) == pytest.approx(proportion(int(right[place]), int(asked[place]))[1:])


def counted(asked: list[int], wrong: list[int], pairs: list[list[int]], turns: int = 1) -> ClassAnswers:
    """Answers about three classes of two images each."""
    names = np.array(["a", "b", "c"])
    return ClassAnswers(
        names, np.array([2, 2, 2]), turns, names, Counts(np.array(asked), np.array(wrong), np.array(pairs))
    )


def test_an_image_wrong_once_of_once_is_not_the_hardest():
    found = counted([1, 20, 10, 10, 10, 10], [1, 19, 1, 0, 0, 0], [[0, 1, 20], [1, 2, 1]])
    assert hardest_images(found, 3) == [1, 0, 2]
    assert hardness(found.counts)[3] == 0


def test_the_table_of_classes():
    found = counted([5, 5, 10, 0, 0, 0], [1, 2, 1, 0, 0, 0], [[0, 1, 1], [0, 2, 2], [1, 0, 1]])
    table = class_table(found)
    assert table[["class", "queries", "accuracy", "taken_for", "times"]].values.tolist() == [
        ["a", 10, 70.0, "c", 2],
        ["b", 10, 90.0, "a", 1],
    ]
    assert (table["low"][0], table["high"][0]) == pytest.approx([100 * one for one in proportion(7, 10)[1:]], abs=1e-4)
    assert confused(found, 5) == [(0, 1, 1, 1), (0, 2, 2, 0)]


def test_turned_copies_say_so():
    assert counted([1] * 6, [0] * 6, [], turns=3).name(1) == "b (turned copy 2 of 3)"


def test_images_are_named_by_their_file_if_the_bank_knows_it():
    bank = toy_bank(2, 3)
    assert image_name(bank, 4) == "image 2 of class 1"
    object.__setattr__(bank, "files", [f"f{number}.png" for number in range(6)])
    assert image_name(bank, 4) == "f4.png"


def test_a_run_keeps_classes_and_confusion(whole):
    rows, arrays = read_results(whole)
    table = pd.read_csv(whole / "classes.csv", keep_default_na=False)
    assert set(zip(table["learner"], table["way"])) == set(zip(rows["learner"], rows["way"]))
    for _, row in rows.iterrows():
        own = table[(table["learner"] == row["learner"]) & (table["way"] == row["way"])]
        found = answers_of(row, arrays)
        assert found is not None
        assert own["queries"].sum() == row["episodes"] * row["way"] * row["query"]
        assert np.average(own["accuracy"], weights=own["queries"]) == pytest.approx(row["accuracy"], abs=1e-3)
        assert own["accuracy"].is_monotonic_increasing
    assert (whole / "confusion.npz").stat().st_size < 50_000


def test_the_table_of_a_row_is_made_once_and_is_that_of_the_row_alone(whole, monkeypatch):
    rows, arrays = read_results(whole)
    calls = []
    monkeypatch.setattr(class_records, "class_table", lambda found: calls.append(found) or class_table(found))
    made: dict = {}
    texts = [class_records.class_tables(rows[: count + 1], arrays, made) for count in range(len(rows))]
    assert len(calls) == len(rows) > 1
    assert texts[-1] == class_records.class_tables(rows, arrays) == (whole / "classes.csv").read_text(encoding="utf-8")
    tables = [class_table(answers_of(row, arrays)).assign(**row[[*MODEL, *CELL]]) for _, row in rows.iterrows()]
    found = pd.read_csv(io.StringIO(texts[-1]), keep_default_na=False)
    assert found.to_csv() == pd.concat(tables, ignore_index=True)[list(found)].to_csv()
    changed = rows.assign(key="of other code")
    class_records.class_tables(changed, arrays, made)
    assert len(calls) == 3 * len(rows), "rows with another key are tabled again"


def test_names_that_are_formulas_are_escaped_in_the_table_for_people(whole):
    rows, arrays = read_results(whole)
    names = np.array([f"={name}" for name in arrays["class_names"]])
    table = pd.read_csv(io.StringIO(class_records.class_tables(rows, {**arrays, "class_names": names})))
    assert table["class"].str.startswith("'=").all()


def test_a_folder_without_counts_still_opens_and_goes_on(run, preset, toy_banks, trained):
    (run / "confusion.npz").unlink()
    (run / "classes.csv").unlink()
    rows, arrays = read_results(run)
    assert all(answers_of(row, arrays) is None for _, row in rows.iterrows())
    assert len(again(preset, toy_banks, run)) == len(rows)
    assert trained == []


def test_counts_that_contradict_a_row_are_told_and_made_again(run, preset, toy_banks, trained, caplog):
    before = saved(run / "confusion.npz")
    name = "npair-seed0/5way1shot/wrong"
    np.savez(run / "confusion.npz", **{**before, name: before[name] * 0})
    said = refusal(lambda: read_results(run))
    assert "confusion.npz holds counts of npair, 5-way 1-shot, seed 0, that contradict its accuracy" in said
    again(preset, toy_banks, run)
    assert any("this is run again" in record.getMessage() for record in caplog.records)
    assert trained == []
    assert (saved(run / "confusion.npz")[name] == before[name]).all()


def test_an_unreadable_archive_is_one_sentence(run):
    (run / "confusion.npz").write_bytes(b"PK")
    assert "confusion.npz cannot be read as arrays" in refusal(lambda: read_results(run))


@pytest.mark.parametrize("number", range(40))
def test_any_damage_is_told_or_harmless(run, number):
    spoil_arrays(run / "confusion.npz", random.Random(number))
    try:
        rows, arrays = read_results(run)
    except InputError as error:
        said = str(error)
    else:
        said = ""
        for _, row in rows.iterrows():
            answers_of(row, arrays)
    assert not said or "is damaged (confusion.npz" in said


def test_evaluate_writes_both_files(call, whole, tmp_path):
    checkpoint = whole / "checkpoints" / "npair-seed0" / "best.pt"
    command = "evaluate", checkpoint, "--way", 5, "--query", 3, "--episodes", 40, "--device", "cpu"
    assert call(*command, "--output", tmp_path / "out").code == 0
    own = saved(whole / "confusion.npz")
    found = saved(tmp_path / "out" / "confusion.npz")
    assert all((found[name] == own[name]).all() for name in found)
    assert "npair-seed0/5way1shot/pairs" in found
    assert len(pd.read_csv(tmp_path / "out" / "classes.csv")) == 30
    said = call(*command, "--protocol", "retrieval", "--output", tmp_path / "out")
    assert said.code == 2
    assert "retrieval has no answers by class" in said.err


def test_counts_take_little_room():
    bank = toy_bank(400, 3, size=4)
    sampler = EpisodeSampler(bank, 20, 1, 2, 0)
    answers = np.random.default_rng(0).integers(0, 20, (500, 40)).astype(np.uint8)
    arrays = to_arrays("x-seed0", 20, 1, count_answers(sampler, answers), bank)
    assert sum(array.nbytes for name, array in arrays.items() if name.startswith("x-")) < 400_000
