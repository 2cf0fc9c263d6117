"""Kinds of episodes side by side: rows, differences, who is left out, difficulty, lists of episodes, and runs."""

import dataclasses
import itertools
import shutil
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import refusal, toy_bank, toy_splits

from episodes import EpisodeSampler, ImageBank
from episodes.kinds import kind_sampler
from episodes.kinds.listed import listed_lines
from fewshot import Traits
from fewshot.backbones import make_backbone
from fewshot.config import Training, evaluation_from
from fewshot.difficulty import separations
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import evaluate, run_episodes
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.learners.prototypical import Prototypical
from fewshot.models import ModelSpec
from fewshot.protocols.base import Task
from fewshot.protocols.kinds import PROTOCOL, kinds_for, open_width, trials
from fewshot.protocols.registry import check_protocols, measure, tell_remarks
from fewshot.records import array_name
from fewshot.report.difficulty import groups
from fewshot.run_folder import read_protocols, read_sheets
from fewshot.statistics import over_classes, paired, unpaired

COLUMNS = {"learner": "mine", "variant": "", "backbone": "pixels", "seed": 0, "model": "mine-seed0", "image_size": 16}
COLUMNS |= {"text": False, "external": False, "collapsed": False, "kept": "", "seen": "", "trained_on": ""}


def grouped(bank: ImageBank, size: int = 10) -> ImageBank:
    """The bank with groups of `size` classes, and a file for each image."""
    groups = tuple(f"group {number // size}" for number in range(bank.classes))
    files = tuple(f"{number:03d}.png" for number in range(len(bank)))
    return dataclasses.replace(bank, group_names=groups, files=files)


