"""Image files in untrusted folders, zip and tar archives: no file is extracted, and no code is run."""

import abc
import bz2
import contextlib
import errno
import functools
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from PIL import Image

from episodes.errors import InputError

Prepared = TypeVar("Prepared")  # what an image becomes

_LARGEST = 64 * 2**20  # bytes of one (unpacked) file; a larger file is no image of these data sets but a zip bomb
_MOST = 200  # the largest ratio of unpacked to compressed size of a tar; images hardly compress
_PIECE = 2**20
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error)

_COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {  # by their first bytes
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


class EncodedImages(abc.ABC):
    """Images that are read as the bytes of an image format: the base class of folders, archives and tables."""

    path: Path

    @abc.abstractmethod
    def read(self, key: Any) -> bytes:
        """The encoded bytes of one image; InputError if they cannot be read completely. Safe to call from threads."""

    def name(self, key: Any) -> str:
        """The name of the file of one image, relative to `path`."""
        return str(key)

    def image(self, key: Any, prepare: Callable[[Image.Image], Prepared]) -> Prepared:
        """What `prepare` makes of one decoded image; InputError if the bytes are not a complete image."""
        try:
            with Image.open(io.BytesIO(self.read(key)), formats=image_formats()) as image:
                image.load()  # now, while the file is open
                return prepare(image)
        except InputError:
            raise
        except Exception as error:  # the bytes decide what goes wrong inside a decoder
            raise InputError(f"{key} in {self.path} is not a readable image ({_reason(error)}): replace it") from error


class ImageFiles(EncodedImages):
    """The files of a folder, a zip or a tar archive whose path inside it (with forward slashes) matches `pattern`.

    names        sorted paths of the files that match
    others       sorted paths of the files that do not match
    repeated     sorted paths of the links in a folder that lead to folders which are read under another name
    empty        sorted paths of the folders in a folder that hold neither files nor folders
    fingerprint  changes whenever a file that matches is added, removed or altered

    Hidden files and folders are skipped, and so are folders for whose name `enter` is False. Each file that matches
    `pattern` must be a regular file: a pipe or a device would never end. A compressed tar is unpacked once, into a
    nameless temporary file, because a compressed tar can only be read in order.
    """

    def __init__(self, path: Path, pattern: str, enter: Callable[[str], bool] = lambda name: True) -> None:
        self.path = path
        self._wanted, self._enter = re.compile(pattern), enter

    @property
    def names(self) -> list[str]:
        return self._listed[0]

    @property
    def others(self) -> list[str]:
        return self._listed[1]

    @property
    def repeated(self) -> list[str]:
        return self._walked.repeated if self.path.is_dir() else []

    @property
    def empty(self) -> list[str]:
        return self._walked.empty if self.path.is_dir() else []

    @functools.cached_property
    def fingerprint(self) -> str:
        """Made from the size and times of an archive, which is not opened, or of each matching file in a folder."""
        try:
            marks = self._marks if self.path.is_dir() else [(self.path.name, *_mark(self.path.stat()))]
        except OSError as error:
            raise InputError(f"{error.filename or self.path} cannot be read ({_reason(error)})") from error
        return fingerprint(marks)

    def read(self, name: str, most: int = _LARGEST) -> bytes:
        """The bytes of one file; InputError if they are more than `most`."""
        try:
            return self._content.read(name, most)
        except InputError:
            raise
        except (OSError, RuntimeError, NotImplementedError, EOFError, KeyError, *_BROKEN) as error:
            raise InputError(
                f"{name} in {self.path} cannot be read ({_reason(error)}): copy or download it again"
            ) from error

    @functools.cached_property
    def _content(self) -> "_Folder | _Zip | _Tar":
        """The folder or archive, opened when first needed: if a bank is prepared already, nothing opens the archive."""
        kind = _Folder if self.path.is_dir() else _Zip if self.path.suffix.lower() == ".zip" else _Tar
        try:
            if kind is not _Folder:
                _check_regular(self.path, self.path.stat())
            return kind(self.path)
        except InputError:
            raise
        except (OSError, EOFError, ValueError, NotImplementedError, *_BROKEN) as error:
            what = "zip" if kind is _Zip else "tar"
            raise InputError(
                f"{self.path} is not a readable {what} archive ({_reason(error)}): copy or download it again"
            ) from error

    @property
    def _marks(self) -> list[tuple[str, int, int, int]]:
        """Path, size and times of each wanted file of a folder; InputError if a file is not a regular file."""
        wanted = self._wanted.search
        found = [(name, entry.stat()) for name, entry in self._walked.files if wanted(name)]
        for name, status in found:
            _check_regular(self.path / name, status)
        return sorted((name, *_mark(status)) for name, status in found)

    @functools.cached_property
    def _walked(self) -> "_Walked":
        try:
            return _walk(self.path, self._enter)
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read ({_reason(error)})") from error

    @functools.cached_property
    def _listed(self) -> tuple[list[str], list[str]]:
        if self.path.is_dir():
            every = [name for name, _ in self._walked.files]
        else:
            archive = self._content
            assert not isinstance(archive, _Folder)
            every = [name for name in dict.fromkeys(archive.names()) if not _hidden(name)]
            for name in every:
                _stay_inside(self.path, name)
            every = [name for name in every if all(map(self._enter, name.split("/")[:-1]))]
        wanted = [name for name in every if self._wanted.search(name)]
        return sorted(wanted), sorted(set(every) - set(wanted))


@functools.cache
def image_formats() -> tuple[str, ...]:
    """The formats that Pillow reads by itself; Pillow would hand PostScript, for one, to another program."""
    Image.init()
    ours = "AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI SGI TGA TIFF WEBP"
    return tuple(kind for kind in ours.split() if kind in Image.OPEN)


def is_archive(path: Path) -> bool:
    """Whether `path` is a file with the suffix of an archive."""
    return path.name.lower().endswith(ARCHIVES) and path.is_file()


def open_regular(path: Path) -> IO[bytes]:
    """Open the file at `path` for reading; InputError for a pipe or a device, which could hang or never end."""
    with contextlib.ExitStack() as failing:
        file = failing.enter_context(open(path, "rb", opener=_without_waiting))
        _check_regular(path, os.fstat(file.fileno()))
        failing.pop_all()
    return file


def read_regular(path: Path, most: int = _LARGEST) -> bytes:
    """The bytes of the file at `path`; InputError if the file is not regular, or has more bytes than `most`."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path} is larger than {most >> 20} MB: it is neither an image nor a list of images")
    return data


def fingerprint(marks: Any) -> str:
    """A short digest of `marks`, which change if the files change."""
    return hashlib.blake2b(repr(marks).encode(), digest_size=8).hexdigest()


def files_fingerprint(paths: Iterable[Path]) -> str:
    """The fingerprint of these files: it changes if one of the files is altered or replaced."""
    return fingerprint([(path.name, *_mark(path.stat())) for path in paths])


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, most: int) -> bytes:
        return read_regular(self._path / name, most)


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path, self._archive = path, zipfile.ZipFile(path)

    def names(self) -> list[str]:
        return [info.filename for info in self._archive.infolist() if not info.filename.endswith("/")]

    def read(self, name: str, most: int) -> bytes:
        _check_size(self._path, name, self._archive.getinfo(name).file_size, most)
        return self._archive.read(name)


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file = _unpacked(path)
        weakref.finalize(self, self._file.close)
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            members = archive.getmembers()
        places = {member.name: (member.offset_data, member.size) for member in members if member.isreg()}
        # if a tar holds a file twice, the second one is a link to the name of the first
        links = {
            member.name: places[member.linkname] for member in members if member.islnk() and member.linkname in places
        }
        self._places = {name.removeprefix("./"): place for name, place in (places | links).items()}

    def names(self) -> list[str]:
        return list(self._places)

    def read(self, name: str, most: int) -> bytes:
        start, size = self._places[name]
        _check_size(self._path, name, size, most)
        with self._lock:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) < size:
            raise EOFError("it ends too early")
        return data


def _unpacked(path: Path) -> IO[bytes]:
    """The plain tar in `path`: the file itself, or a temporary one that disappears with the process."""
    with open_regular(path) as file:
        start = file.read(6)
    unpack = next((opener for signature, opener in _COMPRESSIONS.items() if start.startswith(signature)), None)
    if unpack is None:
        return path.open("rb")
    most = _MOST * path.stat().st_size + _PIECE
    with contextlib.ExitStack() as failing:
        unpacked = failing.enter_context(tempfile.TemporaryFile())
        packed = failing.enter_context(unpack(path))
        while piece := packed.read(_PIECE):
            unpacked.write(piece)
            if unpacked.tell() > most:
                raise InputError(f"{path} unpacks to more than {_MOST} times its size: it is no archive of images")
        packed.close()
        unpacked.seek(0)
        failing.pop_all()
    return unpacked


class _Walked(NamedTuple):
    """Path and entry of every file in a folder; sorted, the links to folders that are left out, and the folders that
    hold nothing."""

    files: list[tuple[str, os.DirEntry]]
    repeated: list[str]
    empty: list[str]


def _walk(root: Path, enter: Callable[[str], bool]) -> _Walked:
    """What the folder `root` holds.

    Links to folders are followed, but each folder is read once, under its own name if it has one in `root`. So a cycle
    of links ends, and if many paths of links lead to one folder, only one of the paths is followed.
    """
    files: list[tuple[str, os.DirEntry]] = []
    repeated, empty = list[str](), list[str]()
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        linked = not folders
        inside = links.pop() if linked else folders.pop()
        here = (status := os.stat(root / inside)).st_dev, status.st_ino
        if here in seen:
            if linked:
                repeated.append(inside[:-1])
            continue
        seen.add(here)
        with os.scandir(root / inside) as entries:
            # the last entry is taken next; sorted by name, so that the order is the same on every machine
            shown = [entry for entry in entries if entry.name[0] != "." and entry.name != "__MACOSX"]
            for entry in sorted(shown, key=lambda entry: entry.name, reverse=True):
                name = entry.name
                if not _is_folder(entry):
                    files.append((inside + name, entry))
                elif enter(name):
                    (links if entry.is_symlink() else folders).append(f"{inside}{name}/")
            if not shown:
                empty.append(inside[:-1])
    return _Walked(files, sorted(repeated), sorted(empty))


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or leads to one; a link that leads to itself is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file without waiting; opening a pipe would wait until a process writes to the pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file but a pipe, a device or a folder: move it away")


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


def _stay_inside(path: Path, name: str) -> None:
    if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
        raise InputError(
            f"{path} holds the path '{name}', which leads out of the archive: do not trust it, get the archive from its"
            " source again"
        )


def _check_size(path: Path, name: str, size: int, most: int) -> None:
    if size > most:
        raise InputError(f"{name} in {path} unpacks to more than {most >> 20} MB: it is no image")


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    """Size and times: a program can set the time of the last change of the content, but not st_ctime."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r"\s*<_io\.BytesIO[^>]*>", "", text) or type(error).__name__
