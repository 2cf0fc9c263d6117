"""Twins are counted as by hand, damage is noticed, and a picture shows the right episode."""

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encoded, refusal, toy_bank, write_files
from PIL import Image

from episodes import EpisodeSampler, ImageBank, load_dataset, twins
from episodes.inspection import draw_episode, intact
from episodes.twins import NEAR, Twins, count_twins, near_groups, twin_groups

WHITE = (255, 255, 255)


def bank_of(*classes: list[int]) -> ImageBank:
    """Classes of 6 x 6 images, each with one pixel for its number; equal numbers give equal images."""
    images = torch.full((sum(map(len, classes)), 1, 6, 6), 50, dtype=torch.uint8)
    images[:, 0, 4, 1] = torch.tensor([number for numbers in classes for number in numbers])
    names = tuple(f"class {number}" for number in range(len(classes)))
    return ImageBank(images, torch.tensor([0, *map(len, classes)]).cumsum(0), names, names)


def find_twins(banks: dict[str, ImageBank]) -> dict[str, Twins]:
    return count_twins(twin_groups(banks), list(banks))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([[1, 2], [3, 4]], [[5, 6], [7, 8]], ((0, 0, 0), (0, 0, 0))),
        ([[1, 1, 2], [3, 4]], [[5, 6]], ((2, 0, 0), (0, 0, 0))),
        ([[1, 1, 2, 2], [3, 3, 3]], [[5, 6]], ((7, 0, 0), (0, 0, 0))),
        ([[1, 2], [1, 4], [5, 1]], [[6, 7]], ((0, 3, 0), (0, 0, 0))),
        ([[5, 6]], [[1, 2], [3, 4, 1]], ((0, 0, 0), (0, 2, 0))),
        ([[1, 2], [3, 4]], [[1, 5], [6, 7]], ((0, 0, 1), (0, 0, 1))),
        ([[1, 2], [3, 4]], [[5, 6], [1, 7, 1]], ((0, 0, 1), (2, 0, 2))),
        ([[1, 1, 2], [1, 3]], [[3, 4], [4, 5]], ((2, 3, 1), (0, 2, 1))),
    ],
    ids=["none", "a pair", "a pair and three", "other class", "in test", "other split", "three", "all kinds"],
)
def test_twins_are_counted_as_by_hand(train, test, expected):
    found = find_twins({"train": bank_of(*train), "test": bank_of(*test)})
    assert found == {"train": Twins(*expected[0]), "test": Twins(*expected[1])}


def test_a_twin_in_any_of_three_splits_is_found():
    found = find_twins({"a": bank_of([1, 2]), "b": bank_of([3, 4]), "c": bank_of([5, 2])})
    assert {name: twins.other_split for name, twins in found.items()} == {"a": 1, "b": 0, "c": 1}


def test_images_that_differ_in_one_step_of_one_pixel_are_no_twins():
    bank = toy_bank(2, 2)
    images = bank.images[:1].repeat(4, 1, 1, 1)
    for number in range(4):
        images[number, 0, -1, -1] = number
    bank = dataclasses.replace(bank, images=images)
    assert find_twins({"only": bank}) == {"only": Twins(0, 0, 0)}
    images[3, 0, -1, -1] = 0
    assert find_twins({"only": bank}) == {"only": Twins(0, 2, 0)}


def test_no_bank_has_no_twins():
    assert find_twins({}) == {}


def photograph(number: int, size: int = 84) -> Image.Image:
    """A smooth random picture in colour."""
    random = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(random).resize((size, size), Image.Resampling.BICUBIC)


def bank_of_pictures(*pictures: Image.Image, split: str = "train") -> ImageBank:
    """Each picture a class of its own, whose file is called after its number."""
    images = torch.from_numpy(np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures]))
    names = tuple(f"class {number}" for number in range(len(pictures)))
    files = [f"{number}.jpg" for number in range(len(pictures))]
    return ImageBank(images, torch.arange(len(pictures) + 1), names, names, split=split, files=files)


def recompressed(image: Image.Image) -> Image.Image:
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=40)
    return Image.open(packed).convert("RGB")


