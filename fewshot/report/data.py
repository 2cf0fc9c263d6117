"""The data of a report: a run's files, its trained models, and their predictions for a few episodes and images."""

import contextlib
import dataclasses
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodes import Episodes, ImageBank, InputError, load_dataset
from episodes.sampler import sampler_of
from fewshot import checkpoints, shown
from fewshot.class_records import read_class_tables
from fewshot.config import Config, read_config
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import EmbeddedBank
from fewshot.files import read_text
from fewshot.learners import Learner, find_learner
from fewshot.learners.base import scores_of_episodes
from fewshot.loading import open_checkpoint
from fewshot.models import ModelSpec
from fewshot.record_files import Damaged, read_environment, read_history
from fewshot.records import LEARNER, UNPAIRED, array_name, labels, model_names
from fewshot.report.figures import Style, learner_styles
from fewshot.run_folder import read_protocols, read_results

_SHOWN, _FAMILY, _NEAREST = 15, 5, 8  # published results in a panel: the best, more of our families, or none comparable
_NO_MODEL = "there is no checkpoint of it that can be read"


class LeftOut(Exception):
    """Why a part of the report cannot be made, as the end of a sentence."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run's folder.

    settings    None for an imported run
    styles      how each learner looks, by its values of LEARNER, in the order of the tables
    accuracies  of every episode, by 'NAME/5way1shot'
    protocols   the rows by test protocol, of each one that was run except episodes
    """

    folder: Path
    results: pd.DataFrame
    settings: Config | None
    styles: dict[tuple[str, ...], Style]
    accuracies: dict[str, np.ndarray]
    protocols: dict[str, pd.DataFrame]
    environment: dict[str, Any]

    @functools.cached_property
    def classes(self) -> pd.DataFrame | None:
        """The rows of classes.csv, None if there is none; InputError if it is damaged."""
        path = self.folder / "classes.csv"
        with _reading(self.folder):
            return read_class_tables(path) if path.exists() else None

    @property
    def config(self) -> Config:
        """The settings of the run; LeftOut for an imported run."""
        if self.settings is None:
            raise LeftOut("the run was imported, and has no settings")
        return self.settings


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model, how it looks in figures, and the name of its folder and arrays.

    The model answers by what its run kept of it, or else by the learner of its checkpoint: one of the two is there.
    """

    style: Style
    name: str
    kept: shown.Kept | None = None
    learner: Learner | None = None


def read_run(folder: Path) -> Run:
    """The run that `folder` holds; InputError if it holds none, or a damaged one."""
    results, accuracies = read_results(folder)
    path = folder / "environment.json"
    with _reading(folder):
        environment = read_environment(path) if path.exists() else {}
    learners = results[LEARNER].itertuples(index=False, name=None)
    styles = learner_styles(dict(zip(learners, labels(results, seeds=False))))
    settings = None if (results["imported"] == UNPAIRED).all() else read_config(folder / "config.toml")
    protocols = read_protocols(folder)
    return Run(folder, results, settings, styles, accuracies, protocols, environment)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Inside, a file of the run that cannot be read is an InputError."""
    try:
        yield
    except (OSError, Damaged) as error:
        raise InputError(f"the run in {folder} is damaged ({error}): copy it again, or run it again") from error


def read_about(run: Run) -> dict[str, str]:
    """How the run was made: `command` makes it again; `machine`, `time` and `date` as far as the run says them.

    A folder may say these in its about.toml, and environment.json has the date of each model.
    """
    path = run.folder / "about.toml"
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # a page can do without this file
        told = tomllib.loads(read_text(path))
    models = run.environment.get("models")
    each = models.values() if isinstance(models, dict) and models else [run.environment]
    dates = sorted({str(one["date"]) for one in each if isinstance(one, dict) and "date" in one})
    again = f"fewshot bench --preset {shlex.quote(str(run.folder / 'config.toml'))} --output results/again"
    found = {
        "command": str(told.get("command", again)) if run.settings else "",
        "machine": str(told.get("machine", "")),
        "time": str(told.get("time", "")),
        "date": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
    }
    return {name: text for name, text in found.items() if text}


