"""Folders and archives of someone's own images: what is a class, what is a split, and what is refused."""

import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, refusal, write_files

from episodes import ImageBank, InputError, ReadingOptions, load_dataset
from episodes.datasets import SPLITS, folder

SIZE = 16
Files = dict[str, bytes]
Names = dict[str, dict[str, list[str]]]


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 99


def picture(number: int) -> bytes:
    """A PNG of one colour, a different colour for each number."""
    return encoded(np.full((SIZE, SIZE, 3), colour(number), np.uint8))


def tree(classes: Iterable[str], images: int = 2) -> Files:
    """Class folders: image i of class c is the picture number `images` * c + i."""
    return {
        f"{name}/{i}.png": picture(images * number + i) for number, name in enumerate(classes) for i in range(images)
    }


def kinds(count: int) -> list[str]:
    return [f"kind {number:02d}" for number in range(count)]


def listing(rows: Iterable[Iterable[str]], header: str = "filename,label") -> bytes:
    return "\n".join([header, *map(",".join, rows), ""]).encode()


def labelled(count: int = 6, images: int = 2) -> tuple[Files, list[tuple[str, str]]]:
    """Images in one folder, and for each its path and its label."""
    rows = [(f"images/{number}.png", f"label {number % count}") for number in range(count * images)]
    return {name: picture(number) for number, (name, _) in enumerate(rows)}, rows


def layout(path: Path, protocol: str = "") -> tuple[Names, str]:
    """The names of the images in each class of each split, and the protocol."""
    found = folder.look(folder.image_files(path), protocol)
    assert set(found.splits) == set(SPLITS)
    names = {
        split: {name: [picture.key for picture in pictures] for name, pictures in found.splits[split].items()}
        for split in SPLITS
    }
    return names, found.protocol


def classes_of(path: Path, protocol: str = "") -> dict[str, list[str]]:
    return {split: list(classes) for split, classes in layout(path, protocol)[0].items()}


def banks(path: Path, protocol: str = "") -> dict[str, ImageBank]:
    name = f"{path}:{protocol}" if protocol else str(path)
    return {split: load_dataset(name, split, size=SIZE) for split in SPLITS}


def colours(bank: ImageBank) -> dict[str, list[tuple[int, ...]]]:
    """The one colour of each image of each class."""
    assert bool((bank.images == bank.images[:, :, :1, :1]).all())
    pixels = [tuple(pixel) for pixel in bank.images[:, :, 0, 0].tolist()]
    borders = itertools.pairwise(bank.offsets.tolist())
    return {name: pixels[start:end] for name, (start, end) in zip(bank.class_names, borders)}


def refused(path: Path) -> str:
    return refusal(lambda: load_dataset(str(path), "train", size=SIZE))


def test_class_folders_are_classes_with_just_their_images(tmp_path, own_cache):
    path = write_files(tmp_path / "animals", tree(kinds(7), 3))
    found = banks(path)
    assert {name: pixels for bank in found.values() for name, pixels in colours(bank).items()} == {
        name: [colour(3 * number + i) for i in range(3)] for number, name in enumerate(kinds(7))
    }
    assert sum(bank.classes for bank in found.values()) == 7
    assert {bank.name for bank in found.values()} == {f"animals (seed0) {split}" for split in SPLITS}
    assert {bank.source for bank in found.values()} == {str(path)}
    assert {group for bank in found.values() for group in bank.group_names} == {""}


def test_nested_classes_are_called_by_their_path_and_grouped_by_their_parent(tmp_path, own_cache):
    names = ["birds/owl", "birds/wren", "fish/cod", "fish/eel", "fish/deep/angler", "fish/deep/viper", "stone"]
    found = banks(write_files(tmp_path / "nested", tree(names)))
    groups = {name: group for bank in found.values() for name, group in zip(bank.class_names, bank.group_names)}
    assert groups == {name: str(Path(name).parent) if "/" in name else "" for name in names}


def test_a_folder_with_images_of_its_own_and_classes_below_is_a_class_too(tmp_path):
    names = ["owl", "owl/snowy", *kinds(4)]
    found, _ = layout(write_files(tmp_path / "images", tree(names)))
    assert {name: keys for classes in found.values() for name, keys in classes.items()} == {
        name: [f"{name}/0.png", f"{name}/1.png"] for name in names
    }


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("Train", "VALID", "Test"), ("train", "validation", "test")]
)
def test_folders_of_splits_are_taken_as_given(tmp_path, words):
    given = dict(zip(words, (["c", "a", "b"], ["e", "d"], ["g", "f"])))
    path = write_files(tmp_path / "images", tree(f"{word}/{name}" for word, names in given.items() for name in names))
    found, protocol = layout(path)
    assert protocol == "given"
    assert found == {
        split: {name: [f"{word}/{name}/0.png", f"{word}/{name}/1.png"] for name in sorted(given[word])}
        for split, word in zip(SPLITS, words)
    }


