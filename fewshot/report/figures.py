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
_WIDE, _LINED, _MEDIUM, _NARROW = 380, 340, 310, 240  # widths in points
_TILE = 44  # points, the longest side of an image in an episode
_PIXELS = 270_000  # of all images of an episode: photographs of three then take two megabytes
_NAME = 34  # characters of the longest name, longer ones are cut
_LINE = 16  # points, the height of a learner's line
_NUMBERS = 12  # of columns, that have room below a map
_TOGETHER = 8  # learners whose curves share one pair of axes
_FLOORS = ("nearest-pixel", "query-clustering")  # what any learner must beat
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
    """How one learner looks in every figure; floor: what any learner must beat, in grey."""

    label: str
    colour: str
    marker: str
    floor: bool = False


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
        learner: Style(label, MUTED, _MARKERS[number % len(_MARKERS)], floor=True)
        if learner[0] in _FLOORS
        else Style(label, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, (learner, label) in enumerate(labels.items())
    }


def outline(marker: str) -> str:
    """A marker of matplotlib as the path of an SVG image, about one unit wide around the origin."""
    style = MarkerStyle(marker)
    polygons = style.get_path().transformed(style.get_transform()).to_polygons()
    return "".join("M" + "L".join(f"{x:.2f},{-y:.2f}" for x, y in np.asarray(points)) + "Z" for points in polygons)


@_styled
def dot_plot(rows: pd.DataFrame, title: str, styles: Mapping[tuple[str, ...], Style]) -> Figure:
    """The accuracies of the tidy rows of one way and shot with their intervals, one line a learner, the best on top.

    For a learner with several training seeds: the mean over the seeds with its interval, and each seed, faint. A
    learner far below the others is an arrow at the edge.
    """
    means = summarised(rows).sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)
    looks = [styles[tuple(learner)] for learner in means[LEARNER].to_numpy()]
    figure, axes = _axes(_LINED, 52 + _LINE * len(means), title)
    left = axis_start(means["accuracy"], means["ci95"].fillna(0), pd.Series([style.floor for style in looks]))
    across = axes.get_yaxis_transform()
    for place, (row, style) in enumerate(zip(means.to_dict("records"), looks)):
        own = rows[(rows[LEARNER] == [row[name] for name in LEARNER]).all(axis=1)]
        if len(own) > 1:
            seeds = own["accuracy"][own["accuracy"] >= left]
            axes.plot(seeds, [place] * len(seeds), style.marker, color=style.colour, markersize=3.5, alpha=0.35)
        _point(axes, row["accuracy"], row["ci95"], place, style, left)
        half = "" if pd.isna(row["ci95"]) else f" ± {row['ci95']:.2f}"
        axes.text(1.02, place, f"{row['accuracy']:.2f}{half}", transform=across, va="center", fontsize=8.5)
    names = [
        _shown(style.label, _NAME - 8) + " (floor)" if style.floor else _shown(style.label, _NAME) for style in looks
    ]
    axes.set_yticks(range(len(names)), names, fontsize=8.5, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=left)
    axes.grid(axis="both")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy in percent")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    return figure


def axis_start(means: pd.Series, widths: pd.Series, floors: pd.Series) -> float:
    """Where an axis of accuracies in percent begins: learners far below the others, and the floor, do not stretch it.

    Three times as far below the median as the best is above it, and no lower than the lowest interval. floors: which of
    the values are a floor's, which have no say unless there are no others.
    """
    counted = ~floors if (~floors).any() else pd.Series(True, index=means.index)
    low, best = (means - widths)[counted], (means + widths)[counted].max()
    spread = max(best - means[counted].median(), widths[counted].max())
    start = max(low.min(), means[counted].median() - 3 * spread)
    return start - 0.04 * max(best - start, 0.1)


def _point(axes: Axes, mean: float, half: float, place: float, style: Style, left: float) -> None:
    """A mean with its interval; an arrow at the edge if the mean is left of it."""
    if mean < left:
        edge = axes.get_yaxis_transform()
        axes.plot(0.012, place, "<", color=style.colour, markersize=5, transform=edge, clip_on=False)
        return
    arms = [[arm] for arm in _arms(mean, half)]
    axes.errorbar(mean, place, xerr=arms, fmt=style.marker, color=style.colour, markersize=4.5, elinewidth=1.6)


def _arms(means: Any, widths: Any) -> tuple[Any, Any]:
    """How far intervals of the half-widths go down and up from accuracies in percent: not below 0, nor above 100."""
    return np.minimum(widths, means), np.minimum(widths, 100 - means)


