"""Pictures of any size, mode and format become the square RGB images of a bank, decoded on all cores."""

import contextlib
import contextvars
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from episodes.bank import Contents
from episodes.errors import InputError

Prepared = TypeVar("Prepared")  # what an image becomes

_damage: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("damage", default=None)
_TOGETHER = 64  # images a thread decodes before it reports
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageSource(Protocol):
    """The source of images: files, rows of a table, an array."""

    def image(self, key: Any, prepare: Callable[[Image.Image], Prepared]) -> Prepared: ...

    def name(self, key: Any) -> str: ...


class Picture(NamedTuple):
    """One image that is not decoded yet: `source.image(key, ...)` gives it."""

    source: ImageSource
    key: Any


class ArrayImages:
    """The images of an array (N, H, W, 3) uint8 by their number; `names` are those of their files, if known."""

    def __init__(self, array: np.ndarray, names: Sequence[str] = ()) -> None:
        self._array, self._names = array, names

    def image(self, key: int, prepare: Callable[[Image.Image], Prepared]) -> Prepared:
        return prepare(Image.fromarray(self._array[key]))

    def name(self, key: int) -> str:
        return self._names[key] if self._names else f"image {key}"


def cropped(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, scaled: shapes are kept, the edges of long pictures are lost."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR) if image.size != (size, size) else image


def squashed(image: Image.Image, size: int) -> Image.Image:
    """The whole image, scaled to a square: nothing is lost, shapes are not kept."""
    return image.resize((size, size), Image.Resampling.BILINEAR) if image.size != (size, size) else image


_FITS = {"crop": cropped, "squash": squashed, "": cropped}  # by ImageBank.fit


def prepared(
    image: Image.Image, size: int, channels: int = 3, fit: str = "crop", inverted: bool | None = False
) -> np.ndarray:
    """Any picture as a bank holds it: (channels, size, size) uint8, grey for one channel and RGB for three.

    fit, inverted: as in ImageBank; what a bank does not know, '' and None, is taken for 'crop' and False.
    """
    pixels = np.asarray(_FITS[fit](upright_rgb(image), size)).transpose(2, 0, 1)
    return recoloured(pixels, channels, bool(inverted))


def recoloured(images: np.ndarray, channels: int, inverted: bool = False) -> np.ndarray:
    """Images (..., C, H, W) uint8 with C = 1 or 3 as grey (`channels` = 1) or RGB (3); `inverted`: dark becomes bright.

    Grey is the luma of ITU-R 601, rounded as Pillow rounds it.
    """
    if images.shape[-3] == 3 and channels == 1:
        red, green, blue = (images[..., i : i + 1, :, :].astype(np.int32) for i in range(3))
        images = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
    elif images.shape[-3] == 1 and channels == 3:
        images = images.repeat(3, axis=-3)
    return 255 - images if inverted else images


def contents(
    classes: Mapping[str, Sequence[Picture]],
    groups: Mapping[str, str],
    size: int,
    about: dict[str, Any],
    shape: Callable[[Image.Image, int], Image.Image] = cropped,
) -> Contents:
    """A bank of the pictures of each class, as `size` x `size` RGB, squares made by `shape`.

    groups: the group of each class that has one; about: as in Contents.
    """
    pictures = [picture for name in classes for picture in classes[name]]

    def prepare(image: Image.Image) -> Image.Image:
        return shape(upright_rgb(image), size)

    def fill(images: np.ndarray) -> None:
        damage = _damage.get()

        def decode(start: int) -> int:
            chunk = pictures[start : start + _TOGETHER]
            for place, (source, key) in enumerate(chunk, start):
                try:
                    images[place] = np.asarray(source.image(key, prepare)).transpose(2, 0, 1)
                except InputError as error:
                    if damage is None:
                        raise
                    damage.append(str(error))
            return len(chunk)

        # Pillow decodes outside of Python's lock, so threads suffice, and they can write into the mapped file
        bar = tqdm(total=len(pictures), desc=f"{about['dataset']} {about['split']}", unit="image", disable=None)
        with bar, warnings.catch_warnings(), contextlib.closing(_Pool(cores())) as pool:
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata in images that it can read
            for count in as_completed([pool.submit(decode, i) for i in range(0, len(pictures), _TOGETHER)]):
                bar.update(count.result())
        if damage:
            raise InputError(
                f"{len(damage):,} of the images of {about['dataset']} {about['split']} cannot be decoded: replace them;"
                " of a folder of your own, --skip-damaged leaves them out"
            )

    about = {**about, "fit": "squash" if shape is squashed else "crop", "inverted": False}
    names = list(classes)
    sizes = [len(classes[name]) for name in names]
    files = [source.name(key) for source, key in pictures]
    return Contents((3, size, size), sizes, names, [groups.get(name, "") for name in names], fill, about, files)


@contextlib.contextmanager
def all_damage() -> Iterator[list[str]]:
    """Inside, a bank with damaged images is refused after all of them were found; gives the list of their faults.

    Without it, the first damaged image stops the decoding.
    """
    found: list[str] = []
    token = _damage.set(found)
    try:
        yield found
    finally:
        _damage.reset(token)


def find_damaged(pictures: Sequence[Picture]) -> dict[str, str]:
    """All images that cannot be decoded, by the names of their files, each with a sentence that says why."""

    def fault(picture: Picture) -> str:
        try:
            picture.source.image(picture.key, upright_rgb)
        except InputError as error:
            return str(error)
        return ""

    bar = tqdm(total=len(pictures), desc="looking for damage", unit="image", disable=None)
    found = {}
    with bar, warnings.catch_warnings(), contextlib.closing(_Pool(cores())) as pool:
        warnings.simplefilter("ignore")
        for picture, text in zip(pictures, pool.map(fault, pictures)):
            bar.update()
            if text:
                found[picture.source.name(picture.key)] = text
    return found


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB, turned as its EXIF data say; transparent pixels become white.

    An animation gives its first frame. 16-bit grey is scaled to 8 bits; Pillow would clip the values at 255.
    """
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16") or levels.max(initial=0) > 255:
            levels = levels / 257  # 65,535 becomes 255
        elif image.mode == "F" and levels.max(initial=0) <= 1:
            levels = levels * 255
        image = Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; Pillow's exif_transpose rewrites all tags, and fails at odd tags."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata of an image that may be sound
        turn = None
    return image if turn is None else image.transpose(turn)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool(ThreadPoolExecutor):
    """Threads that stop with the first failure, or with Ctrl-C, instead of finishing the waiting tasks."""

    def close(self) -> None:
        self.shutdown(cancel_futures=True)
