"""Omniglot in a faithful miniature: the protocols' classes, every layout of the files, and every kind of damage."""

import collections
import hashlib
import io
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_files
from torchvision.datasets import Omniglot

from episodes import ImageBank, InputError, ListedEpisodes, MissingData, load_dataset
from episodes.datasets import SPLITS, omniglot, omniglot_splits
from episodes.datasets.omniglot_splits import runs_of

PARTS = {"images_background": omniglot.BACKGROUND, "images_evaluation": omniglot.EVALUATION}
Members = dict[str, bytes]
FEW = "omniglot:koch", "validation"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


HEADER = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", 12, 12, 1, 0, 0, 0, 0))
END = chunk(b"IEND", b"")


def pattern(number: int, drawer: int) -> bytes:
    """8 x 8 bits, different for each drawing."""
    return ((number * 20 + drawer) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")


def drawing(number: int, drawer: int) -> bytes:
    """A 12 x 12 PNG of 1 bit a pixel, black on white: a pattern in a white border."""
    rows = [0xFFF, 0xFFF, *(0xFFF ^ byte << 2 for byte in pattern(number, drawer)), 0xFFF, 0xFFF]
    return HEADER + chunk(b"IDAT", zlib.compress(b"".join(struct.pack(">BH", 0, row << 4) for row in rows), 1)) + END


def shows(image: torch.Tensor, number: int, drawer: int) -> bool:
    """Whether `image` (1, 12, 12) shows the drawing, bright on dark."""
    bits = np.unpackbits(np.frombuffer(pattern(number, drawer), np.uint8)).reshape(8, 8)
    return np.array_equal(image[0].numpy(), np.pad(bits * 255, 2))


def write_zip(path: Path, members: Members, prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(prefix + name), data)
    return path


def load(folder: Path | None, name: str = "omniglot:lake", split: str = "test", size: int = 12) -> ImageBank:
    return load_dataset(name, split, data=folder, size=size)


@pytest.fixture(scope="session")
def members() -> dict[str, Members]:
    """{part: {path: PNG}} of 1,623 characters x 20 drawings."""
    numbers = iter(range(1, 1624))
    return {
        part: {
            f"{part}/{alphabet}/character{character:02d}/{number:04d}_{drawer:02d}.png": drawing(number, drawer)
            for alphabet, count in alphabets.items()
            for character, number in zip(range(1, count + 1), numbers)
            for drawer in range(1, 21)
        }
        for part, alphabets in PARTS.items()
    }


@pytest.fixture(scope="session")
def miniature(members, tmp_path_factory) -> Path:
    """A data folder with the two zips of the miniature."""
    folder = tmp_path_factory.mktemp("miniature")
    for part, files in members.items():
        write_zip(folder / "omniglot" / f"{part}.zip", files)
    return folder


@pytest.fixture(scope="session")
def vinyals(miniature) -> dict[str, ImageBank]:
    return {split: load(miniature, "omniglot", split) for split in SPLITS}


@pytest.fixture(scope="session")
def reference(miniature) -> ImageBank:
    """The lake test split, which needs the evaluation alphabets only."""
    return load(miniature)


def refusal(folder: Path, name: str = "omniglot:lake") -> str:
    """The one-line text of the InputError that loading raises."""
    with pytest.raises(InputError) as caught:
        load(folder, name)
    assert not isinstance(caught.value, MissingData)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def damaged(miniature: Path, folder: Path, old: bytes = b"", new: bytes = b"") -> Path:
    """A copy of the evaluation zip with all `old` bytes replaced by as many new ones."""
    content = (miniature / "omniglot" / "images_evaluation.zip").read_bytes()
    assert old in content
    assert len(old) == len(new)
    path = folder / "omniglot" / "images_evaluation.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(("split", "classes"), [("train", 4112), ("validation", 688), ("test", 1692)])
def test_vinyals_splits_have_their_published_sizes(vinyals, split, classes):
    bank = vinyals[split]
    assert bank.classes == len(set(bank.class_names)) == classes
    assert bool((bank.sizes == 20).all())
    assert bank.name == f"omniglot (vinyals) {split}"


@pytest.mark.parametrize(("split", "classes"), [("train", 792), ("validation", 172), ("test", 659)])
def test_lake_splits_have_their_published_sizes(split, classes):
    assert len(set(omniglot.characters(split, "lake"))) == classes


def test_lake_test_classes_are_the_evaluation_alphabets_unrotated(reference):
    assert reference.classes == 659
    assert set(reference.group_names) == set(omniglot.EVALUATION)
    assert reference.class_names[0] == "Angelic/character01"


@pytest.mark.parametrize("protocol", omniglot.PROTOCOLS)
def test_splits_share_no_character_and_leave_none_out(protocol):
    splits = [omniglot.characters(split, protocol) for split in SPLITS]
    together = {character for split in splits for character in split}
    assert len(together) == sum(map(len, splits))
    assert len(together) == 1623 or "minimal" in protocol


# characters of the three splits, and a digest of all their names: a change of a split changes published numbers
SPLIT = {
    "vinyals": (1028, 172, 423, "0a0297fcbb21"),
    "lake": (792, 172, 659, "01ffc148e10a"),
    "lake-oneshot": (792, 172, 659, "01ffc148e10a"),
    "lake-oneshot-minimal-1": (110, 26, 659, "42e844d92fc8"),
    "lake-oneshot-minimal-2": (130, 26, 659, "d33a42942b21"),
    "within-alphabet": (792, 172, 659, "01ffc148e10a"),
    "meta-dataset": (883, 81, 659, "bf116c38f010"),
    "koch": (964, 277, 382, "a675d96449b5"),
    "pooled": (1100, 100, 423, "d4ae50800d01"),
    "pooled-1": (1100, 100, 423, "8a67400c83d4"),
    "pooled-2": (1100, 100, 423, "80c5a699801c"),
    "pooled-3": (1100, 100, 423, "56ff6a6196f4"),
    "pooled-4": (1100, 100, 423, "425006dfcc39"),
}


def digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=6).hexdigest()


