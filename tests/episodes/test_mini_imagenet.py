"""miniImageNet in a faithful miniature: every form of its copies, and every kind of damage."""

import csv
import functools
import io
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import encoded, refusal, write_files
from PIL import Image

from episodes import ImageBank, InputError, MissingData, load_dataset, pictures
from episodes.archives import ImageFiles
from episodes.datasets import SPLITS, mini_imagenet
from episodes.datasets.parquet import ParquetImages

WHOLE = mini_imagenet.IMAGES
SIZE, IMAGES = 16, 3
SHORT = {"train": "train", "validation": "val", "test": "test"}
FIRST = {"train": 0, "validation": 64, "test": 80}  # the first label of each split, if labels count through all classes
KEYS = [key for split in SPLITS for key in mini_imagenet.SPLITS[split]]
NEMATODE, KING_CRAB = mini_imagenet.SPLITS["test"][:2]
PLACES = (2, 3, 5)  # of our images among those of their ImageNet class
NUMBERS = (3, 9, 10, 99, 100, 1000)  # in the file names of an ImageNet class

Pixels = np.ndarray | bytes  # bytes are written as they are
Classes = dict[str, list[Pixels]]
Splits = dict[str, Classes]
Files = dict[str, bytes | dict[str, bytes]]  # by path; an archive as its members

_random = np.random.default_rng(0)
MINIATURE: Splits = {
    split: {key: list(_random.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)) for key in keys}
    for split, keys in mini_imagenet.SPLITS.items()
}
OTHER = encoded(np.full((SIZE, SIZE, 3), 77, np.uint8))  # an image that belongs to no bank


def expected(split: str, names: list[str] | None = None, classes: Classes | None = None) -> ImageBank:
    """The expected bank, made without the loader."""
    classes = classes or MINIATURE[split]
    names = names or [f"{key} {mini_imagenet.NAMES[key]}" for key in sorted(classes)]
    images = np.stack([image for key in sorted(classes) for image in classes[key]])
    offsets = torch.arange(len(classes) + 1) * IMAGES
    return ImageBank(torch.from_numpy(images).permute(0, 3, 1, 2), offsets, tuple(names), ("",) * len(names))


def load(folder: Path, split: str = "test", size: int = SIZE) -> ImageBank:
    return load_dataset("mini_imagenet", split, data=folder, size=size)