@pytest.mark.parametrize("words", [("seg_train", "seg_test"), ("Training", "testing"), ("images-train", "images-dev")])
def test_words_for_splits_are_found_in_the_names_of_folders(tmp_path, words):
    files = {f"{word}/{name}": data for word in words for name, data in tree(kinds(8)).items()}
    names, _ = layout(write_files(tmp_path / "images", files))
    assert sorted(itertools.chain(*names.values())) == kinds(8)  # each class once, though it is in both folders


def test_classes_that_sound_like_splits_are_classes(tmp_path):
    classes = ["bullet train", "test tube", *kinds(6)]
    names, protocol = layout(write_files(tmp_path / "images", tree(classes)))
    assert (sorted(itertools.chain(*names.values())), protocol) == (sorted(classes), "seed0")


def test_a_folder_beside_those_of_splits_is_refused(tmp_path):
    folders = {f"{top}/{name}": data for top in ("train", "test", "unlabeled") for name, data in tree(kinds(3)).items()}
    assert "beside them unlabeled, which is none" in refused(write_files(tmp_path / "images", folders))


def test_folders_that_hold_the_same_classes_are_refused(tmp_path):
    folders = {f"{top}/{name}": data for top in ("first", "second") for name, data in tree(kinds(6)).items()}
    assert "first and second" in refused(write_files(tmp_path / "images", folders))


def test_a_bank_of_given_splits_says_so_and_a_seed_splits_them_anew(tmp_path, own_cache):
    names = [f"{word}/{name}" for word, name in zip(["train"] * 6 + ["val"] * 2 + ["test"] * 2, "abcdefghij")]
    path = write_files(tmp_path / "images", tree(names))
    assert load_dataset(str(path), "test", size=SIZE).name == "images (given) test"
    anew = load_dataset(f"{path}:seed1", "train", size=SIZE)
    assert anew.name == "images (seed1) train"
    assert set(anew.class_names) != set("abcdef")


@pytest.mark.parametrize(("train", "held_out"), [(4, 2), (10, 2), (15, 3), (25, 5)])
def test_a_fifth_of_the_training_classes_stands_in_for_missing_validation(tmp_path, train, held_out):
    names = [*(f"train/{name}" for name in kinds(train)), "test/a", "test/b"]
    path = write_files(tmp_path / "images", tree(names))
    found, protocol = classes_of(path), layout(path)[1]
    assert protocol == "given"
    assert found["test"] == ["a", "b"]
    assert len(found["validation"]) == held_out
    assert sorted(found["train"] + found["validation"]) == kinds(train)
    assert found == classes_of(path)


@pytest.mark.parametrize("shared", [1, 7], ids=["one class", "all classes"])
def test_where_train_and_test_share_classes_all_are_pooled_and_split_by_class(tmp_path, shared):
    trained, tested = kinds(7), kinds(shared) + [f"other {number}" for number in range(7 - shared)]
    files = tree([f"train/{name}" for name in trained] + [f"test/{name}" for name in tested])
    path = write_files(tmp_path / "images", files)
    found, protocol = layout(path)
    assert protocol == "seed0"
    assert f"whose images a training would see ({', '.join(kinds(shared))}): all splits are pooled" in folder.where(
        path
    )
    pooled = {name: keys for classes in found.values() for name, keys in classes.items()}
    assert sum(map(len, found.values())) == len(pooled) == 14 - shared
    assert sorted(key for keys in pooled.values() for key in keys) == sorted(files)
    assert len(pooled["kind 00"]) == 4
    assert all(Path(key).parent.name == name for name, keys in pooled.items() for key in keys)


@pytest.mark.parametrize(
    ("header", "prefix"),
    [
        ("filename,label", "images/"),
        ("filename,label", ""),
        ("filename,label", "./images/"),
        ("\ufeffFile_Name, Class", "images/"),
        ("path,category,note", "images/"),
    ],
    ids=["path", "file name", "dot path", "other words and a byte order mark", "another column"],
)
def test_a_csv_file_says_the_class_of_each_image(tmp_path, header, prefix):
    files, rows = labelled()
    lines = [(name.replace("images/", prefix), label, "x")[: header.count(",") + 1] for name, label in rows]
    found, protocol = layout(write_files(tmp_path / "images", {**files, "labels.csv": listing(lines, header)}))
    assert protocol == "seed0"
    assert {(key, name) for classes in found.values() for name, keys in classes.items() for key in keys} == set(rows)