def noisy_bank() -> ImageBank:
    """Classes that are not all told apart, in three groups."""
    bank = grouped(toy_bank(30, 24, size=8, seed=3, split="test"))
    noise = torch.randint(0, 256, bank.images.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(bank, images=(0.25 * bank.images + 0.75 * noise).byte())


@pytest.fixture(scope="module")
def toy_banks():
    """The toy splits with groups and files."""
    return {split: grouped(bank) for split, bank in toy_splits(30, 24).items()}


class Transductive(Prototypical):
    variants: ClassVar = {"": Traits(transductive=True)}


class Semi(Prototypical):
    """Prototypes that are moved towards the mean of the unlabelled images."""

    def scores(self, support, query, mask=None, unlabelled=None):
        if unlabelled is not None:
            support = support + 0.5 * (unlabelled.mean(1)[:, None, None] - support)
        return super().scores(support, query, mask)


class EqualShots(NearestPixel):
    """A learner that takes the same number of support images of each class alone."""

    def scores(self, support, query):
        return super().scores(support, query)


def task_of(cls, bank: ImageBank, kinds: list[str], **wanted) -> Task:
    learner = cls(make_backbone("pixels", 1, 8), 30)
    settings = {"kinds": kinds, "ways": [5], "shots": [2], "query": 3, "episodes": 40, **wanted}
    evaluation = evaluation_from({"protocols": ["kinds"], "kinds": settings})
    columns = COLUMNS | {"transductive": learner.traits.transductive}
    spec = ModelSpec.of(Prototypical, bank, Training(backbone="pixels"))
    return Task(learner, spec, {"test": EmbeddedBank(learner, bank)}, evaluation, (), columns)


def measured(cls, bank: ImageBank, kinds: list[str], **wanted) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    rows, arrays = measure("kinds", task_of(cls, bank, kinds, **wanted))
    return pd.DataFrame(rows, columns=list(PROTOCOL.columns)), arrays


def test_each_kind_stands_beside_uniform_with_its_difference():
    bank = noisy_bank()
    rows, arrays = measured(Prototypical, bank, ["dirichlet:2", "within", "imbalance:linear", "any"], shots=[2, 3])
    ten = ["uniform", "dirichlet:2", "within", "imbalance:linear"]
    assert rows["kind"].tolist() == [*np.repeat(ten, 2), "any"]
    assert rows["shot"].tolist()[:8] == [2, 3] * 4
    assert set(rows["query"][:8]) == {3}
    assert PROTOCOL.unlike(rows, arrays) == [""] * 9
    values = {kind: 100 * arrays[array_name("mine-seed0", 5, 3, kind)] for kind in ten}
    found = rows[rows["shot"] == 3].set_index("kind")
    assert np.isnan(found.loc["uniform", "difference"])
    for kind, pairing in {"dirichlet:2": "paired", "imbalance:linear": "paired", "within": "unpaired"}.items():
        expected = {"paired": paired, "unpaired": unpaired}[pairing](values[kind], values["uniform"])
        assert found.loc[kind, "pairing"] == pairing
        told = found.loc[kind, "difference"], found.loc[kind, "difference_ci95"]
        assert told == pytest.approx(tuple(expected[:2]), abs=1e-4)
        assert found.loc[kind, "difference"] == pytest.approx(
            found.loc[kind, "accuracy"] - found.loc["uniform", "accuracy"], abs=2e-4
        )


def test_uniform_episodes_are_those_of_every_other_evaluation():
    bank = noisy_bank()
    _, arrays = measured(NearestPixel, bank, ["dirichlet:2"])
    learner = NearestPixel(make_backbone("pixels", 1, 8), 30)
    expected = evaluate(learner, bank, 5, 2, 3, 40, device="cpu").values
    assert (arrays["mine-seed0/uniform/5way2shot"] == expected).all()


def test_a_learner_without_a_mask_is_left_out_of_unequal_shots_alone(caplog):
    rows, _ = measured(EqualShots, noisy_bank(), ["imbalance:step", "within", "any"])
    assert rows["kind"].tolist() == ["uniform", "within"]
    assert "seed 0 is left out of kind imbalance:step: the classes of an episode have different" in caplog.text
    assert "scores of nearest-pixel has no argument mask" in caplog.text
    rows, _ = measured(Prototypical, noisy_bank(), ["imbalance:step"])
    assert rows["kind"].tolist() == ["uniform", "imbalance:step"]


def test_balanced_queries_of_a_transductive_learner_never_stand_alone():
    learner = Transductive(make_backbone("pixels", 1, 8), 30)
    assert kinds_for(learner, ["within"]) == ["uniform", "within", "dirichlet:2"]
    assert kinds_for(learner, ["dirichlet:1"]) == ["uniform", "dirichlet:1"]
    assert kinds_for(Prototypical(make_backbone("pixels", 1, 8), 30), ["within"]) == ["uniform", "within"]
    rows, arrays = measured(Transductive, noisy_bank(), ["within"])
    first = PROTOCOL.sheets(rows, arrays)[0]
    assert list(first.cells.columns) == ["uniform", "dirichlet:2", "within"]
    assert first.cells.index.tolist() == ["mine [transductive]"]


def test_rows_that_used_unlabelled_images_are_marked():
    rows, arrays = measured(Semi, noisy_bank(), ["semi", "semi:distractors"])
    assert rows["unlabelled"].tolist() == [False, True, True]
    cells = PROTOCOL.sheets(rows, arrays)[0].cells
    assert cells.index.tolist() == ["mine", "mine [unlabelled images]"]
    assert (cells.loc["mine [unlabelled images]"] != "–").tolist() == [False, True, True]
    rows, _ = measured(Prototypical, noisy_bank(), ["semi"])
    assert not rows["unlabelled"].any()
    assert rows["difference"].iloc[1] == 0  # a learner that uses none has the episodes of kind uniform


def test_kinds_with_ways_of_their_own_are_measured_once_and_say_so():
    rows, arrays = measured(Prototypical, noisy_bank(), ["any", "any:metadl"], ways=[5, 6], shots=[1, 2])
    own = rows[rows["kind"] != "uniform"]
    assert own["kind"].tolist() == ["any", "any:metadl"]
    assert own["way"].tolist() == [30, 20]
    assert own[["ci95_open", "difference"]].isna().all(axis=None)
    table = PROTOCOL.sheets(rows, arrays)[-1]
    assert "any has no fixed way and shot, but up to 30 ways" in table.caption
    assert list(table.cells.columns) == ["any", "any:metadl"]


def test_data_without_groups_are_refused_before_any_training():
    bank = dataclasses.replace(noisy_bank(), group_names=("",) * 30)
    wanted = evaluation_from({"protocols": ["kinds"], "kinds": {"kinds": ["within"]}})
    said = refusal(lambda: check_protocols(wanted, {"test": bank}))
    assert said.endswith("has no groups of classes: draw its episodes from all classes")


def test_the_open_interval_of_within_is_over_groups():
    bank = noisy_bank()
    task = task_of(Prototypical, bank, ["within"])
    uniform, within = trials(task.wanted, bank, ["uniform", "within"])
    result = run_episodes(task.learner, task.data["test"], within.sampler, 40)
    own = np.array([[int(bank.group_names[one[0]].split()[1])] for one in result.classes])
    assert open_width(within, result, bank) == over_classes(100 * result.values, own, np.arange(3)).ci95
    result = run_episodes(task.learner, task.data["test"], uniform.sampler, 40)
    assert open_width(uniform, result, bank) == over_classes(100 * result.values, result.classes, np.arange(30)).ci95


def test_unpaired_differences_are_welchs():
    random = np.random.default_rng(0)
    one, other = random.normal(0.5, 0.1, 50), random.normal(0.4, 0.2, 30)
    expected = scipy.stats.ttest_ind(one, other, equal_var=False)
    found = unpaired(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((low, high))


def test_separations_are_those_of_a_plain_loop():
    bank = noisy_bank()
    classes = EpisodeSampler(bank, 4, 1, 1).episodes(0, 5).classes.numpy()
    images = bank.images.numpy().reshape(30, 24, -1) / 255
    means = images.mean(1)
    spreads = np.sqrt(((images - means[:, None]) ** 2).sum(2).mean(1))
    for drawn, found in zip(classes, separations(bank, classes)):
        pairs = [np.linalg.norm(means[a] - means[b]) for a in drawn for b in drawn if a != b]
        assert found == pytest.approx(np.mean(pairs) / spreads[drawn].mean(), rel=1e-5)
    flat = dataclasses.replace(bank, images=bank.images[bank.offsets[:-1][bank.labels]])
    assert np.isinf(separations(flat, classes)).all()


def test_groups_of_episodes_are_of_equal_size_and_ordered():
    values = np.random.default_rng(0).permutation(np.append(np.arange(95.0), np.inf))
    found = groups(values)
    assert [len(part) for part in found] == [10] * 5 + [9] * 5
    assert (np.sort(np.concatenate([values[part] for part in found])) == np.arange(95)).all()
    assert all(values[one].max() < values[other].min() for one, other in itertools.pairwise(found))
    assert len(groups(np.arange(7.0))) == 3
    assert groups(np.arange(3.0)) == []


@pytest.mark.parametrize("kind", ["uniform", "dirichlet:2", "within", "imbalance:linear", "semi:distractors"])
def test_a_list_of_episodes_gives_the_same_accuracies(kind, call, toy_banks, tmp_path):
    path = tmp_path / "episodes.csv"
    options = "--way", 5, "--shot", 2, "--query", 3, "--episodes", 20, "--seed", 4
    said = call("data", "episodes", "--dataset", "glyphs", "--kind", kind, *options, "--output", path)
    assert (said.code, said.err) == (0, "")
    bank = toy_banks["test"]
    lines = pd.read_csv(path)
    assert lines.columns.tolist() == ["episode", "file", "label", "role"]
    assert lines["episode"].tolist() == sorted(lines["episode"])
    learner = Semi(make_backbone("pixels", 1, 16), 30)
    data = EmbeddedBank(learner, bank)
    samplers = [kind_sampler(one, bank, 5, 2, 3, 4) for one in (kind, f"listed:{path}")]
    found = [run_episodes(learner, data, sampler, 20) for sampler in samplers]
    assert (found[0].values == found[1].values).all()
    assert (found[0].classes == found[1].classes).all()


def test_images_that_a_list_cannot_name_are_refused(toy_banks):
    bank = dataclasses.replace(toy_banks["test"], files=())
    sampler = kind_sampler("uniform", bank, 5, 1, 3, 0)
    assert "does not know the files" in refusal(lambda: list(listed_lines(bank, sampler, 2)))
    bank = dataclasses.replace(bank, files=("one.png",) * len(bank))
    assert "the same file and label" in refusal(lambda: list(listed_lines(bank, sampler, 2)))


def test_another_list_of_episodes_is_another_setting(toy_banks, tmp_path):
    path = tmp_path / "episodes.csv"
    wanted = evaluation_from({"kinds": {"kinds": [f"listed:{path}"]}})
    told = []
    for text in ("one", "two"):
        path.write_text(text)
        told.append(PROTOCOL.settings(wanted, [1]))
    assert told[0] != told[1]
    assert "lists" not in PROTOCOL.settings(evaluation_from({}), [1])


@pytest.fixture(scope="module")
def run(call_once, preset, tmp_path_factory):
    """A finished run of kinds and episodes."""
    folder = tmp_path_factory.mktemp("kinds") / "run"
    options = "--way", "3,5", "--shot", 2, "--query", 3, "--episodes", 30, "--seed", "0,1", "--device", "cpu"
    kinds = "--protocol", "episodes,kinds", "--kind", "within,dirichlet:2"
    said = call_once("bench", "--preset", preset, "--learner", "npair", *kinds, *options, "--output", folder)
    assert said.code == 0, said.err
    return folder, said


def test_a_run_keeps_the_rows_of_all_kinds(run):
    folder, said = run
    rows = read_protocols(folder)["kinds"]
    assert len(rows) == 2 * 2 * 3
    assert "Kinds of episodes, 5-way 2-shot" in said.out
    titles = [sheet.title for sheet in read_sheets(folder)]
    assert titles.count("Kinds of episodes, 3-way 2-shot") == 2  # over seeds, and each
    episodes = pd.read_csv(folder / "results.csv").set_index(["seed", "way"])["accuracy"]
    uniform = rows[rows["kind"] == "uniform"].set_index(["seed", "way"])["accuracy"]
    assert (uniform == episodes[uniform.index]).all()


def test_a_finished_run_is_not_run_again(run, call, preset, trained):
    options = "--way", "3,5", "--shot", 2, "--query", 3, "--episodes", 30, "--seed", "0,1", "--device", "cpu"
    kinds = "--protocol", "episodes,kinds", "--kind", "within,dirichlet:2"
    said = call("bench", "--preset", preset, "--learner", "npair", *kinds, *options, "--output", run[0], "--resume")
    assert said.code == 0, said.err
    assert trained == []
    other = call("bench", "--preset", preset, "--protocol", "kinds", "--kind", "semi", "--output", run[0], "--resume")
    assert other.code == 2
    assert other.err.count("\n") == 1


def test_a_checkpoint_has_the_rows_of_its_run(run, call):
    options = "--way", 5, "--shot", 2, "--query", 3, "--episodes", 30, "--device", "cpu"
    checkpoint = run[0] / "checkpoints" / "npair-seed0" / "best.pt"
    said = call("evaluate", checkpoint, "--protocol", "kinds", "--kind", "within", *options)
    assert said.code == 0, said.err
    rows = read_protocols(run[0])["kinds"].set_index(["seed", "way", "kind"])
    for kind in ("uniform", "within"):
        assert f"{rows.loc[(0, 5, kind), 'accuracy']:.2f} ± {rows.loc[(0, 5, kind), 'ci95']:.2f}" in said.out
    said = call("evaluate", checkpoint, "--kind", "within")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "add --protocol kinds" in said.err


def test_the_report_shows_accuracy_against_difficulty(run, call, tmp_path):
    said = call("report", run[0], "--output", tmp_path)
    assert said.code == 0, said.err
    assert "Accuracy against difficulty" in (tmp_path / "report.html").read_text()
    assert {path.name for path in (tmp_path / "figures").glob("difficulty-*.svg")} == {
        "difficulty-uniform.svg",
        "difficulty-within.svg",
    }


def test_damaged_files_of_kinds_are_told(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    path = folder / "kinds.csv"
    rows = pd.read_csv(path)
    rows.assign(accuracy=1.0).to_csv(path, index=False)
    assert "kinds.csv says 1.0 % of npair, dirichlet:2 3-way 2-shot, seed 0" in refusal(lambda: read_protocols(folder))
    rows.to_csv(path, index=False)
    with np.load(folder / "kinds.npz") as arrays:
        kept = {name: array for name, array in arrays.items() if not name.startswith("separation")}
    np.savez(folder / "kinds.npz", **kept)
    assert "does not hold 30 separations" in refusal(lambda: read_protocols(folder))


@pytest.mark.parametrize(("query", "told"), [(22, True), (21, False)])
def test_dirichlet_queries_that_take_all_images_of_their_classes_are_told(toy_banks, caplog, query, told):
    own = {"kinds": ["dirichlet:2"], "ways": [3, 5], "shots": [2], "query": query}
    tell_remarks(evaluation_from({"protocols": ["kinds"], "kinds": own}), toy_banks)
    said = "dirichlet:2 has uniform queries in 2-shot episodes: the classes have 24 images, and 22 queries a class take"
    assert caplog.text.count(said) == told
