"""glyphs, the embedded data set: letters of fifteen scripts, 20 renderings each, from the fonts that matplotlib ships.

glyphs needs no download, so the suite runs anywhere. Printed letters are easier than handwriting: numbers on glyphs
show that everything works, and are no substitute for numbers on Omniglot.

The letters are those that DejaVu Sans draws in these scripts, without near-duplicates, which would make two classes of
one shape. Left out are letters that Unicode decomposes into a base and accents or names 'X WITH ...', letters with the
vowel-length and w-dots of Canadian syllabics, and one of any two letters whose outlines agree after scaling to one size
(the Latin, Greek and Cyrillic A; o and O). tests/episodes/test_glyphs.py checks the result. The list is spelled out, so
that later fonts do not change the data set.

Two split protocols:
scripts  a class is a letter, in all fonts that have it
styles   a class is a letter in one style, such as 'sans LATIN SMALL LETTER A' or 'serif LATIN SMALL LETTER A', whose
         group is the style: for the test protocol `domain`. Letters that only fonts of one style have are left out
"""

import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from episodes.bank import Contents, ImageBank, cached_bank
from episodes.draws import stream

PROTOCOLS = ("scripts", "styles")
SIZE = 28
RENDERINGS = 20
STYLES = ("sans", "serif")

# split, script, code points (hexadecimal, ranges with both ends)
_LETTERS = """
train Arabic 0621 0628-062C 062E-0637 0639-063A 0641-064A 066E-066F 0674 0679 067B 0688 068D-068E 0691 0698 06A1 06A4 06A9-06AA 06AD 06AF 06B3 06BA-06BB 06BE 06C6 06C8 06D0
train Canadian-Aboriginal-Syllabics 1401-1402 1405 140A 140C 140E 1412 1417 141F-1423 1425-142E 1430 1433 1438 144D 1454-1455 1467-146C 1472 1485-148B 1490 14A2-14A4 14A7 14C0-14C2 14C4 14C7 14D0 14D3-14D5 14D7 14DA 14EA 14EC-14EF 14F1 14F4 1510-1511 1513 1515 1525-1528 152A 152D 1542-1543 1545-1546 1548 154B 1552-1555 1557 1559 155E-1561 1564 1566 156A 1574-1575 1577 1579 157E-157F 1581 1583 1585 158E-158F 1591 1593 1595-1596 15A0 15A2 15A4 15A6-15A8 15AA 15AC 15E1 1647 166F-1671 1673 1675
train Coptic 03E2-03E4 03E6-03E8 03EC 03EE
train Cyrillic 0402 0404 0409-040B 040F 0411 0414 0416 041B 0426 0429-042F 043B 0444 0447-0448 044A-044B 0452 045B 0460 0462-0464 0466 0468 046A 046C 046E 0470-0471 0474 0478-047A 047E 0480 048D 04A0 04A4 04A8 04B4-04B5 04BA 04BC 04CB 0500 0502-0506 0508-0509 050D-050F 0514 0516-0519 A64C A654 A656-A657 A662-A664 A666 A66C A66E
train Greek 0370 0372-0373 037C-037D 0393 039E 03A0 03A8-03A9 03B1-03B4 03B6 03B8 03BA-03BE 03C0 03C2-03C9 03CF 03D7-03DB 03DD-03E1 03FA-03FB 1D26
train Latin 0041-0044 0046 0048 004B 004D-004E 0050 0052-0054 0057 0059-005A 0061-0062 0064-0066 0069-006B 006D 0070-0072 0074 0079 00C6 00D0 00DE-00DF 00E6 00F0 014A 0152-0153 0184-0185 018D 018F-0190 0194-0196 019C 01A2-01A3 01A6-01A7 01AA 01B1 01B7-01B9 01BC 01BF 01C1-01C3 01F6-01F7 021C 0222-0223 0238-0239 0241-0242 0244 0250-0251 0258 025C 025E 0264-0265 026E 0275 0277-0279 0281 0283 0285 0287 0289 028D-028E 0294-0297 029A 029E-029F 02A3-02A4 02A6-02A7 02A9-02AD 1D02-1D03 1D0A 1D12 1D14 1D16-1D17 1D19-1D1A 1D1D-1D1F 1E9E 1EFA-1EFB 2C6F 2C77 A722 A724 A726-A729 A732-A734 A736-A739 A73C-A73D A746-A747 A782 A7FB A7FD A7FF
train Lisu A4D5 A4D8 A4DE A4E9 A4ED A4F1
train Ogham 1682-168F 1691-169A
train Old-Italic 10300-10305 10307 1030A-1030E 10310-10316 10318-1031D
validation Armenian 0531-0541 0543-054C 054E-0550 0552-0556 0561-0565 0567-056F 0571 0573-0577 0579-0581 0583-0584 0586
validation Hebrew 05D0-05D4 05D6 05D8-05DE 05E0 05E2-05EA 05F0-05F2
validation NKo 07CC-07DF 07E1-07E5
test Georgian 10A0-10B2 10B4-10BA 10BC-10C5 10D0-10EB 10ED 10EF-10F2 10F4-10FA 2D00-2D09 2D0B-2D13 2D15-2D19 2D1B-2D25
test Lao 0E81-0E82 0E84 0E87-0E88 0E8A 0E8D 0E94-0E97 0E99-0E9E 0EA1-0EA3 0EA5 0EA7 0EAA-0EAB 0EAD-0EB0 0EB2 0EBD 0EC0-0EC4
test Tifinagh 2D30-2D3F 2D41-2D50 2D52-2D58 2D5A-2D5E 2D60-2D64
"""  # noqa: E501