def given_by_csv(word: str = "val") -> tuple[Files, list[tuple[str, str, str]]]:
    """18 images of 7 classes, and for each its path, its label and its split, of which `word` is one."""
    files, rows = labelled(9)
    words = {"label 3": word, "label 4": word, "label 5": "test", "label 6": "test"}
    return files, [(name, label, words.get(label, "train")) for name, label in rows]


def split_rows(found: Names) -> set[tuple[str, str, str]]:
    return {(key, name, split) for split in SPLITS for name, keys in found[split].items() for key in keys}


@pytest.mark.parametrize("word", ["val", "valid", "validation", "VAL"])
def test_a_column_split_is_taken_as_given(tmp_path, word):
    files, rows = given_by_csv(word)
    path = write_files(tmp_path / "images", {**files, "all.csv": listing(rows, "filename,label,split")})
    found, protocol = layout(path)
    assert protocol == "given"
    assert split_rows(found) == {(name, label, split.replace(word, "validation")) for name, label, split in rows}


def test_a_csv_file_a_split_is_taken_as_given(tmp_path):
    files, rows = given_by_csv()
    lists = {f"{word}.csv": listing(row[:2] for row in rows if row[2] == word) for word in ("train", "val", "test")}
    found, protocol = layout(write_files(tmp_path / "images", {**files, **lists}))
    assert protocol == "given"
    assert split_rows(found) == {(name, label, split.replace("val", "validation")) for name, label, split in rows}


def test_csv_files_of_training_and_test_leave_validation_to_a_fifth_of_training(tmp_path):
    files, rows = labelled(12)
    train = [row for row in rows if row[1] not in ("label 3", "label 4")]
    lists = {"train.csv": listing(train), "test.csv": listing(row for row in rows if row not in train)}
    found = classes_of(write_files(tmp_path / "images", {**files, **lists}))
    assert found["test"] == ["label 3", "label 4"]
    assert len(found["validation"]) == 2
    assert len(found["train"]) == 8


def as_classes() -> Files:
    return tree(kinds(6))


def as_splits() -> Files:
    return tree(f"{word}/{word}{number}" for word in ("train", "val", "test") for number in range(2))


def as_listed() -> Files:
    files, rows = labelled()
    return {**files, "labels.csv": listing(rows)}