def test_the_characters_of_every_split_are_those_of_always():
    splits = {name: [omniglot.characters(split, name) for split in SPLITS] for name in omniglot.PROTOCOLS}
    assert {name: (*map(len, parts), digest(parts)) for name, parts in splits.items()} == SPLIT


@pytest.mark.parametrize("protocol", ["vinyals", "lake", "lake-oneshot", "within-alphabet"])
def test_validation_is_five_whole_alphabets(protocol):
    alphabets = {alphabet for _, alphabet, _ in omniglot.characters("validation", protocol)}
    assert alphabets == {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
    assert not alphabets & {alphabet for _, alphabet, _ in omniglot.characters("train", protocol)}


def alphabets_of(split: str, protocol: str) -> set[str]:
    return {alphabet for _, alphabet, _ in omniglot.characters(split, protocol)}


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (1, {"Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"}),
        (2, {"Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"}),
    ],
)
def test_a_minimal_training_sees_five_background_alphabets_alone(number, names):
    protocol = f"lake-oneshot-minimal-{number}"
    assert alphabets_of("train", protocol) | alphabets_of("validation", protocol) == names
    assert alphabets_of("validation", protocol) == {"Latin"}


def test_the_validation_of_meta_dataset_is_the_five_smallest_background_alphabets():
    sizes = omniglot.BACKGROUND
    assert alphabets_of("validation", "meta-dataset") == set(sorted(sizes, key=sizes.get)[:5])
    assert alphabets_of("train", "meta-dataset") < set(sizes)


def test_seeds_pool_the_characters_in_ways_of_their_own_and_across_alphabets():
    tests = [omniglot.characters("test", name) for name in omniglot.PROTOCOLS if name.startswith("pooled")]
    assert len(set(tests)) == 5
    for one in tests:
        assert len({alphabet for _, alphabet, _ in one}) > 45


def test_koch_parts_alphabets_and_drawers(miniature):
    banks = {split: load(miniature, "omniglot:koch", split) for split in SPLITS}
    assert [bank.classes for bank in banks.values()] == [964, 277, 200 * 20]
    assert [bank.sizes.unique().tolist() for bank in banks.values()] == [[12], [4], [2]]
    assert [len({name.partition("/")[0] for name in bank.group_names}) for bank in banks.values()] == [30, 10, 10]
    assert ({bank.turns for bank in banks.values()}, banks["test"].listed) == ({1}, True)
    first = sum(omniglot.BACKGROUND.values()) + 1
    evaluation = omniglot.characters("test", "lake")
    number = first + evaluation.index(omniglot.characters("validation", "koch")[5])
    assert all(shows(banks["validation"].images[4 * 5 + place], number, 13 + place) for place in range(4))
    run = runs_of("koch")[0]
    assert {one.support for one in runs_of("koch")} == {one.query for one in runs_of("koch")} == {16, 17, 18, 19}
    for place, drawer in enumerate((run.support, run.query)):
        assert shows(banks["test"].images[place], first + evaluation.index(run.characters[0]), drawer + 1)