def read_histories(run: Run) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Each trained model's values of LEARNER and its training.csv; LeftOut if there is none."""
    if not (run.folder / "checkpoints").is_dir():
        raise LeftOut("the run's folder holds no checkpoints")
    histories: dict[str, tuple[tuple[str, ...], pd.DataFrame]] = {}
    for _, row in run.results.iterrows():
        for name in model_names(row):
            with contextlib.suppress(OSError, ValueError):  # an unreadable file counts as missing
                history = read_history(run.folder / "checkpoints" / name / "training.csv")
                histories.setdefault(name, (tuple(row[LEARNER]), history))
                break
    if not histories:
        raise LeftOut("the run's folder holds no training.csv of a model that was trained")
    return list(histories.values())


def find_models(run: Run, way: int, shot: int, trusted: Sequence[str] = ()) -> tuple[list[Model], list[str]]:
    """For each learner the model of its first seed that was tested with this way and shot: what the run kept of it, or
    else its checkpoint.

    Also a few words for each learner that has no such model. trusted: FILE.py:CLASS of learners from outside the suite,
    whose files run; the files of others do not. InputError if such a file cannot be loaded or is of no learner of the
    run. LeftOut if no learner has a model.
    """
    classes = {cls.name: asked for asked in trusted for cls in [find_learner(asked)[0]]}
    for name in classes.keys() - {learner for learner, *_ in run.styles}:
        raise InputError(f"the run in {run.folder} has no learner {name}: leave out --learner {classes[name]}")
    models = _kept_models(run, way, shot)
    problems = {key: _NO_MODEL for key in run.styles if key not in models}
    for path, spec in _checkpoints(run) if problems else []:
        name, key = path.parent.name, spec.row[:3]
        if key in models or array_name(name, way, shot) not in run.accuracies:
            continue
        from_file = ".py:" in spec.asked
        if from_file and spec.learner not in classes:
            problems[key] = f"its code is in {spec.asked}: if you trust that file, name it with --learner"
            continue
        try:
            _, learner = open_checkpoint(path, classes[spec.learner] if from_file else "")
        except InputError as error:
            problems[key] = str(error)
            continue
        models[key] = Model(run.styles[key], name, learner=learner.eval())
        del problems[key]
    told = [f"{run.styles[key].label} ({reason})" for key, reason in problems.items()]
    if not models:
        whole = all(reason == _NO_MODEL for reason in problems.values())
        raise LeftOut(f"the run's folder has neither {shown.FILE} nor checkpoints" if whole else "; ".join(told))
    return [models[key] for key in run.styles if key in models], told


def _kept_models(run: Run, way: int, shot: int) -> dict[tuple[str, ...], Model]:
    """The models of which the run kept what a report shows, of the first such seed, by their values of LEARNER."""
    rows = run.results[(run.results["way"] == way) & (run.results["shot"] == shot)]
    models: dict[tuple[str, ...], Model] = {}
    for _, row in rows.sort_values("seed", kind="stable").iterrows():
        key = tuple(row[LEARNER])
        if key not in models and (kept := shown.kept_of(row, run.accuracies)) is not None:
            models[key] = Model(run.styles[key], file_name(model_names(row)[0]), kept)
    return models


def file_name(model: str) -> str:
    """The name of a model as a part of the name of a file: a stranger's run must not choose a path."""
    return re.sub(r"[^\w.-]", "-", model)


def _checkpoints(run: Run) -> list[tuple[Path, ModelSpec]]:
    """The best checkpoint of each model, in the order of the tables and of the seeds."""
    found = []
    for path in sorted(run.folder.glob("checkpoints/*/best.pt")):
        with contextlib.suppress(InputError):  # of a damaged one
            spec = ModelSpec.from_checkpoint(checkpoints.load(path), path)
            if spec.row[:3] in run.styles:
                found.append((path, spec))
    order = list(run.styles)
    return sorted(found, key=lambda one: (order.index(one[1].row[:3]), one[1].seed))


def chosen_cell(run: Run) -> tuple[int, int]:
    """The way and shot of the episodes that the report shows: see shown.cell_of."""
    return shown.cell_of(zip(run.results["way"].tolist(), run.results["shot"].tolist()))


def load_test_images(run: Run, data: str | None) -> ImageBank:
    """The bank that the run was tested on; LeftOut if the data set is unavailable or differs."""
    settings = run.config.data
    try:
        size = settings.size or None
        bank = load_dataset(settings.dataset, "test", data=data, size=size, options=settings.reading)
    except InputError as error:
        why = "the data set is not at hand: 'fewshot report RUN --data DIR' takes the folder of the data sets"
        raise LeftOut(why) from error
    tested = run.environment.get("data", {}).get("test", {})
    if tested.get("checksum", bank.checksum) != bank.checksum:
        raise LeftOut("the test images that are here now are not those of the run (their checksums differ)")
    return bank


