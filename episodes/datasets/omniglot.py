"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets, 20 drawings each.

Split protocols, never to be put in one column:
vinyals       characters of all alphabets pooled: the first 1,200 for training, five whole alphabets of them for
              validation, the last 423 for test; each rotation by 0, 90, 180 and 270 degrees is a class of its own
              (Vinyals et al. 2016, listed by Snell et al. 2017: 4,112 / 688 / 1,692 classes).
lake          the background alphabets for training, the same five of them for validation, the evaluation alphabets
              for test; no rotations (Lake et al. 2015: 792 / 172 / 659 classes).
lake-oneshot  the official one-shot challenge: 20 listed episodes of 20 characters of one evaluation alphabet (Lake et
              al. 2015); trained on the background alphabets alone, there with rotations as classes, validated as in
              lake (3,168 / 172 classes, 20 x 20 for test).
lake-oneshot-minimal-1, lake-oneshot-minimal-2
              the same challenge, after training on one of the two sets of five background alphabets of Lake et al.
              2015; Latin, which is in both, is for validation, and the other four are for training, with rotations as
              classes (440 or 520 / 26 classes, 20 x 20 for test).
within-alphabet
              trained and validated as lake; the test is 400 listed episodes like those of the challenge, 20 of each
              evaluation alphabet: 20 characters, one drawer's drawings as support, another one's as queries (Lake et
              al. 2019 call this within-alphabet classification; 792 / 172 classes, 400 x 20 for test).
meta-dataset  as lake, but the five smallest background alphabets are for validation (Triantafillou et al. 2020:
              883 / 81 / 659 classes).
koch          the background alphabets and drawers 1 to 12 for training, the ten evaluation alphabets that are not in
              the challenge and drawers 13 to 16 for validation; the test is 200 listed episodes, drawn as those of
              within-alphabet, of the ten alphabets of the challenge and drawers 17 to 20 (Koch et al. 2015, section
              3.3: 30 / 10 / 10 alphabets, which they do not list, and 12 / 4 / 4 drawers; they draw 20 episodes; 964 /
              277 classes, 200 x 20 for test).
pooled, pooled-1 ... pooled-4
              characters of all alphabets shuffled, with seed 0 or the given one: 1,200 for training, 100 of them for
              validation, and 423 for test; rotations are classes (Santoro et al. 2016 and Finn et al. 2017, whose
              shuffles are not known: 4,400 / 400 / 1,692 classes).
"""

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from tqdm import tqdm

from episodes.archives import ImageFiles
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import omniglot_runs
from episodes.datasets.downloads import download
from episodes.datasets.omniglot_splits import (
    BACKGROUND,
    DRAWERS,
    EVALUATION,
    PARTS,
    PROTOCOLS,
    Character,
    Characters,
    characters,
    drawers,
    runs_of,
    turns,
)
from episodes.errors import InputError

__all__ = ["BACKGROUND", "EVALUATION", "PROTOCOLS", "SIZE", "characters", "load", "where"]

SIZE = 28
_LISTED = ("within-alphabet", "koch")  # split protocols whose test episodes omniglot_splits lists


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split: strokes bright on dark, `size` x `size` pixels, classes in the order of the release."""
    if split == "test" and protocol.startswith("lake-oneshot"):
        runs = ImageFiles(_located("all_runs", folders) or _download_runs(folders), omniglot_runs.FILES)
        key = f"omniglot-{protocol}-{split}-{size}-{runs.fingerprint}"
        return cached_bank(key, lambda: omniglot_runs.contents(runs, size, _prepare_to(size), protocol))
    chosen = characters(split, protocol)
    files = {part: _find(part, folders) for part in sorted({part for part, _, _ in chosen})}
    fingerprint = "-".join(found.fingerprint for found in files.values())
    make = _listed if split == "test" and protocol in _LISTED else _whole
    return cached_bank(
        f"omniglot-{protocol}-{split}-{size}-{fingerprint}", functools.partial(make, split, protocol, size, files)
    )


def _whole(split: str, protocol: str, size: int, files: dict[str, ImageFiles]) -> Contents:
    """A class for each character, or for each rotation of it, with the drawings of the drawers of the split."""
    chosen, rotations, shown = characters(split, protocol), turns(split, protocol), drawers(split, protocol)
    suffixes = [f"/rot{90 * turn:03d}" for turn in range(rotations)] if rotations > 1 else [""]
    drawings = [names[shown.start : shown.stop] for names in _drawings(chosen, files)]

    def fill(images: np.ndarray) -> None:
        by_class = images.reshape(len(chosen), rotations, len(shown), size, size)
        bar = tqdm(drawings, desc=f"omniglot {protocol} {split}", unit="character", disable=None)
        for place, character, names in zip(by_class, chosen, bar):
            for drawer, name in enumerate(names):
                image = files[character[0]].image(name, _prepare_to(size))
                for turn in range(rotations):
                    place[turn, drawer] = np.rot90(np.asarray(image), turn)

    return Contents(
        (1, size, size),
        [len(shown)] * len(chosen) * rotations,
        [f"{alphabet}/{name}{suffix}" for _, alphabet, name in chosen for suffix in suffixes],
        [alphabet for _, alphabet, _ in chosen for _ in suffixes],
        fill,
        {**_about(split, protocol, files), "turns": rotations},
        [name for names in drawings for _ in suffixes for name in names],
    )