def put(folder: Path, files: Files) -> Path:
    """Writes the files; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_files(folder, {path: content}) if isinstance(content, bytes) else write_files(folder / path, content)
    return folder


def png(pixels: Pixels) -> bytes:
    return pixels if isinstance(pixels, bytes) else encoded(pixels)


# --- forms: the files that users have, for any of the splits


def rows_of(classes: Classes) -> tuple[list[str], list[tuple[str, int]]]:
    """Classes in an order that is not sorted, and rows in which they alternate, images of a class in their order."""
    keys = random.Random(1).sample(sorted(classes), len(classes))
    return keys, [(key, place) for place in range(9) for key in keys if place < len(classes[key])]


def image_data(classes: Classes, protocol: int) -> bytes:
    keys, rows = rows_of(classes)
    random.Random(2).shuffle(rows)
    class_dict = {key: [rows.index((key, place)) for place in range(len(classes[key]))] for key in keys}
    images = np.stack([classes[key][place] for key, place in rows])
    return pickle.dumps({"image_data": images, "class_dict": class_dict}, protocol)


def labelled(split: str, classes: Classes, named: bool) -> bytes:
    keys, rows = rows_of(classes)
    label = {key: FIRST[split] + place for place, key in enumerate(keys if named else sorted(keys))}
    data = {"data": np.stack([classes[key][place] for key, place in rows]), "labels": [label[key] for key, _ in rows]}
    return pickle.dumps(data | ({"catname2label": label} if named else {}), 2)


def cache_pickles(splits: Splits, protocol: int = 2) -> Files:
    return {
        f"mini_imagenet/mini-imagenet-cache-{SHORT[split]}.pkl": image_data(classes, protocol)
        for split, classes in splits.items()
    }


def cache_pickles_of_the_latest_protocol(splits: Splits) -> Files:
    return cache_pickles(splits, pickle.HIGHEST_PROTOCOL)


def learn2learn(splits: Splits) -> Files:
    bookkeeping = {f"mini_imagenet/mini-imagenet-bookkeeping-{split}.pkl": b"to be ignored" for split in SPLITS}
    return bookkeeping | {
        f"mini_imagenet/mini-imagenet-cache-{split}.pkl": image_data(classes, 4) for split, classes in splits.items()
    }


def category_split(splits: Splits, named: bool = True) -> Files:
    start = "mini_imagenet/miniImageNet_category_split_"
    phases = {"train": "train_phase_train"}
    return {f"{start}train_phase_{word}.pickle": b"to be ignored" for word in ("val", "test")} | {
        f"{start}{phases.get(split, SHORT[split])}.pickle": labelled(split, classes, named)
        for split, classes in splits.items()
    }


def category_split_without_names(splits: Splits) -> Files:
    return category_split(splits, named=False)


def listing(classes: Classes) -> bytes:
    text = io.StringIO()
    rows = [(f"{key}{place:08d}.jpg", key) for key in classes for place, _ in zip(PLACES, classes[key])]
    csv.writer(text).writerows([("filename", "label"), *random.Random(3).sample(rows, len(rows))])
    return text.getvalue().encode()


def listings(splits: Splits, folder: str) -> Files:
    return {f"{folder}{SHORT[split]}.csv": listing(classes) for split, classes in splits.items()}


def flat_images(classes: Classes) -> dict[str, bytes]:
    """By names of class and number, and one image more of each class, which no csv file lists."""
    named = zip((*PLACES, 6), range(4))
    return {
        f"{key}{number:08d}.jpg": png([*classes[key], OTHER][place])
        for number, place in named
        for key in classes
        if place <= len(classes[key])
    }


def class_images(classes: Classes) -> dict[str, bytes]:
    return {f"{key}/{place}.jpg": png(image) for key in classes for place, image in enumerate(classes[key])}


def under(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {folder + name: data for name, data in files.items()}


def all_flat(splits: Splits, folder: str) -> dict[str, bytes]:
    return {name: data for classes in splits.values() for name, data in under(folder, flat_images(classes)).items()}


def all_folders(splits: Splits, folder: str, split_folders: bool) -> dict[str, bytes]:
    return {
        name: data
        for split, classes in splits.items()
        for name, data in under(folder + f"{SHORT[split]}/" * split_folders, class_images(classes)).items()
    }


def flat_folder(splits: Splits) -> Files:
    return all_flat(splits, "mini_imagenet/images/") | listings(splits, "mini_imagenet/")


def split_folders(splits: Splits) -> Files:
    return all_folders(splits, "mini_imagenet/", split_folders=True)


def class_folders(splits: Splits) -> Files:
    return all_folders(splits, "mini_imagenet/", split_folders=False)


def zips(splits: Splits) -> Files:
    return {f"mini_imagenet/{SHORT[split]}.zip": class_images(classes) for split, classes in splits.items()}


def tars(splits: Splits) -> Files:
    return {
        f"mini_imagenet/{SHORT[split]}.tar": under(f"./{SHORT[split]}/", class_images(classes))
        for split, classes in splits.items()
    }


def gzipped_tars(splits: Splits) -> Files:
    flat = {f"mini_imagenet/{split}.tar.gz": flat_images(classes) for split, classes in splits.items()}
    return flat | listings(splits, "mini_imagenet/")


def xz_tars(splits: Splits) -> Files:
    flat = {
        f"mini_imagenet/{SHORT[split]}.tar.xz": under("images/", flat_images(classes))
        for split, classes in splits.items()
    }
    return flat | listings(splits, "mini_imagenet/")


def xz_tars_in_parts(splits: Splits) -> Files:
    files: Files = {}
    for split, classes in splits.items():
        for place, (name, data) in enumerate(flat_images(classes).items()):
            files.setdefault(f"mini_imagenet/{SHORT[split]}-{place % 2 + 1}.tar.xz", {})[name] = data
    return files | listings(splits, "mini_imagenet/")


def one_zip(splits: Splits) -> Files:
    return {"mini_imagenet/images.zip": all_folders(splits, "mini-imagenet/", split_folders=True)}


def one_tar_with_csv_inside(splits: Splits) -> Files:
    members = all_flat(splits, "mini-imagenet/images/") | listings(splits, "mini-imagenet/")
    return {"mini-imagenet.tar.gz": members}


def imagenet(splits: Splits, root: str) -> Files:
    """Its training tree with classes of its own too, and its validation images in class folders."""
    files: Files = {f"{root}train/n01440764/n01440764_{number}.JPEG": OTHER for number in NUMBERS}
    for key, images in (item for classes in splits.values() for item in classes.items()):
        ours = dict(zip(PLACES, images))
        for position, number in enumerate(NUMBERS, 1):
            files[f"{root}train/{key}/{key}_{number}.JPEG"] = png(ours.get(position, OTHER))
        files[f"{root}val/{key}/ILSVRC2012_val_{len(files):08d}.JPEG"] = OTHER
    return files


def imagenet_tree(splits: Splits) -> Files:
    return imagenet(splits, "mini_imagenet/ILSVRC/Data/CLS-LOC/") | listings(splits, "mini_imagenet/")


def imagenet_beside(splits: Splits) -> Files:
    return imagenet(splits, "imagenet/") | listings(splits, "mini_imagenet/")


def table(rows: list[bytes], labels: list, names: list[str] | None = None) -> bytes:
    """A parquet file as Hugging Face writes them."""
    images = pyarrow.array([{"bytes": data, "path": None} for data in rows], _IMAGE)
    made = pyarrow.table({"image": images, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pyarrow.parquet.write_table(made, out, compression="none", use_dictionary=False)
    return out.getvalue()


_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def parquet(splits: Splits, parts: dict[str, list[str]], label: Callable, names: list[str] | None = None) -> Files:
    files = {}
    for split, classes in splits.items():
        _, rows = rows_of(classes)
        paths = parts[split]
        cut = -(-len(rows) // len(paths))
        for number, path in enumerate(paths):
            part = rows[number * cut : (number + 1) * cut]
            images = [png(classes[key][place]) for key, place in part]
            files[f"mini_imagenet/{path}"] = table(images, [label(key) for key, _ in part], names)
    return files


_PARTS = {
    split: [f"data/{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    for split, count in {"train": 2, "validation": 1, "test": 2}.items()
}
_MIXED = random.Random(4).sample(KEYS, len(KEYS))


def hugging_face(splits: Splits) -> Files:
    return parquet(splits, _PARTS, _MIXED.index, _MIXED)


def hugging_face_with_human_names(splits: Splits) -> Files:
    names = [f"{mini_imagenet.NAMES[key]}, Latin name" for key in _MIXED]
    return parquet(splits, _PARTS, _MIXED.index, [name.replace(" ", "_") for name in names])


def hugging_face_with_texts(splits: Splits) -> Files:
    return parquet(splits, {split: [f"{split}.parquet"] for split in SPLITS}, str)


def hugging_face_without_names(splits: Splits) -> Files:
    return parquet(splits, {split: [f"default/{split}/0000.parquet"] for split in SPLITS}, KEYS.index)


class Form(NamedTuple):
    """about: what `where` calls it; victim: the file, by pattern, that holds the test split or an image of it."""

    files: Callable[[Splits], Files]
    about: str
    victim: str
    named: bool = True
    home: str = "mini_imagenet"


FILES, ARCHIVES, LISTED = "image files", "archives of image files", " with csv files"
FORMS = {
    form.files.__name__: form
    for form in (
        Form(cache_pickles, "pickles", "*-test.pkl"),
        Form(cache_pickles_of_the_latest_protocol, "pickles", "*-test.pkl"),
        Form(learn2learn, "pickles", "*-cache-test.pkl"),
        Form(category_split, "pickles", "*_split_test.pickle"),
        Form(category_split_without_names, "pickles", "*_split_test.pickle", named=False),
        Form(flat_folder, FILES + LISTED, f"images/{NEMATODE}00000002.jpg"),
        Form(split_folders, FILES, f"test/{NEMATODE}/1.jpg"),
        Form(class_folders, FILES, f"{NEMATODE}/1.jpg"),
        Form(zips, ARCHIVES, "test.zip"),
        Form(tars, ARCHIVES, "test.tar"),
        Form(gzipped_tars, ARCHIVES + LISTED, "test.tar.gz"),
        Form(xz_tars, ARCHIVES + LISTED, "test.tar.xz"),
        Form(xz_tars_in_parts, ARCHIVES + LISTED, "test-2.tar.xz"),
        Form(one_zip, ARCHIVES, "images.zip"),
        Form(one_tar_with_csv_inside, ARCHIVES, "mini-imagenet.tar.gz", home="mini-imagenet.tar.gz"),
        Form(imagenet_tree, FILES + LISTED, f"CLS-LOC/train/{NEMATODE}/{NEMATODE}_100.JPEG"),
        Form(imagenet_beside, FILES + LISTED, f"train/{NEMATODE}/{NEMATODE}_100.JPEG", home=""),
        Form(hugging_face, "parquet files", "data/test-00001-of-00002.parquet"),
        Form(hugging_face_with_human_names, "parquet files", "data/test-00000-of-00002.parquet"),
        Form(hugging_face_with_texts, "parquet files", "test.parquet"),
        Form(hugging_face_without_names, "parquet files", "default/test/0000.parquet", named=False),
    )
}
PICKLES = [name for name, form in FORMS.items() if form.about == "pickles"]
PARQUET = [name for name, form in FORMS.items() if form.about == "parquet files"]
ARCHIVED = [name for name, form in FORMS.items() if form.about.startswith(ARCHIVES)]
TOGETHER = ["one_zip", "one_tar_with_csv_inside"]  # all splits in one file
ONE_OF_EACH = ["cache_pickles", "flat_folder", "split_folders", "zips", "xz_tars_in_parts", "hugging_face"]


def written(name: str, folder: Path, splits: Splits) -> Path:
    return put(folder, FORMS[name].files(splits))


def test_split(**changed: list[Pixels]) -> Splits:
    """The test split alone, with other images in some classes; without the classes that get none."""
    classes = MINIATURE["test"] | changed
    return {"test": {key: images for key, images in classes.items() if images}}


test_split.__test__ = False


@pytest.fixture(autouse=True)
def miniature(own_cache, monkeypatch) -> Path:
    """An empty cache folder; and three images make a class."""
    monkeypatch.setattr(mini_imagenet, "IMAGES", IMAGES)
    return own_cache


@pytest.fixture
def data(tmp_path) -> Path:
    return tmp_path / "data"


def banks(cache: Path) -> list[Path]:
    return [*cache.glob("banks/*")]


# --- forms


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_identical_bank(name, data):
    written(name, data, MINIATURE)
    for split in SPLITS:
        numbered = [f"label {FIRST[split] + place:03d}" for place in range(len(MINIATURE[split]))]
        reference = expected(split, None if FORMS[name].named else numbered)
        bank = load(data, split)
        assert bank.class_names == reference.class_names
        assert torch.equal(bank.offsets, reference.offsets)
        assert torch.equal(bank.images, reference.images)
        assert bank.checksum == reference.compute_checksum()
        assert bank.name == f"mini_imagenet (ravi) {split}"


@pytest.mark.parametrize("name", [name for name in FORMS if name not in TOGETHER])
def test_a_split_that_is_not_there_is_missing_and_the_others_load(name, data):
    written(name, data, test_split())
    assert len(load(data)) == 20 * IMAGES
    for split in ("train", "validation"):
        text = refusal(lambda split=split: load(data, split), MissingData)
        assert f"miniImageNet's {split} split is not in {data}" in text
        assert "--data" in text
    form = FORMS[name]
    assert mini_imagenet.where([data]) == f"{form.about} in {data / form.home}; no train split; no validation split"


@pytest.mark.parametrize("name", FORMS)
def test_where_names_the_form_once(name, data):
    written(name, data, {split: dict([*classes.items()][:1]) for split, classes in MINIATURE.items()})
    form = FORMS[name]
    assert mini_imagenet.where([data]) == f"{form.about} in {data / form.home}"


def test_nothing_at_all_is_missing_data(data, miniature):
    put(data, {"omniglot/train.csv": b"", "readme.txt": b"", "mini_imagenet/readme.txt": b""})
    text = refusal(lambda: load(data), MissingData)
    assert str(data) in text
    assert "mini_imagenet/" in text
    assert mini_imagenet.where([data]).startswith("not found")
    assert banks(miniature) == []


@pytest.mark.parametrize("place", ["mini_imagenet", "miniImageNet", "Mini-ImageNet", "mini-imagenet-ravi", "."])
@pytest.mark.parametrize("name", ["cache_pickles", "flat_folder", "split_folders", "xz_tars", "hugging_face"])
def test_it_is_found_in_folders_called_so_and_in_the_data_folder(name, place, data):
    files = FORMS[name].files(test_split())
    put(data, {path.replace("mini_imagenet", place, 1): content for path, content in files.items()})
    put(data, {"omniglot/images_background.zip": b"", "tiered_imagenet/train/n01440764/1.jpg": OTHER})
    assert load(data).checksum == expected("test").compute_checksum()


@pytest.mark.parametrize("archive", ["mini-imagenet.zip", "miniImageNet.tar", "mini_imagenet.tgz"])
def test_it_is_found_in_an_archive_called_so(archive, data):
    put(data, {archive: all_folders(MINIATURE, "", split_folders=False)})
    for split in SPLITS:
        assert load(data, split).checksum == expected(split).compute_checksum()


def test_it_is_found_in_the_data_folder_of_the_cache(miniature):
    written("zips", miniature / "data", test_split())
    bank = load_dataset("mini_imagenet", "test", size=SIZE)
    assert bank.checksum == expected("test").compute_checksum()


@pytest.mark.parametrize("name", ["cache_pickles", "category_split", "class_folders", "zips", "hugging_face"])
def test_images_of_another_size_are_squashed(name, data):
    generator = np.random.default_rng(5)
    wide = {key: list(generator.integers(0, 256, (3, 12, 30, 3), np.uint8)) for key in MINIATURE["test"]}
    written(name, data, {"test": wide})
    small = {
        key: [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images]
        for key, images in wide.items()
    }
    assert torch.equal(load(data).images, expected("test", classes=small).images)


def test_the_size_is_84_where_none_is_asked_for(data):
    written("zips", data, test_split())
    assert tuple(load_dataset("mini_imagenet", "test", data=data).images.shape) == (20 * IMAGES, 3, 84, 84)


def test_pickles_of_python_2_are_read(data):
    written("cache_pickles", data, test_split())
    path = data / "mini_imagenet" / "mini-imagenet-cache-test.pkl"
    content = pickle.loads(path.read_bytes())
    old = {name.encode(): value for name, value in content.items()}
    old[b"class_dict"] = {key.encode(): np.array(rows) for key, rows in content["class_dict"].items()}
    path.write_bytes(pickle.dumps(old, 4))
    assert load(data).checksum == expected("test").compute_checksum()


# --- damage


@pytest.mark.parametrize("name", FORMS)
def test_a_missing_class_is_named(name, data, miniature):
    written(name, data, test_split(**{NEMATODE: []}))
    text = refusal(lambda: load(data))
    assert str(data) in text
    assert "does not hold the 3 images of each of the 20 classes" in text
    assert f"{NEMATODE} (nematode) has 0" in text
    assert banks(miniature) == []


@pytest.mark.parametrize("name", FORMS)
def test_a_class_with_an_image_too_few_is_named(name, data, miniature):
    written(name, data, test_split(**{KING_CRAB: MINIATURE["test"][KING_CRAB][:2]}))
    called = f"{KING_CRAB} (king crab)" if FORMS[name].named else "label 081 (no name)"
    text = refusal(lambda: load(data))
    assert f"test split: {called} has 2; copy or download it again" in text
    assert banks(miniature) == []


@pytest.mark.parametrize("name", [name for name in FORMS if name in PICKLES + PARQUET])
def test_a_class_with_an_image_too_many_is_named(name, data):
    written(name, data, test_split(**{KING_CRAB: [*MINIATURE["test"][KING_CRAB], MINIATURE["train"][KEYS[0]][0]]}))
    called = f"{KING_CRAB} (king crab)" if FORMS[name].named else "label 081 (no name)"
    assert f"test split: {called} has 4; " in refusal(lambda: load(data))


def test_more_than_three_wrong_classes_are_counted(data):
    written("cache_pickles", data, test_split(**{key: [] for key in mini_imagenet.SPLITS["test"][:7]}))
    text = refusal(lambda: load(data))
    assert text.count(" has 0") == 3
    assert "and 4 more classes are wrong" in text


@pytest.mark.parametrize("name", FORMS)
def test_a_file_cut_in_half_is_named(name, data, miniature):
    written(name, data, test_split())
    [path] = data.rglob(FORMS[name].victim)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert path.name in refusal(lambda: load(data))
    assert banks(miniature) == []


@pytest.mark.parametrize("name", [name for name in FORMS if name not in PICKLES])
def test_a_file_that_is_no_image_is_refused(name, data, miniature):
    ours = MINIATURE["test"][KING_CRAB]
    written(name, data, test_split(**{KING_CRAB: [ours[0], b"<html>404 Not Found</html>", ours[2]]}))
    text = refusal(lambda: load(data))
    assert str(data) in text
    assert "is not a readable image" in text
    assert banks(miniature) == []


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_is_run(name, protocol, data, tmp_path, miniature):
    written(name, data, test_split())
    [path] = data.rglob(FORMS[name].victim)
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(content | {"evil": Evil(tmp_path / "evil")}, protocol))
    text = refusal(lambda: load(data))
    assert f"{path} is refused" in text
    assert "open" in text
    assert not (tmp_path / "evil").exists()
    assert banks(miniature) == []
    pickle.loads(path.read_bytes()).pop("evil").close()
    assert (tmp_path / "evil").exists(), "the pickle was harmless"


@pytest.mark.parametrize("name", ARCHIVED)
def test_an_archive_that_leads_out_is_refused(name, data, tmp_path, miniature):
    files = FORMS[name].files(test_split())
    for content in files.values():
        if isinstance(content, dict):
            content["../../slip.jpg"] = OTHER
    put(data, files)
    text = refusal(lambda: load(data))
    assert "../../slip.jpg" in text
    assert "leads out of the archive" in text
    assert [*tmp_path.rglob("slip.jpg")] == []
    assert banks(miniature) == []


@pytest.mark.parametrize("name", [name for name in PICKLES + PARQUET if FORMS[name].named])
def test_validation_and_test_swapped_is_told(name, data):
    swapped = {"validation": MINIATURE["test"], "test": MINIATURE["validation"]}
    written(name, data, swapped)
    for split, other in (("test", "validation"), ("validation", "test")):
        text = refusal(lambda split=split: load(data, split))
        assert f"should be miniImageNet's {split} split" in text
        assert f"which is in its {other} split" in text


@pytest.mark.parametrize("name", ["cache_pickles", "hugging_face_with_texts"])
def test_a_class_of_no_split_is_named(name, data):
    classes = dict(MINIATURE["test"])
    classes["n01440764"] = classes.pop(NEMATODE)
    written(name, data, {"test": classes})
    assert "holds the class 'n01440764', which is in none of its splits" in refusal(lambda: load(data))


@pytest.mark.parametrize("name", ["flat_folder", "xz_tars", "one_tar_with_csv_inside", "imagenet_tree"])
def test_csv_files_with_other_classes_are_refused(name, data):
    written(name, data, {"validation": MINIATURE["test"], "test": MINIATURE["validation"]})
    text = refusal(lambda: load(data))
    assert "csv file of the test split lists " in text
    assert "which is not in Ravi and Larochelle's test split" in text


def without_csv(name: str) -> Files:
    return {path: data for path, data in FORMS[name].files(test_split()).items() if not path.endswith(".csv")}


@pytest.mark.parametrize("name", ["flat_folder", "gzipped_tars", "imagenet_tree", "imagenet_beside"])
def test_more_images_without_csv_files_advise_them(name, data):
    put(data, without_csv(name))
    text = refusal(lambda: load(data))
    assert "and 17 more classes are wrong" in text
    assert "train.csv, val.csv and test.csv" in text


def test_a_part_of_imagenet_is_told(data):
    files, gone = imagenet_tree(test_split()), (f"/{NEMATODE}_100.JPEG", f"/{NEMATODE}_1000.JPEG")
    put(data, {path: content for path, content in files.items() if not path.endswith(gone)})
    text = refusal(lambda: load(data))
    assert f"the image number 5 of class {NEMATODE}, which has only 4" in text


def test_a_csv_file_of_other_names_is_refused(data):
    files = flat_folder(test_split())
    text = files["mini_imagenet/test.csv"].replace(NEMATODE.encode() + b"0", b"worm")
    put(data, files | {"mini_imagenet/test.csv": text})
    told = refusal(lambda: load(data))
    assert "worm" in told
    assert f"neither a file of class {NEMATODE} nor a position in it" in told


def test_a_csv_file_that_lists_an_image_twice_is_refused(data):
    files = flat_folder(test_split())
    twice = files["mini_imagenet/test.csv"].replace(f"{NEMATODE}00000003".encode(), f"{NEMATODE}00000002".encode())
    put(data, files | {"mini_imagenet/test.csv": twice})
    assert NEMATODE in refusal(lambda: load(data))


@pytest.mark.parametrize(
    "text", [b"", b"filename\na.jpg\n", b"filename,label\na.jpg\n", b"filename,label\n\xff,\xff\n"]
)
def test_a_broken_csv_file_is_named(text, data):
    put(data, flat_folder(test_split()) | {"mini_imagenet/test.csv": text})
    assert str(data / "mini_imagenet" / "test.csv") in refusal(lambda: load(data))


def repickled(data: Path, change: Callable[[dict], object]) -> Path:
    """A data folder whose pickle of the test split is changed."""
    written("cache_pickles", data, test_split())
    path = data / "mini_imagenet" / "mini-imagenet-cache-test.pkl"
    content = pickle.loads(path.read_bytes())
    changed = change(content)
    path.write_bytes(pickle.dumps(content if changed is None else changed, 4))
    return path


def shared(content: dict) -> None:
    rows = content["class_dict"]
    rows[NEMATODE][1] = rows[KING_CRAB][0]


def repeated(content: dict) -> None:
    rows = content["class_dict"][NEMATODE]
    rows[1] = rows[0]


@pytest.mark.parametrize("change", [shared, repeated])
def test_an_image_that_is_in_classes_twice_is_refused(change, data):
    path = repickled(data, change)
    text = refusal(lambda: load(data))
    assert f"{path} has an image that belongs to a class twice, or to two classes" in text


@pytest.mark.parametrize("row", [-1, 60, 2**70], ids=str)
def test_an_image_number_that_is_none_is_refused(row, data, miniature):
    path = repickled(data, lambda content: content["class_dict"][NEMATODE].__setitem__(1, row))
    assert str(path) in refusal(lambda: load(data))
    assert banks(miniature) == []


DEEP: list = functools.reduce(lambda rows, _: [rows] * 1000, range(20), [1])  # 1000^20 rows, in 20 short lists

PLAUSIBLE = {  # pickles that hold plain data, but not those of any form
    "a list": lambda content: [content],
    "no images": lambda content: {"class_dict": content["class_dict"]},
    "no classes": lambda content: {"image_data": content["image_data"]},
    "a list of images": lambda content: content | {"image_data": list(content["image_data"])},
    "floats": lambda content: content | {"image_data": content["image_data"] / np.float32(255)},
    "channels first": lambda content: content | {"image_data": content["image_data"].transpose(0, 3, 1, 2)},
    "images of no size": lambda content: content | {"image_data": np.zeros((60, 0, 0, 3), np.uint8)},
    "flat images": lambda content: content | {"image_data": content["image_data"].reshape(60, -1)},
    "fewer images": lambda content: content | {"image_data": content["image_data"][:50]},
    "rows as text": lambda content: content | {"class_dict": {key: ["first"] for key in content["class_dict"]}},
    "one row for all": lambda content: content | {"class_dict": dict.fromkeys(content["class_dict"], 3)},
    "rows of rows": lambda content: content | {"class_dict": {k: [[v] * 2] for k, v in content["class_dict"].items()}},
    "rows of rows without end": lambda content: content | {"class_dict": dict.fromkeys(content["class_dict"], DEEP)},
    "sets as classes": lambda content: (
        content | {"class_dict": {frozenset([key]): [0] for key in content["class_dict"]}}
    ),
    "classes as a list": lambda content: content | {"class_dict": list(content["class_dict"])},
    "labels as text": lambda content: {"data": content["image_data"], "labels": ["nematode"] * 60},
    "too many labels": lambda content: {"data": content["image_data"], "labels": [*range(80, 100)] * 4},
    "too few labels": lambda content: {"data": content["image_data"], "labels": [*range(80, 100)] * 2},
    "one label": lambda content: {"data": content["image_data"], "labels": 80},
    "names as a list": lambda content: {"data": content["image_data"], "labels": [0] * 60, "catname2label": [NEMATODE]},
}


@pytest.mark.parametrize("kind", PLAUSIBLE)
def test_a_pickle_of_other_contents_is_named(kind, data, miniature):
    path = repickled(data, PLAUSIBLE[kind])
    assert str(path) in refusal(lambda: load(data))
    assert banks(miniature) == []


def test_labels_and_images_must_be_as_many(data):
    def more(content: dict) -> dict:
        images = content["image_data"]
        return {"data": np.concatenate([images, images[:5]]), "labels": [*range(80, 100)] * 3}

    path = repickled(data, more)
    assert str(path) in refusal(lambda: load(data))


@pytest.mark.parametrize("name", ["test.csv", "mini-imagenet-cache-test.pkl", "test.parquet"])
def test_a_pipe_is_named_and_not_waited_for(name, data):
    put(data, without_csv("flat_folder"))
    os.mkfifo(data / "mini_imagenet" / name)
    assert f"{name} is no regular file" in refusal(lambda: load(data))


def parquet_of(**columns: list) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not a whole parquet file"),
        (parquet_of(picture=[b""], label=[0]), "needs the columns image and label, not picture, label"),
        (parquet_of(image=[OTHER], label=pyarrow.array([None], pyarrow.int64())), "row 0 of {path} has no label"),
        (table([OTHER], [100], KEYS), "row 0 of {path} has the label 100, but there are 100 names"),
        (table([OTHER], [-1], KEYS), "row 0 of {path} has the label -1, but there are 100 names"),
    ],
)
def test_a_parquet_file_of_other_contents_is_named(content, told, data):
    put(data, {"mini_imagenet/test.parquet": content})
    text = refusal(lambda: load(data))
    path = data / "mini_imagenet" / "test.parquet"
    assert str(path) in text
    assert told.format(path=path) in text


def test_a_parquet_row_without_bytes_is_named(data):
    rows = [png(image) for images in MINIATURE["test"].values() for image in images]
    labels = [key for key, images in MINIATURE["test"].items() for _ in images]
    put(data, {"mini_imagenet/test.parquet": table([*rows[:-1], None], labels)})
    assert f"row 59 of {data / 'mini_imagenet' / 'test.parquet'} holds no image" in refusal(lambda: load(data))


# --- the prepared bank


@pytest.mark.parametrize("name", FORMS)
def test_a_prepared_bank_opens_without_a_look_into_the_files(name, data, monkeypatch):
    written(name, data, test_split())
    first = load(data)

    def fail(*_, **__):
        raise AssertionError("a file was read again")

    monkeypatch.setattr(ImageFiles, "_content", property(fail))
    monkeypatch.setattr(mini_imagenet.pickles, "load", fail)
    monkeypatch.setattr(ParquetImages, "__init__", fail)
    assert load(data).checksum == first.checksum
    with pytest.raises((AssertionError, InputError), match="read again"):
        load(data, size=SIZE + 1)


@pytest.mark.parametrize("name", FORMS)
def test_a_bank_follows_its_files(name, data):
    written(name, data, test_split())
    first = load(data)
    images = [image.copy() for image in MINIATURE["test"][KING_CRAB]]
    images[1][4, 4] ^= 1
    written(name, data, test_split(**{KING_CRAB: images}))
    second = load(data)
    assert (first.images != second.images).flatten(1).any(1).nonzero().flatten().tolist() == [IMAGES + 1]
    assert torch.equal(second.images[IMAGES + 1].permute(1, 2, 0), torch.from_numpy(images[1]))


@pytest.mark.parametrize("folder", ["mini_imagenet/", "mini_imagenet/images/"])
def test_a_bank_follows_its_csv_file(folder, data):
    images = all_flat(test_split(), "mini_imagenet/images/")
    put(data, images | listings(test_split(), folder))
    load(data)
    text = (data / folder / "test.csv").read_text().replace(f"{NEMATODE}00000005", f"{NEMATODE}00000006")
    (data / folder / "test.csv").write_text(text)
    assert bool((load(data).images[2] == 77).all())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_interruption_leaves_nothing_half_done(name, data, miniature, monkeypatch):
    written(name, data, test_split())
    seen = []

    def interrupted(image, size):
        seen.append(size)
        if len(seen) == 40:
            raise KeyboardInterrupt
        return pictures.squashed(image, size)

    with monkeypatch.context() as patch:
        patch.setattr(mini_imagenet, "squashed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(data)
    assert len(seen) >= 40
    assert banks(miniature) == []
    assert load(data).checksum == expected("test").compute_checksum()


# --- the real data


def test_the_real_test_split_is_the_one_that_results_are_of(real_data, monkeypatch):
    if not (real_data / "mini_imagenet").is_dir():
        pytest.skip("needs real miniImageNet in mini_imagenet/ of the data folder")
    monkeypatch.setattr(mini_imagenet, "IMAGES", WHOLE)
    bank = load_dataset("mini_imagenet", "test", data=real_data)
    assert bank.sizes.tolist() == [600] * 20
    assert tuple(bank.images.shape) == (12_000, 3, 84, 84)
    assert bank.checksum == "b15e142dab9f2afaaec721ca7e696815"
