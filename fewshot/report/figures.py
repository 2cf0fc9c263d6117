"""The figures of a report: each a matplotlib Figure that stands alone in a paper, and as wide as a phone on a page."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from fewshot.records import LEARNER, summarised

INK, MUTED, RULE, PAPER = "#1f2328", "#656d76", "#dfe3e8", "#ffffff"  # a page may have its own in their place

# Okabe and Ito's colours, which colour-blind readers can tell apart; a darker yellow, for contrast with white, and grey
# in place of black
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A900", "#7F868E")
_MARKERS = "osD^vPXp*"
_WIDE, _MEDIUM, _NARROW = 380, 310, 240  # widths in points
_TILE = 44  # points, the longest side of an image in an episode
_PIXELS = 270_000  # of all images of an episode: photographs of three then take two megabytes
_NAME = 34  # characters of the longest name, longer ones are cut
_styled = matplotlib.rc_context(
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.axisbelow": True,
        "text.color": INK,
        "text.parse_math": False,  # a $ in a name is a $
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": RULE,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "image.composite_image": False,  # each picture with its own pixels
        "svg.fonttype": "none",
        "svg.hashsalt": "fewshot",  # the same figure gives the same bytes
    }
)


class Style(NamedTuple):
    """How one learner looks in every figure."""

    label: str
    colour: str
    marker: str


class Curve(NamedTuple):
    """One learner's accuracies in percent at places along an axis, and the half-widths of their intervals, (P,) all."""

    style: Style
    places: np.ndarray
    means: np.ndarray
    widths: np.ndarray


class Answers(NamedTuple):
    """What one learner said in an episode: (way, query) positions of classes, and the percentage that is right."""

    style: Style
    predicted: np.ndarray
    percent: float


class Line(NamedTuple):
    """A line of a gallery: images (C, H, W) uint8, and beside them two names and a text about them."""

    images: Sequence[torch.Tensor]
    first: str
    second: str
    said: str


