"""Queries, galleries and pairs: read from lists and known layouts as they are published, or drawn."""

import contextlib
import json
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, toy_bank, write_files

from episodes import ImageBank, InputError, ReadingOptions, load_dataset
from episodes.galleries import gallery_of, pairs_of

SIZE = 16


def colour(number: int) -> tuple[int, int, int]:
    return number, 0, 99


def picture(number: int) -> bytes:
    """A PNG of one colour, a different colour for each number."""
    return encoded(np.full((SIZE, SIZE, 3), colour(number), np.uint8))


def listing(rows: Iterable[Iterable[str]], header: str) -> bytes:
    return "\n".join([header, *map(",".join, rows), ""]).encode()


@contextlib.contextmanager
def refused(says: str) -> Iterator[None]:
    """Inside, an InputError of one line is raised that matches `says`."""
    with pytest.raises(InputError, match=says) as caught:
        yield
    assert type(caught.value) is InputError
    assert "\n" not in str(caught.value)


def banks(path: Path, files: dict[str, bytes], *splits: str, **options) -> list[ImageBank]:
    write_files(path, files)
    return [load_dataset(str(path), split, size=SIZE, options=ReadingOptions(**options)) for split in splits]


def names(bank: ImageBank, images: np.ndarray) -> list[str]:
    return [bank.files[image] for image in images.tolist()]


def roles(people: int = 3) -> dict[str, bytes]:
    """Six training classes, and people with a query, a gallery and a junk image, by cameras a and b."""
    rows = [(f"images/{number}.png", f"kind {number // 2}", "", "a") for number in range(12)]
    for number in range(12, 12 + 4 * people, 4):
        label = f"person {number}"
        parts = (("query", "a"), ("gallery", "a"), ("gallery", "b"), ("junk", "b"))
        rows += [(f"images/{number + i}.png", label, *part) for i, part in enumerate(parts)]
    files = {row[0]: picture(number) for number, row in enumerate(rows)}
    return {**files, "list.csv": listing(rows, "file,label,role,camera")}


def test_a_csv_file_gives_roles_and_cameras_and_images_without_a_role_are_for_training(tmp_path):
    train, validation, test = banks(tmp_path, roles(), "train", "validation", "test")
    assert (train.classes + validation.classes, test.classes) == (6, 3)
    gallery = gallery_of(test, 5, 0)
    assert names(test, gallery.queries) == ["images/12.png", "images/16.png", "images/20.png"]
    assert names(test, gallery.gallery[:3]) == ["images/13.png", "images/14.png", "images/15.png"]
    assert gallery.junk.tolist() == [False, False, True] * 3
    assert gallery.gallery_cameras.tolist() == [0, 1, 1] * 3
    assert gallery.query_cameras.tolist() == [0] * 3
    assert gallery.answers == ()
    assert pairs_of(test, 10, 300, 0) is None
    assert (train.lists, validation.lists, bool(test.lists)) == ("", "", True)


def test_other_roles_are_other_images_of_the_test_and_of_no_other_split(tmp_path):
    files = roles()
    before = banks(tmp_path / "one", files, "train", "test")
    files["list.csv"] = files["list.csv"].replace(b"junk", b"gallery")
    after = banks(tmp_path / "two", files, "train", "test")
    assert before[0].checksum == after[0].checksum
    assert before[1].checksum != after[1].checksum
    assert after[1].compute_checksum() == after[1].checksum


def test_a_form_of_the_images_keeps_their_lists(tmp_path):
    write_files(tmp_path, roles())
    grey = load_dataset(f"{tmp_path}:grey", "test", size=SIZE)
    assert len(gallery_of(grey, 5, 0).queries) == 3


def test_images_that_were_left_out_are_in_no_list(tmp_path):
    files = roles()
    files["images/14.png"] = b"damaged"
    (test,) = banks(tmp_path, files, "test", skip_damaged=True)
    assert "images/14.png" not in names(test, gallery_of(test, 5, 0).gallery)
    assert len(gallery_of(test, 5, 0).gallery) == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"junk", b"rubbish"), "'rubbish' as the role of images/15.png: write query, gallery or junk"),
        ((b",query", b",gallery"), "0 queries and 12 gallery images"),
    ],
)
def test_roles_that_cannot_be_meant_are_refused_in_a_sentence(tmp_path, change, says):
    files = roles()
    files["list.csv"] = files["list.csv"].replace(*change)
    with refused(says):
        gallery_of(banks(tmp_path, files, "test")[0], 5, 0)