def _letters() -> dict[str, tuple[str, str]]:
    """{script: (split, its letters)}"""
    table = {}
    for line in _LETTERS.strip().splitlines():
        split, script, *spans = line.split()
        ends = [[int(end, 16) for end in span.split("-")] for span in spans]
        table[script] = split, "".join(chr(code) for end in ends for code in range(end[0], end[-1] + 1))
    return table


SCRIPTS = _letters()
CHARACTERS = sum(len(letters) for _, letters in SCRIPTS.values())

# in the order in which a letter's renderings use them; a font without the letter is skipped
_FONTS = (
    "DejaVuSans",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Oblique",
    "STIXGeneral",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneralBol",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSans-Oblique",
    "STIXGeneralItalic",
    "DejaVuSansMono-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralBolIta",
    "DejaVuSansMono-BoldOblique",
)
_CANVAS = 84  # pixels of the square that a letter is drawn in before distortion and scaling
_LETTER = 57  # pixels of the letter's longer side in the square


def load(split: str, protocol: str, size: int, folders: list[Path]) -> ImageBank:
    """The bank of one split: letters bright on dark, `size` x `size` pixels; no two splits share a script."""
    chosen = [(script, letter) for script, (of, letters) in SCRIPTS.items() if of == split for letter in letters]
    if protocol == "styles":
        return cached_bank(f"glyphs-styles-{split}-{size}-1", lambda: _in_styles(split, size, chosen))

    def fill(images: np.ndarray) -> None:
        fonts = [_Font(name) for name in _FONTS]
        by_class = images.reshape(len(chosen), RENDERINGS, size, size)
        for place, (_, letter) in zip(by_class, tqdm(chosen, desc=f"glyphs {split}", unit="character", disable=None)):
            place[:] = _renderings(letter, fonts, size).numpy()

    contents = Contents(
        (1, size, size),
        [RENDERINGS] * len(chosen),
        [unicodedata.name(letter) for _, letter in chosen],
        [script for script, _ in chosen],
        fill,
        {"dataset": "glyphs", "protocol": protocol, "split": split, "source": "fonts that matplotlib ships"},
    )
    return cached_bank(f"glyphs-{split}-{size}-1", lambda: contents)