@pytest.mark.parametrize("make", [as_classes, as_splits, as_listed], ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.gz"], ids=["folder", "zip", "tar.gz"])
def test_archives_and_one_folder_around_everything_change_nothing(tmp_path, make, suffix):
    files = make()
    plain, protocol = layout(write_files(tmp_path / "plain", files))
    assert layout(write_files(tmp_path / f"packed{suffix}", files)) == (plain, protocol)
    wrapped, same = layout(write_files(tmp_path / f"wrapped{suffix}", {f"top/{name}": files[name] for name in files}))
    assert same == protocol
    unwrapped = {
        split: {name: [key.removeprefix("top/") for key in keys] for name, keys in classes.items()}
        for split, classes in wrapped.items()
    }
    assert unwrapped == plain


def test_an_archive_gives_the_same_images_as_its_folder(tmp_path, own_cache):
    files = tree(kinds(6))
    checksums = {}
    for name in ("loose", "zipped.zip", "packed.tar.gz"):
        found = banks(write_files(tmp_path / name, files))
        assert {bank.dataset for bank in found.values()} == {name.partition(".")[0]}
        checksums[name] = [found[split].compute_checksum() for split in SPLITS]
    assert checksums["loose"] == checksums["zipped.zip"] == checksums["packed.tar.gz"]
    assert len(set(checksums["loose"])) == 3


@pytest.mark.parametrize(
    ("classes", "sizes"), [(6, (2, 2, 2)), (10, (5, 2, 3)), (15, (7, 3, 5)), (25, (15, 5, 5)), (50, (32, 8, 10))]
)
@pytest.mark.parametrize("protocol", ["", "seed7"])
def test_a_seed_deals_every_class_to_one_split(tmp_path, classes, sizes, protocol):
    found = classes_of(write_files(tmp_path / "images", tree(kinds(classes))), protocol)
    assert tuple(map(len, found.values())) == sizes
    assert sorted(name for names in found.values() for name in names) == kinds(classes)


def test_a_seed_means_the_same_split_in_every_process(tmp_path):
    path = write_files(tmp_path / "images", tree(kinds(15)))
    # from an earlier process: the images of published results may not change
    for protocol, tested in (("", [1, 8, 12, 13, 14]), ("seed0", [1, 8, 12, 13, 14]), ("seed7", [0, 1, 5, 8, 14])):
        assert classes_of(path, protocol)["test"] == [kinds(15)[number] for number in tested]


def test_a_seed_does_not_mind_in_what_order_files_were_written(tmp_path):
    files = tree(kinds(15))
    path = write_files(tmp_path / "there", files)
    turned = write_files(tmp_path / "back.zip", dict(reversed(files.items())))
    assert layout(path, "seed3") == layout(turned, "seed3")


def test_a_name_with_a_seed_gives_the_bank_of_that_split(tmp_path, own_cache):
    path = write_files(tmp_path / "images", tree(kinds(15)))
    found = load_dataset(f"{path}:seed7", "test", size=SIZE)
    assert list(found.class_names) == classes_of(path, "seed7")["test"]
    assert found.name == "images (seed7) test"
    assert load_dataset(str(path), "test", size=SIZE).class_names != found.class_names


def listed(content: bytes, name: str = "labels.csv", **more: bytes) -> Files:
    return {**labelled()[0], **more, name: content}


ROWS = labelled()[1]
REFUSED = {
    "five classes": (tree(kinds(5)), "has 5 classes: three splits of two classes or more need six"),
    "one folder of images": (tree(["only"], 12), "has 1 class: three splits of two classes or more need six"),
    "one image": (tree(kinds(6)) | {"lonely/1.png": picture(99)}, "the class 'lonely' in "),
    "no class folders": ({f"{i}.png": picture(i) for i in range(12)}, "the image 0.png in "),
    "a bare image": (tree(kinds(6)) | {"bare.png": picture(99)}, "the image bare.png in "),
    "a bare image in a split": (
        tree(f"{word}/{name}" for word in ("train", "test") for name in "abc") | {"test/bare.png": picture(99)},
        "the image test/bare.png in ",
    ),
    "no images": ({"notes.txt": b"nothing"}, "there are no images in "),
    "a csv file alone": ({"labels.csv": listing(ROWS)}, "there are no images in "),
    "a missing image": (listed(listing([*ROWS, ("gone.png", "a")])), "lists the image gone.png, which is not there"),
    "an ambiguous image": (
        {**labelled()[0], "more/3.png": picture(99), "labels.csv": listing([("3.png", "a")])},
        "lists the image 3.png, which is there 2 times, as in images/3.png",
    ),
    "an image twice": (
        listed(listing([*ROWS, ("3.png", "label 4")])),
        "lists the image 3.png a second time: leave one line of it",
    ),
    "an image in two splits": (
        {**labelled()[0], "train.csv": listing(ROWS), "test.csv": listing(ROWS[:1])},
        "lists the image images/0.png a second time",
    ),
    "no header": (listed(listing(ROWS[1:], ",".join(ROWS[0]))), "needs a header with the columns filename and label"),
    "an empty csv file": (listed(b""), "needs a header with the columns filename and label, not an empty file"),
    "a comma without quotes": (
        listed(listing([*ROWS[:3], ("images/3.png", "owl", " barn")])),
        "has more cells than the header: quote names that hold a comma",
    ),
    "no rows": (listed(listing([])), "has 0 classes: three splits of two classes or more need six"),
    "no label": (listed(listing([*ROWS[:3], ("images/3.png", "")])), "line 5 of labels.csv in "),
    "a short line": (listed(listing([*ROWS[:3], ("images/3.png",)])), "line 5 of labels.csv in "),
    "not UTF-8": (listed(listing(ROWS) + b"\xff,a"), "cannot be read as a csv file in UTF-8"),
    "several csv files": (
        listed(listing(ROWS), "more.csv", **{"labels.csv": listing(ROWS)}),
        "has the csv files labels.csv, more.csv: keep one",
    ),
    "an unknown split": (
        listed(listing([(*row, "holdout") for row in ROWS], "filename,label,split")),
        "has 'holdout' as the split of images/0.png: write train, val or test",
    ),
    "an empty split": (
        listed(listing([(*row, "train" if row is not ROWS[4] else "") for row in ROWS], "filename,label,split")),
        "has '' as the split of images/4.png: write train, val or test",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_sentence(tmp_path, own_cache, case):
    files, said = REFUSED[case]
    path = write_files(tmp_path / "images", files)
    text = refused(path)
    assert said in text
    assert str(path) in text
    assert list(own_cache.glob("banks/*")) == []


@pytest.mark.parametrize("suffix", ["", ".zip"], ids=["folder", "zip"])
@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"GIF89a" + data], ids=["cut", "not that"])
def test_a_damaged_image_is_named_and_leaves_no_bank(tmp_path, own_cache, suffix, damage):
    files = as_splits()
    files["train/train1/0.png"] = damage(files["train/train1/0.png"])
    path = write_files(tmp_path / f"images{suffix}", files)
    assert f"train/train1/0.png in {path} is not a readable image" in refused(path)
    assert list(own_cache.glob("banks/*")) == []


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_files_that_are_no_images_are_told_once_when_the_bank_is_built(tmp_path, own_cache, caplog):
    others = {"kind 00/b.MOV": b"film", "kind 03/a.mov": b"film", "notes.txt": b"text", "kind 01/README": b"text"}
    path = write_files(tmp_path / "images", tree(kinds(6)) | others)
    said = (
        "4 files are left out, of no image format that Pillow reads here (2 x .mov, 1 x .txt, 1 x no suffix), the"
        " first one is kind 00/b.MOV; a .txt file that lists images must be called .tsv or .csv"
    )
    with caplog.at_level(logging.WARNING, "episodes"):
        found = banks(path)
        assert warned(caplog) == [f"{path}: {said}"]
        assert {name for name, *_ in caplog.record_tuples} == {"episodes"}
        banks(path)
    assert warned(caplog) == [f"{path}: {said}"], "told again of banks that were there"
    assert sum(map(len, found.values())) == 12
    for _ in range(2):
        counts = "2 train, 2 validation, 2 test classes"
        assert folder.where(path) == f"{path}, splits made by class with seed0: {counts}; {said}"


def test_hidden_files_are_left_out_silently(tmp_path, own_cache, caplog):
    hidden = {".DS_Store": b"", "kind 00/._0.png": b"", ".cache/0.png": b"", "__MACOSX/kind 00/0.png": b""}
    path = write_files(tmp_path / "images", tree(kinds(6)) | hidden)
    with caplog.at_level(logging.WARNING, "episodes"):
        assert sum(map(len, banks(path).values())) == 12
    assert warned(caplog) == []
    assert folder.where(path).endswith("2 test classes")


def test_images_that_no_csv_file_names_are_left_out_and_told(tmp_path, own_cache, caplog):
    files, rows = labelled(6, 3)
    path = write_files(tmp_path / "images", {**files, "labels.csv": listing(rows[:-2]), "notes.txt": b"text"})
    said = "2 images are left out, in no csv file, the first one is images/16.png"
    with caplog.at_level(logging.WARNING, "episodes"):
        found = banks(path)
    assert len(warned(caplog)) == 2
    assert f"{path}: {said}" in warned(caplog)
    assert sum(map(len, found.values())) == 16
    assert said in folder.where(path)
    assert "1 file is left out" in folder.where(path)


def test_csv_files_that_are_not_used_are_left_out_and_told(tmp_path):
    files, rows = given_by_csv()
    lists = {f"{word}.csv": listing(row[:2] for row in rows if row[2] == word) for word in ("train", "val", "test")}
    path = write_files(tmp_path / "images", {**files, **lists, "images/sizes.csv": b"1,2", "colours.csv": b"1,2"})
    assert layout(path)[1] == "given"
    said = folder.where(path)
    assert "2 files are left out" in said
    assert "(2 x .csv), the first one is colours.csv" in said


def test_where_says_which_splits_were_given(tmp_path):
    files, rows = given_by_csv()
    path = write_files(tmp_path / "images", {**files, "all.csv": listing(rows, "filename,label,split")})
    said = folder.where(path)
    assert said.startswith(f"{path}, splits as they are given: ")
    for count in ("5 train", "2 validation", "2 test"):
        assert count in said
    assert folder.where(path, "seed4").startswith(f"{path}, splits made by class with seed4: ")


def test_linked_class_folders_and_a_linked_folder_are_followed(tmp_path):
    store = write_files(tmp_path / "store", tree(kinds(6)))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in kinds(6):
        (linked / name).symlink_to(store / name)
    (linked / "round").symlink_to(linked)
    (tmp_path / "alias").symlink_to(store)
    assert layout(linked) == layout(tmp_path / "alias") == layout(store)


def as_threes() -> Files:
    return tree((f"{word}/{word}{number}" for word in ("train", "val", "test") for number in range(2)), 3)


def altered(path: Path) -> None:
    (path / "train" / "train0" / "0.png").write_bytes(picture(500))


def added(path: Path) -> None:
    (path / "train" / "train0" / "3.png").write_bytes(picture(500))


def removed(path: Path) -> None:
    (path / "train" / "train0" / "0.png").unlink()


def renamed(path: Path) -> None:
    (path / "train" / "train0").rename(path / "train" / "train9")


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        (altered, "train0", [500, 1, 2]),
        (added, "train0", [0, 1, 2, 500]),
        (removed, "train0", [1, 2]),
        (renamed, "train9", [0, 1, 2]),
    ],
    ids=["altered", "added", "removed", "renamed"],
)
def test_the_bank_follows_its_folder(tmp_path, own_cache, change, name, expected):
    path = write_files(tmp_path / "images", as_threes())
    before = load_dataset(str(path), "train", size=SIZE)
    assert load_dataset(str(path), "train", size=SIZE).checksum == before.checksum
    change(path)
    after = load_dataset(str(path), "train", size=SIZE)
    assert colours(after)[name] == [colour(number) for number in expected]
    assert after.checksum != before.checksum