def test_a_column_of_other_roles_is_not_used(tmp_path):
    files = roles()
    for role in (b"query", b"gallery", b"junk"):
        files["list.csv"] = files["list.csv"].replace(role, b"actor")
    (bank,) = banks(tmp_path, files, "all")
    assert (bank.classes, bank.lists) == (9, "")


def paired() -> dict[str, bytes]:
    rows = [
        ("first", "kind 00/0.png", "kind 00/1.png"),
        ("first", "kind 01/0.png", "kind 00/1.png"),
        ("second", "kind 02/0.png", "kind 02/1.png"),
        ("second", "kind 02/0.png", "kind 03/1.png"),
    ]
    images = [f"kind {number:02d}/{i}.png" for number in range(8) for i in range(2)]
    files = {name: picture(number) for number, name in enumerate(images)}
    return {**files, "pairs.csv": listing(rows, "fold,first,second")}


def test_a_csv_file_of_pairs_gives_their_folds(tmp_path):
    (bank,) = banks(tmp_path, paired(), "all")
    pairs = pairs_of(bank, 10, 300, 0)
    assert names(bank, pairs.images[1]) == ["kind 01/0.png", "kind 00/1.png"]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert pairs.same(bank).tolist() == [True, False, True, False]
    assert gallery_of(bank, 1, 0) is None


def test_pairs_of_one_fold_are_dealt_out_in_turn(tmp_path):
    files = paired()
    files["pairs.csv"] = files["pairs.csv"].replace(b"second,k", b"first,k")
    (bank,) = banks(tmp_path, files, "all")
    assert pairs_of(bank, 3, 300, 0).folds.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"kind 02/1.png", b"kind 02/7.png"), "line 4 of pairs.csv in .* lists the image kind 02/7.png, .* not there"),
        ((b"kind 02/1.png", b"kind 02/0.png"), "line 4 of pairs.csv in .* pairs an image with itself"),
        ((b"\nsecond", b"\n"), "line 4 of pairs.csv in .* names no fold"),
        ((b"kind 00/1.png", b"kind 00/0.png"), "pairs an image with itself"),
        ((b"fold,first", b"fold,one"), "needs a header with the columns fold, first, second"),
    ],
)
def test_pairs_that_cannot_be_meant_are_refused_in_a_sentence(tmp_path, change, says):
    files = paired()
    files["pairs.csv"] = files["pairs.csv"].replace(*change)
    with refused(says):
        banks(tmp_path, files, "all")


def test_pairs_of_one_kind_are_refused(tmp_path):
    files = paired()
    files["pairs.csv"] = listing([("1", "kind 00/0.png", "kind 00/1.png")], "fold,first,second")
    with refused("have no pair of two classes"):
        pairs_of(banks(tmp_path, files, "all")[0], 10, 300, 0)


# --- known layouts


def test_names_of_market_1501_give_persons_and_cameras(tmp_path):
    train = [f"bounding_box_train/{person:04d}_c1s1_00{i}.jpg" for person in range(2, 12, 2) for i in range(2)]
    query = ["query/0001_c1s1_01.jpg", "query/0003_c2s1_01.jpg"]
    shown = ["0001_c2s1_01.jpg", "0003_c2s1_02.jpg", "0000_c3s1_01.jpg", "-1_c1s1_01.jpg"]
    every = [*train, *query, *(f"bounding_box_test/{name}" for name in shown)]
    files = {f"Market/{name}": picture(number) for number, name in enumerate(every)}
    base, test = banks(tmp_path, {**files, "Market/readme.txt": b"text"}, "train", "test")
    assert base.classes == 3  # two more are for validation
    assert test.class_names == ("0000", "0001", "0003")
    gallery = gallery_of(test, 5, 0)
    assert names(test, gallery.queries) == [f"Market/{name}" for name in query]
    assert len(gallery.gallery) == 3  # without the person -1
    assert gallery.gallery_cameras.tolist() == [2, 1, 1]
    assert gallery.query_cameras.tolist() == [0, 1]


PEOPLE = {"Ann": 3, "Bo_B": 1, "Cy": 2, "Dee": 2, "Eve": 2, "Flo": 2, "Guy": 2, "Hal": 1}
LFW = "2 1\nAnn 1 3\nAnn 2 Bo_B 1\nCy\t1\t2\nCy 1 Ann 2\n"


def lfw(text: str = LFW) -> dict[str, bytes]:
    names = [f"lfw/{name}/{name}_{number:04d}.png" for name, count in PEOPLE.items() for number in range(1, count + 1)]
    return {"lfw/pairs.txt": text.encode(), **{name: picture(number) for number, name in enumerate(names)}}


