"""Data sets by name: known names are opened, and the error for an unknown name lists the known ones."""

from pathlib import Path

import pytest
import torch
from conftest import refusal

from episodes import InputError, load_dataset
from episodes.datasets import SOURCES, SPLITS, data_folders, find_source, full_name, glyphs, short_name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("omniglot", ("omniglot", "vinyals")),
        ("omniglot:vinyals", ("omniglot", "vinyals")),
        ("omniglot:lake", ("omniglot", "lake")),
        ("glyphs", ("glyphs", "scripts")),
        ("mini_imagenet", ("mini_imagenet", "ravi")),
        ("fc100:oreshkin", ("fc100", "oreshkin")),
    ],
)
def test_names_stand_for_a_data_set_and_a_protocol(name, found):
    dataset, protocol = found
    assert find_source(name) == (SOURCES[dataset], protocol)


@pytest.mark.parametrize(
    ("name", "full", "short"),
    [
        ("omniglot", "omniglot:vinyals", "omniglot"),
        ("omniglot:vinyals", "omniglot:vinyals", "omniglot"),
        ("omniglot:lake", "omniglot:lake", "omniglot-lake"),
        ("torchvision:MNIST", "torchvision:MNIST:seed0", "MNIST"),
        ("torchvision:MNIST:seed0", "torchvision:MNIST:seed0", "MNIST"),
        ("torchvision:MNIST:seed12", "torchvision:MNIST:seed12", "MNIST-seed12"),
        ("birds", "{here}/birds", "birds"),
        ("./birds/", "{here}/birds", "birds"),
        ("birds:seed7", "{here}/birds:seed7", "birds-seed7"),
        ("birds:seed0", "{here}/birds:seed0", "birds-seed0"),
        ("in/birds.tar.gz", "{here}/in/birds.tar.gz", "birds"),
        ("in/birds.tar.gz:seed7", "{here}/in/birds.tar.gz:seed7", "birds-seed7"),
    ],
)
def test_names_are_had_in_full_and_in_short(tmp_path, monkeypatch, name, full, short):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "birds.tar.gz").touch()
    full = full.format(here=tmp_path.resolve())  # the same wherever it is asked from
    assert (full_name(name), short_name(name)) == (full, short)
    assert (full_name(full), short_name(full)) == (full, short)


def test_a_data_set_of_the_suite_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").mkdir()
    assert find_source("glyphs")[0] is SOURCES["glyphs"]
    assert find_source("./glyphs")[0] is not SOURCES["glyphs"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("omnigolt", "unknown data set 'omnigolt': did you mean 'omniglot'?"),
        ("Glyphs", "unknown data set 'Glyphs': did you mean 'glyphs'?"),
        ("zebra", f"unknown data set 'zebra': choose one of {', '.join(sorted(SOURCES))}"),
        ("", "unknown data set '': choose one of"),
        ("omniglot:vinals", "unknown split protocol of omniglot 'vinals': did you mean 'vinyals'?"),
        ("glyphs:lake", "unknown split protocol of glyphs 'lake': choose one of scripts"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(InputError) as caught:
        find_source(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no folder or archive of images at nowhere"),
        ("pictures/birds.zip:seed3", "there is no folder or archive of images at pictures/birds.zip"),
        ("torchvision:MINST", "unknown data set of torchvision 'MINST': did you mean 'MNIST'"),
        ("torchvision:", "unknown data set of torchvision ''"),
        ("torchvision:MNIST:seven", "'seven' in torchvision:MNIST:seven is no seed: write seed0, seed1"),
        ("omniglot:seed3", "unknown split protocol of omniglot 'seed3'"),
    ],
)
def test_names_that_lead_nowhere_are_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    assert refusal(lambda: find_source(name)).startswith(message)


@pytest.mark.parametrize("name", SOURCES)
def test_where_every_data_set_is_can_be_told_without_data(tmp_path, name):
    told = SOURCES[name].where([tmp_path])
    assert told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("split", "message"),
    [("valid", "did you mean 'validation'"), ("tset", "did you mean 'test'"), ("novel", "all, test, train")],
)
def test_unknown_splits_are_refused_with_the_nearest(split, message):
    with pytest.raises(InputError, match=f"unknown split '{split}': .*{message}"):
        load_dataset("glyphs", split)


def test_the_split_all_has_the_classes_of_all_three(own_cache, monkeypatch):
    few = {script: (split, letters[:3]) for script, (split, letters) in glyphs.SCRIPTS.items()}
    monkeypatch.setattr(glyphs, "SCRIPTS", few)  # all letters take ten seconds, and say no more
    parts = [load_dataset("glyphs", split) for split in SPLITS]
    bank = load_dataset("glyphs", "all")
    assert bank.name == "glyphs (scripts) all"
    assert bank.class_names == tuple(name for part in parts for name in part.class_names)
    assert torch.equal(bank.images, torch.cat([part.images for part in parts]))
    assert torch.equal(bank.sizes, torch.cat([part.sizes for part in parts]))
    assert load_dataset("glyphs", "all").checksum == bank.checksum == bank.compute_checksum()


@pytest.mark.parametrize("size", [-28, 0, 7, 1025])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(InputError, match=f"an image size of {size} pixels is not between 8 and 1024"):
        load_dataset("glyphs", "test", size=size)


@pytest.mark.parametrize("name", ["omniglot", "glyphs"])
def test_a_data_folder_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match=rf"the data folder {tmp_path}/nowhere \(--data\) does not exist"):
        load_dataset(name, "test", data=tmp_path / "nowhere")


def test_a_data_variable_that_points_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=rf"the data folder {tmp_path}/nowhere \(FEWSHOT_DATA\) does not exist"):
        load_dataset("omniglot", "test")


def test_the_folder_asked_for_comes_before_the_variable_and_the_cache(tmp_path, monkeypatch, cache):
    (tmp_path / "asked").mkdir()
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    assert data_folders(tmp_path / "asked") == [tmp_path / "asked", cache / "data"]
    assert data_folders() == [tmp_path, cache / "data"]
    monkeypatch.delenv("FEWSHOT_DATA")
    assert data_folders() == [cache / "data"]


def mapped_file(tensor: torch.Tensor) -> str:
    """The file behind the memory of `tensor`, as Linux tells it."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_bank_opened_twice_is_mapped_from_the_cache_and_equal(cache):
    first, second = (load_dataset("glyphs", "validation") for _ in range(2))
    for bank in (first, second):
        assert mapped_file(bank.images).startswith(str(cache / "banks"))
        assert mapped_file(bank.images).endswith("/images.npy")
    assert first.images.data_ptr() != second.images.data_ptr()
    assert torch.equal(first.images, second.images)
    assert (first.checksum, first.class_names) == (second.checksum, second.class_names)
    assert (first.name, tuple(first.images.shape[1:])) == ("glyphs (scripts) validation", (1, 28, 28))