def test_folders_of_one_name_sizes_and_times_have_banks_of_their_own(tmp_path, own_cache):
    found = []
    for number, place in enumerate(("here", "there")):
        pixels = np.full((SIZE, SIZE, 3), colour(number), np.uint8)
        files = {f"{name}/{i}.bmp": encoded(pixels, "BMP") for name in kinds(6) for i in range(2)}
        path = write_files(tmp_path / place / "images", files)
        for name in files:
            os.utime(path / name, (10**9, 10**9))
        found.append(load_dataset(str(path), "test", size=SIZE))
    assert [bank.images[0, :, 0, 0].tolist() for bank in found] == [list(colour(0)), list(colour(1))]


def test_a_folder_of_the_longest_name_can_be_prepared(tmp_path, own_cache):
    path = write_files(tmp_path / ("x" * 255), tree(kinds(6)))
    assert load_dataset(str(path), "test", size=SIZE).classes == 2


def of_split(path: Path, split: str, **options) -> ImageBank:
    return load_dataset(str(path), split, size=SIZE, options=ReadingOptions(**options))


@pytest.mark.parametrize("classes", [2, 7])
def test_all_classes_of_a_folder_are_one_split_without_the_six_that_three_need(tmp_path, own_cache, classes):
    path = write_files(tmp_path / "images", tree(kinds(classes)))
    bank = of_split(path, "all")
    assert list(bank.class_names) == kinds(classes)
    assert list(bank.files) == sorted(tree(kinds(classes)))
    assert bank.split == "all"