def learner_styles(labels: Mapping[tuple[str, ...], str]) -> dict[tuple[str, ...], Style]:
    """A colour and a marker for each learner, given its label by its values of LEARNER; 72 differ."""
    return {
        learner: Style(label, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, (learner, label) in enumerate(labels.items())
    }


def outline(marker: str) -> str:
    """A marker of matplotlib as the path of an SVG image, about one unit wide around the origin."""
    style = MarkerStyle(marker)
    polygons = style.get_path().transformed(style.get_transform()).to_polygons()
    return "".join("M" + "L".join(f"{x:.2f},{-y:.2f}" for x, y in np.asarray(points)) + "Z" for points in polygons)


@_styled
def accuracy_by_shot(rows: pd.DataFrame, title: str, styles: Mapping[tuple[str, ...], Style]) -> Figure:
    """The accuracies of the tidy rows of one way against the shots, each with its interval, learners side by side.

    For a learner with several training seeds: the mean over the seeds with its interval, and each seed, faint.
    """
    shots = sorted(rows["shot"].unique())
    figure, axes = _axes(_WIDE, 245, title)
    step = min(0.14, 0.6 / len(styles))
    for number, (learner, style) in enumerate(styles.items()):
        own = rows[(rows[LEARNER] == list(learner)).all(axis=1)]
        if own.empty:
            continue
        place = (number - (len(styles) - 1) / 2) * step
        if own["seed"].nunique() > 1:
            x = own["shot"].map(shots.index) + place
            axes.plot(x, own["accuracy"], style.marker, color=style.colour, markersize=4, alpha=0.35, linewidth=0)
        means = summarised(own).sort_values("shot")
        x = means["shot"].map(shots.index) + place
        axes.plot(x, means["accuracy"], color=style.colour, linewidth=1, alpha=0.3)
        axes.errorbar(
            x,
            means["accuracy"],
            means["ci95"],
            fmt=style.marker,
            color=style.colour,
            markersize=4.5,
            elinewidth=1.4,
            label=style.label,
        )
    axes.set_xticks(range(len(shots)), [f"{shot} shot{'s' if shot > 1 else ''}" for shot in shots])
    axes.set_xlim(-0.5, len(shots) - 0.5)
    axes.set_ylabel("accuracy in percent")
    axes.grid(axis="y")
    _legend_below(figure, *axes.get_legend_handles_labels())
    return figure


@_styled
def accuracy_by_difficulty(
    separations: np.ndarray, lines: Sequence[tuple[Style, np.ndarray, np.ndarray]], title: str
) -> Figure:
    """The accuracy of groups of episodes against the mean separation of their classes (G,), one line a learner.

    lines: how each learner looks, the accuracies in percent and the half-widths of their intervals, (G,) both
    """
    curves = [Curve(style, separations, means, widths) for style, means, widths in lines]
    return _with_bars(curves, title, "separation of the classes (hard episodes on the left)")


@_styled
def accuracy_by_session(curves: Sequence[Curve], title: str) -> Figure:
    """The accuracy after each session of class-incremental learning, one line a learner."""
    figure = _with_bars(curves, title, "session")
    figure.axes[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    return figure


def _with_bars(curves: Sequence[Curve], title: str, along: str) -> Figure:
    """Accuracies with their intervals against what `along` says."""
    figure, axes = _axes(_WIDE, 245, title)
    for style, places, means, widths in curves:
        look: dict[str, Any] = {"color": style.colour, "markersize": 4, "linewidth": 1.4, "elinewidth": 1.2}
        axes.errorbar(places, means, widths, fmt=f"{style.marker}-", label=style.label, **look)
    axes.set_xlabel(along)
    axes.set_ylabel("accuracy in percent")
    axes.grid(axis="y")
    _legend_below(figure, *axes.get_legend_handles_labels())
    return figure


@_styled
def forest(panel: pd.DataFrame, title: str, styles: Mapping[tuple[str, ...], Style]) -> Figure:
    """Accuracies one below the other, the highest on top: ours in their colours, published ones in grey.

    panel: rows with label, accuracy, ci95 (nan for none), both as printed, learner (values of LEARNER; None for a
    published result), comparable (if False, the mark is hollow), and a note, which stands below the label. A result far
    below ours is an arrow at the edge.
    """
    rows = panel.sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)
    heights = np.where(rows["note"] != "", 37, 25)
    ends = heights.cumsum()  # of the rows, in points from the top
    figure, axes = _axes(_WIDE, 62 + ends[-1], title)
    across = axes.get_yaxis_transform()  # x along the axes, y in points
    left = _left_edge(rows)
    for top, end, row in zip(ends - heights, ends, rows.to_dict("records")):
        style = styles.get(row["learner"])
        colour = style.colour if style else MUTED
        inside = row["accuracy"] >= left
        axes.errorbar(
            row["accuracy"] if inside else left + 0.01 * (rows["accuracy"].max() - left),
            end - 7,
            xerr=row["ci95"] if inside and row["ci95"] > 0 else None,
            fmt=(style.marker if style else "o") if inside else "<",
            color=colour,
            markerfacecolor=colour if row["comparable"] else PAPER,
            markersize=5.5 if style else 5,
            elinewidth=1.4,
        )
        if style:
            axes.axhspan(top, end, color=colour, alpha=0.1, linewidth=0)
        text: dict[str, Any] = {"transform": across, "va": "center", "fontsize": 8.5}
        weight = "bold" if style else "normal"
        axes.text(0.01, top + 8, _shown(style.label if style else row["label"], 66), fontweight=weight, **text)
        axes.text(0.99, top + 8, row["printed"], ha="right", fontweight=weight, **text)
        axes.text(0.01, top + 20, _shown(row["note"], 72), color=MUTED, **text)
    axes.hlines([0, *ends], 0, 1, transform=across, color=RULE, linewidth=0.8)
    axes.set_ylim(ends[-1], 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left=left)
    axes.set_xlabel("accuracy in percent")
    return figure


@_styled
def training_curve(histories: Sequence[tuple[Style, pd.DataFrame]], column: str) -> Figure:
    """The `column` of each training.csv, accuracy (with its interval) or loss, against training steps."""
    titles = {"accuracy": "Validation accuracy", "loss": "Training loss"}
    units = {"accuracy": "percent", "loss": "loss, logarithmic"}
    figure, axes = _axes(_WIDE, 245, titles[column])
    for style, history in histories:
        steps, values = history["step"], history[column]
        axes.plot(
            steps, values, marker=style.marker, color=style.colour, markersize=4, linewidth=1.4, label=style.label
        )
        if column == "accuracy":
            low, high = values - history["ci95"], values + history["ci95"]
            axes.fill_between(steps, low, high, color=style.colour, alpha=0.15, linewidth=0)
    if column == "loss" and all((history["loss"] > 0).all() for _, history in histories):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("training steps")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_ylabel(units[column])
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels)))}  # one entry for all its seeds
    _legend_below(figure, list(first.values())[::-1], list(first)[::-1])
    return figure


