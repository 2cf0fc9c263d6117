"""A run as one page for readers, report.html, which loads nothing from a network; its figures as files, for papers."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from episodes import FeatureBank, ImageBank
from episodes.errors import counted
from fewshot import records, shown, tables
from fewshot.comparison import compare
from fewshot.files import read_text, replacing, writing
from fewshot.protocols.registry import protocol_sheets
from fewshot.report import classes, difficulty, figures, ranking, sessions
from fewshot.report.cost import cost_sheet
from fewshot.report.data import (
    LeftOut,
    Model,
    Run,
    choose_episodes,
    chosen_cell,
    embed_flat,
    episode_of,
    find_models,
    load_test_images,
    map_shown,
    panel_of,
    perplexity,
    predict,
    read_about,
    read_histories,
    read_run,
)
from fewshot.report.published import VERDICTS, published_rows
from fewshot.report.rendering import rendered

_TITLES = {"Other classes": "Intervals that cover other test classes"}  # of tables, in the words of the page
_RANK = (
    "The rank, 1 the best, is the mean of a learner's places over the columns: in a column, the learners that cannot be"
    " told apart from the best share the mean of their places, then those not told apart from the best of the rest, and"
    " so on"
)
_SUPPORT, _QUERIES, _WAYS = 5, 6, 20  # most images a class, and most classes, in the picture of an episode


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A figure, the name of its files, a description for readers who cannot see the figure, and its caption."""

    name: str
    figure: Figure
    alt: str
    caption: str = ""

    @functools.cached_property
    def svg(self) -> bytes:
        return figures.drawn(self.figure, "svg")

    @property
    def png(self) -> bytes:
        return figures.drawn(self.figure, "png")


class Section(NamedTuple):
    """A part of the page: paragraphs, and figures side by side, each `width` pixels wide or more; `key` stands left.

    tables: below the figures, as `_tables` makes them; published: rows of published_rows, in a table of their own.
    """

    name: str
    title: str
    paragraphs: list[str]
    pictures: list[Picture]
    width: int = 340
    key: Picture | None = None
    tables: Sequence[dict[str, Any]] = ()
    published: Sequence[dict[str, Any]] = ()


def write_report(
    folder: Path, data: str | None = None, output: Path | None = None, trusted: Sequence[str] = ()
) -> Path:
    """Write report.html and figures/*.png and *.svg of the run in `folder`, there or in `output`; the page's path.

    data: the folder of the data sets, from which the pictures come. trusted: FILE.py:CLASS of learners from files,
    whose code may run. The page leaves out what the run does not hold, and says so. Raises InputError if `folder` holds
    no run, if `output` cannot be written, or if a trusted file has no learner of the run.
    """
    run, output = read_run(folder), output or folder
    comparison = compare(run.results)
    sections, missing = _sections(run, data, comparison, trusted)
    with writing(output):
        (output / "figures").mkdir(parents=True, exist_ok=True)
        for section in sections:
            for picture in _pictures(section):
                _write(output / "figures" / f"{picture.name}.png", picture.png)
                _write(output / "figures" / f"{picture.name}.svg", picture.svg)
        page = _page(run, sections, missing, comparison)
        _write(output / "report.html", page.encode(errors="replace"))  # of names that are no text
    return output / "report.html"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _pictures(section: Section) -> list[Picture]:
    return [*([section.key] if section.key else []), *section.pictures]


def _sections(
    run: Run, data: str | None, comparison: pd.DataFrame, trusted: Sequence[str]
) -> tuple[list[Section], list[str]]:
    """The sections that can be made, and a sentence for each reason why others are left out."""
    makers = {
        ("differences",): lambda: [_differences(run)],
        ("published results",): lambda: [_literature(run, comparison)],
        ("answers by class",): lambda: [_classes(run, data)],
        ("figures of difficulty",): lambda: [_difficulty(run)] if "kinds" in run.protocols else [],
        ("figures of sessions",): lambda: [_sessions(run)] if "sessions" in run.protocols else [],
        ("training curves",): lambda: [_training(run)],
        ("pictures of episodes", "embeddings"): lambda: _inside(run, data, trusted),
    }
    sections = [_accuracy(run)]
    reasons: dict[str, list[str]] = {}
    for what, make in makers.items():
        try:
            sections += make()
        except LeftOut as reason:
            reasons.setdefault(str(reason), []).extend(what)
    return sections, [f"{_listed(parts).capitalize()} are left out: {reason}." for reason, parts in reasons.items()]


