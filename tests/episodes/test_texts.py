"""The text of a class: words that a person would use, from its name alone."""

import pytest
from conftest import toy_bank

from episodes import class_texts
from episodes.datasets.classes import read_classes
from episodes.texts import class_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n01532829", "house finch"),
        ("animals/n01532829", "house finch"),
        ("n01530575 brambling", "brambling"),
        ("n99999999", "n99999999"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("aquarium_fish", "aquarium fish"),
        ("AnnualCrop", "Annual Crop"),
        ("frogs/tree_frog", "frogs tree frog"),
        ("GEORGIAN CAPITAL LETTER AN", "GEORGIAN CAPITAL LETTER AN"),
        ("2024.1", "2024.1"),
        ("_", "_"),
        ("Latin/character01/rot000", "Latin character 01"),
        ("Latin/character01/rot090", "Latin character 01 turned by 90 degrees"),
        ("Malay_(Jawi_-_Arabic)/character12", "Malay (Jawi - Arabic) character 12"),
    ],
)
def test_text_of_a_name(name, text):
    assert class_text(name) == text


def test_every_class_of_the_published_lists_has_words():
    names = [row["wordnet_id"] for name in ("mini_imagenet", "tiered_imagenet") for row in read_classes(name)]
    assert not any(class_text(name).startswith("n0") for name in names)


def test_texts_of_a_bank_are_in_the_order_of_its_classes():
    assert class_texts(toy_bank(3)) == ("class 0", "class 1", "class 2")