def _in_styles(split: str, size: int, chosen: list[tuple[str, str]]) -> Contents:
    """The contents of a bank whose classes are the `chosen` letters, after their scripts, in each style."""
    fonts = {style: [_Font(name) for name in _FONTS if is_serif(name) == (style == "serif")] for style in STYLES}
    letters = [
        letter for _, letter in chosen if all(any(font.draws(letter) for font in fonts[style]) for style in STYLES)
    ]
    classes = [(style, letter) for style in STYLES for letter in letters]

    def fill(images: np.ndarray) -> None:
        by_class = images.reshape(len(classes), RENDERINGS, size, size)
        shown = tqdm(classes, desc=f"glyphs {split} in styles", unit="character", disable=None)
        for place, (style, letter) in zip(by_class, shown):
            place[:] = _renderings(letter, fonts[style], size).numpy()

    return Contents(
        (1, size, size),
        [RENDERINGS] * len(classes),
        [f"{style} {unicodedata.name(letter)}" for style, letter in classes],
        [style for style, _ in classes],
        fill,
        {"dataset": "glyphs", "protocol": "styles", "split": split, "source": "fonts that matplotlib ships"},
    )


def is_serif(font: str) -> bool:
    """Whether the letters of a font of this name have serifs."""
    return font.startswith(("DejaVuSerif", "STIX"))


class _Font:
    """One font file, and whether it has a letter (a font draws a missing letter as an empty box)."""

    def __init__(self, name: str) -> None:
        import matplotlib  # slow to import, and few commands need it

        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        self._face = ImageFont.truetype(path, 64, layout_engine=ImageFont.Layout.BASIC)
        self._missing = bytes(self._face.getmask("\U0010fffd"))

    def draws(self, letter: str) -> bool:
        return bytes(self._face.getmask(letter)) != self._missing

    def draw(self, letter: str, heavier: int) -> Tensor:
        """(_CANVAS, _CANVAS) in [0, 1]: the letter in the middle, its strokes 2 * `heavier` pixels wider."""
        mask = self._face.getmask(letter)
        image = Image.frombytes("L", mask.size, bytes(mask))
        image = ImageOps.expand(image.crop(image.getbbox()), heavier).filter(ImageFilter.MaxFilter(2 * heavier + 1))
        scale = _LETTER / max(image.size)
        image = image.resize([max(2, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        canvas = Image.new("L", (_CANVAS, _CANVAS))
        canvas.paste(image, ((_CANVAS - image.width) // 2, (_CANVAS - image.height) // 2))
        return torch.from_numpy(np.array(canvas)).float() / 255


def _renderings(letter: str, fonts: list[_Font], size: int) -> Tensor:
    """(RENDERINGS, size, size) uint8, a pure function of the letter: font, weight, affine and elastic distortion."""
    usable = [font for font in fonts if font.draws(letter)]
    chance = (stream(ord(letter), torch.arange(RENDERINGS * 64)) >> 40).view(RENDERINGS, 64).double() / 2**23
    chance = chance.float()  # uniform in [-1, 1)
    drawn = torch.stack(
        [
            usable[number % len(usable)].draw(letter, heavier=int(1.5 + 1.5 * chance[number, 0]))
            for number in range(RENDERINGS)
        ]
    )
    turn, slant = 0.2 * chance[:, 1], 0.25 * chance[:, 2]
    wide, high = 1.05 + 0.15 * chance[:, 3], 1.05 + 0.15 * chance[:, 4]
    matrix = torch.stack(
        [
            torch.stack([wide * turn.cos(), slant - turn.sin(), 0.12 * chance[:, 5]], dim=1),
            torch.stack([turn.sin(), high * turn.cos(), 0.12 * chance[:, 6]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, [RENDERINGS, 1, _CANVAS, _CANVAS], align_corners=False)
    bend = functional.interpolate(
        0.07 * chance[:, 14:64].view(RENDERINGS, 2, 5, 5), _CANVAS, mode="bicubic", align_corners=True
    )
    bent = functional.grid_sample(drawn[:, None], grid + bend.permute(0, 2, 3, 1), align_corners=False)
    small = functional.interpolate(bent, size, mode="bilinear", antialias=True, align_corners=False)
    return small[:, 0].mul(255).round().clamp(0, 255).byte()