def _accuracy(run: Run) -> Section:
    """A figure for each way and shot."""
    told = "Bars are 95 % intervals over the episodes; if a bar is not seen, it is narrower than its mark."
    if run.results["seed"].nunique() > 1:
        told = (
            "Marks are means over training seeds, bars their 95 % intervals (Student's t; of a learner with one seed,"
            " over the episodes), and faint marks the seeds."
        )
    told += " The best learner is on top. An arrow points to a result that is far lower."
    pictures = []
    for (way, shot), rows in run.results.groupby(["way", "shot"]):
        title = f"{way}-way {shot}-shot"
        means = records.summarised(rows).sort_values("accuracy", ascending=False, kind="stable")
        said = "; ".join(
            f"{run.styles[tuple(learner)].label} {mean:.2f}"
            for learner, mean in zip(means[records.LEARNER].to_numpy(), means["accuracy"])
        )
        figure = figures.dot_plot(rows, title, run.styles)
        pictures.append(Picture(f"accuracy-{way}way-{shot}shot", figure, f"Accuracy, {title}: {said}"))
    return Section("shots", "Accuracy", [told], pictures, width=400)


def _differences(run: Run) -> Section:
    """A map of the differences of all pairs of learners for each way and shot."""
    pictures = []
    for title, (names, values, apart) in ranking.difference_grids(run).items():
        figure = figures.differences_map(names, values, apart, title)
        name = f"differences-{title.replace('-', '').replace(' ', '-')}"
        told = f"{(~apart).sum() // 2 - len(names) // 2} pairs of {len(names)} learners cannot be told apart, {title}"
        pictures.append(Picture(name, figure, told))
    told = (
        "The accuracy of the learner of a line minus that of a column, in points, on the same episodes. A dot marks a"
        " pair that cannot be told apart (paired t tests, corrected for all pairs by Holm, at 5 %). Numbers stand for"
        " the learners of the lines. differences.csv has all differences with their intervals."
    )
    return Section("differences", "Differences", [told], pictures, width=400)


def _classes(run: Run, data: str | None) -> Section:
    """Of each learner the accuracy of each class, the pairs of classes confused most, and the hardest images."""
    way, shot = chosen_cell(run)
    found = classes.read_answers(run)
    seeds = " They are those of the first training seed of each learner." if run.results["seed"].nunique() > 1 else ""
    told = [
        f"These answers are those of all {way}-way {shot}-shot episodes, and of no other task.{seeds} Classes meet by"
        " chance in an episode: a pair that never met was never confused. The hardest images are those of which the"
        " exact 95 % interval (Clopper and Pearson) of right answers ends lowest. These intervals treat queries as"
        " independent, and hold for these images and this trained model alone."
    ]
    pictures = []
    try:
        bank = load_test_images(run, data)
        classes.check_images(found, bank)
    except LeftOut as reason:
        told.append(f"Pictures are left out: {reason}.")
    else:
        pictures = [picture for one in found for picture in _galleries(one, bank)]
    caption = f"{tables.caption(run.results)}, {way}-way {shot}-shot"
    sheets = [classes.class_sheet(one, caption) for one in found]
    return Section("classes", "Answers by class", told, pictures, width=300, tables=sheets)


def _galleries(one: classes.Answered, bank: ImageBank) -> list[Picture]:
    """The pairs of classes that a model confused most, and its hardest images; none if it was always right."""
    pictures = []
    for what, make in {"confused": classes.confused_lines, "hardest": classes.hardest_lines}.items():
        if lines := make(one, bank):
            title = f"{'Confused classes' if what == 'confused' else 'Hardest images'}: {one.style.label}"
            said = "; ".join(f"{line.first}, {line.second}: {line.said}" for line in lines)
            pictures.append(Picture(f"{what}-{one.name}", figures.gallery(lines, title), f"{title}. {said}"))
    return pictures