@pytest.fixture(scope="module")
def within(miniature) -> ImageBank:
    return load(miniature, "omniglot:within-alphabet")


def test_within_an_alphabet_four_hundred_episodes_are_listed(within):
    assert within.name == "omniglot (within-alphabet) test"
    assert (within.classes, within.listed, within.turns) == (8000, True, 1)
    assert within.sizes.unique().tolist() == [2]
    groups = list(dict.fromkeys(within.group_names))
    assert groups == [f"{alphabet}/run{run:02d}" for alphabet in omniglot.EVALUATION for run in range(1, 21)]
    assert len(set(within.class_names)) == 8000
    assert ListedEpisodes(within).count == 400


def test_an_episode_within_an_alphabet_has_two_drawers_of_twenty_characters(within):
    first = dict(
        zip(omniglot.EVALUATION, np.cumsum([sum(omniglot.BACKGROUND.values()) + 1, *omniglot.EVALUATION.values()]))
    )
    for place, run in enumerate(runs_of("within-alphabet")):
        names = within.class_names[20 * place : 20 * place + 20]
        assert len(set(names)) == 20
        assert run.support != run.query
        images = within.images[40 * place : 40 * place + 40]
        for position in (0, 19):
            alphabet, _, character = names[position].split("/")
            number = int(first[alphabet]) + int(character.removeprefix("character")) - 1
            assert shows(images[2 * position], number, run.support + 1)
            assert shows(images[2 * position + 1], number, run.query + 1)


def test_the_runs_within_an_alphabet_are_those_of_always():
    runs = runs_of("within-alphabet")
    assert digest(runs_of("koch")) == "282fb41cc842"
    assert digest(runs) == "3583214e5d69"
    assert len({(run.support, run.query) for run in runs}) > 200


def test_pooled_characters_are_turned_in_all_splits_and_those_of_meta_dataset_in_none():
    assert {omniglot_splits.turns(split, "pooled-3") for split in SPLITS} == {4}
    assert {omniglot_splits.turns(split, "meta-dataset") for split in SPLITS} == {1}
    for name in ("lake-oneshot", "lake-oneshot-minimal-1", "lake-oneshot-minimal-2"):
        assert [omniglot_splits.turns(split, name) for split in SPLITS] == [4, 1, 1]


