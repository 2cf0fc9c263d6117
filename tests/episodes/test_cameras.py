"""Cameras that data sets know: Omniglot's drawers, the authors of icon sets."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_bank

from episodes import load_dataset
from episodes.cameras import cameras_of
from episodes.datasets.iconify import find
from episodes.datasets.icons import set_names
from episodes.galleries import gallery_of


def drawings(files: list[str], **more):
    return dataclasses.replace(toy_bank(classes=2, images=2), dataset="omniglot", files=files, **more)


def test_an_omniglot_drawer_is_one_person_within_an_alphabet():
    files = [f"images/{name}" for name in ("Greek/character01/0394_01.png", "Greek/character01/0394_12.png")]
    files += [f"{name}" for name in ("Latin/character02/0685_01.png", "Latin/character02/0685_12.png")]
    assert cameras_of(drawings(files)) == ["Greek 01", "Greek 12", "Latin 01", "Latin 12"]


@pytest.mark.parametrize("files", [(), ["run01/training/class01.png"] * 4])
def test_files_that_name_no_drawer_have_unknown_cameras(files):
    assert cameras_of(drawings(files)) is None
    assert set(gallery_of(drawings(files), 1, 0).query_cameras) == {-1}


def test_other_data_sets_know_no_cameras():
    assert cameras_of(toy_bank()) is None


def test_a_drawn_gallery_has_the_cameras_of_its_images():
    files = [f"A{c}/character0{c}/000{c}_{d:02d}.png" for c in (1, 2) for d in (1, 2)]
    gallery = gallery_of(drawings(files), 1, 0)
    every = np.concatenate([gallery.queries, gallery.gallery])
    numbers = np.concatenate([gallery.query_cameras, gallery.gallery_cameras])
    assert sorted(numbers.tolist()) == [0, 1, 2, 3]
    assert numbers[every.argsort()].tolist() == [0, 1, 2, 3]


@pytest.mark.slow  # renders the icons
def test_the_camera_of_an_icon_is_the_author_of_its_set():
    folder = os.environ.get("FEWSHOT_DATA")
    if not folder or not (package := find([Path(folder)])):
        pytest.skip("needs icons: set FEWSHOT_DATA to the folder that holds iconify/")
    pytest.importorskip("resvg_py", reason="needs the extra icons")
    bank = load_dataset("icons", "test")
    cameras = cameras_of(bank)
    assert [package.free_sets[prefix].author for prefix in set_names(bank)] == cameras
    pairs = list(zip(bank.labels.tolist(), cameras))
    assert len(set(pairs)) < len(pairs)  # some author drew a name in several sets
