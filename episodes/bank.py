"""ImageBank: every image of one data set split, decoded once, in one uint8 tensor that a file backs."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt
import platformdirs
import torch
from torch import Tensor

from episodes.errors import InputError
from episodes.locks import locked

_Bank = TypeVar("_Bank", bound="ImageBank")
_STALE = 86_400  # seconds after which an unfinished build counts as abandoned
_FORMAT = 3  # of the files below; a prepared bank with another format is built again
_FILES = "files.json"  # in the folder of a bank, the names of the files of its images


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBank:
    """The images of one split, sorted by class.

    images       (N, C, H, W) uint8; on the CPU a view of the memory-mapped file
    offsets      (classes + 1,) int64; class c holds the images offsets[c] .. offsets[c + 1] - 1
    class_names  one a class
    group_names  one a class: what the class belongs to (an alphabet, a script, a superclass)
    turns        how many classes in a row show the same images, each turned: these classes are not independent
    listed       whether the split protocol lists its episodes, instead of the suite drawing them: each group is one
                 episode; the first image of each class is the support, the other images are the queries
    fit          how pictures became squares: 'crop' takes the middle, 'squash' scales the whole; '' if unknown
    inverted     whether dark became bright; None if unknown
    files        the name of each image's file relative to `source`, in the order of the images; () if unknown
    lists        a digest of the lists beside the images of queries, gallery and pairs; '' if there are none
    """

    images: Tensor
    offsets: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    dataset: str = "images"
    protocol: str = ""
    split: str = ""
    source: str = "memory"
    checksum: str = ""
    turns: int = 1
    listed: bool = False
    fit: str = ""
    inverted: bool | None = None
    files: Sequence[str] = ()
    lists: str = ""

    def __post_init__(self) -> None:
        classes = len(self.offsets) - 1
        self._check_images()
        if len(self.class_names) != classes or len(self.group_names) != classes:
            raise InputError(
                f"an image bank of {classes} classes needs as many class and group names, not"
                f" {len(self.class_names)} and {len(self.group_names)}"
            )
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != len(self.images) or bool((self.sizes < 1).any()):
            raise InputError("the offsets of an image bank must rise from 0 to its number of images")

    @property
    def form(self) -> str:
        """What an image is, for a reader: '84x84'."""
        return f"{self.images.shape[2]}x{self.images.shape[3]}"

    def _check_images(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise InputError(
                f"an image bank holds uint8 images (N, C, H, W), not {tuple(self.images.shape)} of {self.images.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes(self) -> Tensor:
        """Images in each class, (classes,) int64."""
        return self.offsets.diff()

    @property
    def labels(self) -> Tensor:
        """The class of each image, (N,) int64."""
        return torch.repeat_interleave(torch.arange(self.classes, device=self.offsets.device), self.sizes)

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def name(self) -> str:
        """The name of the bank in tables, such as 'omniglot (vinyals) test'."""
        return " ".join(filter(None, [self.dataset, self.protocol and f"({self.protocol})", self.split]))

    def to(self, device: torch.device | str) -> "ImageBank":
        """The same bank with all its images on `device`."""
        return dataclasses.replace(self, images=self.images.to(device), offsets=self.offsets.to(device))

    def batch(self, indices: Tensor) -> Tensor:
        """The images of `indices` (B,) as network inputs: (B, C, H, W) float32 in [0, 1], on the device of `indices`.

        This is the one place where bytes become numbers, in training and in evaluation.
        """
        # index_select copies whole rows; an index in brackets copies number by number
        return self.images.index_select(0, indices.to(self.device)).to(indices.device).float().div_(255)

    def only(self, images: Tensor) -> "ImageBank":
        """A bank with copies of these images (M,) alone; `images` ascend, and every class keeps at least one image."""
        images = images.to(self.device)
        sizes = torch.bincount(self.labels.to(self.device)[images], minlength=self.classes).to(self.offsets.device)
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        files = tuple(self.files[image] for image in images.tolist()) if self.files else ()
        return dataclasses.replace(self, images=self.images[images], offsets=offsets, checksum="", files=files)

    def held_out(self, count: int) -> tuple["ImageBank", "ImageBank"]:
        """The bank without the last `count` images of each class, and the bank of these last images.

        Turned copies of a class show the same images in the same order, so that an image is held out in all its turns.
        Raises InputError if a class has no more than `count` images.
        """
        smallest = int(self.sizes.argmin())
        if not 0 < count < int(self.sizes[smallest]):
            raise InputError(
                f"{count} images of each class cannot be held out of {self.name}: class '{self.class_names[smallest]}'"
                f" has {int(self.sizes[smallest])}; hold out fewer, and at least 1"
            )
        last = torch.arange(len(self), device=self.offsets.device) >= self.offsets[1:][self.labels] - count
        parts = self.only((~last).nonzero().flatten()), self.only(last.nonzero().flatten())
        names = f"{self.checksum} without the last {count}", f"{self.checksum}, the last {count}"
        rest, last_ones = (dataclasses.replace(part, checksum=name) for part, name in zip(parts, names))
        return rest, last_ones

    def compute_checksum(self) -> str:
        """A digest of pixels, class borders, names and lists: equal for equal banks, on any machine."""
        digest = hashlib.blake2b(digest_size=16)
        about = [list(self.images.shape), self.offsets.tolist(), self.class_names, self.group_names]
        digest.update(json.dumps([*about, *([self.lists] if self.lists else [])]).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()


class FileNames(Sequence[str]):
    """The names in a JSON file, which is read when a name is first asked for, so that a large bank opens at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def _names(self) -> list[str]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the names in {self._path} cannot be read: remove {self._path.parent}, and it is prepared again"
            ) from error

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._path)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._names[index]