def test_too_few_classes_for_splits_say_how_to_use_all(tmp_path, own_cache):
    path = write_files(tmp_path / "images", tree(kinds(5)))
    text = refused(path)
    assert (
        text == f"{path} has 5 classes: three splits of two classes or more need six; to test on all classes and"
        " train on none, take 'bench --preset pretrained' or 'evaluate --split all'"
    )
    assert folder.where(path) == f"{path}: 5 classes, too few for splits"


def test_all_pools_the_splits_that_are_given(tmp_path, own_cache):
    path = write_files(tmp_path / "images", tree(["train/a", "train/b", "test/b", "test/c"]))
    bank = of_split(path, "all")
    assert (bank.class_names, bank.sizes.tolist()) == (("a", "b", "c"), [2, 4, 2])


@pytest.mark.parametrize("around", ["", "top/"], ids=["bare", "wrapped"])
def test_a_test_folder_alone_is_the_test_split(tmp_path, own_cache, around):
    path = write_files(tmp_path / "images", tree(f"{around}test/{name}" for name in kinds(7)))
    if around:
        path = path / "top"
    bank = of_split(path, "test")
    assert (list(bank.class_names), bank.name) == (
        kinds(7),
        "images (given) test" if not around else "top (given) test",
    )
    text = refused(path)
    assert f"{path} gives classes for test alone: take --split test or all, or add a folder train" in text
    assert load_dataset(f"{path}:seed0", "test", size=SIZE).classes == 2