def test_splits_share_no_image(vinyals):
    seen = [{image.tobytes() for image in bank.images[0 : len(bank) : 80].numpy()} for bank in vinyals.values()]
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_every_drawing_stands_where_its_class_says(reference, members):
    first = sum(omniglot.BACKGROUND.values()) + 1
    for place in (0, 7, 20, 13179):
        assert shows(reference.images[place], first + place // 20, place % 20 + 1)


def test_strokes_are_bright_on_dark(reference):
    border = torch.ones(12, 12, dtype=torch.bool)
    border[2:10, 2:10] = False
    assert int(reference.images[:, 0, border].max()) == 0
    assert bool((reference.images.flatten(1).max(dim=1).values == 255).all())


def test_rotations_are_classes_of_turned_images(vinyals):
    bank = vinyals["validation"]
    images = bank.images.view(172, 4, 20, 12, 12).numpy()
    for turn in range(4):
        assert np.array_equal(images[:, turn], np.rot90(images[:, 0], turn, axes=(2, 3)))
    assert bank.class_names[:5] == (
        *(f"Armenian/character01/rot{degrees}" for degrees in ("000", "090", "180", "270")),
        "Armenian/character02/rot000",
    )


def copied(zipped: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(zipped, path)


def as_tree(folder: Path, files: Members, zipped: Path) -> None:
    for name, data in files.items():
        path = folder / "omniglot" / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_bytes(data)


def as_torchvision_names_it(folder: Path, files: Members, zipped: Path) -> None:
    copied(zipped, folder / "omniglot-py" / "images_evaluation.zip")


def as_the_data_folder_itself(folder: Path, files: Members, zipped: Path) -> None:
    copied(zipped, folder / "images_evaluation.zip")


def as_packed_on_a_mac(folder: Path, files: Members, zipped: Path) -> None:
    names = [name for name in files if "/Angelic/" in name]
    junk = {f"__MACOSX/{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in names}
    junk |= {f"__MACOSX/{name}": b"resource fork" for name in names}
    junk |= {f"{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in names}
    junk |= {"images_evaluation/.DS_Store": b"", "images_evaluation/Angelic/character01/": b""}
    write_zip(folder / "omniglot" / "images_evaluation.zip", {**files, **junk}, prefix="omniglot-master/python/")


@pytest.fixture(scope="session")
def few(miniature) -> ImageBank:
    """The validation split of koch, 1,108 drawings: the smallest one that needs the evaluation alphabets only."""
    return load(miniature, *FEW)


@pytest.mark.parametrize(
    "layout",
    [as_tree, as_torchvision_names_it, as_the_data_folder_itself, as_packed_on_a_mac],
    ids=lambda f: f.__name__,
)
def test_every_layout_gives_the_identical_bank(layout, members, miniature, few, tmp_path, own_cache):
    zipped = miniature / "omniglot" / "images_evaluation.zip"
    layout(tmp_path / "data", members["images_evaluation"], zipped)
    bank = load(tmp_path / "data", *FEW)
    assert bank.checksum == bank.compute_checksum() == few.checksum


@pytest.mark.parametrize("size", [8, 31])
def test_any_size_is_had(miniature, size):
    bank = load(miniature, *FEW, size=size)
    assert tuple(bank.images.shape) == (277 * 4, 1, size, size)
    assert int(bank.images[:, :, 0].max()) == 0
    assert bool((bank.images.flatten(1).max(dim=1).values > 64).all())
    assert len(bank.images.unique()) > 2, "1-bit images must be smoothed"


def test_a_missing_image_is_named(miniature, tmp_path, own_cache):
    path = damaged(miniature, tmp_path, b"/Angelic/character03/0967_07.png", b"/Angelic/character03/0967_07.bak")
    assert f"{path} is not the whole of Omniglot: Angelic/character03 has 19 of 20 images" in refusal(tmp_path)


def test_a_missing_character_is_named(miniature, tmp_path, own_cache):
    path = damaged(miniature, tmp_path, b"/Tibetan/character42/", b"/Tibetan/character99/")
    assert f"{path} is not the whole of Omniglot: Tibetan/character42 has 0 of 20 images" in refusal(tmp_path)


def test_a_corrupt_image_is_named(members, tmp_path, own_cache):
    files = dict(members["images_evaluation"])
    name = next(name for name in files if "/Angelic/character10/" in name)
    files[name] = files[name][:50]
    path = write_zip(tmp_path / "omniglot" / "images_evaluation.zip", files)
    assert f"{name} in {path} is not a readable image" in refusal(tmp_path)
    assert [*own_cache.glob("banks/*")] == []


def test_an_image_of_a_wrong_checksum_is_named(miniature, members, tmp_path, own_cache):
    name, data = next(item for item in members["images_evaluation"].items() if "/Angelic/character10/" in item[0])
    path = damaged(miniature, tmp_path, data, data[:50] + bytes(len(data) - 50))
    assert f"{name} in {path} cannot be read" in refusal(tmp_path)


def test_a_truncated_zip_is_named(miniature, tmp_path, own_cache):
    path = damaged(miniature, tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    assert f"{path} is not a readable zip archive" in refusal(tmp_path)


def test_a_zip_that_leads_out_is_refused(miniature, tmp_path, own_cache):
    path = damaged(miniature, tmp_path, b"images_evaluation/ULOG/character26/", b"images_evaluation/../../../../etc/x")
    text = refusal(tmp_path)
    assert str(path) in text
    assert "leads out of the archive" in text


def left_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_no_data_and_no_network_says_how_to_get_it(own_cache, no_network, tmp_path):
    with pytest.raises(MissingData) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(tmp_path), "no network in this test", "images_evaluation.zip", "https://", "FEWSHOT_DATA"):
        assert word in text
    assert left_in(own_cache) == []


class Response(io.BytesIO):
    """What urlopen returns: these bytes and then, if `broken`, an error."""

    url = None

    def __init__(self, content: bytes, broken: bool = False) -> None:
        super().__init__(content)
        self.length, self.broken = len(content), broken

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if self.broken and not data:
            raise OSError("connection lost")
        return data


@pytest.mark.parametrize("broken", [False, True], ids=["wrong checksum", "connection lost"])
def test_a_failed_download_leaves_no_file(own_cache, monkeypatch, broken):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(b"half a zip", broken))
    with pytest.raises(MissingData, match="cannot be downloaded"):
        load(None)
    assert left_in(own_cache) == []


def test_a_download_is_kept_and_used(own_cache, monkeypatch, miniature, few):
    content = (miniature / "omniglot" / "images_evaluation.zip").read_bytes()
    asked = []

    def respond(*_, **__):
        asked.append(1)
        return Response(content)

    monkeypatch.setattr("urllib.request.urlopen", respond)
    monkeypatch.setitem(Omniglot.zips_md5, "images_evaluation", hashlib.md5(content).hexdigest())
    assert load(None, *FEW).checksum == few.checksum
    requests = len(asked)
    assert load(None, *FEW, size=12).checksum == few.checksum
    assert len(asked) == requests > 0
    assert [path.name for path in own_cache.joinpath("data").rglob("*.zip")] == ["images_evaluation.zip"]


ONE_SHOT = "omniglot:lake-oneshot"
MINIMAL = "omniglot:lake-oneshot-minimal-1"


def character_of(run: int, item: int) -> int:
    """The character of the run that a test item shows: another number than its own, in another order in each run."""
    return (7 * item + run) % 20 + 1


def number_of(run: int, character: int) -> int:
    """A drawing number of its own for each character of each run."""
    return 2000 + 20 * run + character


def answers(run: int) -> list[str]:
    """The lines of class_labels.txt."""
    pairs = [(item, character_of(run, item)) for item in range(1, 21)]
    return [f"run{run:02d}/test/item{item:02d}.png run{run:02d}/training/class{one:02d}.png" for item, one in pairs]


@pytest.fixture(scope="session")
def runs() -> Members:
    """{path: content} of the twenty runs, in the order of the official zip, folders and all."""
    files: Members = {}
    for run in range(1, 21):
        home = f"run{run:02d}"
        files |= {f"{home}/": b"", f"{home}/class_labels.txt": "".join(f"{line}\n" for line in answers(run)).encode()}
        items = {f"item{item:02d}": drawing(number_of(run, character_of(run, item)), 2) for item in range(1, 21)}
        learnt = {f"class{one:02d}": drawing(number_of(run, one), 1) for one in range(1, 21)}
        for part, pictures in (("test", items), ("training", learnt)):
            files |= {f"{home}/{part}/": b"", **{f"{home}/{part}/{name}.png": data for name, data in pictures.items()}}
    return files


def write_runs(path: Path, files: Members, prefix: str = "") -> Path:
    """The runs as a zip archive or a folder."""
    files = {prefix + name: data for name, data in files.items() if path.suffix == ".zip" or not name.endswith("/")}
    return write_files(path, files)


@pytest.fixture(scope="session")
def challenge(runs, tmp_path_factory) -> ImageBank:
    """The bank of the official zip's miniature."""
    folder = tmp_path_factory.mktemp("challenge")
    write_runs(folder / "omniglot" / "all_runs.zip", runs)
    return load(folder, ONE_SHOT)


def test_the_challenge_is_twenty_listed_runs_of_twenty_characters_drawn_twice(challenge):
    assert challenge.name == "omniglot (lake-oneshot) test"
    assert (challenge.classes, challenge.listed, challenge.turns) == (400, True, 1)
    assert challenge.sizes.tolist() == [2] * 400
    assert challenge.group_names == tuple(f"run{run:02d}" for run in range(1, 21) for _ in range(20))
    assert challenge.class_names == tuple(
        f"run{run:02d}/class{one:02d}" for run in range(1, 21) for one in range(1, 21)
    )


def test_the_image_to_learn_from_comes_before_the_item_that_the_answers_give_it(challenge):
    for place, (learnt, item) in enumerate(challenge.images.view(400, 2, 1, 12, 12)):
        number = number_of(place // 20 + 1, place % 20 + 1)
        assert shows(learnt, number, 1), challenge.class_names[place]
        assert shows(item, number, 2), challenge.class_names[place]


def test_strokes_of_the_challenge_are_bright_on_dark(challenge):
    border = torch.ones(12, 12, dtype=torch.bool)
    border[2:10, 2:10] = False
    assert int(challenge.images[:, 0, border].max()) == 0
    assert bool((challenge.images.flatten(1).max(dim=1).values == 255).all())


def test_any_size_of_the_challenge_is_had(runs, tmp_path, own_cache):
    write_runs(tmp_path / "all_runs.zip", runs)
    bank = load(tmp_path, ONE_SHOT, size=31)
    assert tuple(bank.images.shape) == (800, 1, 31, 31)
    assert len(bank.images.unique()) > 2, "1-bit images must be smoothed"


@pytest.mark.parametrize("prefix", ["", "all_runs/", "omniglot-master/python/one-shot-classification/all_runs/"])
@pytest.mark.parametrize(
    "place", ["omniglot/all_runs.zip", "omniglot-py/all_runs.zip", "all_runs.zip", "omniglot/all_runs", "all_runs"]
)
def test_every_layout_of_the_challenge_gives_the_identical_bank(
    place, prefix, runs, challenge, tmp_path, own_cache, no_network
):
    write_runs(tmp_path / place, runs, prefix)
    bank = load(tmp_path, ONE_SHOT)
    assert bank.checksum == bank.compute_checksum() == challenge.checksum


def test_a_challenge_packed_on_a_mac_gives_the_identical_bank(runs, challenge, tmp_path, own_cache):
    junk = {f"__MACOSX/{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in runs}
    junk |= {f"{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in runs}
    write_runs(tmp_path / "all_runs.zip", {**junk, ".DS_Store": b"", "demo_classification.py": b"", **runs})
    assert load(tmp_path, ONE_SHOT).checksum == challenge.checksum


def test_answers_may_have_other_line_ends_and_any_order(runs, challenge, tmp_path, own_cache):
    lines = "\r\n".join([*reversed(answers(9)), "", ""])
    write_runs(tmp_path / "all_runs.zip", {**runs, "run09/class_labels.txt": lines.encode()})
    assert load(tmp_path, ONE_SHOT).checksum == challenge.checksum


def test_corrected_answers_give_a_bank_of_their_own(runs, challenge, tmp_path, own_cache):
    home = write_runs(tmp_path / "omniglot" / "all_runs", runs)
    assert load(tmp_path, ONE_SHOT).checksum == challenge.checksum
    lines = answers(5)
    first, second = (line.split() for line in lines[:2])
    (home / "run05" / "class_labels.txt").write_text(
        "\n".join([f"{first[0]} {second[1]}", f"{second[0]} {first[1]}", *lines[2:]])
    )
    assert load(tmp_path, ONE_SHOT).checksum != challenge.checksum


def without(part: str) -> Callable[[Members], Members]:
    """Removes all paths with a prefix."""
    return lambda files: {name: data for name, data in files.items() if not name.startswith(part)}


def answered(run: int, *lines: str) -> Callable[[Members], Members]:
    """Gives a run other answers."""
    return lambda files: {**files, f"run{run:02d}/class_labels.txt": "".join(f"{line}\n" for line in lines).encode()}


def one_for_another(old: str, new: str) -> Callable[[Members], Members]:
    """Run 3 has `new` in its answers instead of `old`."""
    assert any(old in line for line in answers(3))
    return answered(3, *(line.replace(old, new) for line in answers(3)))


@pytest.mark.parametrize("place", ["omniglot/all_runs.zip", "omniglot/all_runs"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without("run07/"), "run07/class_labels.txt is missing"),
        (without("run01/"), "run01/class_labels.txt is missing"),
        (lambda files: {"README.md": b"elsewhere"}, "run01/class_labels.txt is missing"),
        (without("run12/class_labels.txt"), "run12/class_labels.txt is missing"),
        (without("run20/test/item11.png"), "run20/test/item11.png is missing"),
        (without("run20/training/class20.png"), "run20/training/class20.png is missing"),
        (without("run20/training/"), "run20/training/class01.png is missing"),
        (answered(3, *answers(4)), "run03/class_labels.txt holds something other than the answers of run 3"),
        (one_for_another("run03/test/item05", "run04/test/item05"), "something other than the answers of run 3"),
        (one_for_another("run03/training/class05", "run04/training/class05"), "something other than the answers"),
        (one_for_another("item05.png", "item05"), "run03/class_labels.txt holds something other than the answers"),
        (one_for_another("item05.png", "../../x.png"), "run03/class_labels.txt holds something other than the answers"),
        (answered(3, "<html>", "\xe4"), "run03/class_labels.txt holds something other than the answers of run 3"),
        (answered(3), "run03/class_labels.txt does not pair 20 characters with 20 items"),
        (answered(3, *answers(3)[:19]), "run03/class_labels.txt does not pair 20 characters with 20 items"),
        (answered(3, *answers(3), answers(3)[6]), "run03/class_labels.txt does not pair 20 characters with 20 items"),
        (one_for_another("item05.png", "item06.png"), "does not pair 20 characters with 20 items"),
        (one_for_another("class05.png", "class06.png"), "does not pair 20 characters with 20 items"),
        (one_for_another("class05.png", "class21.png"), "does not pair 20 characters with 20 items"),
        (one_for_another("item05.png", "item21.png"), "run03/test/item21.png is missing"),
    ],
    ids=[
        *("no run 7", "no run 1", "no run", "no answers", "no item", "no character", "no training"),
        *("another run's answers", "another run's item", "another run's character", "no extension", "a path", "html"),
        *("no lines", "19 lines", "a line twice", "an item twice", "a character twice", "character 21", "item 21"),
    ],
)
def test_a_challenge_that_is_not_whole_is_refused(place, damage, told, runs, tmp_path, own_cache):
    path = write_runs(tmp_path / place, damage(runs))
    text = refusal(tmp_path, ONE_SHOT)
    assert text.startswith(f"{path} is not Omniglot's one-shot challenge (")
    assert told in text
    assert text.endswith("): copy or download it again")
    assert [*own_cache.glob("banks/*")] == []


@pytest.mark.parametrize("content", [b"", b"<html>", HEADER], ids=["empty", "html", "half"])
def test_a_picture_of_the_challenge_that_is_none_is_named(runs, tmp_path, own_cache, content):
    path = write_runs(tmp_path / "all_runs.zip", {**runs, "run13/training/class08.png": content})
    assert f"run13/training/class08.png in {path} is not a readable image" in refusal(tmp_path, ONE_SHOT)
    assert [*own_cache.glob("banks/*")] == []


def test_a_challenge_that_leads_out_of_its_archive_is_refused(runs, tmp_path, own_cache):
    path = write_runs(tmp_path / "all_runs.zip", {**runs, "../run01/training/class01.png": drawing(1, 1)})
    text = refusal(tmp_path, ONE_SHOT)
    assert f"{path} holds the path '../run01/training/class01.png', which leads out of the archive" in text


@pytest.mark.parametrize("left", [0, 100, 0.5], ids="{} left".format)
def test_a_challenge_cut_short_is_named(runs, tmp_path, own_cache, left):
    path = write_runs(tmp_path / "all_runs.zip", runs)
    os.truncate(path, int(left if left != 0.5 else path.stat().st_size // 2))
    assert f"{path} is not a readable zip archive" in refusal(tmp_path, ONE_SHOT)


def test_no_challenge_and_no_network_says_how_to_get_it(own_cache, no_network, miniature):
    with pytest.raises(MissingData) as caught:
        load(miniature, ONE_SHOT)  # the folder has all other parts of Omniglot
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(miniature), "no network in this test", "all_runs.zip", "https://", "omniglot/", "FEWSHOT_DATA"):
        assert word in text
    assert left_in(own_cache) == []


def test_a_downloaded_challenge_is_kept_and_used(own_cache, monkeypatch, runs, challenge, tmp_path):
    content, asked = write_runs(tmp_path / "elsewhere" / "runs.zip", runs).read_bytes(), []
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: asked.append(1) or Response(content))
    assert load(None, ONE_SHOT).checksum == challenge.checksum
    requests = len(asked)
    assert load(None, ONE_SHOT, size=12).checksum == challenge.checksum
    assert len(asked) == requests > 0
    assert [path.name for path in own_cache.joinpath("data").rglob("*.zip")] == ["all_runs.zip"]


@pytest.mark.parametrize("broken", [False, True], ids=["no zip", "connection lost"])
def test_a_failed_download_of_the_challenge_leaves_no_file(own_cache, monkeypatch, broken):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(b"half a zip", broken))
    with pytest.raises(InputError):
        load(None, ONE_SHOT)
    assert left_in(own_cache) == []


def test_the_challenge_is_trained_on_background_characters_with_each_turn_a_class(miniature):
    bank = load(miniature, MINIMAL, "train")
    assert (bank.classes, bank.turns, bank.listed) == (110 * 4, 4, False)
    assert bank.class_names == tuple(
        f"{alphabet}/{name}/rot{degrees}"
        for _, alphabet, name in omniglot.characters("train", "lake-oneshot-minimal-1")
        for degrees in ("000", "090", "180", "270")
    )
    turned = bank.images.view(110, 4, 20, 12, 12).numpy()
    for turn in range(4):
        assert np.array_equal(turned[:, turn], np.rot90(turned[:, 0], turn, axes=(2, 3)))


def test_the_challenge_is_validated_on_upright_characters(miniature):
    bank, lake = (load(miniature, name, "validation") for name in (ONE_SHOT, "omniglot:lake"))
    assert (bank.classes, bank.turns, bank.listed) == (172, 1, False)
    assert bank.name == "omniglot (lake-oneshot) validation"
    assert bank.checksum == lake.checksum


def test_so_many_classes_in_a_row_are_turns_of_one_character(vinyals, reference):
    assert {bank.turns for bank in vinyals.values()} == {4}
    assert {name.rpartition("/")[0] for name in vinyals["test"].class_names[:4]} == {
        vinyals["test"].class_names[0].rpartition("/")[0]
    }
    assert reference.turns == 1


@pytest.mark.parametrize(("split", "file"), [("train", "train"), ("validation", "val"), ("test", "test")])
def test_vinyals_characters_are_those_of_the_published_lists(real_data, split, file):
    listed = (real_data / "omniglot" / "splits" / "vinyals" / f"{file}.txt").read_text().split()
    ours = {
        f"{alphabet}/{name}/rot{degrees}"
        for _, alphabet, name in omniglot.characters(split, "vinyals")
        for degrees in ("000", "090", "180", "270")
    }
    assert ours == set(listed)


def test_the_real_images_load(real_data):
    bank = load_dataset("omniglot", "validation", data=real_data)
    listed = (real_data / "omniglot" / "splits" / "vinyals" / "val.txt").read_text().split()
    assert set(bank.class_names) == set(listed)
    assert tuple(bank.images.shape) == (688 * 20, 1, 28, 28)
    assert bool((bank.images.flatten(1).max(dim=1).values > 128).all())
    assert 0.02 < bank.images.float().mean() / 255 < 0.2


@pytest.fixture(scope="module")
def real_challenge(real_data) -> ImageBank:
    if omniglot._located("all_runs", [real_data]) is None:
        pytest.skip("needs the real one-shot challenge: all_runs.zip in omniglot/")
    return load_dataset(ONE_SHOT, "test", data=real_data)


@pytest.fixture(scope="module")
def places(real_data, real_challenge) -> tuple[list[list[tuple[str, str, int]]], ...]:
    """For both images of each class of the real challenge, which drawings of the lake test split have its pixels.

    A drawing is (alphabet, character, drawer).
    """
    lake = load_dataset("omniglot:lake", "test", data=real_data)
    found = collections.defaultdict(list)
    for image, label, drawer in zip(lake.images.numpy(), lake.labels.tolist(), [*range(20)] * lake.classes):
        found[image.tobytes()].append((lake.group_names[label], lake.class_names[label], drawer))
    both = real_challenge.images.view(400, 2, 28, 28).numpy()
    return tuple([found[image.tobytes()] for image in both[:, which]] for which in range(2))


def test_every_picture_of_the_real_challenge_is_one_of_the_lake_test_images(places):
    assert [len(drawings) for which in places for drawings in which] == [1] * 800


def test_both_pictures_of_a_class_of_the_real_challenge_show_one_character(places):
    learnt, asked = ([drawing[:2] for (drawing,) in which] for which in places)
    assert learnt == asked


def test_both_pictures_of_a_class_of_the_real_challenge_are_of_different_drawers(places):
    assert all(one[2] != other[2] for (one,), (other,) in zip(*places))


def test_a_run_of_the_real_challenge_has_twenty_characters_of_one_alphabet(places):
    """Ten alphabets have two runs each."""
    learnt = [drawing for (drawing,) in places[0]]
    runs = [learnt[first : first + 20] for first in range(0, 400, 20)]
    assert [len({character for _, character, _ in run}) for run in runs] == [20] * 20
    assert [len({alphabet for alphabet, _, _ in run}) for run in runs] == [1] * 20
    assert sorted(collections.Counter(run[0][0] for run in runs).values()) == [2] * 10


def test_the_runs_of_the_real_challenge_are_of_the_ten_alphabets_that_koch_tests(places):
    assert {alphabet for (drawing,) in places[0] for alphabet in [drawing[0]]} == set(omniglot_splits.CHALLENGE)
    assert set(omniglot_splits.CHALLENGE) == alphabets_of("test", "koch")


@pytest.mark.parametrize("number", [1, 2])
def test_the_minimal_sets_are_asked_the_real_challenge(real_challenge, real_data, number):
    bank = load_dataset(f"omniglot:lake-oneshot-minimal-{number}", "test", data=real_data)
    assert bank.checksum == real_challenge.checksum
    assert (bank.protocol, bank.listed) == (f"lake-oneshot-minimal-{number}", True)
