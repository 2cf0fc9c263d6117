"""Archives that nobody vouches for are read without leaving them, and refused in a sentence where they are broken."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from episodes import InputError
from episodes.archives import ImageFiles

PATTERN = r"\.png$"


def png(shade: int = 90) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((16, 16), shade).save(data, "PNG")
    return data.getvalue()


GOOD = {"a/1.png": png(20), "a/2.png": png(60), "b/1.png": png(90)}


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def decoded(path: Path) -> list[Image.Image]:
    files = ImageFiles(path, PATTERN)
    return [files.image(name, lambda image: image.convert("L")) for name in files.names]


def refusal(path: Path) -> str:
    """The one-line text of the InputError that reading all of `path` raises."""
    with pytest.raises(InputError) as caught:
        decoded(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def patched(path: Path, signature: bytes, at: int, value: bytes) -> None:
    """Overwrites a field of the first header of that kind."""
    data = bytearray(path.read_bytes())
    place = data.index(signature) + at
    data[place : place + len(value)] = value
    path.write_bytes(data)


def test_a_folder_and_a_zip_hold_the_same_images(tmp_path):
    for name, data in {**GOOD, "a/notes.txt": b"text"}.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    tree = ImageFiles(tmp_path / "tree", PATTERN)
    archive = ImageFiles(zipped(tmp_path / "x.zip", {**GOOD, "a/notes.txt": b"text"}), PATTERN)
    assert tree.names == archive.names == sorted(GOOD)
    assert [tree.read(name) for name in tree.names] == [archive.read(name) for name in archive.names]


@pytest.mark.parametrize("name", ["../x.png", "/abs.png", "a\\..\\b.png", "C:/x.png", "a/../../x.png", "../notes.txt"])
def test_paths_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    text = refusal(zipped(tmp_path / "x.zip", {**GOOD, name: png()}))
    assert f"'{name}', which leads out of the archive" in text


@pytest.mark.parametrize("left", [0, 3, 400, -1])
def test_truncated_zips_are_refused(tmp_path, left):
    path = zipped(tmp_path / "x.zip", GOOD)
    path.write_bytes(path.read_bytes()[:left])
    assert f"{path} is not a readable zip archive" in refusal(path)


@pytest.mark.parametrize("content", [b"<html>not found</html>", png()], ids=["html", "png"])
def test_files_that_are_no_zip_are_refused(tmp_path, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert f"{path} is not a readable zip archive" in refusal(path)


def test_a_missing_archive_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("at", "value"), [(6, b"\xff\x00"), (8, b"\x00\x08")], ids=["newer version", "a name that is not UTF-8"]
)
def test_a_damaged_directory_of_the_zip_is_refused(tmp_path, at, value):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png()})
    patched(path, b"PK\x01\x02", 46, b"\xff\xfe")
    patched(path, b"PK\x01\x02", at, value)
    assert f"{path} is not a readable zip archive" in refusal(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_corrupt_members_are_refused(tmp_path, compression):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png()}, compression)
    patched(path, b"a/1.png", 60, bytes(20))
    assert f"a/1.png in {path} cannot be read" in refusal(path)


def test_encrypted_members_are_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png()})
    patched(path, b"PK\x03\x04", 6, b"\x01")
    patched(path, b"PK\x01\x02", 8, b"\x01")
    text = refusal(path)
    assert f"a/1.png in {path} cannot be read" in text
    assert "encrypted" in text


def test_unknown_compression_is_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png()})
    patched(path, b"PK\x01\x02", 10, b"\x63")
    assert "compression" in refusal(path)


def test_members_of_a_giant_size_are_refused_unread(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png()})
    patched(path, b"PK\x01\x02", 24, struct.pack("<L", 2**31))
    assert f"a/1.png in {path} unpacks to more than 64 MB" in refusal(path)


def test_members_that_unpack_to_more_than_declared_are_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/1.png": bytes(2**20)}, zipfile.ZIP_DEFLATED)
    patched(path, b"PK\x01\x02", 24, struct.pack("<L", 100))
    assert f"a/1.png in {path} cannot be read" in refusal(path)


def test_images_of_a_giant_size_are_refused(tmp_path):
    header = b"IHDR" + struct.pack(">LLBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)
    start = png()[:8] + struct.pack(">L", 13) + header + struct.pack(">L", zlib.crc32(header))
    path = zipped(tmp_path / "x.zip", {"a/1.png": start + png()[33:]})
    assert f"a/1.png in {path} is not a readable image" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"these are no pixels", png()[:20], png()[:-80]], ids=["empty", "text", "header", "truncated"]
)
def test_files_that_are_no_whole_image_are_refused(tmp_path, content):
    text = refusal(zipped(tmp_path / "x.zip", {**GOOD, "b/2.png": content}))
    assert f"b/2.png in {tmp_path / 'x.zip'} is not a readable image" in text
    assert "BytesIO" not in text
    assert "file the file" not in text


def test_the_fingerprint_does_not_depend_on_the_packing(tmp_path):
    backwards = dict(reversed(GOOD.items()))
    one = ImageFiles(zipped(tmp_path / "1.zip", GOOD), PATTERN)
    other = ImageFiles(zipped(tmp_path / "2.zip", {**backwards, "readme": b""}, zipfile.ZIP_DEFLATED), PATTERN)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {**GOOD, "a/1.png": GOOD["a/1.png"][:-1] + b"!"},
        {**GOOD, "a/3.png": png()},
        {"a/1.png": GOOD["a/1.png"]},
        {**GOOD, "a/1.png": GOOD["a/2.png"], "a/2.png": GOOD["a/1.png"]},
    ],
    ids=["altered", "added", "removed", "swapped"],
)
def test_the_fingerprint_depends_on_the_content(tmp_path, changed):
    one = ImageFiles(zipped(tmp_path / "1.zip", GOOD), PATTERN)
    assert ImageFiles(zipped(tmp_path / "2.zip", changed), PATTERN).fingerprint != one.fingerprint


def test_the_fingerprint_of_a_folder_depends_on_the_content(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    before = ImageFiles(tmp_path, PATTERN).fingerprint
    (tmp_path / "1.png").write_bytes(png() + b"more")
    assert ImageFiles(tmp_path, PATTERN).fingerprint != before