def test_only_the_split_that_is_asked_for_must_be_sound(tmp_path, own_cache):
    files = tree([*(f"train/{name}" for name in kinds(4)), "test/x", "test/y"]) | {"test/bare.png": picture(99)}
    path = write_files(tmp_path / "images", files)
    assert of_split(path, "train").classes == of_split(path, "validation").classes == 2
    for split in ("test", "all"):
        text = refusal(lambda split=split: of_split(path, split))
        assert f"the image test/bare.png in {path} is in a folder of a split" in text
    assert len(list(own_cache.glob("banks/*"))) == 2


def test_a_given_test_split_stays_if_there_is_too_little_for_validation(tmp_path, own_cache):
    path = write_files(tmp_path / "images", tree(["train/a", "train/b", *(f"test/{name}" for name in kinds(7))]))
    assert list(of_split(path, "test").class_names) == kinds(7)
    assert of_split(path, "train").class_names == ("a", "b")
    text = refusal(lambda: of_split(path, "validation"))
    assert text == f"{path} gives 2 classes for train, too few to take two of them for validation: add classes"


def test_a_missing_test_split_is_taken_from_training_and_validation_stays(tmp_path):
    path = write_files(tmp_path / "images", tree([*(f"train/{name}" for name in kinds(10)), "val/a", "val/b"]))
    found = classes_of(path)
    assert found["validation"] == ["a", "b"]
    assert len(found["test"]) == 2
    assert sorted(found["train"] + found["test"]) == kinds(10)


def test_a_split_of_one_class_is_refused_when_asked_for(tmp_path, own_cache):
    path = write_files(tmp_path / "images", tree([*(f"train/{name}" for name in kinds(4)), "test/only"]))
    assert of_split(path, "train").classes == 2
    assert refusal(lambda: of_split(path, "test")) == f"{path} has one class for test, 'only', and an episode needs two"


def test_all_classes_with_one_image_are_named_in_one_sentence(tmp_path, own_cache):
    path = write_files(
        tmp_path / "images", tree(kinds(6)) | {f"{name}/0.png": picture(99) for name in ("lone", "sole")}
    )
    text = refused(path)
    assert text.startswith(f"the classes 'lone', 'sole' in {path} have one image, ")
    assert text.endswith("leave such classes out with --min-images 2")


def test_classes_with_too_few_images_are_left_out_before_splits_are_made_and_named(tmp_path, own_cache, caplog):
    files = (
        tree(kinds(6), 4)
        | {f"lone/{i}.png": picture(i) for i in range(1)}
        | {f"pair/{i}.png": picture(i) for i in range(2)}
    )
    path = write_files(tmp_path / "images", files)
    with caplog.at_level(logging.WARNING, "episodes"):
        found = {split: of_split(path, split, min_images=3) for split in SPLITS}
    assert sorted(name for bank in found.values() for name in bank.class_names) == kinds(6)
    said = "2 classes of fewer than 3 images are left out: lone (1), pair (2)"
    assert warned(caplog) == [f"{path}: {said}"]
    assert said in folder.where(path, options=ReadingOptions(min_images=3))
    assert of_split(path, "all", min_images=2).classes == 7


def test_damaged_images_are_left_out_if_asked_and_named_in_every_split_alike(tmp_path, own_cache, caplog):
    files = tree(kinds(7), 4)
    broken = ["kind 01/2.png", "kind 05/0.png", "kind 05/1.png"]
    path = write_files(tmp_path / "images.zip", files | {name: files[name][:40] for name in broken})
    with pytest.raises(InputError, match="not a readable image"):
        of_split(path, "all")
    with caplog.at_level(logging.WARNING, "episodes"):
        bank = of_split(path, "all", skip_damaged=True)
        parts = [of_split(path, split, skip_damaged=True, min_images=3) for split in SPLITS]
    assert sorted(bank.files) == sorted(files.keys() - set(broken))
    assert sorted(name for part in parts for name in part.class_names) == [*kinds(5), "kind 06"]
    assert warned(caplog)[0] == f"{path}: 3 damaged images are left out: {', '.join(broken)}"


def test_what_is_left_out_of_a_published_data_set_is_refused():
    for options in (ReadingOptions(min_images=3), ReadingOptions(skip_damaged=True)):
        text = refusal(lambda options=options: load_dataset("glyphs", "test", options=options))
        assert text == "the images of glyphs are fixed: min_images and skip_damaged are for folders of your own"


