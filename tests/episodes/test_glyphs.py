"""The embedded data set: distinct letters of disjoint scripts, rendered the same everywhere."""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont
from scipy.ndimage import gaussian_filter

from episodes import ImageBank, load_dataset
from episodes.datasets import SPLITS, glyphs

LETTERS = [letter for _, letters in glyphs.SCRIPTS.values() for letter in letters]


@pytest.fixture(scope="module")
def validation() -> ImageBank:
    return load_dataset("glyphs", "validation")


def test_there_are_more_than_800_different_letters():
    assert len(set(LETTERS)) == len(LETTERS) == glyphs.CHARACTERS > 800


def test_every_split_has_twenty_classes_and_scripts_of_its_own():
    scripts = [line.split()[:2] for line in glyphs._LETTERS.strip().splitlines()]
    assert len({script for _, script in scripts}) == len(scripts) == 15
    for split in SPLITS:
        assert sum(len(glyphs.SCRIPTS[script][1]) for where, script in scripts if where == split) >= 20
    assert {split for split, _ in scripts} == set(SPLITS)


def test_every_class_is_a_letter_without_accents():
    for letter in LETTERS:
        assert unicodedata.category(letter).startswith("L")
        assert not unicodedata.decomposition(letter)
        assert " WITH " not in unicodedata.name(letter)


def test_no_two_letters_have_nearly_one_outline():
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    face = ImageFont.truetype(path, 300, layout_engine=ImageFont.Layout.BASIC)
    outlines = np.zeros((len(LETTERS), 48, 48), np.float32)
    for outline, letter in zip(outlines, LETTERS):
        mask = face.getmask(letter)
        image = Image.frombytes("L", mask.size, bytes(mask))
        image = image.crop(image.getbbox())
        scale = 44 / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        top, left = (48 - height) // 2, (48 - width) // 2
        outline[top : top + height, left : left + width] = image.resize((width, height), Image.Resampling.BILINEAR)
    blurred = gaussian_filter(outlines, (0, 1.5, 1.5)).reshape(len(LETTERS), -1)
    blurred /= np.linalg.norm(blurred, axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(blurred @ blurred.T, 1) >= 0.95)
    assert [(LETTERS[i], LETTERS[j]) for i, j in zip(first, second)] == []


def test_classes_are_named_by_unicode_and_grouped_by_script(validation):
    assert set(validation.group_names) == {"Armenian", "Hebrew", "NKo"}
    assert [unicodedata.lookup(name) for name in validation.class_names] == [
        letter for split, letters in glyphs.SCRIPTS.values() if split == "validation" for letter in letters
    ]


def test_building_twice_gives_the_same_images(validation, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    again = load_dataset("glyphs", "validation")
    assert len([*tmp_path.rglob("bank.json")]) == 1
    assert again.checksum == again.compute_checksum() == validation.checksum


def test_all_renderings_are_different(validation):
    assert bool((validation.sizes == 20).all())
    assert len(validation.images.flatten(1).unique(dim=0)) == len(validation)


def test_letters_are_bright_on_dark(validation):
    images = validation.images[:, 0]
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (border == 0).mean() > 0.95
    assert int(images.flatten(1).max(dim=1).values.min()) > 128
    assert images.float().mean() < 0.4 * 255


@pytest.mark.parametrize("size", [8, 42])
def test_any_size_is_had(size, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr(glyphs, "SCRIPTS", {"Hebrew": ("validation", glyphs.SCRIPTS["Hebrew"][1][:3])})
    bank = load_dataset("glyphs", "validation", size=size)
    assert tuple(bank.images.shape) == (60, 1, size, size)
    assert len(bank.images.flatten(1).unique(dim=0)) == 60


def test_a_class_of_styles_is_a_letter_in_the_fonts_of_one_style(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path))
    some = {"Hebrew": ("validation", glyphs.SCRIPTS["Hebrew"][1][:1]), "Armenian": ("validation", "\u0531\u0532")}
    monkeypatch.setattr(glyphs, "SCRIPTS", some)
    bank = load_dataset("glyphs:styles", "validation", size=16)
    letters = [unicodedata.name(letter) for letter in "\u0531\u0532"]  # no font with serifs has the Hebrew one
    assert list(bank.class_names) == [f"{style} {letter}" for style in ("sans", "serif") for letter in letters]
    assert bank.group_names == ("sans", "sans", "serif", "serif")
    assert len(bank.images.flatten(1).unique(dim=0)) == 4 * glyphs.RENDERINGS


def test_fonts_with_serifs_are_those_whose_names_say_so():
    serif = [name for name in glyphs._FONTS if glyphs.is_serif(name)]
    assert len(serif) == 8
    assert not any("Sans" in name for name in serif)
