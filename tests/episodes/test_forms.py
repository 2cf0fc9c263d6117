"""Colour forms: grey, RGB and inverted images of any data set, by a word behind its name."""

import numpy as np
import pytest
import torch
from conftest import encoded, refusal, write_files

from episodes import load_dataset
from episodes.datasets import find_source, forms, full_name, short_name
from episodes.pictures import recoloured


@pytest.fixture
def folder(tmp_path, own_cache):
    random = np.random.default_rng(0)
    files = {
        f"kind {label}/{number}.png": encoded(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for label in range(6)
        for number in range(2)
    }
    return write_files(tmp_path / "images", files)


@pytest.mark.parametrize("seed", ["", ":seed3"])
@pytest.mark.parametrize(
    ("words", "channels", "inverted"),
    [(":grey", 1, False), (":inverted", 3, True), (":grey:inverted", 1, True), (":inverted:grey", 1, True)],
)
def test_a_form_changes_the_pixels_and_nothing_else(folder, seed, words, channels, inverted):
    plain = load_dataset(f"{folder}{seed}", "train", size=16)
    bank = load_dataset(f"{folder}{seed}{words}", "train", size=16)
    assert find_source(f"{folder}{seed}{words}")[0].channels == channels
    assert np.array_equal(bank.images.numpy(), recoloured(plain.images.numpy(), channels, inverted))
    assert (bank.class_names, bank.files, bank.split) == (plain.class_names, plain.files, plain.split)
    assert (bank.inverted, bank.fit) == (inverted, plain.fit)
    assert bank.checksum == bank.compute_checksum() != plain.checksum
    assert bank.protocol == f"{seed[1:] or 'seed0'} {' '.join(sorted(words[1:].split(':')))}"


def test_a_form_that_images_have_already_is_no_change(folder):
    assert (
        load_dataset(f"{folder}:rgb", "train", size=16).checksum == load_dataset(f"{folder}", "train", size=16).checksum
    )


def test_characters_become_colour_and_dark_on_bright():
    plain = load_dataset("glyphs", "validation")
    assert torch.equal(load_dataset("glyphs:rgb", "validation").images, plain.images.expand(-1, 3, -1, -1))
    assert torch.equal(load_dataset("glyphs:scripts:inverted", "validation").images, 255 - plain.images)


def test_names_keep_their_form(folder):
    assert full_name("omniglot:inverted:rgb") == "omniglot:vinyals:rgb:inverted"
    assert short_name("omniglot:lake:rgb") == "omniglot-lake-rgb"
    assert full_name(f"{folder}:seed7:grey") == f"{folder}:seed7:grey"
    assert short_name(f"{folder}:grey") == "images-grey"
    assert find_source("omniglot:lake:rgb")[1] == "lake"


@pytest.mark.parametrize("words", ["grey:rgb", "grey:grey", "inverted:grey:inverted"])
def test_forms_that_contradict_each_other_are_refused(words):
    text = refusal(lambda: load_dataset(f"glyphs:{words}", "test"))
    assert text == f"the images of glyphs cannot be {' and '.join(words.split(':'))}: name each form once"


def test_a_name_is_no_form():
    assert forms.split_name("grey") == ("grey", ())
    assert forms.split_name("a:seed1") == ("a:seed1", ())