def test_pairs_of_lfw_give_folds_and_the_people_of_the_test(tmp_path):
    train, test = banks(tmp_path, lfw(), "train", "test")
    assert test.class_names == ("Ann", "Bo_B", "Cy")  # a person of one photograph too
    assert train.classes == 2  # two others for validation, and Hal has one photograph
    pairs = pairs_of(test, 10, 300, 0)
    assert names(test, pairs.images[1]) == ["lfw/Ann/Ann_0002.png", "lfw/Bo_B/Bo_B_0001.png"]
    assert pairs.same(test).tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the first line of .*pairs.txt"),
        ("2 2\nAnn 1 3\n", "has 1 pairs, and not as many"),
        (LFW.replace("Ann 1 3", "Ann 1 9"), "line 2 of .* names the image Ann_0009, which is not there"),
        (LFW.replace("Ann 1 3", "Ann 1 x"), "line 2 of .* is neither"),
        (LFW.replace("Ann 1 3", "../Ann 1 3"), "which is not there"),
    ],
)
def test_damaged_pairs_of_lfw_are_refused_in_a_sentence(tmp_path, text, says):
    with refused(says):
        banks(tmp_path, lfw(text), "test")


GROUND_TRUTH = {
    "imlist": ["hall_000002", "oxford_000003", "oxford_000004", "tower_000005"],
    "qimlist": ["hall_000001", "tower_000001"],
    "gnd": [
        {"bbx": [2.0, 0.0, 16.0, 8.0], "easy": [0], "hard": [1], "junk": [3]},
        {"bbx": [0, 0, 16, 16], "easy": [], "hard": [3], "junk": []},
    ],
}


def buildings(**lists: bytes) -> dict[str, bytes]:
    images = [*GROUND_TRUTH["qimlist"], *GROUND_TRUTH["imlist"]]
    files = {f"oxford/jpg/{name}.png": picture(number) for number, name in enumerate(images)}
    files["oxford/jpg/hall_000001.png"] = encoded(np.array([[colour(1)] * 2 + [colour(9)] * 14] * 16, np.uint8))
    return files | {f"oxford/gnd_roxford5k.{suffix}": content for suffix, content in lists.items()}


def in_numpy() -> dict:
    """The ground truth as its pickle has it, with arrays."""
    parts = [{name: np.array(part, dtype=np.int64) for name, part in one.items()} for one in GROUND_TRUTH["gnd"]]
    return {**GROUND_TRUTH, "gnd": parts}


@pytest.mark.parametrize(
    "lists", [{"json": json.dumps(GROUND_TRUTH).encode()}, {"pkl": pickle.dumps(in_numpy(), protocol=2)}], ids=str
)
def test_the_ground_truth_of_buildings_gives_answers_and_boxes(tmp_path, lists):
    (test,) = banks(tmp_path, buildings(**lists), "test")
    gallery = gallery_of(test, 5, 0)
    assert [name.rpartition("/")[2] for name in names(test, gallery.queries)] == ["hall_000001.png", "tower_000001.png"]
    shown = [Path(name).stem for name in names(test, gallery.gallery)]
    first, second = gallery.answers
    assert [np.array(shown)[first[part]].tolist() for part in ("easy", "hard", "junk")] == [
        ["hall_000002"],
        ["oxford_000003"],
        ["tower_000005"],
    ]
    assert np.array(shown)[second["hard"]].tolist() == ["tower_000005"]
    assert test.images[gallery.queries[0]].flatten(1).unique(dim=1).T.tolist() == [list(colour(9))]  # cut to its box