def _listed(split: str, protocol: str, size: int, files: dict[str, ImageFiles]) -> Contents:
    """A class for each character of each run, with two images: one drawer's for support, another one's to classify."""
    runs = runs_of(protocol)
    chosen = characters(split, protocol)
    paths = dict(zip(chosen, _drawings(chosen, files)))
    names = [
        paths[character][drawer] for run in runs for character in run.characters for drawer in (run.support, run.query)
    ]
    (source,) = files.values()

    def fill(images: np.ndarray) -> None:
        bar = tqdm(names, desc=f"omniglot {protocol} {split}", unit="image", disable=None)
        for place, name in zip(images.reshape(len(names), size, size), bar):
            place[...] = np.asarray(source.image(name, _prepare_to(size)))

    return Contents(
        (1, size, size),
        [2] * (len(names) // 2),
        [f"{run.name}/{name}" for run in runs for _, _, name in run.characters],
        [run.name for run in runs for _ in run.characters],
        fill,
        {**_about(split, protocol, files), "listed": True},
        names,
    )


def _about(split: str, protocol: str, files: dict[str, ImageFiles]) -> dict[str, Any]:
    return {
        "dataset": "omniglot",
        "protocol": protocol,
        "split": split,
        "source": " and ".join(str(found.path) for found in files.values()),
        "fit": "squash",
        "inverted": True,
    }


def _prepare_to(size: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: _prepare(image, size)


def _prepare(image: Image.Image, size: int) -> Image.Image:
    """Turn the image grey before resizing it: Pillow resizes palette and 1-bit images without smoothing."""
    return ImageChops.invert(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))


def where(folders: list[Path]) -> str:
    """Where the release is, in words."""
    found = [_located(part, folders) for part in PARTS]
    if None in found:
        return "not found; downloaded when first used"
    return ", ".join(sorted({str(path.parent) for path in found if path is not None}))


def _located(part: str, folders: list[Path]) -> Path | None:
    """A part of the release: a tree or a zip archive in one of `folders`."""
    homes = (folder / name for folder in folders for name in ("omniglot", "omniglot-py", "."))
    return next((home / name for home in homes for name in (part, f"{part}.zip") if (home / name).exists()), None)


def _find(part: str, folders: list[Path]) -> ImageFiles:
    """The images of one part of the release, downloaded if they are not in one of `folders`."""
    path = _located(part, folders) or _download(part, folders)
    return ImageFiles(path, r"(?:^|/)(?!\._)[^/]+/character\d\d/(?!\.)[^/]+\.png$")


def _paths(part: str, files: ImageFiles) -> dict[Character, list[str]]:
    """The file names of each character, sorted by drawer; InputError if the release is incomplete."""
    found: dict[Character, list[str]] = {}
    for name in files.names:
        if "__MACOSX" not in name:
            alphabet, character, _ = name.split("/")[-3:]
            found.setdefault((part, alphabet, character), []).append(name)
    for alphabet, count in PARTS[part].items():
        for number in range(1, count + 1):
            drawn = len(found.get((part, alphabet, f"character{number:02d}"), ()))
            if drawn != DRAWERS:
                raise InputError(
                    f"{files.path} is not the whole of Omniglot: {alphabet}/character{number:02d} has"
                    f" {drawn} of {DRAWERS} images; copy or download it again"
                )
    return found


def _drawings(chosen: Characters, files: dict[str, ImageFiles]) -> list[list[str]]:
    """The file names of each of the chosen characters, sorted by drawer; InputError if the release is incomplete."""
    paths = {part: _paths(part, found) for part, found in files.items()}
    return [paths[character[0]][character] for character in chosen]


def _download_runs(folders: list[Path]) -> Path:
    """The official all_runs.zip, downloaded into the cache folder; MissingData if the download fails."""

    def fetch(folder: Path) -> None:
        # torchvision takes two seconds to import, which only a download needs
        from torchvision.datasets import Omniglot
        from torchvision.datasets.utils import download_url

        download_url(f"{Omniglot.download_url_prefix}/one-shot-classification/all_runs.zip", folder, "all_runs.zip")
        if not zipfile.is_zipfile(folder / "all_runs.zip"):  # nobody publishes a checksum of this archive
            raise OSError("what came is no zip archive")

    advice = (
        "put all_runs.zip from https://github.com/brendenlake/omniglot/tree/master/python/one-shot-classification"
        " into a folder omniglot/"
    )
    title = "Omniglot's one-shot challenge"
    return download(fetch, "omniglot-py", title, advice, folders) / "all_runs.zip"


def _download(part: str, folders: list[Path]) -> Path:
    """The official zip, downloaded with torchvision into the cache folder; MissingData if the download fails."""

    def fetch(folder: Path) -> None:
        from torchvision.datasets import Omniglot
        from torchvision.datasets.utils import download_url

        download_url(f"{Omniglot.download_url_prefix}/{part}.zip", folder, f"{part}.zip", Omniglot.zips_md5[part])

    advice = (
        "put images_background.zip and images_evaluation.zip from"
        " https://github.com/brendenlake/omniglot/tree/master/python into a folder omniglot/"
    )
    return download(fetch, "omniglot-py", "Omniglot", advice, folders) / f"{part}.zip"
