"""Draws the pictures of the documentation: `python docs/make_pictures.py`, in the environment of the suite.

Every picture comes from committed results, from the embedded data set, or from simulated episodes of the suite's own
sampler, so that a second call draws the same pictures again.
"""

import itertools
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional

from episodes import EpisodeSampler, load_dataset
from fewshot.records import LEARNER, labels
from fewshot.report import write_report
from fewshot.report.figures import accuracy_by_session, drawn, learner_styles
from fewshot.report.sessions import MEASURES, by_session
from fewshot.run_folder import read_protocols
from fewshot.statistics import over_classes, over_episodes, over_seeds, paired, proportion

FOLDER = Path(__file__).parent / "pictures"
REFERENCE = Path(__file__).parents[1] / "results" / "reference"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"
LEARNERS = ("siamese", "prototypical", "imprinted", "npair")


def save(figure: plt.Figure, name: str) -> None:
    """Writes the figure as docs/pictures/NAME.png."""
    figure.savefig(FOLDER / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def pixels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The glyphs of a split as embeddings (B, 784) of length one, blurred by pooling, and their classes (B,)."""
    bank = load_dataset("glyphs", split)
    images = functional.avg_pool2d(bank.batch(torch.arange(len(bank))), 3, stride=1, padding=1).flatten(1)
    return functional.normalize(images - images.mean(1, keepdim=True), dim=1), bank.labels


def verification() -> None:
    """How alike pairs of one class and pairs of two classes are, and the rates of every threshold."""
    embeddings, labels = pixels("test")
    drawn = EpisodeSampler(labels.bincount(), way=2, shot=2, query=0, seed=0).episodes(0, 5000).support
    same = (embeddings[drawn[:, 0, 0]] * embeddings[drawn[:, 0, 1]]).sum(1).numpy()
    different = (embeddings[drawn[:, 0, 0]] * embeddings[drawn[:, 1, 0]]).sum(1).numpy()
    thresholds = np.linspace(-1, 1, 2001)
    accepted = np.array([(same >= one).mean() for one in thresholds])
    wrongly = np.array([(different >= one).mean() for one in thresholds])
    equal = np.abs(1 - accepted - wrongly).argmin()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    bins = np.linspace(-0.4, 1, 57)
    left.hist(different, bins, color=ORANGE, alpha=0.7, label="two classes")
    left.hist(same, bins, color=BLUE, alpha=0.7, label="one class")
    left.axvline(thresholds[equal], color="black", linestyle="--", label="threshold of equal errors")
    left.set(xlabel="similarity of the two images", ylabel="pairs")
    left.legend(frameon=False)
    right.plot(100 * wrongly, 100 * accepted, color=BLUE)
    right.plot([0, 100], [100, 0], color=GREY, linewidth=0.8, linestyle="--")
    points = {"equal error rate": equal, "1 % false accepts": np.abs(wrongly - 0.01).argmin()}
    for name, place in points.items():
        point = 100 * wrongly[place], 100 * accepted[place]
        right.plot(*point, "o", color="black")
        right.annotate(name, point, xytext=(10, -12), textcoords="offset points")
    right.set(xlabel="false accepts (%)", ylabel="true accepts (%)", title="The area under this curve is the ROC AUC")
    right.title.set_fontsize(10)
    save(figure, "verification")


def retrieval() -> None:
    """Images with 7, 4 and 2 of their class among the eight nearest, which are framed blue; others are orange."""
    embeddings, labels = pixels("test")
    bank = load_dataset("glyphs", "test")
    similarities = embeddings @ embeddings.T
    similarities.fill_diagonal_(-torch.inf)
    nearest_of = similarities.topk(8).indices  # (B, 8)
    hits = (labels[nearest_of] == labels[:, None]).sum(1)
    figure, axes = plt.subplots(3, 9, figsize=(9, 3.5), layout="constrained")
    for row, wanted in zip(axes, (7, 4, 2)):
        query = int((hits == wanted).nonzero()[0])
        nearest = nearest_of[query]
        for column, (axis, image) in enumerate(zip(row, [query, *nearest.tolist()])):
            axis.imshow(bank.images[image, 0], cmap="gray")
            axis.set(xticks=[], yticks=[], title="query" if column == 0 else f"{column}")
            axis.title.set_fontsize(9)
            color = "black" if column == 0 else BLUE if labels[image] == labels[query] else ORANGE
            axis.spines[:].set(color=color, linewidth=1 if column == 0 else 3)
    save(figure, "retrieval")


def generalised() -> None:
    """Accuracy on queries of novel and of base classes by shots: class means of pixels, in one label space."""
    base, base_labels = pixels("train")
    novel, novel_labels = pixels("test")
    of_base = EpisodeSampler(base_labels.bincount(), way=int(base_labels.max()) + 1, shot=8, query=2, seed=0)
    known = of_base.episodes(0, 1)
    prototypes = functional.normalize(base[known.support[0]].mean(1), dim=1)
    shots, rows = (1, 2, 3, 5, 8), []
    for shot in shots:
        episodes = EpisodeSampler(novel_labels.bincount(), way=5, shot=shot, query=2, seed=0).episodes(0, 200)
        hits = []
        for support, query in zip(episodes.support, episodes.query):
            classes = torch.cat([functional.normalize(novel[support].mean(1), dim=1), prototypes])
            answers = (torch.cat([novel[query.flatten()], base[known.query.flatten()]]) @ classes.T).argmax(1)
            asked = torch.arange(len(classes)).repeat_interleave(2)  # two queries a class, novel classes first
            right = (answers == asked).double()
            hits.append((right[:10].mean().item(), right[10:].mean().item()))
        rows.append(100 * np.mean(hits, axis=0))
    of_novel, of_known = np.array(rows).T

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axis.plot(shots, of_known, "s-", color=GREY, label="base classes")
    axis.plot(shots, of_novel, "o-", color=BLUE, label="novel classes")
    axis.plot(shots, 2 * of_novel * of_known / (of_novel + of_known), "^--", color=ORANGE, label="harmonic mean")
    axis.set(xlabel="support images of a novel class (shots)", ylabel="accuracy (%)", xticks=shots)
    axis.set_ylim(0)
    axis.legend(frameon=False)
    save(figure, "generalised")


def sessions() -> None:
    """Accuracy on base and on novel classes after each session, of a committed run."""
    rows = read_protocols(REFERENCE / "sessions-omniglot")["sessions"]
    learners = rows[LEARNER].itertuples(index=False, name=None)
    styles = learner_styles(dict(zip(learners, labels(rows, seeds=False))))
    for measure in ("base", "novel"):
        figure = accuracy_by_session(by_session(rows, styles, measure), MEASURES[measure].capitalize())
        (FOLDER / f"sessions-{measure}.png").write_bytes(drawn(figure, "png"))


def over_the_episodes() -> None:
    """The accuracies of 10,000 episodes of one trained model, and the interval of their mean as episodes are added."""
    with np.load(REFERENCE / "quick-mini_imagenet" / "episodes.npz") as arrays:
        values = 100 * arrays["prototypical-euclidean-seed0/5way1shot"]
    counts = np.unique(np.geomspace(20, len(values), 200).astype(int))
    means, halves = np.array([over_episodes(values[:count]) for count in counts]).T

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.hist(values, np.arange(-2 / 3, 101, 4 / 3), color=BLUE)
    left.set(xlabel="accuracy of an episode (%)", ylabel="episodes")
    right.fill_between(counts, means - halves, means + halves, color=BLUE, alpha=0.3, linewidth=0)
    right.plot(counts, means, color=BLUE)
    right.set(xscale="log", xlabel="episodes", ylabel="mean accuracy and 95 % interval (%)")
    save(figure, "interval-episodes")


def over_the_seeds() -> None:
    """Three trainings of each learner of the paper preset, and the interval over them."""
    rows = pd.read_csv(REFERENCE / "paper-omniglot" / "results.csv").query("way == 20 and shot == 1")
    figure, axis = plt.subplots(figsize=(6, 3.0), layout="constrained")
    for place, learner in enumerate(LEARNERS):
        runs = rows[rows["learner"] == learner]
        mean, half = over_seeds(runs["accuracy"].to_numpy())
        axis.errorbar(mean, place, xerr=half, fmt="|", color="black", capsize=5, markersize=14)
        height = place - 0.2 + 0.08 * np.arange(len(runs))
        axis.errorbar(runs["accuracy"], height, xerr=runs["ci95"], fmt="o", color=BLUE, markersize=4)
    axis.set(yticks=range(len(LEARNERS)), yticklabels=LEARNERS, xlabel="20-way 1-shot accuracy on Omniglot (%)")
    axis.plot([], [], "|-", color="black", label="mean and interval over seeds")
    axis.errorbar([], [], xerr=[], fmt="o", color=BLUE, markersize=4, label="one training, interval over episodes")
    axis.set_ylim(len(LEARNERS) - 0.5, -0.5)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, "interval-seeds")


def over_pairs() -> None:
    """How wide the interval of a difference is, with the same episodes and with different ones."""
    with np.load(REFERENCE / "quick-mini_imagenet" / "episodes.npz") as arrays:
        own = {key.partition("-")[0]: 100 * values for key, values in arrays.items() if key.endswith("/5way1shot")}
    pairs = list(itertools.combinations(LEARNERS, 2))
    together = [paired(own[first], own[second]).ci95 for first, second in pairs]
    apart = [np.hypot(over_episodes(own[first]).ci95, over_episodes(own[second]).ci95) for first, second in pairs]
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    places = np.arange(len(pairs))
    axis.barh(places - 0.2, apart, 0.4, color=GREY, label="different episodes")
    axis.barh(places + 0.2, together, 0.4, color=BLUE, label="the same episodes, paired")
    axis.set(yticks=places, yticklabels=[" and ".join(pair) for pair in pairs])
    axis.set(xlabel="half-width of the interval of the difference (points), 5-way 1-shot")
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, "paired")


def over_test_sets() -> None:
    """Twenty simulated test sets of 40 classes: the interval over episodes, and the open one, against the truth."""
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    random, truth = np.random.default_rng(0), 70.0
    for test_set in range(20):
        classes = EpisodeSampler([2] * 40, way=5, shot=1, query=1, seed=test_set).episodes(0, 2000).classes.numpy()
        difficulties = random.normal(truth, 8, size=40)
        accuracies = difficulties[classes].mean(axis=1) + random.normal(0, 6, size=len(classes))
        mean, closed = over_episodes(accuracies)
        opened = over_classes(accuracies, classes, np.arange(40)).ci95
        axis.errorbar(test_set + 1, mean, yerr=opened, fmt="none", ecolor=BLUE, elinewidth=1.2, capsize=3)
        axis.errorbar(test_set + 1, mean, yerr=closed, fmt="_", color="black", elinewidth=4)
    axis.axhline(truth, color=GREY, linestyle="--")
    axis.set(xlabel="simulated test set", ylabel="accuracy (%)", xticks=[1, 5, 10, 15, 20])
    axis.plot([], [], color="black", linewidth=4, label="interval over episodes")
    axis.plot([], [], color=BLUE, label="open interval")
    axis.plot([], [], color=GREY, linestyle="--", label="mean of all possible classes")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(figure, "interval-open")


def coverage() -> None:
    """How often 95 % intervals hold what they are read as: the usual mistakes, and the interval for each question."""
    random, repeats = np.random.default_rng(0), 2000
    trainings = random.normal(0, 0.5, size=(repeats, 3))  # the means of three seeds, in points around the truth
    measured = trainings + random.normal(0, 10 / 100, size=trainings.shape)  # each over 10,000 episodes of spread 10
    means = measured.mean(axis=1)
    by_t = [over_seeds(one) for one in measured]
    closed, opened = np.array([_holds_other_classes(test_set, random) for test_set in range(200)]).T
    bars = {
        "another training\n(three seeds)": {
            "seeds times episodes as independent": abs(means) < 1.96 * np.hypot(measured.std(axis=1), 10) / 30000**0.5,
            "1.96 standard errors of three means": abs(means) < 1.96 * measured.std(axis=1) / 3**0.5,
            "Student's t over seeds": [abs(one.mean) < one.ci95 for one in by_t],
        },
        "other test classes\n(40 classes)": {"over episodes": closed, "open interval": opened},
    }
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    place, ticks = 0, []
    for question, kinds in bars.items():
        for number, (name, holds) in enumerate(kinds.items()):
            share, right = 100 * np.mean(holds), number == len(kinds) - 1
            axis.barh(place, share, color=BLUE if right else GREY)
            axis.text(share - 1, place, f"{share:.0f} %", color="white", ha="right", va="center", fontsize=9)
            ticks.append(name)
            place += 1
        axis.text(101, place - len(kinds) / 2 - 0.5, question, va="center", fontsize=9)
    axis.axvline(95, color="black", linestyle="--", linewidth=0.8)
    axis.set(
        yticks=range(place), yticklabels=ticks, xlim=(0, 100), xlabel="simulated intervals that hold the truth (%)"
    )
    axis.invert_yaxis()
    save(figure, "coverage")


def _holds_other_classes(test_set: int, random: np.random.Generator) -> tuple[bool, bool]:
    """Whether the interval over episodes and the open one hold the mean of all possible classes, which is 0."""
    classes = EpisodeSampler([2] * 40, way=5, shot=1, query=1, seed=test_set).episodes(0, 2000).classes.numpy()
    accuracies = random.normal(0, 8, size=40)[classes].mean(axis=1) + random.normal(0, 6, size=len(classes))
    mean, half = over_episodes(accuracies)
    return abs(mean) < half, abs(mean) < over_classes(accuracies, classes, np.arange(40)).ci95


def report_page() -> None:
    """The first table of the report of the committed run of the preset quick, as a browser shows it."""
    browser = os.environ.get("FEWSHOT_CHROMIUM")
    if not browser:
        print("report.png is left as it is: FEWSHOT_CHROMIUM names no browser")
        return
    with tempfile.TemporaryDirectory() as folder:
        page, shot = write_report(REFERENCE / "quick-omniglot", output=Path(folder)), Path(folder) / "shot.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        options += ["--force-device-scale-factor=1.5", "--window-size=1060,1020", f"--screenshot={shot}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, stderr=subprocess.DEVNULL, timeout=300)
        table = Image.open(shot).convert("RGB").crop((0, 570, 1590, 1530))  # below the head of the page
        table.quantize(64).save(FOLDER / "report.png", optimize=True)


def of_a_challenge() -> None:
    """The error rates of the 400 trials of Omniglot's challenge with their exact intervals, beside published ones."""
    rows = pd.read_csv(REFERENCE / "paper-omniglot-lake-oneshot" / "results.csv").set_index("learner")
    published = {"people": 4.5, "Bayesian program learning": 3.3, "Koch et al.'s Siamese network": 8.0}
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for place, learner in enumerate(LEARNERS):
        errors = round(400 * (1 - rows.loc[learner, "accuracy"] / 100))
        rate, low, high = (100 * value for value in proportion(errors, 400))
        axis.errorbar(rate, place, xerr=[[rate - low], [high - rate]], fmt="o", color=BLUE, capsize=4)
    for place, rate in enumerate(published.values(), start=len(LEARNERS)):
        axis.plot(rate, place, "D", color=GREY)
    axis.set(yticks=range(len(LEARNERS) + len(published)), yticklabels=[*LEARNERS, *published], xlim=(0, None))
    axis.set(xlabel="errors in 400 trials (%)")
    axis.set_ylim(len(LEARNERS) + len(published) - 0.5, -0.5)
    save(figure, "interval-exact")


if __name__ == "__main__":
    matplotlib.use("Agg")
    protocols, intervals = (
        (verification, retrieval, generalised, sessions),
        (over_the_episodes, over_the_seeds, over_pairs, over_test_sets, coverage),
    )
    for draw in (*protocols, *intervals, of_a_challenge, report_page):
        draw()
