"""The protocol query_gallery: what is left out, ties, intervals, files, and folders with lists of their own."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import encoded, refusal, toy_bank, write_files
from embedded import Given, clustered

from episodes import load_dataset
from episodes.galleries import FoldedPairs, Gallery, gallery_of, pairs_of
from fewshot.benchmark import run_benchmark
from fewshot.clamping import clamped_query_gallery
from fewshot.config import QueryGallery, load_config
from fewshot.embedding import embedded
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.protocols.query_gallery import match
from fewshot.protocols.registry import PROTOCOLS
from fewshot.run_folder import read_kept, read_protocols, read_sheets
from fewshot.statistics import over_classes, over_seeds

PIXELS = NearestPixel(torch.nn.Flatten(), 1)  # its similarity is minus the squared distance


def given(spread: float = 1.0, classes: int = 8, images: int = 6) -> Given:
    return Given(clustered(classes, images, 5, spread), [images] * classes)


def listed(data: Given, cameras: int = 3) -> Gallery:
    """Every image is a query and in the gallery, by cameras in turn; the last image of each class is junk."""
    every = np.arange(len(data.bank))
    return Gallery(every, every, every % cameras, every % cameras, every % 6 == 5)


def judged_by_hand(data: Given, gallery: Gallery) -> tuple[list[int], list[float]]:
    """first and precision of each query, one image at a time, by distances."""
    vectors = data.embeddings.double()
    labels, firsts, precisions = data.bank.labels.tolist(), [], []
    for place, query in enumerate(gallery.queries.tolist()):
        rank = hits = first = 0
        total = 0.0
        for other in (vectors - vectors[query]).norm(dim=1)[gallery.gallery].argsort().tolist():
            image = int(gallery.gallery[other])
            same = labels[image] == labels[query]
            by_camera = gallery.query_cameras[place] == gallery.gallery_cameras[other]
            if image == query or (same and (by_camera or gallery.junk[other])):
                continue
            rank += 1
            if same:
                hits += 1
                first = first or rank
                total += hits / rank
        firsts.append(first)
        precisions.append(total / hits)
    return firsts, precisions


def test_the_query_its_camera_and_junk_are_left_out_as_by_a_plain_loop():
    data = given()
    gallery = listed(data)
    found = match(PIXELS, data, gallery, None, 0)
    firsts, precisions = judged_by_hand(data, gallery)
    assert found.first.tolist() == firsts
    assert np.allclose(found.precisions["map"], precisions, rtol=1e-12)
    assert not len(found.accuracies)


def test_turned_copies_of_the_querys_class_are_as_if_they_were_not_there():
    data = given()
    every = np.arange(len(data.bank))
    unknown = np.full(len(every), -1)
    turned = Given(data.embeddings, data.bank.sizes.tolist(), turns=2)
    found = match(PIXELS, turned, Gallery(every, every, unknown, unknown, unknown > 0), None, 0)
    for character in range(4):
        own = data.bank.labels.numpy() // 2 == character
        for turn in (0, 1):
            asked = every[data.bank.labels.numpy() == 2 * character + turn]
            kept = np.concatenate([every[~own], asked])
            alone = Gallery(asked, kept, unknown[asked], unknown[kept], unknown[kept] > 0)
            expected = match(PIXELS, data, alone, None, 0)
            assert found.first[asked].tolist() == expected.first.tolist()
            assert np.array_equal(found.precisions["map"][asked], expected.precisions["map"])


def test_the_intervals_are_over_the_classes_of_queries_and_over_folds():
    data = given()
    gallery, pairs = gallery_of(data.bank, 2, 0), pairs_of(data.bank, 4, 20, 0)
    found = match(PIXELS, data, gallery, pairs, 0)
    classes = data.bank.labels.numpy()[gallery.queries][:, None]
    assert found.measures["map"] == over_classes(100 * found.precisions["map"], classes, np.arange(8))
    assert found.measures["rank5"] == over_classes(100.0 * (found.first <= 5), classes, np.arange(8))
    assert np.isclose(found.measures["fold_accuracy"].mean, 100 * found.accuracies.mean())
    from_a_list = match(PIXELS, data, None, dataclasses.replace(pairs, trials=None), 0)
    assert np.allclose(from_a_list.measures["fold_accuracy"], over_seeds(100 * from_a_list.accuracies))
    assert from_a_list.measures["fold_accuracy"].mean == pytest.approx(found.measures["fold_accuracy"].mean)


def test_images_that_a_learner_cannot_tell_apart_are_at_chance_in_any_order_of_the_gallery():
    data = Given(torch.ones(400, 3), [10] * 40)
    for reverse in (False, True):
        gallery = gallery_of(data.bank, 5, 0)
        if reverse:
            gallery = dataclasses.replace(gallery, gallery=gallery.gallery[::-1].copy())
        found = match(PIXELS, data, gallery, pairs_of(data.bank, 10, 100, 0), 0)
        assert found.measures["rank1"].mean <= 10  # 2.5 % are expected
        assert found.measures["map"].mean <= 10
        assert found.measures["fold_accuracy"].mean == 50


def test_answers_in_place_of_classes_give_means_by_difficulty():
    data = given(0.1)
    queries, gallery = np.array([0, 6]), np.array([1, 2, 7, 13, 19])
    marks = [
        {name: np.isin(gallery, images) for name, images in parts.items()}
        for parts in ({"easy": [1], "hard": [2], "junk": [7]}, {"easy": [], "hard": [7], "junk": []})
    ]
    unknown = np.full(5, -1)
    given_answers = Gallery(queries, gallery, unknown[:2], unknown, unknown > 0, tuple(marks))
    found = match(PIXELS, data, given_answers, None, 0)
    assert {name: values.tolist() for name, values in found.precisions.items() if "easy" not in name} == {
        "map_medium": [1.0, 1.0],
        "map_hard": [1.0, 1.0],
    }
    assert found.precisions["map_easy"][0] == 1
    assert np.isnan(found.precisions["map_easy"][1])  # no easy image
    assert found.measures["map_easy"].mean == 100
    assert np.isnan(found.measures["map_easy"].ci95)
    assert "rank1" not in found.measures


def test_similarities_that_are_no_numbers_are_refused():
    data = given()
    data.embeddings[3] = torch.nan
    pairs = FoldedPairs(np.array([[0, 1], [2, 9]]), np.array([0, 1]))
    assert "not all finite" in refusal(lambda: match(PIXELS, data, None, pairs, 0))


def test_settings_are_clamped_to_the_data_unless_these_have_lists():
    bank = toy_bank(6, 4)
    clamped = clamped_query_gallery(QueryGallery(), bank)
    assert clamped == QueryGallery(gallery=3)
    assert clamped_query_gallery(QueryGallery(), dataclasses.replace(bank, lists="some")) == QueryGallery()


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_banks, preset):
    path = tmp_path_factory.mktemp("gallery") / "run"
    config = load_config(preset, ["prototypical", "nearest-pixel"], protocols=["query_gallery"], seeds=[0, 1])
    run_benchmark(config, toy_banks, path, device="cpu", progress=False)
    return path


def test_a_run_writes_rows_arrays_and_tables(run):
    rows, kept = read_protocols(run)["query_gallery"], read_kept(run, "query_gallery")
    assert len(rows) == 4
    assert set(rows["queries"]) == {30 * 19}
    assert rows["map_easy"].isna().all()
    for _, row in rows.iterrows():
        assert np.isclose(100 * np.mean(kept[f"{row['model']}/first"] == 1), row["rank1"], atol=1e-4)
        assert np.isclose(100 * np.mean(kept[f"{row['model']}/fold_accuracy"]), row["fold_accuracy"], atol=1e-4)
    titles = [sheet.title for sheet in read_sheets(run)]
    assert [title for title in titles if title.startswith("Pairs")]
    assert not any("easy" in column for sheet in read_sheets(run) for column in sheet.cells)


@pytest.mark.parametrize(
    ("column", "says"), [("map", "but the mean of its parts"), ("folds", "holds (10,) of float64")]
)
def test_a_row_that_contradicts_its_parts_is_found(run, column, says):
    protocol, kept = PROTOCOLS["query_gallery"], read_kept(run, "query_gallery")
    rows = read_protocols(run)["query_gallery"]
    assert not any(protocol.unlike(rows, kept))
    rows.loc[2, column] += 1
    assert [says in why for why in protocol.unlike(rows, kept)] == [False, False, True, False]
    assert all("lacks map" in why for why in protocol.unlike(rows, {}))


def test_a_folder_with_lists_is_tested_by_them(tmp_path):
    random = np.random.default_rng(0)
    rows, files = [], {}
    for person in range(6):
        face = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        for number, role in enumerate(["query", "gallery", "gallery"]):
            name = f"{person}-{number}.png"
            files[name] = encoded(face // (1 + number))
            rows.append(f"{name},person {person},{role},{number}")
    pairs = [f"{fold},{fold}-0.png,{other}.png" for fold in range(6) for other in (f"{fold}-1", f"{(fold + 1) % 6}-1")]
    files["list.csv"] = "\n".join(["file,label,role,camera", *rows]).encode()
    files["pairs.csv"] = "\n".join(["fold,first,second", *pairs]).encode()
    bank = load_dataset(str(write_files(tmp_path / "faces", files)), "test", size=16)
    gallery, pairs = gallery_of(bank, 5, 0), pairs_of(bank, 10, 300, 0)
    assert (len(gallery.queries), len(gallery.gallery), len(pairs.images)) == (6, 12, 12)
    found = match(PIXELS, embedded(PIXELS, bank), gallery, pairs, 0)
    assert (found.first.shape, len(found.accuracies)) == ((6,), 6)