def choose_episodes(run: Run, way: int, shot: int) -> dict[str, int]:
    """The numbers of an easy, a typical and a hard episode, by the mean accuracy of all models in each.

    The highest, the median and the lowest mean of the first shown.EPISODES episodes, whose answers runs keep; of equal
    ones the first. Fewer than three episodes give fewer.
    """
    cell = array_name("", way, shot)
    values = [array[: shown.EPISODES] for name, array in run.accuracies.items() if name.endswith(cell)]
    means = np.round(np.array(values).mean(axis=0), 9)  # equal shares are equal, whatever the order of the sum
    wanted = {"easy": means.max(), "typical": np.sort(means)[(len(means) - 1) // 2], "hard": means.min()}
    chosen: dict[str, int] = {}
    for kind, mean in wanted.items():
        free = [number for number in np.flatnonzero(means == mean).tolist() if number not in chosen.values()]
        if free:
            chosen[kind] = free[0]
    return chosen


def episode_of(run: Run, bank: ImageBank, way: int, shot: int, number: int) -> Episodes:
    """Episode `number` of the run's tests, of length 1."""
    return sampler_of(bank, way, shot, run.config.evaluation.query, run.config.evaluation.seed).episodes(number, 1)


def predict(model: Model, bank: ImageBank, episode: Episodes, number: int, seed: int) -> np.ndarray:
    """The predicted class of each query of episode `number`, as a position in the episode: (way, query).

    seed: that of the tests, for a learner that draws numbers. LeftOut if the run kept answers of other episodes.
    """
    if model.kept is not None:
        answers, queries = model.kept.answers[number], episode.query[0]
        if answers.size != queries.numel():
            raise LeftOut(
                f"the run's config.toml tells of episodes of {queries.numel()} queries, and those of"
                f" {model.style.label} had {answers.size}"
            )
        return answers.reshape(queries.shape)
    assert model.learner is not None
    return _predicted(model.learner, bank, episode, seed)


@torch.no_grad()
def _predicted(learner: Learner, bank: ImageBank, episode: Episodes, seed: int) -> np.ndarray:
    """What the learner predicts, (way, query); only the images of the episode are embedded."""
    part, images, classes = shown.cut_out(bank, torch.cat([episode.support.flatten(), episode.query.flatten()]))
    device = choose_device("auto")
    own = dataclasses.replace(
        episode,
        classes=torch.searchsorted(classes, episode.classes),
        support=torch.searchsorted(images, episode.support),
        query=torch.searchsorted(images, episode.query),
    ).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prepare(device)
        scores = scores_of_episodes(learner, EmbeddedBank(learner.to(device), placed(part, device)), own)
    return scores.argmax(2).view(episode.query.shape[1:]).cpu().numpy()


def map_shown(models: Sequence[Model], bank: ImageBank | None) -> shown.Map:
    """The images of the embedding maps: those that the run kept, else some of `bank`; one of the two is there."""
    kept = next((model.kept.map for model in models if model.kept is not None), None)
    if kept is None:
        assert bank is not None
        return shown.map_of(bank)
    if bank is not None and kept.images.max() >= len(bank):
        raise LeftOut(f"{shown.FILE} is of other test images than those that are here now")
    return kept


def embed_flat(model: Model, bank: ImageBank | None, images: np.ndarray) -> np.ndarray | None:
    """The model's embeddings of `images` (classes, images) in two dimensions by t-SNE: (M, 2); None if the run kept
    none and the model cannot embed here."""
    embeddings = None
    if model.kept is not None:
        embeddings = model.kept.embeddings
    elif bank is not None and model.learner is not None:
        device = choose_device("auto")
        prepare(device)
        found = shown.embeddings_of(model.learner, bank, torch.from_numpy(images.ravel()), device)
        embeddings = shown.reduced(found)
    return None if embeddings is None else _flat(embeddings.astype(np.float32))


def _flat(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (M, P) in two dimensions by t-SNE, (M, 2)."""
    from sklearn.manifold import TSNE  # slow to import, and few commands need it

    start = "pca" if np.ptp(embeddings, axis=0).any() else "random"  # identical embeddings have no principal components
    start = start if embeddings.shape[1] > 1 else "random"
    # the exact method: the other one sums in an order that depends on the threads
    settings = {"perplexity": perplexity(len(embeddings)), "method": "exact", "init": start, "random_state": 0}
    return TSNE(**settings).fit_transform(embeddings)


def perplexity(images: int) -> int:
    """The perplexity for a map of `images` images: about as many neighbours as a class has images."""
    return min(shown.MAP_IMAGES, (images - 1) // 3)


def panel_of(comparison: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """What a forest plot of one way and shot shows, and a sentence on what it leaves out.

    comparison: the rows of fewshot.comparison.compare of that way and shot.

    Published results that compare with one of ours: the best, and more of the families that our learners belong to.
    If there are none: the nearest inductive results, those with the fewest reasons against a comparison.
    """
    ours = comparison.drop_duplicates(LEARNER)
    theirs = _published_once(comparison)
    comparable = theirs[theirs["comparable"]]
    if len(comparable):
        best = comparable.sort_values("accuracy", ascending=False, kind="stable")
        shown = pd.concat([best[:_SHOWN], best[_SHOWN:][best[_SHOWN:]["family"]][:_FAMILY]])
        told = f"{len(shown)} of {len(comparable)} comparable results"
        if len(shown) == len(comparable):
            told = f"All {len(comparable)} comparable results"
        told += f"; {len(theirs) - len(comparable)} others cannot be compared."
    else:
        inductive = theirs[theirs["league"] == "inductive"]
        best_last = ["other_kind", "count", "family", "accuracy"]
        shown = inductive.sort_values(best_last, ascending=[True, True, False, False], kind="stable")[:_NEAREST]
        told = f"No published result can be compared with ours; hollow, the nearest of {len(theirs)} and what differs."
    own = pd.DataFrame(
        {
            "label": "",
            "accuracy": ours["accuracy"],
            "ci95": ours["ci95"],
            "printed": [f"{mean:.2f} ± {half:.2f}" for mean, half in zip(ours["accuracy"], ours["ci95"])],
            "learner": list(ours[LEARNER].itertuples(index=False, name=None)),
            "comparable": True,
            "note": "",
        }
    )
    labels = [f"{method} ({source})" for method, source in zip(shown["method"], shown["source"])]
    variants = [
        variant if labels.count(label) > 1 else "" for label, variant in zip(labels, shown["published_variant"])
    ]
    shown = shown.assign(
        label=labels,
        printed=[_printed(mean, half) for mean, half in zip(shown["accuracy"], shown["ci95"])],
        learner=None,
        note=["; ".join(filter(None, [variant, *reasons])) for variant, reasons in zip(variants, shown["reasons"])],
    )
    return pd.concat([own, shown[own.columns]], ignore_index=True), told


def _published_once(comparison: pd.DataFrame) -> pd.DataFrame:
    """Each published result once, in its row with the fewest reasons, with its accuracy and ci95 in these columns.

    comparable: with at least one of our results; other_kind: the backbone is of another kind; family: the result is of
    the family of one of our learners.
    """
    names = [_plain(name) for name in comparison["learner"].unique()]
    texts = [
        _plain(f"{method} {variant}") for method, variant in zip(comparison["method"], comparison["published_variant"])
    ]
    kinds = [comparison[name].str.partition("-")[0] for name in ("published_backbone", "backbone")]
    rows = comparison.assign(
        comparable=comparison["verdict"] != "not comparable",
        count=comparison["reasons"].map(len),
        other_kind=kinds[0] != kinds[1],
        family=[any(name in text for name in names) for text in texts],
    )
    identity = ["method", "published_variant", "published_backbone", "published_size", "source", "published_protocol"]
    rows = rows.sort_values(["other_kind", "count"], kind="stable").drop_duplicates([*identity, "league", "published"])
    rows = rows.sort_index().drop(columns=["accuracy", "ci95"])
    return rows.rename(columns={"published": "accuracy", "published_ci95": "ci95"})


def _plain(text: str) -> str:
    """The letters and digits of a text alone, in lower case, so that 'N-pair loss' holds 'npair'."""
    return re.sub(r"[\W_]", "", text).lower()


def _printed(mean: float, half: float) -> str:
    """'98.8 ± 0.4', '49.42 ± 0.78': with one decimal if both numbers have no second one."""
    places = 1 if round(mean, 1) == mean and (pd.isna(half) or round(half, 1) == half) else 2
    return f"{mean:.{places}f}" + ("" if pd.isna(half) else f" ± {half:.{places}f}")