ALTERED = {
    "as it is": lambda image: image,
    "recompressed": recompressed,
    "brighter": lambda image: image.point(lambda level: level // 2 + 60),
    "smaller and back": lambda image: image.resize((40, 40)).resize((84, 84)),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_near_duplicates_are_found_across_splits_by_file_and_nothing_else(alter):
    pictures = [photograph(number) for number in range(60)]
    copies = [photograph(100), alter(pictures[7]), photograph(101), alter(pictures[31])]
    banks = {"train": bank_of_pictures(*pictures), "test": bank_of_pictures(*copies)}
    found = near_groups(banks)
    assert [list(map(str, group)) for group in found] == [
        ["7.jpg (train)", "1.jpg (test)"],
        ["31.jpg (train)", "3.jpg (test)"],
    ]


def test_images_of_one_colour_are_no_near_duplicates():
    plain = [Image.new("RGB", (84, 84), colour) for colour in ("red", "blue", "white")]
    assert near_groups({"only": bank_of_pictures(*plain, photograph(0))}) == []


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs():
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, 300, dtype=np.uint64)
    for copy in range(200):
        flips = random.choice(64, random.integers(1, 8), replace=False)
        values[100 + copy] = values[copy % 100] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
    values = np.unique(values)
    every = itertools.combinations(range(len(values)), 2)
    expected = {pair for pair in every if int(values[pair[0]] ^ values[pair[1]]).bit_count() <= NEAR}
    assert len(expected) > 50
    assert set(map(tuple, map(sorted, twins._near_pairs(values)))) == expected


@pytest.mark.parametrize("place", [0, -1], ids=["first byte", "last byte"])
def test_a_prepared_bank_is_intact_until_a_byte_of_its_images_changes(tmp_path, own_cache, place):
    files = {
        f"{label}/{number}.png": encoded(np.full((16, 16), 20 * number + label, np.uint8))
        for label in range(6)
        for number in range(2)
    }
    path = write_files(tmp_path / "images", files)
    assert intact(load_dataset(str(path), "train", size=16))
    (prepared,) = own_cache.glob("banks/*/images.npy")
    data = bytearray(prepared.read_bytes())
    data[len(data) - 4 * 3 * 16 * 16 if place == 0 else -1] ^= 1
    prepared.write_bytes(data)
    assert not intact(load_dataset(str(path), "train", size=16))


def colour_of(label: int) -> tuple[int, int, int]:
    return 20 * label + 10, 200 - 20 * label, 77


def colour_bank(classes: int = 8, images: int = 4, size: int = 16) -> ImageBank:
    """Each class of one colour."""
    colours = torch.tensor([colour_of(label) for label in range(classes)], dtype=torch.uint8)
    pixels = colours.repeat_interleave(images, 0)[:, :, None, None].expand(-1, -1, size, size).contiguous()
    names = tuple(f"class {number}" for number in range(classes))
    return ImageBank(pixels, torch.arange(classes + 1) * images, names, names)


def drawn(bank: ImageBank, path: Path, **options) -> np.ndarray:
    draw_episode(bank, path, **{"way": 3, "shot": 1, "query": 2, **options})
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def is_drawn(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (sheet == np.array(colour, np.uint8)).all(axis=2)


def test_the_picture_shows_a_row_a_class_of_its_episode_and_no_other(tmp_path):
    bank = colour_bank()
    sheet = drawn(bank, tmp_path / "episode.png", seed=3, number=2)
    chosen = EpisodeSampler(bank, 3, 1, 2, 3).episodes(2, 1).classes[0].tolist()
    shown = {label: is_drawn(sheet, colour_of(label)) for label in range(bank.classes)}
    assert {label for label, marked in shown.items() if marked.any()} == set(chosen)
    heights = [np.flatnonzero(shown[label].any(axis=1)) for label in chosen]
    assert all(above.max() < below.min() for above, below in itertools.pairwise(heights))
    assert all(np.ptp(rows) + 1 == len(rows) > 16 for rows in heights)


@pytest.mark.parametrize(("shot", "query"), [(1, 1), (2, 1), (1, 3)])
def test_each_row_shows_all_its_support_and_query_images(tmp_path, shot, query):
    bank = colour_bank(3)
    sheet = drawn(bank, tmp_path / "episode.png", shot=shot, query=query)
    line = is_drawn(sheet, colour_of(1))
    line = line[np.flatnonzero(line.any(axis=1))[20]]
    assert int((np.diff(line.astype(int)) == 1).sum()) == shot + query


def test_grey_images_are_drawn_in_their_own_shades_and_stay_grey(tmp_path):
    shades = torch.tensor([30, 90, 150, 210], dtype=torch.uint8)
    bank = dataclasses.replace(
        toy_bank(4, 3), images=shades.repeat_interleave(3)[:, None, None, None].repeat(1, 1, 9, 9)
    )
    sheet = drawn(bank, tmp_path / "episode.png", way=4, query=1)
    assert bool((sheet == sheet[:, :, :1]).all())
    for shade in shades.tolist():  # one step off is matplotlib's rounding
        assert int((abs(sheet[:, :, 0].astype(int) - shade) <= 1).sum()) > 9 * 9


def test_the_background_is_white(tmp_path):
    sheet = drawn(colour_bank(), tmp_path / "episode.png")
    assert {tuple(sheet[row, column].tolist()) for row in (0, -1) for column in (0, -1)} == {WHITE}


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_a_picture_is_the_same_for_the_same_episode_and_another_for_another(tmp_path, channels):
    bank = toy_bank(8, 4)
    bank = dataclasses.replace(bank, images=bank.images.repeat(1, channels, 1, 1))
    first, again, number, seed = (
        drawn(bank, tmp_path / f"{name}.png", **options)
        for name, options in enumerate([{}, {}, {"number": 1}, {"seed": 1}])
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, number)
    assert not np.array_equal(first, seed)


@pytest.mark.parametrize(
    ("path", "reason"), [("a.xyz", "xyz"), ("none/a.png", "No such file"), ("folder.png", "Is a directory")]
)
def test_a_picture_that_cannot_be_written_is_refused_in_a_sentence(tmp_path, path, reason):
    (tmp_path / "folder.png").mkdir()
    text = refusal(lambda: draw_episode(toy_bank(6, 4), tmp_path / path, way=2, query=1))
    assert text.startswith(f"the picture {tmp_path / path} cannot be written: ")
    assert reason in text
    assert [found.name for found in tmp_path.iterdir()] == ["folder.png"]


def test_an_episode_that_the_bank_cannot_fill_is_refused(tmp_path):
    refusal(lambda: draw_episode(toy_bank(3, 4), tmp_path / "a.png", way=4, query=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["picture", "picture.PNG"])
def test_a_picture_is_written_where_it_was_asked_for(tmp_path, name):
    drawn(colour_bank(), tmp_path / name)
    assert [found.name for found in tmp_path.iterdir()] == [name]


def words(bank: ImageBank, path: Path) -> str:
    """The SVG of an episode, in which every text stands in a comment too."""
    draw_episode(bank, path, way=2, query=1)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owl", "owl"),
        ("x" * 28, "x" * 28),
        ("x" * 29, "x" * 27 + "…"),
        ("a very long name of a class" * 9, "a very long name of a class…"),
        ("from $1 to $5", "from $1 to $5"),
        (r"$\frac$", r"$\frac$"),
    ],
    ids=["short", "28", "29", "long", "dollars", "no formula"],
)
def test_class_names_are_written_plainly_and_long_ones_cut(tmp_path, name, shown):
    bank = dataclasses.replace(toy_bank(2, 2), class_names=(name, "other"))
    text = words(bank, tmp_path / "a.svg")
    assert f"<!-- {shown} -->" in text
    assert "<!-- other -->" in text
    assert ("…" in text) == (shown != name)


def test_the_title_says_which_episode_of_which_images_it_is(tmp_path):
    draw_episode(toy_bank(6, 4), tmp_path / "a.svg", way=2, shot=2, query=1, seed=4, number=9)
    title = "toy (random) train, 16x16 pixels: 2-way 2-shot episode 9 of seed 4"
    assert f"<!-- {title} -->" in (tmp_path / "a.svg").read_text(encoding="utf-8")
