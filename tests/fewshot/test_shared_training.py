"""Learners that share one training have the rows of trainings of their own."""

import pandas as pd
import pytest

from fewshot import shared_training
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.learners.simpleshot import SimpleShot
from fewshot.plan import plan
from fewshot.shared_training import leaders_of, training_key
from fewshot.trail import Trail, remove_trail

CLOCK = ["train_seconds", "eval_seconds"]
LEARNERS = ["baseline", "npair", "simpleshot", "sklearn", "simpleshot:l2n"]
SETTINGS = """
[evaluation]
ways = [3]
shots = [1]
query = 3
episodes = 20
[validation]
way = 5
query = 3
episodes = 20
[training]
steps = 5
validate_every = 2
precision = "float32"
batches = {size = 20}
[learner.npair]
batches = {classes = 10, images = 2}
[learner.meta-baseline]
batches = {classes = 10, images = 2}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("presets") / "shared.toml"
    path.write_text(SETTINGS)
    return str(path)


@pytest.fixture(scope="module")
def alone(settings, toy_banks, tmp_path_factory) -> pd.DataFrame:
    """The rows of the learners, each in a run of its own."""
    homes = {learner: tmp_path_factory.mktemp("alone") for learner in LEARNERS}
    found = [run(settings, toy_banks, home, [learner]) for learner, home in homes.items()]
    return pd.concat(found, ignore_index=True)


def run(settings, toy_banks, folder, learners=LEARNERS, **more) -> pd.DataFrame:
    run_benchmark(load_config(settings, learners), toy_banks, folder, device="cpu", progress=False, **more)
    return pd.read_csv(folder / "results.csv", keep_default_na=False, dtype=str).drop(columns=CLOCK)


def test_heads_of_one_classifier_share_its_training(settings, toy_banks):
    models = plan(load_config(settings, LEARNERS, seeds=[0, 1]), toy_banks)
    found = leaders_of(models)
    shared = ("simpleshot-cl2n", "sklearn-LogisticRegression", "simpleshot-l2n")
    assert found == {f"{name}-seed{seed}": f"baseline-seed{seed}" for name in shared for seed in (0, 1)}


def test_what_changes_the_training_or_its_settings_is_trained_alone(settings, toy_banks, tmp_path):
    class OtherLoss(SimpleShot):
        def loss(self, images, labels):
            return 2 * super().loss(images, labels)

    class OtherMode(SimpleShot):
        def train(self, mode=True):
            return super().train(mode)

    (model,) = plan(load_config(settings, ["simpleshot"]), toy_banks)
    assert training_key(SimpleShot, model.spec)
    assert training_key(OtherLoss, model.spec) not in ("", training_key(SimpleShot, model.spec))
    assert not training_key(OtherMode, model.spec)
    path = tmp_path / "other.toml"
    path.write_text(SETTINGS + "[learner.simpleshot]\nlearning_rate = 0.01\n")
    assert not leaders_of(plan(load_config(str(path), ["baseline", "simpleshot"]), toy_banks))


def test_rows_are_those_of_separate_trainings_and_say_whose_training_they_share(settings, toy_banks, alone, tmp_path):
    rows = run(settings, toy_banks, tmp_path)
    pd.testing.assert_frame_equal(rows.drop(columns="shares"), alone.drop(columns="shares"))
    assert dict(zip(rows["model"], rows["shares"])) == {
        "baseline-seed0": "",
        "npair-seed0": "",
        **dict.fromkeys(
            ["simpleshot-cl2n-seed0", "simpleshot-l2n-seed0", "sklearn-LogisticRegression-seed0"], "baseline-seed0"
        ),
    }
    assert set(alone["shares"]) == {""}
    assert not list(tmp_path.glob("checkpoints/*/trail"))


def test_a_run_that_is_stopped_while_a_learner_follows_goes_on_to_the_same_rows(
    settings, toy_banks, alone, tmp_path, monkeypatch
):
    learners = ["baseline", "simpleshot"]
    loss, began = SimpleShot.begin_validation, []

    def stop(self, base):
        began.append(1)
        if len(began) == 2:  # in the middle of following
            raise KeyboardInterrupt
        return loss(self, base)

    monkeypatch.setattr(SimpleShot, "begin_validation", stop)
    with pytest.raises(KeyboardInterrupt):
        run(settings, toy_banks, tmp_path / "run", learners)
    monkeypatch.setattr(SimpleShot, "begin_validation", loss)
    rows = run(settings, toy_banks, tmp_path / "run", learners, resume=True)
    assert rows["shares"].tolist() == ["", "baseline-seed0"]
    own = alone[alone["learner"].isin(learners) & (alone["variant"] != "l2n")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.drop(columns="shares"), own.drop(columns="shares"))


def test_a_learner_without_a_whole_trail_trains_itself(settings, toy_banks, alone, tmp_path):
    run(settings, toy_banks, tmp_path, ["baseline"])
    rows = run(settings, toy_banks, tmp_path, ["baseline", "simpleshot"], resume=True)
    assert rows["shares"].tolist() == ["", ""]
    own = alone[alone["model"] == "simpleshot-cl2n-seed0"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows[1:].reset_index(drop=True), own)


def test_a_learner_that_trains_other_weights_trains_itself(settings, toy_banks, tmp_path):
    file = tmp_path / "frozen.py"
    file.write_text(
        "from fewshot.learners.simpleshot import SimpleShot\n\n\n"
        "class Frozen(SimpleShot):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        self.backbone.requires_grad_(False)\n"
    )
    asked = f"{file}:Frozen"
    assert leaders_of(plan(load_config(settings, ["baseline", asked]), toy_banks))
    rows = run(settings, toy_banks, tmp_path / "both", ["baseline", asked])
    assert rows["shares"].tolist() == ["", ""]
    alone = run(settings, toy_banks, tmp_path / "alone", [asked])
    pd.testing.assert_frame_equal(rows[1:].reset_index(drop=True), alone)


def test_a_trail_of_other_code_leads_nobody(settings, toy_banks, monkeypatch):
    (model,) = plan(load_config(settings, ["simpleshot"]), toy_banks)
    key = training_key(model.cls, model.spec)
    for name, found in {"learner_code": "other", "packages": {"torch": "other"}}.items():
        with monkeypatch.context() as patch:
            patch.setattr(shared_training, name, lambda *_, found=found: found)
            assert training_key(model.cls, model.spec) not in ("", key)


def test_a_trail_that_another_process_removes_leads_to_its_end(settings, toy_banks, alone, tmp_path, monkeypatch):
    learners, follow = ["baseline", "simpleshot"], Trail.follow

    def removed_meanwhile(self, learner, step):
        remove_trail(tmp_path / "checkpoints" / "baseline-seed0")
        return follow(self, learner, step)

    monkeypatch.setattr(Trail, "follow", removed_meanwhile)
    rows = run(settings, toy_banks, tmp_path, learners)
    assert rows["shares"].tolist() == ["", "baseline-seed0"]
    own = alone[alone["learner"].isin(learners) & (alone["variant"] != "l2n")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.drop(columns="shares"), own.drop(columns="shares"))
    assert not list(tmp_path.glob("checkpoints/*/trail"))


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory) -> str:
    """Settings for learners that train on batches of classes; the head `tip-adapter` has a smaller common space."""
    path = tmp_path_factory.mktemp("presets") / "pairs.toml"
    text = SETTINGS.replace("{size = 20}", "{classes = 10, images = 2}")
    path.write_text(text + "[learner.tip-adapter]\noptions = {size = 16}\n")
    return str(path)


def test_heads_on_image_text_features_share_the_training_of_clip(of_pairs, toy_banks):
    models = plan(load_config(of_pairs, ["clip", "clip:mixed", "lp++", "coop", "npair"]), toy_banks)
    followers = [model.spec.name for model in models if model.spec.learner != "npair"][1:]
    assert leaders_of(models) == dict.fromkeys(followers, models[0].spec.name)


def test_a_head_of_another_size_has_other_weights_and_trains_itself(of_pairs, toy_banks, tmp_path):
    rows = run(of_pairs, toy_banks, tmp_path, ["clip", "tip-adapter", "coop"])
    assert dict(zip(rows["learner"], rows["shares"])) == {"clip": "", "tip-adapter": "", "coop": "clip-few-shot-seed0"}
    apart = run(of_pairs, toy_banks, tmp_path / "alone", ["coop"])
    together = rows[rows["learner"] == "coop"].reset_index(drop=True)
    pd.testing.assert_frame_equal(together.drop(columns="shares"), apart.drop(columns="shares"))


PAIRS = [
    ["npair@conv4-32", "npair@conv4-32-mirrored"],  # a loss of pairs
    ["meta-baseline@conv4-32-mirrored", "meta-baseline@conv4-32"],  # two stages
    ["simpleshot@conv4-32", "baseline@conv4-32-mirrored"],  # heads of one classifier
]


@pytest.mark.parametrize("learners", PAIRS, ids=lambda learners: learners[0])
def test_a_network_and_its_mirrored_form_share_one_training(settings, toy_banks, tmp_path, learners):
    apart = [run(settings, toy_banks, tmp_path / learner, [learner]) for learner in learners]
    together = run(settings, toy_banks, tmp_path / "both", learners)
    assert together["shares"].tolist() == ["", together["model"][0]]
    apart = pd.concat(apart, ignore_index=True)
    pd.testing.assert_frame_equal(together.drop(columns="shares"), apart.drop(columns="shares"))
    assert together["accuracy"].nunique() == 2


def test_models_of_other_options_or_seeds_do_not_share_a_training(settings, toy_banks, tmp_path):
    path = tmp_path / "other.toml"
    path.write_text(SETTINGS + '[learner."npair@conv4-mirrored"]\noptions = {temperature = 2.0}\n')
    learners = ["npair", "npair@conv4-mirrored", "npair@conv4-32-mirrored"]
    assert leaders_of(plan(load_config(str(path), learners, seeds=[0, 1]), toy_banks)) == {}
