"""Omniglot in a faithful miniature: the protocols' classes, every layout of the files, and every kind of damage."""

import hashlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import Omniglot

from episodes import ImageBank, InputError, MissingData, load_dataset
from episodes.datasets import SPLITS, omniglot

PARTS = {"images_background": omniglot.BACKGROUND, "images_evaluation": omniglot.EVALUATION}
Members = dict[str, bytes]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


HEADER = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", 12, 12, 1, 0, 0, 0, 0))
END = chunk(b"IEND", b"")


def drawing(number: int, drawer: int) -> bytes:
    """A 12 x 12 PNG of 1 bit a pixel, black on white: 8 x 8 pixels that no other drawing has, in a white border."""
    pattern = ((number * 20 + drawer) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
    rows = [0xFFF, 0xFFF, *(0xFFF ^ byte << 2 for byte in pattern), 0xFFF, 0xFFF]
    return HEADER + chunk(b"IDAT", zlib.compress(b"".join(struct.pack(">BH", 0, row << 4) for row in rows), 1)) + END


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


def refusal(folder: Path) -> str:
    """The one-line text of the InputError that loading raises."""
    with pytest.raises(InputError) as caught:
        load(folder)
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
    assert len({character for split in splits for character in split}) == sum(map(len, splits)) == 1623


@pytest.mark.parametrize("protocol", omniglot.PROTOCOLS)
def test_validation_is_five_whole_alphabets(protocol):
    alphabets = {alphabet for _, alphabet, _ in omniglot.characters("validation", protocol)}
    assert alphabets == {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
    assert not alphabets & {alphabet for _, alphabet, _ in omniglot.characters("train", protocol)}


def test_splits_share_no_image(vinyals):
    seen = [{image.tobytes() for image in bank.images[0 : len(bank) : 80].numpy()} for bank in vinyals.values()]
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_every_drawing_stands_where_its_class_says(reference, members):
    first = sum(omniglot.BACKGROUND.values()) + 1
    for place in (0, 7, 20, 13179):
        pattern = (((first + place // 20) * 20 + place % 20 + 1) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
        expected = np.unpackbits(np.frombuffer(pattern, np.uint8)).reshape(8, 8) * 255
        assert np.array_equal(reference.images[place, 0, 2:10, 2:10].numpy(), expected)


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


def as_tree(folder: Path, files: Members) -> None:
    for name, data in files.items():
        path = folder / "omniglot" / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_bytes(data)


def as_torchvision_names_it(folder: Path, files: Members) -> None:
    write_zip(folder / "omniglot-py" / "images_evaluation.zip", files)


def as_the_data_folder_itself(folder: Path, files: Members) -> None:
    write_zip(folder / "images_evaluation.zip", files)


def as_packed_on_a_mac(folder: Path, files: Members) -> None:
    names = [name for name in files if "/Angelic/" in name]
    junk = {f"__MACOSX/{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in names}
    junk |= {f"__MACOSX/{name}": b"resource fork" for name in names}
    junk |= {f"{os.path.dirname(name)}/._{os.path.basename(name)}": b"resource fork" for name in names}
    junk |= {"images_evaluation/.DS_Store": b"", "images_evaluation/Angelic/character01/": b""}
    write_zip(folder / "omniglot" / "images_evaluation.zip", {**files, **junk}, prefix="omniglot-master/python/")


@pytest.mark.parametrize(
    "layout",
    [as_tree, as_torchvision_names_it, as_the_data_folder_itself, as_packed_on_a_mac],
    ids=lambda f: f.__name__,
)
def test_every_layout_gives_the_identical_bank(layout, members, reference, tmp_path, own_cache):
    layout(tmp_path / "data", members["images_evaluation"])
    bank = load(tmp_path / "data")
    assert bank.checksum == bank.compute_checksum() == reference.checksum


@pytest.mark.parametrize("size", [8, 31])
def test_any_size_is_had(miniature, size):
    bank = load(miniature, split="validation", size=size)
    assert tuple(bank.images.shape) == (172 * 20, 1, size, size)
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
    name = next(name for name in files if "/Keble/character05/" in name)
    files[name] = files[name][:50]
    path = write_zip(tmp_path / "omniglot" / "images_evaluation.zip", files)
    assert f"{name} in {path} is not a readable image" in refusal(tmp_path)
    assert [*own_cache.glob("banks/*")] == []


def test_an_image_of_a_wrong_checksum_is_named(miniature, members, tmp_path, own_cache):
    name, data = next(item for item in members["images_evaluation"].items() if "/Keble/character05/" in item[0])
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
    return [path for path in cache.rglob("*") if path.is_file()]


def test_no_data_and_no_network_says_how_to_get_it(own_cache, no_network, tmp_path):
    with pytest.raises(MissingData) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(tmp_path), "no network in this test", "images_evaluation.zip", "https://", "FEWSHOT_DATA"):
        assert word in text
    assert left_in(own_cache) == []


class Response(io.BytesIO):
    """What urlopen returns: these bytes and then, where `broken`, an error."""

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


def test_a_download_is_kept_and_used(own_cache, monkeypatch, miniature, reference):
    content = (miniature / "omniglot" / "images_evaluation.zip").read_bytes()
    asked = []

    def respond(*_, **__):
        asked.append(1)
        return Response(content)

    monkeypatch.setattr("urllib.request.urlopen", respond)
    monkeypatch.setitem(Omniglot.zips_md5, "images_evaluation", hashlib.md5(content).hexdigest())
    assert load(None).checksum == reference.checksum
    requests = len(asked)
    assert load(None, size=12).checksum == reference.checksum
    assert len(asked) == requests > 0
    assert [path.name for path in own_cache.joinpath("data").rglob("*.zip")] == ["images_evaluation.zip"]


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