@_styled
def episode_picture(
    support: torch.Tensor, query: torch.Tensor, names: Sequence[str], answers: Sequence[Answers], title: str
) -> Figure:
    """The classes of an episode one below the other: support images, and queries with a mark for each learner.

    support (N, K, C, H, W) and query (N, Q, C, H, W) uint8: the images to show; names: of the N classes; answers: of
    each learner, in which the first Q queries of each class are those shown.
    """
    way, shot, query_count = *support.shape[:2], query.shape[1]
    gap, margin, letter = 5, 11, 15  # points
    tile = min(_TILE, (_MEDIUM - letter - margin) / (shot + query_count) - gap)
    queries_from = letter + shot * (tile + gap) + margin
    columns = max(1, int(_MEDIUM // (queries_from + query_count * (tile + gap))))  # more than one if queries are few
    rows = -(-way // columns)
    per_line = max(1, int((tile + gap) // 10))
    lines = -(-len(answers) // per_line)
    head, height, foot = 38, 30 + tile + 20 * lines, 14 * len(answers) + 20
    figure, axes = _canvas(_MEDIUM, head + rows * height + foot)
    axes.text(0, 12, title, fontweight="bold", fontsize=10)
    most = _PIXELS // (way * (shot + query_count))
    support, query = _at_most(support, most), _at_most(query, most)
    for one in range(way):
        side, top = _MEDIUM / columns * (one // rows), head + one % rows * height
        if one % rows == 0:
            axes.text(side + letter, 31, "support", color=MUTED, fontsize=8.5)
            axes.text(side + queries_from, 31, "queries", color=MUTED, fontsize=8.5)
        axes.text(side, top + 11, _letter(one), fontweight="bold", fontsize=10)
        axes.text(side + letter, top + 11, _shown(names[one], 52 // columns), fontsize=8.5)
        for number in range(shot):
            _place(axes, support[one, number], side + letter + number * (tile + gap), top + 18, tile, framed=True)
        for number in range(query_count):
            left = side + queries_from + number * (tile + gap)
            _place(axes, query[one, number], left, top + 18, tile)
            for slot, answer in enumerate(answers):
                count = min(per_line, len(answers))
                x = left + tile / 2 + (slot % per_line - (count - 1) / 2) * min(10, tile / count)
                y = top + 26 + tile + 20 * (slot // per_line)
                _mark(axes, x, y, answer.style.colour, one, int(answer.predicted[one, number]))
    _episode_legend(axes, answers, head + rows * height + 6)
    return figure


@_styled
def embedding_map(points: np.ndarray, classes: np.ndarray, title: str) -> Figure:
    """Points (M, 2) in the colours and marks of their classes (M,), each class with its letter."""
    figure, axes = _axes(_MEDIUM, _MEDIUM + 18, title)
    for number in np.unique(classes):
        own = points[classes == number]
        colour, marker = _class_style(number)
        axes.plot(*own.T, marker, color=colour, markersize=4.5, alpha=0.8, markeredgewidth=0)
        place = _above(own)
        halo = [withStroke(linewidth=2.5, foreground=PAPER)]
        text: dict[str, Any] = {"ha": "center", "va": "bottom", "path_effects": halo, "zorder": 5}
        axes.annotate(
            _letter(number), place, (0, 3), textcoords="offset points", fontweight="bold", fontsize=10, **text
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=RULE)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    return figure


@_styled
def class_legend(images: torch.Tensor, names: Sequence[str]) -> Figure:
    """An image (C, H, W) of each class with the letter, the mark and the name it has in `embedding_map`."""
    tile, gap = 36, 9
    images = _at_most(images[None], (2 * tile) ** 2)[0]
    figure, axes = _canvas(_NARROW, len(names) * (tile + gap) - gap)
    for number, name in enumerate(names):
        top = number * (tile + gap)
        colour, marker = _class_style(number)
        _place(axes, images[number], 0, top, tile)
        axes.plot(tile + 12, top + tile / 2, marker, color=colour, markersize=6, markeredgewidth=0)
        axes.text(tile + 22, top + tile / 2 + 3.5, _letter(number), fontweight="bold", fontsize=10)
        axes.text(tile + 36, top + tile / 2 + 3.5, _shown(name, 32), fontsize=8.5)
    return figure


@_styled
def gallery(lines: Sequence[Line], title: str) -> Figure:
    """Images with names, one line below the other; of a long name the end is shown."""
    tile, gap, head = 40, 9, 24
    figure, axes = _canvas(_MEDIUM, head + len(lines) * (tile + gap) - gap)
    axes.text(0, 12, _shown(title, 48), fontweight="bold", fontsize=10)
    most = _PIXELS // sum(len(line.images) for line in lines)
    for number, line in enumerate(lines):
        top, left = head + number * (tile + gap), 0
        for image in line.images:
            _place(axes, _at_most(image[None, None], most)[0, 0], left, top, tile)
            left += tile + 6
        room = int((_MEDIUM - left - 4) / 5)  # characters, of 5 points each
        for place, name in enumerate((line.first, line.second)):
            ending = name if len(name) <= room else f"{name[:2]}…{name[3 - room :]}"
            axes.text(left + 4, top + 10 + 13 * place, _shown(ending, room), fontsize=8.5)
        axes.text(left + 4, top + 36, _shown(line.said, room), color=MUTED, fontsize=8.5)
    return figure


@_styled
def drawn(figure: Figure, form: str) -> bytes:
    """The figure as a file, 'png' or 'svg': the same bytes each time."""
    file = io.BytesIO()
    nobody = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, and shows as boxes
        figure.savefig(file, format=form, dpi=200, metadata=nobody[form])
    return file.getvalue()


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` points with axes and a title."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", pad=8)
    return figure, axes


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` points, and a margin, whose axes count points from the upper left corner."""
    margin = 4
    figure = Figure(figsize=((width + 2 * margin) / 72, (height + 2 * margin) / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    axes.axis("off")
    return figure, axes


def _above(points: np.ndarray) -> tuple[float, float]:
    """A place just above where most of the points (M, 2) are closest together."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    half = (len(points) + 1) // 2
    densest = np.sort(distances, axis=1)[:, :half].sum(1).argmin()
    near = points[np.argsort(distances[densest], kind="stable")[:half]]
    return near[:, 0].mean(), near[:, 1].max()


def _left_edge(rows: pd.DataFrame) -> float:
    """The left end of the axis of a forest plot: as far below our lowest interval as the best result is above it.

    Or a third of the whole range below, if that is more; never lower than the lowest result.
    """
    half = rows["ci95"].fillna(0)
    low, high = rows["accuracy"] - half, (rows["accuracy"] + half).max()
    ours = low[rows["learner"].notna()].min()
    start = ours - max(high - ours, (high - low.min()) / 3)
    return max(start, low.min()) - 0.02 * (high - start)


def _legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend, and the height it takes."""
    names = [_shown(label, _NAME) for label in labels]
    columns = 2 if max(map(len, names)) <= 30 else 1
    figure.set_figheight(figure.get_figheight() + 14 / 72 * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handletextpad=0.4, columnspacing=1.5)


def _place(axes: Axes, image: torch.Tensor, left: float, top: float, side: float, framed: bool = False) -> None:
    """Draw an image (C, H, W) uint8 with its upper left corner there, its longer side `side` long."""
    pixels = image.permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    extent = (left, left + scale * width, top + scale * height, top)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="none")
    if framed:
        corner = left - 2.2, top - 2.2
        axes.add_patch(
            Rectangle(corner, scale * width + 4.4, scale * height + 4.4, fill=False, edgecolor=INK, linewidth=1.2)
        )


def _at_most(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Images (N, K, C, H, W) uint8, made smaller if one has more than `pixels`."""
    scale = (pixels / (images.shape[3] * images.shape[4])) ** 0.5
    if scale >= 1:
        return images
    flat = images.flatten(0, 1).float()
    smaller = torch.nn.functional.interpolate(flat, scale_factor=scale, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).byte().unflatten(0, images.shape[:2])


def _mark(axes: Axes, x: float, y: float, colour: str, target: int, predicted: int) -> None:
    """A dot if the prediction is right, else a cross and the letter of the class predicted."""
    if predicted == target:
        axes.plot(x, y, "o", color=colour, markersize=5.5, markeredgewidth=0)
        return
    axes.plot(x, y, "x", color=colour, markersize=5, markeredgewidth=1.8)
    axes.text(x, y + 12, _letter(predicted), fontweight="bold", fontsize=7.5, ha="center")


def _episode_legend(axes: Axes, answers: Sequence[Answers], top: float) -> None:
    """Each learner's colour with its accuracy in the episode, and what the marks mean."""
    for number, answer in enumerate(answers):
        y = top + 14 * number
        axes.plot(4, y, "o", color=answer.style.colour, markersize=5.5, markeredgewidth=0)
        axes.text(14, y + 3, f"{_shown(answer.style.label, 44)}: {answer.percent:.0f} % right", fontsize=8.5)
    y = top + 14 * len(answers) + 5
    axes.plot(4, y, "o", color=MUTED, markersize=5.5, markeredgewidth=0)
    axes.text(14, y + 3, "right", color=MUTED, fontsize=8.5)
    axes.plot(50, y, "x", color=MUTED, markersize=5, markeredgewidth=1.8)
    axes.text(59, y + 3, "wrong, with the letter of the class it said", color=MUTED, fontsize=8.5)


def _class_style(number: int) -> tuple[str, str]:
    """The colour and the marker of the class of that number."""
    return _COLOURS[number % 6], "o^sD"[number // 6 % 4]


def _letter(number: int) -> str:
    """What a class is called: A to Z, then 27, 28 ..."""
    return ascii_uppercase[number] if number < len(ascii_uppercase) else str(number + 1)


def _shown(name: str, length: int) -> str:
    """A name for readers: without its WordNet number, printable, not too long."""
    name = re.sub(r"^n\d{8} (?=\S)", "", name)
    name = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    return name if len(name) <= length else f"{name[: length - 1]}…"