class Code:
    """What a pickle would run if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_of_ground_truth_runs_no_code(tmp_path):
    mark = tmp_path / "run"
    with refused("wants to load"):
        banks(tmp_path / "data", buildings(pkl=pickle.dumps({**GROUND_TRUTH, "gnd": Code(mark)})), "test")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gnd": []}, "is no ground truth"),
        ({"gnd": [{"bbx": [1, 2], "easy": [0]}] * 2}, "is no ground truth"),
        ({"gnd": [{"bbx": [0, 0, 9, 9], "easy": [4]}] * 2}, "is no ground truth"),
        ({"gnd": [{"bbx": [20, 0, 30, 9], "easy": [0]}] * 2}, "the box of the query .* is outside"),
        ({"imlist": ["nowhere_000001"]}, "names the image nowhere_000001, which is not there"),
    ],
)
def test_damaged_ground_truth_is_refused_in_a_sentence(tmp_path, change, says):
    with refused(says):
        banks(tmp_path, buildings(json=json.dumps({**GROUND_TRUTH, **change}).encode()), "test")


def browns(lines: list[str]) -> dict[str, bytes]:
    """One sheet of 256 patches, each of one colour, two patches of each of 128 points; and a list of pairs."""
    sheet = np.zeros((1024, 1024, 3), np.uint8)
    for number in range(256):
        row, column = divmod(number, 16)
        sheet[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)] = colour(number)
    info = "".join(f"{number // 2} 0\n" for number in range(256))
    return {
        "patches0000.bmp": encoded(sheet, "BMP"),
        "info.txt": info.encode(),
        "m50_100000_100000_0.txt": "\n".join([*lines, ""]).encode(),
    }


def test_patches_of_brown_are_cut_out_and_their_list_gives_pairs(tmp_path):
    lines = ["20 10 0 21 10 0 0", "20 10 0 41 20 0 0", "40 20 0 41 20 0 0", "40 20 0 61 30 0 0"]
    train, test = banks(tmp_path, browns(lines), "train", "test")
    assert test.class_names == ("10", "20", "30")
    assert train.classes + test.classes < 128  # the others are for validation
    assert [image[:, 0, 0].tolist() for image in test.images[:2]] == [list(colour(20)), list(colour(21))]
    pairs = pairs_of(test, 2, 300, 0)
    assert pairs.same(test).tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("line", ["20 10 0 21 11 0 0", "20 10 0 999 499 0 0", "20 10", "x 10 0 21 10 0 0"])
def test_a_damaged_list_of_brown_is_refused_in_a_sentence(tmp_path, line):
    with refused("line 1 of m50_100000_100000_0.txt in .* gives no two patches"):
        banks(tmp_path, browns([line]), "test")


# --- drawn


def test_without_lists_the_gallery_shows_as_many_images_of_each_class_and_all_others_are_queries():
    bank = toy_bank(6, 9)
    gallery = gallery_of(bank, 4, 0)
    assert sorted([*gallery.queries, *gallery.gallery]) == list(range(54))
    assert np.bincount(bank.labels[gallery.gallery]).tolist() == [4] * 6
    assert not np.array_equal(gallery.gallery, gallery_of(bank, 4, 1).gallery)
    with refused("leaves no query"):
        gallery_of(bank, 9, 0)


def test_without_lists_each_fold_has_as_many_pairs_of_one_class_as_of_two():
    bank = toy_bank(9, 5)
    pairs = pairs_of(bank, 4, 30, 0)
    labels, same = bank.labels.numpy()[pairs.images], pairs.same(bank)
    assert same.tolist() == [True, False] * 120
    assert np.bincount(pairs.folds[same]).tolist() == np.bincount(pairs.folds[~same]).tolist() == [30] * 4
    assert (pairs.images[:, 0] != pairs.images[:, 1]).all()
    assert np.array_equal(pairs.trials, labels[1::2])
    assert np.array_equal(pairs.trials[:, 0], labels[::2, 0])
    assert np.array_equal(pairs.images, pairs_of(bank, 4, 30, 0).images)
    with refused("each of two images or more"):
        pairs_of(toy_bank(9, 1), 4, 30, 0)


def test_the_orl_faces_are_forty_people_and_their_files_are_checked(tmp_path):
    face = encoded(np.arange(112 * 92, dtype=np.uint8).reshape(112, 92), "PPM")
    files = {f"orl_faces/s{person}/{number}.pgm": face for person in range(1, 41) for number in range(1, 11)}
    write_files(tmp_path / "data", files)
    bank = load_dataset("orl_faces", "test", data=tmp_path / "data")
    assert (bank.classes, len(bank), bank.class_names[0]) == (20, 200, "s21")
    assert bank.images.shape[1:] == (1, 48, 48)
    (tmp_path / "data/orl_faces/s30/4.pgm").unlink()
    with refused("not the whole of the ORL faces"):
        load_dataset("orl_faces", "test", data=tmp_path / "data")


def test_the_real_orl_faces_are_read(real_data):
    if not (real_data / "orl_faces").is_dir():
        pytest.skip("the ORL faces are not under FEWSHOT_DATA")
    banks = [load_dataset("orl_faces", split, data=real_data) for split in ("train", "validation", "test")]
    assert [bank.classes for bank in banks] == [16, 4, 20]
    assert not set(banks[0].class_names) & set(banks[2].class_names)