def _literature(run: Run, comparison: pd.DataFrame) -> Section:
    """A forest plot for each way and shot, and a table of all published results."""
    if comparison.empty:
        raise LeftOut(f"none are known for these ways and shots of {run.results['dataset'].iloc[0]}")
    pictures = []
    for (way, shot), rows in comparison.groupby(["way", "shot"]):
        panel, told = panel_of(rows)
        title = f"{way}-way {shot}-shot"
        figure = figures.forest(panel, title, run.styles)
        pictures.append(Picture(f"published-{way}way-{shot}shot", figure, f"Beside published results, {title}", told))
    told = (
        "Our results are in colour; published results are in grey, with the 95 % interval if the paper prints one. A"
        " filled mark compares with one of our results at least: it has the same split, way and shot, the same backbone"
        " and image size, and no help that ours did not have. An arrow points to a result that is far lower."
        " The table has all published results, each beside the best of ours that it compares with. The verdict says"
        " where ours lies: above, within the intervals and the rounding of both, or below. The last column says why a"
        " result does not compare."
    )
    every = published_rows(comparison)
    return Section("published", "Beside published results", [told], pictures, width=400, published=every)


def _difficulty(run: Run) -> Section:
    """Accuracy against the separation of the classes, a figure for each kind of episodes."""
    pictures = []
    for one in difficulty.read_sorted(run):
        what = "Episodes within one group" if one.kind == "within" else "Uniform episodes"
        title = f"{what}, {one.way}-way {one.shot}-shot"
        said = "; ".join(f"{style.label} from {means[0]:.2f} to {means[-1]:.2f}" for style, means, _ in one.lines)
        figure = figures.accuracy_by_difficulty(one.separations, one.lines, title)
        alt = f"Accuracy from the hardest to the easiest group of episodes, {title}: {said}"
        pictures.append(Picture(f"difficulty-{one.kind}", figure, alt))
    told = (
        f"Episodes in {difficulty.GROUPS} groups of equal size (fewer if there are few episodes), by the separation of"
        " their classes: the mean distance between the means of two classes, over all test images and in units of the"
        " spread within a class. Distances are those of pixels, or of the features if the data set holds features, so"
        " that each group has the same episodes for all learners. Bars are 95 % intervals over the episodes of a group."
        " All classes of an episode within one group belong together in the data set: they are of one alphabet, say."
    )
    return Section("difficulty", "Accuracy against difficulty", [told], pictures)


def _sessions(run: Run) -> Section:
    """Accuracy after each session, a figure for each kind of classes."""
    rows, pictures = run.protocols["sessions"], []
    for measure, classes_of in sessions.MEASURES.items():
        curves = sessions.by_session(rows, run.styles, measure)
        said = "; ".join(f"{one.style.label} from {one.means[0]:.2f} to {one.means[-1]:.2f}" for one in curves)
        figure = figures.accuracy_by_session(curves, classes_of.capitalize())
        pictures.append(Picture(f"sessions-{measure}", figure, f"Accuracy on {classes_of} by session: {said}"))
    told = (
        f"Each session adds {counted(rows['way'].iloc[0], 'novel class')} by {counted(rows['shot'].iloc[0], 'image')}"
        f" each to the {rows['base_classes'].iloc[0]:,} base classes. A query may be of any class so far. Bars are 95 %"
        " intervals over the draws of novel classes and images; of a learner with several training seeds, over the"
        " seeds (Student's t)."
    )
    return Section("sessions", "Accuracy by session", [told], pictures)


def _training(run: Run) -> Section:
    """Validation accuracy and loss of all models."""
    histories = [(run.styles[learner], history) for learner, history in read_histories(run)]
    ends = "; ".join(f"{style.label} ends at {history['accuracy'].iloc[-1]:.2f}" for style, history in histories)
    pictures = [
        Picture(f"training-{column}", figures.training_curve(histories, column), alt)
        for column, alt in {
            "accuracy": f"Accuracy on validation classes against training steps: {ends}",
            "loss": "Training loss against training steps",
        }.items()
    ]
    wanted = run.config.validation
    told = (
        f"Validation accuracy is measured on {wanted.episodes:,} {wanted.way}-way {wanted.shot}-shot episodes of"
        " validation classes, by which each run chooses its checkpoint; bands are 95 % intervals over these episodes."
        " Learners minimise losses of their own: compare the shapes of these curves, not their heights."
    )
    if any(settings.per_shot for settings in run.config.learner.values()):
        told += " Models for one shot are validated with that shot."
    return Section("training", "Training", [told], pictures)