@_styled
def differences_map(names: Sequence[str], differences: np.ndarray, apart: np.ndarray, title: str) -> Figure:
    """Each learner's accuracy minus each other's in points, (L, L), lines minus columns.

    apart: (L, L), whether two learners are told apart; a dot marks a pair that is not
    """
    count = len(names)
    height = 76 + _LINE * count
    figure, axes = _axes(_LINED, height, title)
    most = max(np.quantile(np.abs(differences), 0.9), 0.1)
    image = axes.imshow(differences, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for line, column in zip(*np.nonzero(~apart & ~np.eye(count, dtype=bool))):
        axes.plot(column, line, "o", color=INK, markersize=2.5)
    axes.set_yticks(range(count), [f"{_shown(name, _NAME)}  {n}" for n, name in enumerate(names, 1)], fontsize=8)
    columns = range(0, count, -(-count // _NUMBERS))
    axes.set_xticks(columns, [str(column + 1) for column in columns], fontsize=7)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, pad=8 / height, extend="both", aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("points: blue, the line's learner is better", color=MUTED)
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
        axes.errorbar(places, means, _arms(means, widths), fmt=f"{style.marker}-", label=style.label, **look)
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
    left = _left_edge(rows, styles)
    for top, end, row in zip(ends - heights, ends, rows.to_dict("records")):
        style = styles.get(row["learner"])
        colour = style.colour if style else MUTED
        inside = row["accuracy"] >= left
        axes.errorbar(
            row["accuracy"] if inside else left + 0.01 * (rows["accuracy"].max() - left),
            end - 7,
            xerr=[[arm] for arm in _arms(row["accuracy"], row["ci95"])] if inside and row["ci95"] > 0 else None,
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
    """The `column` of each training.csv, accuracy (with its interval) or loss, against training steps.

    More than eight learners have a small pair of axes each, with the same scale.
    """
    titles = {"accuracy": "Validation accuracy, percent", "loss": "Training loss, logarithmic"}
    looks = list(dict.fromkeys(style for style, _ in histories))
    panels = [[look] for look in looks] if len(looks) > _TOGETHER else [looks]
    columns = 3 if len(panels) > 1 else 1
    lines = -(-len(panels) // columns)
    height = 40 + 92 * lines if len(panels) > 1 else 245
    figure = Figure(figsize=(_WIDE / 72, height / 72), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    figure.suptitle(titles[column], x=0.01, ha="left", fontsize=10, fontweight="bold")
    for axes, shown in zip(grid, panels):
        for style, history in histories:
            if style in shown:
                _curve(axes, style, history, column)
        if len(panels) > 1:
            axes.set_title(_shown(shown[0].label, 22), fontsize=7.5, fontweight="normal", loc="left", pad=3)
        axes.grid(axis="y")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if column == "loss" and all((history["loss"] > 0).all() for _, history in histories):
        _logarithmic(grid[0])
    grid[0].xaxis.set_major_locator(ticker.MaxNLocator(6 // columns, steps=[1, 2, 5, 10], integer=True))
    grid[0].xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    if len(panels) > 1:
        figure.supxlabel("training steps", fontsize=9, color=MUTED)
    else:
        grid[0].set_xlabel("training steps")
        handles, labels = grid[0].get_legend_handles_labels()
        first = {label: handle for handle, label in reversed(list(zip(handles, labels)))}  # one for all its seeds
        _legend_below(figure, list(first.values())[::-1], list(first)[::-1])
    return figure


def _curve(axes: Axes, style: Style, history: pd.DataFrame, column: str) -> None:
    steps, values = history["step"], history[column]
    axes.plot(steps, values, marker=style.marker, color=style.colour, markersize=4, linewidth=1.4, label=style.label)
    if column == "accuracy":
        below, above = _arms(values, history["ci95"])
        axes.fill_between(steps, values - below, values + above, color=style.colour, alpha=0.15, linewidth=0)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


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
def class_legend(names: Sequence[str], images: Sequence[torch.Tensor]) -> Figure:
    """The letter, the mark and the name that each class has in `embedding_map`, with an image (C, H, W) if there are
    images."""
    tile, gap = (36, 9) if images else (0, 22)
    figure, axes = _canvas(_NARROW, len(names) * (tile + gap) - gap + 22 * (not images))
    for number, name in enumerate(names):
        top = number * (tile + gap) + 11 * (not images)
        colour, marker = _class_style(number)
        if images:
            _place(axes, _at_most(images[number][None, None], (2 * tile) ** 2)[0, 0], 0, top, tile)
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


def _left_edge(rows: pd.DataFrame, styles: Mapping[tuple[str, ...], Style]) -> float:
    """The left end of the axis of a forest plot: a third of its range lies below where our results begin (axis_start).

    Never lower than the lowest result.
    """
    half = rows["ci95"].fillna(0)
    low, high = rows["accuracy"] - half, (rows["accuracy"] + half).max()
    own = rows[rows["learner"].notna()]
    floors = own["learner"].map(lambda learner: styles[learner].floor).astype(bool)
    ours = axis_start(own["accuracy"], half[own.index], floors)
    theirs = low[rows["learner"].isna()].min() if len(own) < len(rows) else ours
    start = ours - (high - min(ours, theirs)) / 3
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
