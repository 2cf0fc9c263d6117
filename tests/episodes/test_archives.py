"""Untrusted archives: no path leads outside, and a broken archive is refused in one sentence."""

import io
import itertools
import os
import struct
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import refusal as refused
from conftest import write_files
from PIL import Image

from episodes import InputError
from episodes.archives import ARCHIVES, ImageFiles, image_formats, is_archive

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


def test_a_name_that_a_zip_holds_twice_is_one_image(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/1.png": png(), "b/2.png": png()})
    path.write_bytes(path.read_bytes().replace(b"b/2.png", b"a/1.png"))
    assert ImageFiles(path, PATTERN).names == ["a/1.png"]


def test_members_without_a_name_do_no_harm(tmp_path):
    path = zipped(tmp_path / "x.zip", {"": png(), "a/1.png": png()})
    assert ImageFiles(path, PATTERN).names == ["a/1.png"]


TARS = [suffix for suffix in ARCHIVES if suffix != ".zip"]


def tarred(path: Path, *members: tarfile.TarInfo | str) -> Path:
    """A tar archive of empty links, and of images of these names."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, str):
                member, data = tarfile.TarInfo(member), GOOD.get(member, GOOD["a/1.png"])
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                archive.addfile(member)
    return path


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("suffix", TARS)
def test_a_tar_holds_the_same_images_as_a_folder_and_a_zip(tmp_path, suffix):
    members = {**dict(reversed(GOOD.items())), "a/notes.txt": b"text"}
    tree, archive, tar = (
        ImageFiles(write_files(tmp_path / name, members), PATTERN) for name in ("tree", "x.zip", f"x{suffix}")
    )
    assert is_archive(tar.path)
    assert tar.names == tree.names == archive.names == sorted(GOOD)
    assert tar.others == tree.others == archive.others == ["a/notes.txt"]
    for name in tar.names:
        assert tar.read(name) == tree.read(name) == archive.read(name) == GOOD[name]


def test_a_compressed_tar_needs_no_telling_name(tmp_path):
    packed = write_files(tmp_path / "x.tar.xz", GOOD)
    assert ImageFiles(packed.rename(tmp_path / "x.tar"), PATTERN).names == sorted(GOOD)


def test_a_tar_unpacked_for_reading_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert len(decoded(write_files(tmp_path / "x.tar.gz", GOOD))) == len(GOOD)
    assert [*(tmp_path / "temporary").iterdir()] == []


@pytest.mark.parametrize("name", ["x", "x.zip", "x.tar", "x.tar.gz"])
def test_threads_read_what_one_reader_reads(tmp_path, name):
    members = {f"a/{number}.png": bytes([number]) * (500 + number) for number in range(50)}
    files = ImageFiles(write_files(tmp_path / name, members), PATTERN)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, files.names * 4)) == [members[name] for name in files.names] * 4


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_an_archive_that_was_cut_off_after_it_was_listed_is_refused(tmp_path, name):
    path = write_files(tmp_path / name, {"a/1.png": bytes(100_000)})
    files = ImageFiles(path, PATTERN)
    assert files.names == ["a/1.png"]
    os.truncate(path, 50_000)
    with pytest.raises(InputError, match=f"a/1.png in {path} cannot be read"):
        files.read("a/1.png")


def test_dots_before_the_paths_of_a_tar_make_no_difference(tmp_path):
    path = tarred(tmp_path / "x.tar", "./a/1.png", link("./a/2.png", "./a/1.png"))
    assert ImageFiles(path, PATTERN).names == ["a/1.png", "a/2.png"]


def test_hard_links_in_a_tar_are_files(tmp_path):
    files = ImageFiles(tarred(tmp_path / "x.tar", "a/1.png", "a/2.png", link("b/1.png", "a/2.png")), PATTERN)
    assert files.names == ["a/1.png", "a/2.png", "b/1.png"]
    assert files.read("b/1.png") == GOOD["a/2.png"]


def test_links_that_lead_to_nothing_in_the_tar_are_passed_over(tmp_path):
    (tmp_path / "outside.png").write_bytes(png())
    outside = [link("b/1.png", str(tmp_path / "outside.png"), kind) for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE)]
    inside = link("b/2.png", "../a/1.png", tarfile.SYMTYPE)
    assert ImageFiles(tarred(tmp_path / "x.tar", "a/1.png", *outside, inside), PATTERN).names == ["a/1.png"]


@pytest.mark.parametrize("name", ["../x.png", "/abs.png", "a\\..\\b.png", "C:/x.png", "a/../../x.png", "../notes.txt"])
def test_paths_that_lead_out_of_a_tar_are_refused(tmp_path, name):
    text = refusal(tarred(tmp_path / "x.tar", "a/1.png", name))
    assert f"'{name}', which leads out of the archive" in text


def test_links_whose_own_path_leads_out_of_a_tar_are_refused(tmp_path):
    text = refusal(tarred(tmp_path / "x.tar", "a/1.png", link("../x.png", "a/1.png")))
    assert "'../x.png', which leads out of the archive" in text


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("part", [0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_compressed_tars_are_refused(tmp_path, suffix, part):
    path = write_files(tmp_path / f"x{suffix}", GOOD)
    os.truncate(path, int(part * path.stat().st_size))
    assert f"{path} is not a readable tar archive" in refusal(path)


@pytest.mark.parametrize("length", [0, 3, 511, 700, 1024])
def test_truncated_tars_are_refused(tmp_path, length):
    path = write_files(tmp_path / "x.tar", {**GOOD, "a/1.png": bytes(2000)})
    os.truncate(path, length)
    assert f"{path} is not a readable tar archive" in refusal(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_damaged_compressed_tars_are_refused(tmp_path, suffix):
    path = write_files(tmp_path / f"x{suffix}", GOOD)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(20)
    path.write_bytes(data)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize(
    "content", [b"<html>not found</html>" * 99, png(), b"PK\x03\x04" * 300], ids=["html", "png", "zip"]
)
def test_files_that_are_no_tar_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert f"{path} is not a readable tar archive" in refusal(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_tar_that_unpacks_to_a_multiple_of_itself_is_refused(tmp_path, suffix):
    path = write_files(tmp_path / f"x{suffix}", {"a/1.png": bytes(2**23)})
    assert f"{path} unpacks to more than 200 times its size" in refusal(path)


def test_members_of_a_tar_of_a_giant_size_are_refused_unread(tmp_path):
    path = tarred(tmp_path / "x.tar", "a/1.png")
    with path.open("r+b") as file:
        header = tarfile.TarInfo("a/1.png")
        header.size = 65 * 2**20
        file.write(header.tobuf())
        file.truncate(66 * 2**20)  # a hole: it takes no space
    assert f"a/1.png in {path} unpacks to more than 64 MB" in refusal(path)


def test_links_to_class_folders_are_followed(tmp_path):
    write_files(tmp_path / "elsewhere", GOOD)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "tree" / "c.png").symlink_to(tmp_path / "elsewhere" / "b" / "1.png")
    files = ImageFiles(tmp_path / "tree", PATTERN)
    assert files.names == ["c.png", "linked/1.png", "linked/2.png"]
    assert [files.read(name) for name in files.names] == [GOOD["b/1.png"], GOOD["a/1.png"], GOOD["a/2.png"]]


def test_links_that_lead_in_circles_end(tmp_path):
    write_files(tmp_path, GOOD)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "itself").symlink_to(tmp_path / "b")
    assert ImageFiles(tmp_path, PATTERN).names == sorted(GOOD)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write_files(tmp_path, GOOD)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "a/gone.png" in refusal(tmp_path)


def test_a_link_that_leads_to_itself_is_a_file_that_cannot_be_read(tmp_path):
    write_files(tmp_path, GOOD)
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
    files = ImageFiles(tmp_path, PATTERN)
    assert files.names == sorted([*GOOD, "a/loop.png"])
    with pytest.raises(InputError, match=r"^a/loop\.png in "):
        files.read("a/loop.png")


def test_a_lattice_of_links_is_read_once(tmp_path):
    """Each of 22 folders holds two links to the next: 2^22 paths lead to the one image."""
    for level in range(23):
        (tmp_path / f"{level:02d}").mkdir()
    for level in range(22):
        for name in ("left", "right"):
            (tmp_path / f"{level:02d}" / name).symlink_to(tmp_path / f"{level + 1:02d}")
    (tmp_path / "22" / "1.png").write_bytes(png())
    files = ImageFiles(tmp_path, PATTERN)
    assert files.names == ["22/1.png"]
    assert len(files.repeated) == 44
    linked = ImageFiles(tmp_path / "00", PATTERN)
    assert [name.count("/") for name in linked.names] == [22]


def test_a_folder_is_read_under_its_own_name_whatever_its_links_are_called(tmp_path):
    write_files(tmp_path, GOOD)
    (tmp_path / "A").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    files = ImageFiles(tmp_path, PATTERN)
    assert (files.names, files.repeated) == (sorted(GOOD), ["A", "c"])


def test_empty_folders_are_known(tmp_path):
    write_files(tmp_path, GOOD)
    for name in ("none", "outer/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").write_bytes(b"")
    assert ImageFiles(tmp_path, PATTERN).empty == ["hidden", "none", "outer/inner"]


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path):
    folders = list(itertools.accumulate(["d"] * 1100, lambda path, name: path / name, initial=tmp_path))[1:]
    image = folders[-1] / "1.png"
    try:
        for folder in folders:
            folder.mkdir()
        image.write_bytes(GOOD["a/1.png"])
        files = ImageFiles(tmp_path, PATTERN)
        assert files.names == [f"{'d/' * 1100}1.png"]
        assert files.read(files.names[0]) == GOOD["a/1.png"]
    finally:  # pytest could not remove these folders
        image.unlink()
        for folder in reversed(folders):
            folder.rmdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, endless])
def test_what_is_no_regular_file_is_named_and_not_read(tmp_path, make):
    write_files(tmp_path / "x", GOOD)
    make(tmp_path / "x" / "a" / "9.png")
    files = ImageFiles(tmp_path / "x", PATTERN)
    for call in (lambda: files.fingerprint, lambda: files.read("a/9.png")):
        assert "a/9.png is no regular file" in refused(call)
    for suffix in (".zip", ".tar", ".tar.gz"):
        make(tmp_path / f"y{suffix}")
        assert f"y{suffix} is no regular file" in refusal(tmp_path / f"y{suffix}")


def test_special_files_that_nobody_asked_for_do_no_harm(tmp_path):
    pipe(write_files(tmp_path, GOOD) / "socket")
    files = ImageFiles(tmp_path, PATTERN)
    assert (files.names, files.others) == (sorted(GOOD), ["socket"])
    assert files.fingerprint


def test_files_of_a_giant_size_are_refused_in_folders_too(tmp_path):
    write_files(tmp_path, GOOD)
    with (tmp_path / "a" / "9.png").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no space
    assert "a/9.png is larger than 64 MB" in refused(lambda: ImageFiles(tmp_path, PATTERN).read("a/9.png"))


@pytest.mark.parametrize("name", ["x", "x.zip", "x.tar"])
def test_hidden_files_and_those_of_a_mac_are_passed_over(tmp_path, name):
    hidden = [".git/1.png", "a/.1.png", "a/._1.png", "__MACOSX/a/1.png", "a/__MACOSX/1.png", ".notes.txt"]
    files = ImageFiles(write_files(tmp_path / name, GOOD | dict.fromkeys(hidden, b"no image")), PATTERN)
    assert files.names == sorted(GOOD)
    assert files.others == []


@pytest.mark.parametrize("name", ["x", "x.zip", "x.tar"])
def test_only_folders_that_are_to_be_entered_are(tmp_path, name):
    path = write_files(tmp_path / name, GOOD | {"b/a/9.png": png(), "b/notes.txt": b""})
    files = ImageFiles(path, PATTERN, lambda name: name != "b")
    assert (files.names, files.others) == (["a/1.png", "a/2.png"], [])


@pytest.mark.parametrize("form", ["EPS", "PDF", "PALM", "ICNS", "SPIDER"])
def test_formats_that_are_not_among_the_image_formats_are_no_images(tmp_path, form):
    data = io.BytesIO()
    mode = {"SPIDER": "F", "PALM": "1"}.get(form, "RGB")
    Image.new(mode, (16, 16)).save(data, form)
    text = refusal(write_files(tmp_path / "tree", {"a/1.png": data.getvalue()}))
    assert form not in image_formats()
    assert f"a/1.png in {tmp_path / 'tree'} is not a readable image (cannot identify image file" in text


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_usual_formats_are_images(tmp_path, form):
    data = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(data, form)
    (image,) = decoded(write_files(tmp_path / "tree", {"a/1.png": data.getvalue()}))
    assert image.getextrema() == (255, 255)


@pytest.mark.parametrize("error", [RuntimeError, struct.error, TypeError, IndexError, MemoryError, ZeroDivisionError])
def test_whatever_goes_wrong_in_a_decoder_is_told_in_a_sentence(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error("out of luck")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    path = write_files(tmp_path / "x.tar", GOOD)
    assert f"a/1.png in {path} is not a readable image (out of luck)" in refusal(path)


@pytest.mark.parametrize("name", ["a\nb/1.png", "../a\nb.png", "a\x1b[2J/1.png"], ids=["lines", "out", "escape"])
@pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
def test_names_that_would_break_a_sentence_do_not(tmp_path, archive, name):
    text = refusal(write_files(tmp_path / archive, {name: b"no image"}))
    assert text.isprintable()


def test_an_archive_is_told_by_its_name(tmp_path):
    for name in ("x.ZIP", "x.Tar.Gz", "x.txz"):
        (tmp_path / name).touch()
        assert is_archive(tmp_path / name)
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "x.gz").touch()
    for name in ("folder.zip", "x.gz", "missing.zip"):
        assert not is_archive(tmp_path / name)


def at(path: Path, seconds: int = 1_000_000_000) -> Path:
    """Sets the time of a file or of all files in a folder."""
    for one in (path, *path.rglob("*")):
        os.utime(one, (seconds, seconds))
    return path


def mark(path: Path) -> str:
    return ImageFiles(path, PATTERN).fingerprint


@pytest.mark.parametrize("name", ["x", "x.zip", "x.tar.xz"])
def test_the_fingerprint_stays_while_nothing_is_changed(tmp_path, name):
    path = at(write_files(tmp_path / name, GOOD))
    before = mark(path)
    assert decoded(path)
    assert mark(path) == before


@pytest.mark.parametrize("name", ["x", "x.zip"])
@pytest.mark.parametrize("how", ["written over", "moved there"])
def test_the_fingerprint_tells_files_replaced_at_the_same_size_and_time(tmp_path, name, how):
    path = at(write_files(tmp_path / name, GOOD))
    before, one = mark(path), path if path.is_file() else max(path.rglob("*.png"))
    status, other = one.stat(), tmp_path / "other"
    content = bytearray(one.read_bytes())
    content[-1] ^= 1
    if how == "written over":
        one.write_bytes(content)
    else:
        other.write_bytes(content)
        other.replace(one)
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (one.stat().st_size, one.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert mark(path) != before


@pytest.mark.parametrize("name", ["x.zip", "x.tar.xz"])
@pytest.mark.parametrize("changed", ["time", "size", "name"])
def test_the_fingerprint_of_an_archive_is_that_of_the_file(tmp_path, name, changed):
    path = at(write_files(tmp_path / name, GOOD))
    before = mark(path)
    if changed == "time":
        at(path, 1_000_000_001)
    elif changed == "size":
        path.write_bytes(path.read_bytes() + b"!")
        at(path)
    else:
        path = path.rename(tmp_path / f"other-{name}")
    assert mark(path) != before


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"], ids=["empty", "html"])
def test_the_fingerprint_of_an_archive_needs_no_look_inside(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert mark(at(tmp_path / name)) != mark(at(tmp_path / name, 0))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x"])
def test_there_is_no_fingerprint_of_what_is_not_there(tmp_path, name):
    with pytest.raises(InputError, match=rf"{tmp_path / name} cannot be read \(No such file"):
        mark(tmp_path / name)


@pytest.mark.parametrize("change", ["altered", "touched", "added", "removed", "renamed", "swapped"])
def test_the_fingerprint_of_a_folder_is_that_of_all_its_images(tmp_path, change):
    members = {**GOOD, "a/1.png": bytes(10), "a/2.png": bytes(20)}
    tree = at(write_files(tmp_path / "tree", members))
    before, one, other = mark(tree), tree / "a" / "1.png", tree / "a" / "2.png"
    if change == "altered":
        one.write_bytes(bytes(11))
    elif change == "added":
        (tree / "b" / "2.png").write_bytes(png())
    elif change == "removed":
        one.unlink()
    elif change == "renamed":
        one.rename(tree / "a" / "0.png")
    elif change == "swapped":
        one.rename(tree / "x")
        other.rename(one)
        (tree / "x").rename(other)
    at(tree)
    if change == "touched":
        at(one, 1_000_000_001)
    assert mark(tree) != before


def test_the_fingerprint_of_a_folder_does_not_depend_on_other_files(tmp_path):
    tree = write_files(tmp_path / "tree", GOOD)
    before = mark(tree)
    write_files(tree, {"notes.txt": b"text", "a/.hidden.png": b"", "a/Thumbs.db": b""})
    assert mark(tree) == before