def _inside(run: Run, data: str | None, trusted: Sequence[str]) -> list[Section]:
    """The models on single images: three episodes, and the embedding of some classes; without images, that alone."""
    models, problems = find_models(run, *chosen_cell(run), trusted)
    absent = [f"Not shown: {'; '.join(problems)}."] if problems else []
    try:
        bank = load_test_images(run, data)
    except LeftOut as reason:
        if not any(model.kept for model in models):
            raise
        return [_embeddings(models, None, [f"Pictures of episodes are left out: {reason}.", *absent])]
    if isinstance(bank, FeatureBank):
        told = "The data set holds features and not images, so the page shows no episodes and no maps."
        return [Section("episodes", "Episodes", [told, *absent], [])]
    return [_episodes(run, models, bank, absent), _embeddings(models, bank, absent)]


def _episodes(run: Run, models: list[Model], bank: ImageBank, absent: list[str]) -> Section:
    """An easy, a typical and a hard episode."""
    way, shot = chosen_cell(run)
    pictures, changed = [], set()
    for kind, number in choose_episodes(run, way, shot).items():
        episode = episode_of(run, bank, way, shot, number)
        answers = []
        for model in models:
            predicted = predict(model, bank, episode, number, run.config.evaluation.seed)
            share = (predicted == np.arange(way)[:, None]).mean()
            if model.kept is None and _differs(share, run, records.array_name(model.name, way, shot), number):
                changed.add(model.style.label)
            answers.append(figures.Answers(model.style, predicted, 100 * share))
        names = [bank.class_names[index] for index in episode.classes[0, :_WAYS]]
        support = bank.images[episode.support[0, :_WAYS, :_SUPPORT]]
        query = bank.images[episode.query[0, :_WAYS, :_QUERIES]]
        title = f"{kind.capitalize()}: episode {number:,}"
        figure = figures.episode_picture(support, query, names, answers, title)
        said = ", ".join(f"{answer.style.label} {answer.percent:.1f} % right" for answer in answers)
        pictures.append(Picture(f"episode-{kind}", figure, f"{title}, classes {', '.join(names)}; {said}"))
    if changed:
        absent = [*absent, f"Here {_listed(sorted(changed))} gave other answers than in the run."]
    return Section("episodes", "Episodes", [_about_episodes(run, way, shot), *absent], pictures, width=300)


def _differs(share: float, run: Run, array: str, number: int) -> bool:
    """Whether the share of right answers in an episode is another one than in the run."""
    return abs(share - run.accuracies[array][number]) > 1e-9


def _about_episodes(run: Run, way: int, shot: int) -> str:
    told = (
        f"In a {way}-way {shot}-shot episode a learner sees the framed support images and predicts the class of each"
        " query. Below each query every learner has a mark of its colour: a dot if it is right, or a cross and the"
        " letter of the predicted class if it is wrong. These episodes have the highest, the median and the lowest"
        f" accuracy of the first {min(shown.EPISODES, run.results['episodes'].min()):,}, averaged over the learners."
    )
    queries = run.config.evaluation.query
    if queries <= _QUERIES and way <= _WAYS:
        return told
    drawn = min(queries, _QUERIES) * min(way, _WAYS)
    return f"{told} Percentages count all {way * queries} queries, of which {drawn} are shown."


def _embeddings(models: list[Model], bank: ImageBank | None, absent: list[str]) -> Section:
    """Some test classes in two dimensions, as each learner embeds them; `bank` has their images, if they are there."""
    chosen = map_shown(models, bank)
    classes, count = chosen.images.shape
    labels = np.repeat(np.arange(classes), count)
    pictures = []
    for model in models:
        points = embed_flat(model, bank, chosen.images)
        if points is None:
            absent = [*absent, f"There are no embeddings of {model.style.label}."]
            continue
        figure = figures.embedding_map(points, labels, model.style.label)
        alt = f"Embeddings of {classes} classes by {model.style.label}"
        pictures.append(Picture(f"embedding-{model.name}", figure, alt))
    firsts = [] if bank is None else [bank.images[number] for number in chosen.images[:, 0]]
    alt = f"{'An image of each class' if firsts else 'The classes'}: {', '.join(chosen.names)}"
    key = Picture("embedding-classes", figures.class_legend(chosen.names, firsts), alt)
    told = (
        f"The first {count} images of {classes} test classes, as each learner embeds them, in two dimensions by t-SNE"
        " (van der Maaten and Hinton 2008; scikit-learn, on 30 principal components at most and started from the first"
        f" two, perplexity {perplexity(len(labels))}, seed 0). Images near each other in a map are near each other in"
        " the embedding; distances between clusters, and their sizes, mean little."
    )
    return Section("embeddings", "Embeddings", [told, *absent], pictures, width=300, key=key)


