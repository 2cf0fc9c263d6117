"""The page of pictures: what each technique makes of texts, and of icons and texts, in one PNG.

    python pictures.py MODELS pictures.png

No result is picked: for each text the page shows the first ones that its seed gives.
"""

import sys
from pathlib import Path

import torch
from autoencoder import Autoencoder
from diffusion import Painter
from fitting import restore
from latent_editing import edited
from PIL import Image, ImageDraw, ImageFont
from style_transfer import other_style, restyled
from torch import Tensor

from episodes import ImageBank, class_texts, load_dataset
from episodes.datasets.icon_styles import STYLES

KNOWN = ("star", "umbrella", "bookmark", "bolt", "cloud", "moon", "battery", "mail", "play", "image", "flag", "chat")
UNKNOWN = ("cloud rain", "user plus", "calendar check", "book open", "bell", "house", "sun", "pin")
RESTYLED = ("bell", "envelope", "tag", "search", "trophy")
EDITS = (
    ("bookmark", "star"),
    ("moon", "cloud"),
    ("volume up", "volume mute"),
    ("user", "users"),
    ("flag", "bookmark"),
    ("eye", "eye slash"),
    ("mail", "credit card"),
)
GUIDANCE = 6.0
_SCALE = 2  # pixels of the page for one of an icon, along each axis
_GAP, _LABEL, _HEAD = 6, 150, 30  # pixels between icons, for the text of a row, and for a title

Row = tuple[str, list[Tensor]]  # a text, and the icons (1, H, W) behind it


def page(sections: dict[str, list[Row]]) -> Image.Image:
    """One picture of titles, each above rows of icons, dark on white."""
    side = 32 * _SCALE + _GAP
    width = _LABEL + side * max(len(icons) for rows in sections.values() for _, icons in rows)
    height = sum(_HEAD + side * len(rows) for rows in sections.values()) + _GAP
    canvas = Image.new("L", (width, height), 255)
    draw, top = ImageDraw.Draw(canvas), _GAP
    for title, rows in sections.items():
        draw.text((_GAP, top + 4), title, 0, ImageFont.load_default(15))
        top += _HEAD
        for text, icons in rows:
            draw.text((_GAP, top + side // 2 - 12), text, 60, ImageFont.load_default(13))
            for place, icon in enumerate(icons):
                pixels = Image.fromarray((255 * (1 - icon[0])).byte().numpy())
                canvas.paste(pixels.resize((32 * _SCALE,) * 2, Image.Resampling.LANCZOS), (_LABEL + place * side, top))
            top += side
    return canvas


def generated(painter: Painter, names: tuple[str, ...], count: int = 5) -> list[Row]:
    """For each name, `count` icons of its outline and as many of its solid form."""
    images = [
        painter([f"{style} {name}" for name in names], count, GUIDANCE, seed) for seed, style in enumerate(STYLES)
    ]
    return [(name, [*outline, *solid]) for name, outline, solid in zip(names, *images)]


def of_class(bank: ImageBank, text: str) -> Tensor:
    """The first icon of the class of this text, (1, 1, H, W)."""
    start = bank.offsets[class_texts(bank).index(text)]
    return bank.batch(start[None])


def main(folder: Path, path: Path) -> None:
    painter, autoencoder = Painter(folder), Autoencoder()
    guide = painter.guide
    restore(autoencoder, folder / "autoencoder.pt")
    train, test = (load_dataset("icons:styles", split) for split in ("train", "test"))
    restyles: list[Row] = []
    for style in STYLES:
        for name in RESTYLED:
            icon, texts = of_class(test, f"{style} {name}"), (f"{style} {name}", f"{other_style(style)} {name}")
            restyles.append((texts[1], [icon[0], restyled(guide, icon, *texts)[0]]))
    edits: list[Row] = []
    for source, target in EDITS:
        texts = [f"{style} {name}" for name in (source, target) for style in STYLES]
        icons = torch.cat([of_class(train, text) for text in texts[:2]])
        results = edited(guide, autoencoder, icons, texts[:2], texts[2:])
        edits.append((f"{source} to {target}", [icon for pair in zip(icons, results) for icon in pair]))
    page({
        "Texts to icons: outline, then solid; names of the training": generated(painter, KNOWN),
        "Texts to icons: names never seen": generated(painter, UNKNOWN),
        "Style of one icon by a text: before, after": restyles,
        "Latents moved to another text: before, after (outline, solid)": edits,
    }).quantize(16).save(path, optimize=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
