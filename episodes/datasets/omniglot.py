"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets, 20 drawings each.

Three split protocols, never to be put in one column:
vinyals       characters of all alphabets pooled: the first 1,200 for training, five whole alphabets of them for
              validation, the last 423 for test; each rotation by 0, 90, 180 and 270 degrees is a class of its own
              (Vinyals et al. 2016, listed by Snell et al. 2017: 4,112 / 688 / 1,692 classes).
lake          the background alphabets for training, the same five of them for validation, the evaluation alphabets
              for test; no rotations (Lake et al. 2015: 792 / 172 / 659 classes).
lake-oneshot  the official one-shot challenge: 20 listed episodes of 20 characters of one evaluation alphabet (Lake et
              al. 2015); trained on the background alphabets alone, there with rotations as classes, validated as in
              lake (3,168 / 172 classes, 20 x 20 for test).
"""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from episodes.archives import ImageFiles
from episodes.bank import Contents, ImageBank, cached_bank
from episodes.datasets import omniglot_runs
from episodes.datasets.downloads import download
from episodes.errors import InputError

PROTOCOLS = ("vinyals", "lake", "lake-oneshot")
SIZE = 28
DRAWERS = 20
VALIDATION_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_TRAIN_AND_VALIDATION = 1200  # characters, of the split protocol vinyals

# characters of each alphabet in the official release
# fmt: off
BACKGROUND = {
    "Alphabet_of_the_Magi": 20, "Anglo-Saxon_Futhorc": 29, "Arcadian": 26, "Armenian": 41,
    "Asomtavruli_(Georgian)": 40, "Balinese": 24, "Bengali": 46, "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
    "Braille": 26, "Burmese_(Myanmar)": 34, "Cyrillic": 33, "Early_Aramaic": 22, "Futurama": 26, "Grantha": 43,
    "Greek": 24, "Gujarati": 48, "Hebrew": 22, "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
    "Japanese_(hiragana)": 52, "Japanese_(katakana)": 47, "Korean": 40, "Latin": 26, "Malay_(Jawi_-_Arabic)": 40,
    "Mkhedruli_(Georgian)": 41, "N_Ko": 33, "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14, "Sanskrit": 42,
    "Syriac_(Estrangelo)": 23, "Tagalog": 17, "Tifinagh": 55,
}
EVALUATION = {
    "Angelic": 20, "Atemayar_Qelisayer": 26, "Atlantean": 26, "Aurek-Besh": 26, "Avesta": 26, "Ge_ez": 26,
    "Glagolitic": 45, "Gurmukhi": 45, "Kannada": 41, "Keble": 26, "Malayalam": 47, "Manipuri": 40, "Mongolian": 30,
    "Old_Church_Slavonic_(Cyrillic)": 45, "Oriya": 46, "Sylheti": 28, "Syriac_(Serto)": 23, "Tengwar": 25,
    "Tibetan": 42, "ULOG": 26,
}
# fmt: on
_PARTS = {"images_background": BACKGROUND, "images_evaluation": EVALUATION}

Character = tuple[str, str, str]  # (part, alphabet, 'characterNN')


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split: strokes bright on dark, `size` x `size` pixels, classes in the order of the release."""
    if (protocol, split) == ("lake-oneshot", "test"):
        runs = ImageFiles(_located("all_runs", folders) or _download_runs(folders), omniglot_runs.FILES)
        key = f"omniglot-{protocol}-{split}-{size}-{runs.fingerprint}"
        return cached_bank(key, lambda: omniglot_runs.contents(runs, size, lambda image: _prepare(image, size)))
    chosen = characters(split, protocol)
    files = {part: _find(part, folders) for part in sorted({part for part, _, _ in chosen})}
    turns = 4 if protocol == "vinyals" or (protocol, split) == ("lake-oneshot", "train") else 1

    def whole() -> Contents:
        suffixes = [f"/rot{90 * turn:03d}" for turn in range(turns)] if turns > 1 else [""]
        about = {
            "dataset": "omniglot",
            "protocol": protocol,
            "split": split,
            "source": " and ".join(str(f.path) for f in files.values()),
            "turns": turns,
            "fit": "squash",
            "inverted": True,
        }
        drawings = _drawings(chosen, files)

        def fill(images: np.ndarray) -> None:
            by_class = images.reshape(len(chosen), turns, DRAWERS, size, size)
            bar = tqdm(drawings, desc=f"omniglot {protocol} {split}", unit="character", disable=None)
            for place, character, names in zip(by_class, chosen, bar):
                for drawer, name in enumerate(names):
                    image = files[character[0]].image(name, lambda image: _prepare(image, size))
                    for turn in range(turns):
                        place[turn, drawer] = np.rot90(np.asarray(image), turn)

        return Contents(
            (1, size, size),
            [DRAWERS] * len(chosen) * turns,
            [f"{alphabet}/{name}{suffix}" for _, alphabet, name in chosen for suffix in suffixes],
            [alphabet for _, alphabet, _ in chosen for _ in suffixes],
            fill,
            about,
            [name for names in drawings for _ in suffixes for name in names],
        )

    fingerprint = "-".join(found.fingerprint for found in files.values())
    return cached_bank(f"omniglot-{protocol}-{split}-{size}-{fingerprint}", whole)


def characters(split: str, protocol: str) -> list[Character]:
    """The characters of one split, in order; a rule gives them, so the suite needs no list."""
    every = [
        (part, alphabet, f"character{number:02d}")
        for part, alphabets in _PARTS.items()
        for alphabet, count in alphabets.items()
        for number in range(1, count + 1)
    ]
    border = _TRAIN_AND_VALIDATION if protocol == "vinyals" else sum(BACKGROUND.values())
    if split == "test":
        return every[border:]
    held_out = split == "validation"
    return [one for one in every[:border] if (one[1] in VALIDATION_ALPHABETS) == held_out]


def _prepare(image: Image.Image, size: int) -> Image.Image:
    """Turn the image grey before resizing it: Pillow resizes palette and 1-bit images without smoothing."""
    grey = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return grey.point(lambda level: 255 - level)


def where(folders: list[Path]) -> str:
    """Where the release is, in words."""
    found = [_located(part, folders) for part in _PARTS]
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
    for alphabet, count in _PARTS[part].items():
        for number in range(1, count + 1):
            drawn = len(found.get((part, alphabet, f"character{number:02d}"), ()))
            if drawn != DRAWERS:
                raise InputError(
                    f"{files.path} is not the whole of Omniglot: {alphabet}/character{number:02d} has"
                    f" {drawn} of {DRAWERS} images; copy or download it again"
                )
    return found


def _drawings(chosen: list[Character], files: dict[str, ImageFiles]) -> list[list[str]]:
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