def _page(run: Run, sections: list[Section], missing: list[str], comparison: pd.DataFrame) -> str:
    """The page as HTML."""
    texts = {name: run.folder / name for name in ("config.toml", "environment.json")}
    ranks = ranking.ranked_learners(run)
    return rendered(
        "report.html",
        name=run.folder.resolve().name,
        first=run.results.iloc[0],
        caption=tables.caption(run.results),
        facts=_facts(run),
        about=read_about(run),
        glance=_plain_table(ranking.at_a_glance(run, comparison)),
        tables=_tables(run, ranks),
        cost=_styled(run, run.results, [cost_sheet(run, list(ranks))], ranks)[0],
        sections=sections,
        verdicts=VERDICTS,
        missing=missing,
        rows=run.results.to_csv(index=False),
        texts={name: read_text(path) for name, path in texts.items() if path.exists()},
    )


def _facts(run: Run) -> list[str]:
    """What the numbers depend on besides the settings, in a few words each."""
    counts = {"learner": len(run.styles), "training seed": run.results["seed"].nunique()}
    told = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts.items()]
    return [*told, *run.results["device"].unique(), *(f"torch {one}" for one in run.results["torch"].unique())]


def _tables(run: Run, ranks: Mapping[tuple[str, ...], float]) -> list[dict[str, Any]]:
    """The tables of the run, those of the episodes first: each a sheet with rows of a learner's style, label, cells.

    The first one has the ranks of the learners, too, if they have any.
    """
    sheets = tables.sheets(run.results, run.accuracies)
    sheets = [sheet._replace(title=_TITLES.get(sheet.title, sheet.title)) for sheet in sheets]
    if not all(map(np.isnan, ranks.values())):
        sheets[0] = _with_ranks(run, sheets[0], ranks)
    made = _styled(run, run.results, sheets, ranks)
    for protocol, rows in run.protocols.items():
        made += _styled(run, rows, protocol_sheets(protocol, rows), ranks)
    return made


def _with_ranks(run: Run, sheet: tables.Sheet, ranks: Mapping[tuple[str, ...], float]) -> tables.Sheet:
    learners = _learner_of(run.results)
    cells, best = sheet.cells.copy(), sheet.best.copy()
    told = [ranks[learners[label]] for label in cells.index]
    cells.insert(sheet.words, "rank", ["–" if np.isnan(rank) else f"{rank:.2f}" for rank in told])
    best.insert(sheet.words, "rank", False)
    return sheet._replace(cells=cells, best=best, note=f"{_RANK}. {sheet.note}")


def _learner_of(results: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The values of LEARNER by the label of a row, with its seed or without."""
    learners = list(results[records.LEARNER].itertuples(index=False, name=None))
    return {
        label: learner for seeds in (False, True) for label, learner in zip(records.labels(results, seeds), learners)
    }


def _styled(
    run: Run, results: pd.DataFrame, sheets: list[tables.Sheet], ranks: Mapping[tuple[str, ...], float]
) -> list[dict[str, Any]]:
    """`sheets` of `results` with the learners' styles, in the order of their ranks; the style is None for a learner
    without episodes."""
    learners = _learner_of(results)
    places = list(ranks)
    made = []
    for sheet in sheets:
        table = _plain_table(sheet)
        rows = [(learners[label], label, cells) for _, label, cells in table["rows"]]
        rows.sort(key=lambda row: places.index(row[0]) if row[0] in ranks else len(places))
        table["rows"] = [(run.styles.get(learner), label, cells) for learner, label, cells in rows]
        made.append(table)
    return made


def _plain_table(sheet: tables.Sheet) -> dict[str, Any]:
    """A sheet with its rows as the page shows them: (style, label, cells), each cell with its width and mark apart."""
    rows = [
        (None, label, [(*_parted(cell), is_best) for cell, is_best in zip(cells, best)])
        for label, cells, best in zip(sheet.cells.index, sheet.cells.to_numpy(), sheet.best.to_numpy())
    ]
    return {"sheet": sheet, "rows": rows}


def _parted(cell: str) -> tuple[str, str, str]:
    """'98.09 ± 0.07' in its three parts; other text stays whole."""
    mean, sign, half = cell.partition(" ± ")
    return (mean, sign, half) if re.fullmatch(r"[\d.]+", half) else (cell, "", "")


def _listed(words: list[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
