"""fewshot tune: the same search for every learner, on training and validation classes alone."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import encoded, refusal, toy_bank

pytest.importorskip("optuna")

import optuna
from optuna.trial import TrialState

import fewshot.benchmark
import fewshot.tuning.study
import fewshot.tuning.trial
from episodes.batches import batches_from
from fewshot.config import Training, load_config
from fewshot.learners.prototypical import Prototypical
from fewshot.learners.registry import find_learner
from fewshot.models import ModelSpec
from fewshot.tuning.output import write_results
from fewshot.tuning.results import Found
from fewshot.tuning.run import tunable
from fewshot.tuning.space import Space
from fewshot.tuning.study import SearchFolder, read_search

ROOT = Path(__file__).parents[2]
BUDGET = 400  # images of a training

# a learner whose training fails as a search may well make it fail: a loss of nan, or embeddings that are all the same
FAULTY = """
import torch
from fewshot.learners.prototypical import Prototypical

class Faulty(Prototypical):
    search = {"temperature": (0.5, 2.0)}

    def loss(self, images, labels):
        loss = super().loss(images, labels)
        return loss if self.temperature == 1.0 else loss * torch.nan

class Never(Prototypical):
    def loss(self, images, labels):
        return super().loss(images, labels) * torch.nan
"""

# the second trial kills its process after its first validation
KILLED = """
import os, signal, sys
from conftest import toy_splits
import fewshot.benchmark
from fewshot.cli import main
from optuna.trial import Trial

banks = toy_splits(30, 24)
fewshot.benchmark.load_dataset = lambda name, split, **_: banks[split]
report = Trial.report

def report_and_die(self, value, step):
    report(self, value, step)
    if self.user_attrs["place"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)