def cache_folder() -> Path:
    """The folder of prepared banks and downloads: $FEWSHOT_CACHE, or the user's cache folder."""
    return Path(os.environ.get("FEWSHOT_CACHE") or platformdirs.user_cache_dir("fewshot"))


class Contents(NamedTuple):
    """The contents of a bank that is to be built.

    shape                     of one image, (C, H, W)
    sizes                     images in each class
    class_names, group_names  one each a class
    fill                      writes every image, sorted by class, into the uint8 array (N, C, H, W) of the new file
    about                     the other fields of the ImageBank: dataset, protocol, split, source, turns, listed, fit,
                              inverted, lists
    files                     the name of each image's file, in the order of the images; () if unknown
    beside                    texts that are kept in the folder of the bank, by the names of their files
    """

    shape: tuple[int, int, int]
    sizes: Sequence[int]
    class_names: Sequence[str]
    group_names: Sequence[str]
    fill: Callable[[np.ndarray], None]
    about: dict[str, Any]
    files: Sequence[str] = ()
    beside: Mapping[str, str] = {}


def bank_folder(key: str) -> Path:
    """The folder of the bank with this key, which may not exist yet."""
    return cache_folder() / "banks" / key


def cached_bank(key: str, contents: Callable[[], Contents]) -> ImageBank:
    """The bank prepared under `key`; the function builds it from `contents()` if there is none yet."""
    return prepared(key, _open, lambda folder: _fill(folder, contents()))


def prepared(key: str, opened: Callable[[Path], _Bank | None], build: Callable[[Path], None]) -> _Bank:
    """What `opened` makes of the folder under `key`; `build` fills the folder if `opened` gives None for it.

    The build happens in a folder with a temporary name, which is renamed when all files are on disk: an interrupted
    build leaves nothing that a later run would open. If several processes want the same bank at once, one process
    builds the bank and the others wait.
    """
    folder = bank_folder(key)
    bank = opened(folder)
    if bank is not None:
        return bank
    locks = cache_folder() / "locks"
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            locks.mkdir(exist_ok=True)
            stack.enter_context(locked(locks / f"{key}.lock", f"prepares {key}"))
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
        bank = opened(folder)  # another process may have built the bank meanwhile
        if bank is None:
            _build(folder, build)
            bank = opened(folder)
    if bank is None:
        raise InputError(f"the prepared images in {folder} cannot be read back: is the disk full?")
    return bank


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    """Put what `build` writes into `folder`, replacing what is there. One process at a time may call this."""
    try:
        for stale in folder.parent.glob(f"{folder.name}.*.building"):  # the folder of a build that was killed
            if time.time() - stale.stat().st_mtime > _STALE:
                shutil.rmtree(stale, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".building", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    try:
        build(building)
        for path in building.iterdir():
            _to_disk(path)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
        _to_disk(folder.parent)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(
                f"{folder} cannot be written ({error.strerror or error}): free some disk space there"
            ) from error
        raise


def _fill(folder: Path, whole: Contents) -> None:
    """Write the files of the bank of these contents into `folder`."""
    shape, sizes, class_names, group_names, fill, about, files, beside = whole
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    images = created(folder / "images.npy", np.uint8, (int(offsets[-1]), *shape))
    fill(images)
    images.flush()
    bank = ImageBank(
        torch.from_numpy(images), torch.from_numpy(offsets), tuple(class_names), tuple(group_names), **about
    )
    record: dict[str, Any] = {
        "format": _FORMAT,
        "offsets": offsets.tolist(),
        "class_names": list(class_names),
        "group_names": list(group_names),
        **about,
        "checksum": bank.compute_checksum(),
    }
    (folder / "bank.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / _FILES).write_text(json.dumps(list(files)), encoding="utf-8")
    for name, text in beside.items():
        (folder / name).write_text(text, encoding="utf-8")


def created(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file of zeros, mapped for writing, whose disk space is taken; OSError if the disk has no room."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    _reserve(path)
    return array


def from_map(array: npt.NDArray[Any]) -> Tensor:
    """The tensor of a memory-mapped file, an np.memmap in any shape; see map_of."""
    tensor = torch.from_numpy(array)
    vars(tensor)["map"] = array
    return tensor


def map_of(tensor: Tensor) -> np.memmap | None:
    """The memory-mapped file that from_map made this very tensor of, in the same order of its numbers; else None."""
    return vars(tensor).get("map")


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"the cache folder {folder} cannot be written ({error.strerror}): set FEWSHOT_CACHE to a folder that can"
    )


def _open(folder: Path) -> ImageBank | None:
    """The bank in `folder`, memory-mapped; None if the folder has no bank or an incomplete one.

    The checksum is not computed again, because that would read the whole file and make opening slow.
    """
    try:
        record = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
        if record.pop("format") != _FORMAT:
            return None
        # "c": pages are read when touched, and a write would stay in memory; torch wants a writable array
        images = from_map(np.lib.format.open_memmap(folder / "images.npy", mode="c"))
        offsets = torch.tensor(record.pop("offsets"), dtype=torch.int64)
        class_names, group_names = (tuple(record.pop(name)) for name in ("class_names", "group_names"))
        return ImageBank(images, offsets, class_names, group_names, **record, files=FileNames(folder / _FILES))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _reserve(path: Path) -> None:
    """Take the disk space of a mapped file now: on a full disk, a write through the map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk; a folder is skipped on systems that cannot, such as Windows."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
