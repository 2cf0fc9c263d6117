"""Files of features: every form gives the same bank, what cannot be right is one sentence, and no code is read."""

import json
import struct
import time

import numpy as np
import pytest
import torch
from conftest import refusal

from episodes import FeatureBank, load_dataset
from episodes.datasets import short_name

CLASSES, IMAGES, SIZE = 12, 5, 6
RANDOM = np.random.default_rng(0)
EMBEDDINGS = RANDOM.normal(size=(CLASSES * IMAGES, SIZE)).astype(np.float32)
LABELS = np.repeat(np.arange(CLASSES), IMAGES)
NAMES = [f"animals/{number:02d}" for number in range(CLASSES)]
SPLIT = np.repeat(["train", "val", "test"], CLASSES * IMAGES // 3)
ORDER = RANDOM.permutation(len(LABELS))


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def safetensors(path, tensors, **texts):
    """A file as the library writes it."""
    from safetensors.numpy import save_file

    save_file(tensors, path, {name: json.dumps(list(text)) for name, text in texts.items()})
    return path


def parquet(path, columns):
    import pandas as pd

    pd.DataFrame(columns).to_parquet(path)
    return path


def whole(path, **changes):
    """An npz with all arrays, but for the changes; None leaves an array out."""
    arrays = {"embeddings": EMBEDDINGS, "labels": LABELS, "class_names": np.array(NAMES), "split": SPLIT, **changes}
    return npz(path, **{name: array for name, array in arrays.items() if array is not None})


def features_of(bank):
    return bank.images[:, :, 0, 0].numpy()


def test_a_sorted_file_is_mapped_where_it_lies(tmp_path, cache):
    path = whole(tmp_path / "mapped-in-place.npz")
    bank = load_dataset(str(path), "test")
    assert isinstance(bank, FeatureBank)
    assert bank.name == "mapped-in-place (given) test"
    assert bank.class_names == tuple(NAMES[8:])
    assert bank.group_names == ("animals",) * 4
    assert np.array_equal(features_of(bank), EMBEDDINGS[SPLIT == "test"])
    assert not list(cache.glob("banks/mappedinplace-*/features.npy"))


@pytest.mark.parametrize("form", ["shuffled", "compressed", "float64", "unaligned", "safetensors", "parquet"])
def test_every_form_gives_the_same_features_class_by_class(tmp_path, form):
    plain = load_dataset(str(whole(tmp_path / "plain.npz")), "test")
    shuffled = {"x": EMBEDDINGS[ORDER], "y": LABELS[ORDER], "split": SPLIT[ORDER]}
    path = tmp_path / f"{form}.npz"
    if form == "shuffled":
        npz(path, **shuffled, classes=np.array(NAMES))
    elif form == "compressed":
        np.savez_compressed(path, **shuffled, classes=np.array(NAMES))
    elif form == "float64":
        npz(path, **{**shuffled, "x": EMBEDDINGS[ORDER].astype(np.float64)}, classes=np.array(NAMES))
    elif form == "unaligned":  # the name of the first array shifts the others
        npz(path, odd=np.zeros(1, np.uint8), X=EMBEDDINGS, Y=LABELS, split=SPLIT, classes=np.array(NAMES))
    elif form == "safetensors":
        path = safetensors(
            path.with_suffix(".safetensors"),
            {"features": EMBEDDINGS, "labels": LABELS},
            class_names=NAMES,
            split=SPLIT.tolist(),
        )
    else:
        names = [NAMES[label] for label in LABELS[ORDER]]
        path = parquet(
            path.with_suffix(".parquet"), {"emb": list(EMBEDDINGS[ORDER]), "label": names, "split": SPLIT[ORDER]}
        )
    bank = load_dataset(str(path), "test")
    assert bank.class_names == plain.class_names
    assert bank.offsets.tolist() == plain.offsets.tolist()
    for one in range(bank.classes):  # the order inside of a class is that of the file
        rows = slice(*bank.offsets[one : one + 2].tolist())
        assert {tuple(row) for row in features_of(bank)[rows]} == {tuple(row) for row in features_of(plain)[rows]}


def test_a_bank_opens_again_with_the_same_checksum_and_another_file_is_another_bank(tmp_path):
    path = whole(tmp_path / "again.npz")
    first = load_dataset(str(path), "train")
    assert load_dataset(str(path), "train").checksum == first.checksum == first.compute_checksum()
    time.sleep(0.01)
    whole(path, embeddings=EMBEDDINGS + 1)
    assert load_dataset(str(path), "train").checksum != first.checksum
    assert whole(tmp_path / "half.npz", embeddings=EMBEDDINGS.astype(np.float16))
    assert load_dataset(str(tmp_path / "half.npz"), "train").images.dtype == torch.float16


def test_batches_are_features_as_they_are(tmp_path):
    bank = load_dataset(str(whole(tmp_path / "batch.npz")), "train")
    batch = bank.batch(torch.tensor([3, 0]))
    assert batch.shape == (2, SIZE, 1, 1)
    assert batch.dtype == torch.float32
    assert np.array_equal(batch[:, :, 0, 0].numpy(), EMBEDDINGS[[3, 0]])


def test_a_seed_splits_the_classes_and_a_file_without_splits_gets_seed_0(tmp_path):
    path = whole(tmp_path / "seeds.npz", split=None)
    splits = {seed: [load_dataset(f"{path}{seed}", split) for split in ("train", "validation", "test")] for seed in
              ("", ":seed0", ":seed1")}  # fmt: skip
    names = {seed: [bank.class_names for bank in banks] for seed, banks in splits.items()}
    assert sorted(sum(names[":seed1"], ())) == NAMES
    assert names[""] == names[":seed0"] != names[":seed1"]
    assert short_name(f"{path}:seed1") == "seeds-seed1"
    for bank in splits[":seed1"]:
        rows = np.isin(LABELS, [NAMES.index(name) for name in bank.class_names])
        assert np.array_equal(features_of(bank), EMBEDDINGS[rows])


def test_text_features_are_those_of_the_split(tmp_path):
    texts = RANDOM.normal(size=(CLASSES, SIZE)).astype(np.float32)
    bank = load_dataset(str(whole(tmp_path / "texts.npz", texts=texts)), "test")
    assert np.array_equal(bank.texts.numpy(), texts[8:])
    assert load_dataset(str(whole(tmp_path / "no-texts.npz")), "test").texts is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"embeddings": None}, "has no embeddings (it has labels, class_names, split): a file of features needs"),
        ({"labels": None}, "has no labels"),
        ({"labels": LABELS[:-1]}, "has 60 embeddings, so labels must be as many"),
        ({"labels": LABELS + 1}, "has labels from 1 to 12, but class_names has 12 names"),
        ({"labels": LABELS.astype(object)}, "the array labels in"),
        ({"embeddings": EMBEDDINGS.astype(object)}, "holds Python objects, which could run code"),
        ({"embeddings": np.asfortranarray(EMBEDDINGS)}, "is stored column by column"),
        ({"embeddings": EMBEDDINGS[0]}, "are (6,) of float32"),
        ({"embeddings": LABELS[:, None]}, "are (60, 1) of int64"),
        ({"embeddings": np.where(np.arange(60)[:, None] == 47, np.nan, EMBEDDINGS)}, "row 47 of the embeddings"),
        ({"embeddings": np.full((60, 2), 1e300)}, "nan or infinite"),
        ({"split": np.repeat(["train", "val", "eval"], 20)}, "split in"),
        ({"split": np.tile(["train", "test"], 30)}, "the class 'animals/00'"),
        ({"split": np.repeat(["train", "val"], 30)}, "has no rows of the split test, only of train, validation"),
        ({"texts": np.zeros((CLASSES, 2))}, "texts in"),
        ({"files": np.array(["a.png"])}, "files in"),
        ({"files": np.arange(60)}, "must be 60 names, one a row, not (60,) of int64"),
        ({"about": np.array("[]")}, "about in"),
        ({"about": np.array('{"turns": {"test": 0}}')}, "about in"),
    ],
)
def test_what_cannot_be_right_is_one_sentence(tmp_path, changes, told):
    path = whole(tmp_path / "wrong.npz", **changes)
    assert told in refusal(lambda: load_dataset(str(path), "test"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("data", [b"", b"PK\3\4 no archive", struct.pack("<Q", 2**60), struct.pack("<Q", 2) + b"[]"])
def test_damaged_files_are_one_sentence(tmp_path, suffix, data):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(data)
    refusal(lambda: load_dataset(str(path), "test"))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_half_of_a_file_is_one_sentence(tmp_path, share):
    whole(tmp_path / "x.npz")
    files = [whole(tmp_path / "whole.npz"), safetensors(tmp_path / "t.safetensors", {"x": EMBEDDINGS, "y": LABELS})]
    for file in files:
        half = tmp_path / f"half{file.suffix}"
        half.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        refusal(lambda path=half: load_dataset(str(path), "test"))


def test_features_have_no_size_and_a_missing_file_is_named(tmp_path):
    path = whole(tmp_path / "size.npz")
    assert "leave out --size" in refusal(lambda: load_dataset(str(path), "test", size=84))
    assert "no file of features" in refusal(lambda: load_dataset("nowhere.npz", "test"))