FORMS = {
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "bars": lambda text: text.replace(",", "|").encode(),
    "quotes after a space": lambda text: re.sub(",(label .)", r', "\1"', text).encode(),
    "lines of an old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "blank lines": lambda text: f"{text},\n , \n\n".encode(),
    "columns called image_path and labels": lambda text: text.replace("filename,label", "image_path,labels").encode(),
    "columns called image_id and label": lambda text: text.replace("filename", "image_id").replace(".png", "").encode(),
    "a byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big-endian without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-16 little-endian without a mark": lambda text: text.encode("utf-16-le"),
    "Windows lines": lambda text: text.replace("\n", "\r\n").encode(),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
    "no suffix": lambda text: text.replace(".png", "").encode(),
    "another suffix": lambda text: text.replace(".png", ".JPG").encode(),
    "paths from the root": lambda text: text.replace("images/", "/home/me/data/images/").encode(),
    "paths of Windows": lambda text: text.replace("images/", "C:\\me\\pictures\\").encode(),
    "paths from beside": lambda text: text.replace("images/", "../images/").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_csv_file_is_read_in_every_form_that_people_have(tmp_path, form):
    files, rows = labelled()
    data = FORMS[form](listing(rows).decode())
    found, _ = layout(write_files(tmp_path / "images", {**files, "labels.csv": data}))
    assert {(key, name) for classes in found.values() for name, keys in classes.items() for key in keys} == set(rows)


def test_a_list_may_be_a_tsv_file_and_a_csv_file_comes_first(tmp_path):
    files, rows = labelled()
    tabs = listing(rows).replace(b",", b"\t")
    path = write_files(tmp_path / "images", {**files, "labels.TSV": tabs})
    found, _ = layout(path)
    assert {(key, name) for classes in found.values() for name, keys in classes.items() for key in keys} == set(rows)
    assert folder.where(path).endswith("classes"), "nothing is left out"
    other = listing([(name, "odd" if label == "label 0" else label) for name, label in rows])
    write_files(path, {"labels.csv": other})
    assert "odd" in {name for classes in layout(path)[0].values() for name in classes}
    assert "1 file is left out, of no image format that Pillow reads here (1 x .tsv)" in folder.where(path)


def test_paths_of_a_drive_among_others_are_refused_with_what_to_do(tmp_path, own_cache):
    files, rows = labelled()
    mixed = [(f"./{name}" if number else f"C:\\me\\{name}", label) for number, (name, label) in enumerate(rows)]
    path = write_files(tmp_path / "images", {**files, "labels.csv": listing(mixed)})
    assert refused(path) == (
        f"labels.csv in {path} lists the image C:/me/images/0.png, which is not there, and other lines do not name that"
        " folder: if images/0.png is the image, write it so, and all others alike"
    )


@pytest.mark.parametrize("column", ["split", "set", "subset", "partition", "phase", "fold", "Subset "])
def test_the_column_of_splits_has_many_names(tmp_path, column):
    files, rows = given_by_csv()
    path = write_files(tmp_path / "images", {**files, "all.csv": listing(rows, f"filename,label,{column}")})
    assert split_rows(layout(path)[0]) == {
        (name, label, split.replace("val", "validation")) for name, label, split in rows
    }


def test_columns_that_are_not_used_are_mentioned(tmp_path):
    files, rows = labelled()
    lines = [(*row, str(number % 5), "x") for number, row in enumerate(rows)]
    path = write_files(tmp_path / "images", {**files, "a.csv": listing(lines, "filename,label,fold,note")})
    assert layout(path)[1] == "seed0"
    assert folder.where(path).endswith("the columns fold, note of a.csv are not used")
    write_files(path, {"a.csv": listing([line[:3] for line in lines], "filename,label,fold")})
    assert folder.where(path).endswith("the column fold of a.csv is not used")


def test_an_absolute_path_of_a_missing_image_is_not_taken_for_another_one(tmp_path, own_cache):
    files = tree(kinds(6)) | {"kind 00/rare.png": picture(99)}
    rows = [(f"/data/{name}", name.partition("/")[0]) for name in tree(kinds(6))]
    wrong = [*rows, ("/data/kind 01/rare.png", "kind 01")]
    path = write_files(tmp_path / "images", {**files, "labels.csv": listing(wrong)})
    assert "lists the image /data/kind 01/rare.png, which is not there" in refused(path)
    moved = [(f"/data/{label}/{name.replace('/', ' ')}", label) for name, label in labelled()[1]]
    flat = {name.rpartition("/")[2]: picture(number) for number, (name, _) in enumerate(moved)}
    found, _ = layout(write_files(tmp_path / "flat", {**flat, "labels.csv": listing(moved)}))
    assert sum(len(keys) for classes in found.values() for keys in classes.values()) == len(moved)