Trial.report = report_and_die
main(sys.argv[1:])
"""


def arguments(preset, folder, *more, learner="prototypical", trials=3, budget=BUDGET) -> list:
    settings = ["--preset", preset, "--learner", learner, "--device", "cpu", "--dataset", "omniglot"]
    return ["tune", *settings, "--trials", trials, "--budget", budget, "--output", folder, *more]


def trials_of(folder) -> pd.DataFrame:
    """trials.csv without the clock."""
    return pd.read_csv(folder / "trials.csv", keep_default_na=False).drop(columns="seconds")


@pytest.fixture(scope="module")
def searched(call_once, preset, tmp_path_factory):
    """The folder of a search of two learners; to be read only."""
    folder = tmp_path_factory.mktemp("searches") / "searched"
    said = call_once(*arguments(preset, folder, learner="prototypical,npair", trials=8))
    assert said.code == 0, said.err
    return folder


def test_a_search_writes_its_files(searched):
    assert {path.name for path in searched.iterdir() if not path.name.startswith(".")} == {
        *("search.json", "study.journal", "tuned.toml", "gains.csv", "importance.csv", "trials.csv", "search.html")
    }
    gains = pd.read_csv(searched / "gains.csv")
    assert sorted(gains["learner"]) == ["npair", "prototypical"]
    assert gains["trials"].eq(8).all()
    assert (gains["tuned"] >= gains["untuned"]).all()
    np.testing.assert_allclose(gains["tuned"] - gains["untuned"], gains["gain"], atol=2e-4)


def test_the_untuned_settings_are_the_first_trial_and_no_trial_sees_more_images_than_the_budget(searched):
    trials = pd.read_csv(searched / "trials.csv")
    starts = trials[trials["trial"] == 0].set_index("learner")
    assert starts["state"].eq("finished").all()
    assert starts.loc["prototypical", ["learning_rate", "batch", "weight_decay"]].tolist() == [3e-3, 40, 0]
    assert trials["seen"].max() <= BUDGET
    assert (trials.loc[trials["state"] == "finished", "seen"] > BUDGET / 2).all()


def test_importances_add_up_to_one(searched):
    importance = pd.read_csv(searched / "importance.csv")
    np.testing.assert_allclose(importance.groupby("learner")["importance"].sum(), 1)
    assert "temperature" in set(importance["option"])


def test_the_page_loads_nothing(searched):
    page = (searched / "search.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|src=|<script|@import|url\(", page)
    assert page.count("<circle") >= 10
    assert "prototypical" in page


def test_the_preset_of_a_search_runs_as_it_is(searched, call, tmp_path):
    tuned = load_config(str(searched / "tuned.toml"))
    assert sorted(tuned.learner) == ["npair", "prototypical"]
    said = call("bench", "--preset", searched / "tuned.toml", "--seed", "0,1", "--output", tmp_path / "run")
    assert said.code == 0, said.err
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["seed"]) == {0, 1}


def test_the_same_command_searches_the_same_and_another_seed_does_not(searched, call, preset, tmp_path):
    both = {"learner": "prototypical,npair", "trials": 8}
    assert call(*arguments(preset, tmp_path / "again", **both)).code == 0
    pd.testing.assert_frame_equal(trials_of(tmp_path / "again"), trials_of(searched))
    assert (tmp_path / "again" / "tuned.toml").read_text() == (searched / "tuned.toml").read_text()
    assert call(*arguments(preset, tmp_path / "other", "--seed", 1)).code == 0
    other = trials_of(tmp_path / "other")
    assert set(other["learning_rate"][1:]).isdisjoint(trials_of(searched)["learning_rate"])


def test_no_test_class_is_opened(call, preset, toy_banks, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        fewshot.benchmark, "load_dataset", lambda name, split, **_: opened.append(split) or toy_banks[split]
    )
    assert call(*arguments(preset, tmp_path / "search")).code == 0
    assert set(opened) == {"train", "validation"}


def test_an_interrupted_search_goes_on_as_if_it_had_not_been_interrupted(call, preset, tmp_path, monkeypatch):
    assert call(*arguments(preset, tmp_path / "whole", trials=4)).code == 0
    train, calls = fewshot.tuning.trial.train, []

    def interrupted(*given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*given, **named)

    monkeypatch.setattr(fewshot.tuning.trial, "train", interrupted)
    said = call(*arguments(preset, tmp_path / "parts", trials=4))
    assert (said.code, "--resume" in said.err) == (130, True)
    assert call(*arguments(preset, tmp_path / "parts", "--resume", trials=4)).code == 0
    pd.testing.assert_frame_equal(trials_of(tmp_path / "parts"), trials_of(tmp_path / "whole"))


def test_a_killed_search_loses_its_running_trial_alone(call, preset, tmp_path):
    again = [str(one) for one in arguments(preset, tmp_path / "killed")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *again], env={**os.environ, "PYTHONPATH": paths}, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    journal = tmp_path / "killed" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 6, "wor')  # a line that the kill cut short
    assert call(*again, "--resume").code == 0
    assert call(*arguments(preset, tmp_path / "whole")).code == 0
    pd.testing.assert_frame_equal(trials_of(tmp_path / "killed"), trials_of(tmp_path / "whole"))


def test_a_search_goes_on_with_more_trials_and_learners_but_with_no_other_settings(call, preset, tmp_path):
    folder = tmp_path / "search"
    assert call(*arguments(preset, folder, trials=2)).code == 0
    first = trials_of(folder)
    said = call(*arguments(preset, folder, trials=2))
    assert (said.code, "--resume" in said.err) == (2, True)
    said = call(*arguments(preset, folder, "--resume", trials=2, budget=2 * BUDGET))
    assert (said.code, "other settings" in said.err) == (2, True)
    assert call(*arguments(preset, folder, "--resume", trials=3, learner="npair,prototypical")).code == 0
    both = trials_of(folder)
    assert both["learner"].value_counts().to_dict() == {"prototypical": 3, "npair": 3}
    kept = both[both["learner"] == "prototypical"][:2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[["trial", "accuracy", "batch"]], first[["trial", "accuracy", "batch"]])


def test_trials_of_other_code_are_told(call, preset, tmp_path, monkeypatch):
    assert call(*arguments(preset, tmp_path / "search", trials=2)).code == 0
    assert "another version" not in call(*arguments(preset, tmp_path / "search", "--resume", trials=2)).out
    monkeypatch.setattr(fewshot.tuning.study, "suite_code", lambda: "changed")
    assert "2 trials" in call(*arguments(preset, tmp_path / "search", "--resume", trials=2)).out


def test_failed_trainings_are_failed_trials(call, preset, tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY)
    said = call(*arguments(preset, tmp_path / "search", learner=f"{tmp_path / 'mine.py'}:Faulty"))
    assert said.code == 0, said.err
    trials = trials_of(tmp_path / "search")
    assert trials["state"].tolist() == ["finished", "failed", "failed"]
    assert trials["failure"].str.contains("NaN").tolist() == [False, True, True]
    gains = pd.read_csv(tmp_path / "search" / "gains.csv")
    assert gains.loc[0, ["gain", "chosen", "failed"]].tolist() == [0, 0, 2]


def test_a_search_in_which_all_fails_says_so(call, preset, tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY)
    said = call(*arguments(preset, tmp_path / "search", learner=f"{tmp_path / 'mine.py'}:Never"))
    assert (said.code, "trials.csv says why" in said.err) == (2, True)
    assert not (tmp_path / "search" / "tuned.toml").exists()


def test_several_processes_share_a_search(call_plain, preset, tmp_path):
    random = np.random.default_rng(0)
    for label in range(20):
        (tmp_path / "pictures" / f"kind {label:02d}").mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(random.normal(12 * label, 20, (16, 16)), 0, 255).astype(np.uint8)
            (tmp_path / "pictures" / f"kind {label:02d}" / f"{number}.png").write_bytes(encoded(pixels))
    given = arguments(preset, tmp_path / "search", "--workers", 2, "--size", 16, learner="prototypical,npair")
    given[given.index("omniglot")] = tmp_path / "pictures"
    said = call_plain(*given)
    assert said.code == 0, said.err
    trials = trials_of(tmp_path / "search")
    assert trials.groupby("learner")["trial"].apply(sorted).to_dict() == {"npair": [0, 1, 2], "prototypical": [0, 1, 2]}
    assert trials["state"].ne("failed").all()
    assert not list((tmp_path / "search").glob(".worker-*"))


def test_processes_never_claim_the_same_trial_and_give_up_those_of_the_dead(searched, tmp_path):
    search = read_search(searched).model_copy(update={"trials": 4})
    space = Space.of(Prototypical, search.config.learner["prototypical"], BUDGET, toy_bank(30, 24))
    one, other = SearchFolder(tmp_path, search), SearchFolder(tmp_path, search)
    with other.working() as second, contextlib.ExitStack() as alive:
        first = alive.enter_context(one.working())
        claims = [(one, first), (other, second), (one, first), (other, second), (one, first)]
        trials = [folder.claim("prototypical", worker, space.in_optuna) for folder, worker in claims]
        assert trials.pop() is None
        assert [trial.user_attrs["place"] for trial in trials] == [0, 1, 2, 3]
        alive.close()  # the first process ends, and its two trials are lost, the untuned start among them
        again = [other.claim("prototypical", second, space.in_optuna) for _ in range(3)]
        assert again.pop() is None
        assert [(trial.number, trial.user_attrs["place"]) for trial in again] == [(4, 0), (5, 2)]
        assert again[0].params == trials[0].params == space.in_optuna.start


def test_a_trial_whose_process_ended_stops_no_other(searched, tmp_path):
    """The same accuracies after a quarter stop the same trials, whether or not a process ends on the way."""
    search = read_search(searched).model_copy(update={"trials": 6})
    space = Space.of(Prototypical, search.config.learner["prototypical"], BUDGET, toy_bank(30, 24))
    after_a_quarter = [50.0, 60.0, 55.0, 58.0, 57.0, 59.0]

    def stopped(path: Path, lost: set[int]) -> dict[int, bool]:
        found: dict[int, bool] = {}
        while len(found) < search.trials:
            folder = SearchFolder(path, search)
            with folder.working() as worker:
                trial = folder.claim("prototypical", worker, space.in_optuna)
                place = trial.user_attrs["place"]
                trial.report(after_a_quarter[place], 1)
                found[place] = trial.should_prune()
                if place in lost:
                    lost.remove(place)
                    del found[place]
                    continue
                folder.tell("prototypical", trial, None if found[place] else after_a_quarter[place])
        return found

    whole = stopped(tmp_path / "whole", set())
    assert whole == {0: False, 1: False, 2: True, 3: False, 4: True, 5: False}
    assert stopped(tmp_path / "parts", {1, 2}) == whole


def test_the_results_are_of_all_learners_that_any_process_searches(call, preset, tmp_path):
    folder = tmp_path / "search"
    assert call(*arguments(preset, folder, trials=2)).code == 0
    first = SearchFolder(folder, read_search(folder))
    said = call(*arguments(preset, folder, "--resume", trials=1, learner="npair"))
    assert said.code == 0
    assert f"The search in {folder} has 2 trials of each learner: it goes on with as many" in said.out
    assert set(write_results(first)["learner"]) == {"prototypical", "npair"}
    assert trials_of(folder)["learner"].value_counts().to_dict() == {"prototypical": 2, "npair": 2}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--learner", "nearest-pixel"], "does not train"),
        (["--seed", "0,1"], "one seed"),
        (["--budget", "7"], "less than one batch"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(call, preset, tmp_path, more, why):
    said = call(*arguments(preset, tmp_path / "search"), *more)
    assert (said.code, why in said.err, len(said.err.splitlines())) == (2, True, 1)
    assert not (tmp_path / "search").exists()


def test_all_stands_for_the_learners_that_train_without_weights():
    tuned = tunable(load_config("quick", ["all"], dataset="omniglot"), every=True).learner
    assert {"prototypical", "maml", "simpleshot"} <= set(tuned)
    assert {"nearest-pixel", "openclip"}.isdisjoint(tuned)


def _trial(place: int, accuracy: float, fresh: list[float]) -> optuna.trial.FrozenTrial:
    about = {"place": place, "fresh": fresh, "images": 1, "seconds": 1.0}
    return optuna.trial.create_trial(state=TrialState.COMPLETE, value=accuracy, user_attrs=about)


def test_a_best_trial_that_gains_nothing_in_fresh_episodes_leaves_the_start():
    start = _trial(0, 50.0, [50.0, 60.0, 40.0])
    lucky, good = _trial(1, 70.0, [49.0, 58.0, 41.0]), _trial(2, 80.0, [60.0, 69.0, 51.0])
    kept, tuned = Found("one", [start, lucky]), Found("one", [start, lucky, good])
    assert (kept.chosen, kept.row["gain"], kept.row["tuned"]) == (start, 0, 50)
    assert (tuned.chosen, tuned.row["gain"], tuned.row["tuned"]) == (good, pytest.approx(10), pytest.approx(60))


@pytest.mark.parametrize("dataset", ["omniglot", "mini_imagenet"])
def test_every_learner_of_the_suite_trains_anywhere_in_its_space(dataset):
    config = tunable(load_config("quick", ["all"], dataset=dataset), every=True)
    bank = toy_bank(64, 20, size=28)
    for asked, untuned in config.learner.items():
        cls, variant = find_learner(asked)
        space = Space.of(cls, untuned, 2000, bank)
        (distributions, values), near = space.in_optuna, space.settings(space.in_optuna.start)
        random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        assert all(one._contains(one.to_internal_repr(values[name])) for name, one in distributions.items())
        for settings in (near, *(space.settings(random.ask(distributions).params) for _ in range(4))):
            assert 2000 - 512 < settings.steps * len(batches_from(settings.batches)) <= 2000
            learner = ModelSpec.of(cls, bank, settings, variant=variant).build(cls)
            learner.check_batches(batches_from(settings.batches))


def test_an_invalid_search_of_a_class_is_refused():
    bank = toy_bank()

    def refused(**search) -> str:
        cls = type("Mine", (Prototypical,), {"search": search})
        return refusal(lambda: Space.of(cls, Training(batches={"classes": 5, "images": 4}), 100, bank))

    assert "write (low, high)" in refused(temperature=(2.0, 1.0))
    assert "write (low, high)" in refused(temperature=(0.0, 1.0, "log"))
    assert "did you mean" in refused(temprature=(1.0, 2.0))
    assert "of type int" in refused(shot=(1.0, 2.0))
