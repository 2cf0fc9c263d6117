"""Reading image files out of folders and zip archives that nobody vouches for: nothing is extracted, nothing is run."""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from episodes.errors import InputError

_LARGEST = 64 * 2**20  # bytes of one unpacked image file; more is no image of these data sets but a bomb


class ImageFiles:
    """The image files of a folder or a zip archive, by their path inside it (with forward slashes).

    names        sorted paths of the files that match `pattern`
    fingerprint  changes whenever a file is added, removed or altered; the same for a zip however it was packed
    """

    def __init__(self, path: Path, pattern: str) -> None:
        self.path = path
        wanted = re.compile(pattern)
        try:
            self._archive = None if path.is_dir() else zipfile.ZipFile(path)
            if self._archive is None:
                marks = {
                    file.relative_to(path).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns)
                    for file in path.rglob("*")
                    if file.is_file()
                }
            else:
                marks = {info.filename: (info.file_size, info.CRC) for info in self._archive.infolist()}
        except (OSError, NotImplementedError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a readable zip archive ({_reason(error)}): copy or download it again"
            ) from error
        for name in marks if self._archive else ():
            if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
                raise InputError(
                    f"{path} holds the path '{name}', which leads out of the archive: do not trust it,"
                    " get the archive from its source again"
                )
        self.names = sorted(name for name in marks if wanted.search(name))
        self.fingerprint = hashlib.blake2b(
            repr([(name, marks[name]) for name in self.names]).encode(), digest_size=8
        ).hexdigest()

    def read(self, name: str) -> bytes:
        """The bytes of one file; InputError where they cannot be had whole."""
        try:
            if self._archive is None:
                return (self.path / name).read_bytes()
            if self._archive.getinfo(name).file_size > _LARGEST:
                raise InputError(f"{name} in {self.path} unpacks to more than {_LARGEST >> 20} MB: it is no image")
            return self._archive.read(name)
        except (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{name} in {self.path} cannot be read ({_reason(error)}): copy or download it again"
            ) from error

    def image(self, name: str, prepare: Callable[[Image.Image], Image.Image]) -> Image.Image:
        """One decoded image after `prepare`; InputError where the file is no whole image."""
        try:
            return prepare(Image.open(io.BytesIO(self.read(name))))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} in {self.path} is not a readable image ({_reason(error)}): replace it") from error


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r"\s*<_io\.BytesIO[^>]*>", "", text) or type(error).__name__
