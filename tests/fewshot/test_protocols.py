"""Protocols in runs and of checkpoints: files, resuming, held-out images, and one line for each error."""

import dataclasses
import shutil
import tomllib

import pandas as pd
import pytest
import tomli_w
import torch
from conftest import refusal, toy_bank, toy_splits

import fewshot.benchmark
import fewshot.model_runs
from fewshot import records, tables
from fewshot.benchmark import open_data, run_benchmark
from fewshot.config import load_config
from fewshot.learners.npair import NPair
from fewshot.protocols.registry import PROTOCOLS, measure, protocol_sheets

PRESET = """
learners = ["npair", "nearest-pixel"]
[data]
held_out = 4
[evaluation]
protocols = ["episodes", "verification", "retrieval", "generalised"]
ways = [3]
shots = [1]
query = 3
episodes = 20
[evaluation.verification]
pairs = 300
[evaluation.generalised]
way = 3
shots = [1, 5]
query = 2
episodes = 30
[validation]
way = 5
query = 3
episodes = 10
[training]
steps = 2
validate_every = 2
precision = "float32"
[learner.npair]
backbone = "conv4-32"
batches = {classes = 10, images = 2}
[learner.nearest-pixel]
backbone = "pixels"
"""
OTHERS = ("verification", "retrieval", "generalised")
FEW = 'protocols = ["episodes"]'
ALL = 'protocols = ["episodes", "verification", "retrieval", "generalised"]'


@pytest.fixture(scope="module")
def toy_banks():
    """Toy banks smaller than those of other tests, with the same name: 14 classes of 12 images."""
    return toy_splits(14, 12)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("presets") / "protocols.toml"
    found.write_text(PRESET)
    return found


def bench(path, banks, folder, learners=None, protocols=None, **more) -> pd.DataFrame:
    config = load_config(str(path), learners, protocols=protocols)
    return run_benchmark(config, banks, folder, device="cpu", progress=False, **more)


@pytest.fixture(scope="module")
def finished(path, toy_banks, tmp_path_factory):
    """The folder of a run of all protocols; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    bench(path, toy_banks, folder)
    return folder


@pytest.fixture(scope="module")
def episodes_alone(path, toy_banks, tmp_path_factory):
    """The folder of a run of episodes; to be copied."""
    folder = tmp_path_factory.mktemp("runs") / "episodes"
    bench(path, toy_banks, folder, protocols=["episodes"])
    return folder


@pytest.fixture
def worked(monkeypatch):
    """The names of the learners and protocols that are trained and measured from here on."""
    done, train = [], fewshot.model_runs.train
    monkeypatch.setattr(
        fewshot.model_runs, "train", lambda learner, *a, **k: done.append(learner.name) or train(learner, *a, **k)
    )
    monkeypatch.setattr(
        fewshot.model_runs, "measure", lambda protocol, *a: done.append(protocol) or measure(protocol, *a)
    )
    return done


def rows(folder, protocol) -> pd.DataFrame:
    return pd.read_csv(folder / f"{protocol}.csv", keep_default_na=False)


def test_each_protocol_has_its_tidy_rows(finished):
    for protocol in OTHERS:
        found = rows(finished, protocol)
        assert list(found.columns) == list(PROTOCOLS[protocol].columns)
        shots = 2 if protocol == "generalised" else 1
        assert found["learner"].tolist() == ["npair"] * shots + ["nearest-pixel"] * shots
        assert (found[["dataset", "split", "seed", "image_size"]] == ["toy", "test", 0, 16]).all(axis=None)
        measured = [name for name in found if f"{name}_ci95" in found]
        assert found[measured].to_numpy().min() >= 0
        assert found[measured].to_numpy().max() <= 100
    assert rows(finished, "retrieval")["recall1"].max() > 80
    assert rows(finished, "verification").query("learner == 'nearest-pixel'")["auc"].item() > 95
    assert rows(finished, "generalised")["base_known"].unique().tolist() == ["8 images"]
    assert rows(finished, "generalised")["base_classes"].unique().tolist() == [14]


def test_each_protocol_has_its_tables_for_readers(finished):
    page, paper = (finished / "results.md").read_text(), (finished / "results.tex").read_text()
    for title in ("## Verification", "## Retrieval", "## Generalised, queries of novel classes"):
        assert title in page
    row = rows(finished, "verification").iloc[0]
    cells = [f"{row[name]:.2f} ± {row[f'{name}_ci95']:.2f}" for name in ("auc", "eer", "accuracy", "tar")]
    for cell in cells:
        assert cell in page
        assert cell.replace("±", r"$\pm$") in paper
    assert page.index("queries a class") < page.index("## Verification") < page.index("## Retrieval")


def test_the_order_of_protocols_and_learners_does_not_matter(path, finished, toy_banks, tmp_path):
    for protocol in reversed(OTHERS):
        bench(
            path, toy_banks, tmp_path, ["nearest-pixel"], [protocol], resume=tmp_path.joinpath("config.toml").exists()
        )
    for protocol in OTHERS:
        ours, theirs = (rows(folder, protocol).drop(columns="eval_seconds") for folder in (tmp_path, finished))
        theirs = theirs[theirs["learner"] == "nearest-pixel"].reset_index(drop=True)
        pd.testing.assert_frame_equal(ours, theirs)
    assert not (tmp_path / "results.csv").exists()
    results = bench(path, toy_banks, tmp_path, ["nearest-pixel"], ["episodes"], resume=True)
    assert len(results) == 1
    settings = tomllib.loads((tmp_path / "config.toml").read_text())["evaluation"]
    assert settings["protocols"] == ["episodes", *OTHERS]


def test_a_finished_run_gets_more_protocols_without_training(
    path, episodes_alone, finished, toy_banks, tmp_path, worked
):
    folder = shutil.copytree(episodes_alone, tmp_path / "run")
    assert not (folder / "verification.csv").exists()
    before = (folder / "results.csv").read_bytes()
    bench(path, toy_banks, folder, resume=True)
    assert worked == [*OTHERS, *OTHERS]
    assert (folder / "results.csv").read_bytes() == before
    for protocol in OTHERS:
        ours, theirs = (rows(one, protocol).drop(columns="eval_seconds") for one in (folder, finished))
        pd.testing.assert_frame_equal(ours, theirs)
    bench(path, toy_banks, folder, resume=True)
    assert worked == [*OTHERS, *OTHERS]


def test_what_was_measured_when_a_run_was_stopped_is_not_measured_again(path, toy_banks, tmp_path, worked, monkeypatch):
    def stop(protocol, *arguments):
        if protocol == "retrieval":
            raise KeyboardInterrupt
        return measure(protocol, *arguments)

    monkeypatch.setattr(fewshot.model_runs, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        bench(path, toy_banks, tmp_path, ["npair"])
    monkeypatch.setattr(
        fewshot.model_runs, "measure", lambda protocol, *a: worked.append(protocol) or measure(protocol, *a)
    )
    bench(path, toy_banks, tmp_path, ["npair"], resume=True)
    assert worked == ["npair", "retrieval", "generalised"]


def test_a_run_of_an_older_version_goes_on(path, finished, toy_banks, tmp_path, worked):
    """The older version had neither protocols nor held-out images."""
    preset = tmp_path / "old.toml"
    preset.write_text(PRESET.replace("held_out = 4\n", "").replace(ALL, FEW))
    bench(preset, toy_banks, tmp_path / "run")
    settings = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    del settings["data"]["held_out"]
    for name in ("protocols", "verification", "generalised"):
        del settings["evaluation"][name]
    (tmp_path / "run" / "config.toml").write_text(tomli_w.dumps(settings))
    for checkpoint in (tmp_path / "run").glob("checkpoints/*/*.pt"):
        content = torch.load(checkpoint, weights_only=True)
        del content["about"]["held_out"]
        torch.save(content, checkpoint)
    worked.clear()
    bench(preset, toy_banks, tmp_path / "run", protocols=["verification"], resume=True)
    assert worked == ["verification"] * 2


def test_held_out_images_never_reach_training(path, toy_banks, tmp_path, monkeypatch):
    seen = set()

    def spy(self, images, labels):
        seen.update((255 * image).round().byte().numpy().tobytes() for image in images)
        return sum(weights.sum() for weights in self.parameters()) * 0

    monkeypatch.setattr(NPair, "loss", spy)
    preset = tmp_path / "long.toml"
    text = PRESET.replace("steps = 2", "steps = 60").replace("validate_every = 2", "validate_every = 60")
    preset.write_text(text)
    bench(preset, toy_banks, tmp_path / "run", ["npair"], ["episodes"])
    by_class = [part.numpy() for part in toy_banks["train"].images.split(12)]
    kept = {image.tobytes() for images in by_class for image in images[:8]}
    held_out = {image.tobytes() for images in by_class for image in images[8:]}
    assert not seen & held_out
    assert seen == kept


def test_a_model_trained_on_all_images_is_not_taken_for_one_that_was_not(path, finished, toy_banks, tmp_path):
    preset, folder = tmp_path / "other.toml", shutil.copytree(finished, tmp_path / "run")
    preset.write_text(PRESET.replace("held_out = 4", "held_out = 3"))
    assert "held_out = 4 in [data], not 3" in refusal(lambda: bench(preset, toy_banks, folder, resume=True))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("held_out = 4\n", "", "none were held out: train with held_out = 5"),
        ("held_out = 4\n", "held_out = 12\n", "12 images of each class cannot be held out"),
        ("shots = [1, 5]", "shots = [11]", "11 shots and 2 queries need 13 images a class"),
        ("way = 3\nshots = [1, 5]", "way = 15\nshots = [1]", "15-way episodes need 15 classes"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_training(path, toy_banks, tmp_path, worked, before, after, message):
    preset = tmp_path / "other.toml"
    assert before in PRESET
    preset.write_text(PRESET.replace(before, after))
    assert message in refusal(lambda: bench(preset, toy_banks, tmp_path / "run"))
    assert not worked
    assert not (tmp_path / "run").exists()


def test_listed_episodes_have_no_other_protocol(path, toy_banks, tmp_path, worked):
    listed = dataclasses.replace(toy_bank(12, 3, seed=3, split="test"), group_names=tuple("aaabbbcccddd"), listed=True)
    banks = {**toy_banks, "test": listed}
    said = refusal(lambda: bench(path, banks, tmp_path, protocols=["retrieval"]))
    assert "lists its episodes, and gives no other test protocol: leave out retrieval" in said


def test_a_learner_that_cannot_is_left_out_and_the_others_are_not(path, toy_banks, tmp_path, caplog):
    (tmp_path / "mine.py").write_text(
        "from fewshot import Traits\n"
        "from fewshot.learners.prototypical import Prototypical\n"
        "class Mine(Prototypical):\n"
        "    variants = {'': Traits(trains=False)}\n"
        "    def scores(self, support, query):\n"
        "        return super().scores(support, query).log_softmax(2)\n"
    )
    specs = [f"{tmp_path}/mine.py:Mine", "nearest-pixel"]
    with caplog.at_level("WARNING", "fewshot"):
        bench(path, toy_banks, tmp_path / "run", specs, ["verification", "generalised"])
    assert rows(tmp_path / "run", "verification")["similarity"].tolist() == ["cosine", "own"]
    assert rows(tmp_path / "run", "generalised")["learner"].unique().tolist() == ["nearest-pixel"]
    assert "is left out of generalised: Mine scores a class by the other classes" in caplog.text


def test_of_models_for_single_shots_the_one_of_the_fewest_is_measured(toy_banks, tmp_path):
    preset = tmp_path / "own.toml"
    preset.write_text(
        PRESET.replace("shots = [1]\n", "shots = [1, 2]\n").replace("steps = 2", "steps = 0")
        + "[learner.npair.per_shot.2]\nbatches = {classes = 9, images = 2}\n"
    )
    results = bench(preset, toy_banks, tmp_path / "run", ["npair"], ["episodes", "retrieval"])
    assert results["shot"].tolist() == [1, 2]
    assert len(rows(tmp_path / "run", "retrieval")) == 1


def test_shots_that_leave_no_queries_are_left_out_and_told(path, monkeypatch, caplog):
    banks = {"train": toy_bank(12, 8), "validation": toy_bank(8, 8), "test": toy_bank(4, 8)}
    monkeypatch.setattr(fewshot.benchmark, "load_dataset", lambda name, split, **_: banks[split])
    preset = path.with_name("many.toml")
    preset.write_text(PRESET.replace("shots = [1, 5]", "shots = [1, 5, 8, 20]").replace("query = 2", "query = 15"))
    with caplog.at_level("INFO", "fewshot"):
        config, opened = open_data(load_config(str(preset)))
    wanted = config.evaluation.generalised
    assert (wanted.shots, wanted.query) == ([1, 5], 3)
    assert "generalised: shots = [1, 5], not [1, 5, 8, 20]" in caplog.text
    assert (opened["train"].sizes.tolist(), opened["held_out"].sizes.tolist()) == ([4] * 12, [4] * 12)


# tables


def of_two(protocol: str, **more) -> pd.DataFrame:
    """Rows of two learners, the first better by a point in every measure."""
    common = {"dataset": "toy", "split": "test", "variant": "", "backbone": "conv4", "seed": 0, "pairs": 500, **more}
    common |= {"protocol": "random", "image_size": 16, "images": 60, "nmi": 50.0}
    common |= dict.fromkeys(records.LEAGUE, False)
    common |= {"way": 5, "query": 15, "episodes": 100, "base_classes": 64, "base_known": "weights"}
    widths = [name for name in PROTOCOLS[protocol].columns if name.endswith("_ci95")]
    values = {**dict.fromkeys(widths, 1.0), **{name.removesuffix("_ci95"): 80.0 for name in widths}}
    shots = [1, 5] if protocol == "generalised" else [0]
    made = []
    for learner, off in (("one", 0), ("two", 1)):
        for shot in shots:
            measured = {name: value - off * (not name.endswith("_ci95")) for name, value in values.items()}
            made.append({**common, **measured, "learner": learner, "shot": shot})
    return pd.DataFrame(made, columns=PROTOCOLS[protocol].columns)


def bold(sheet: tables.Sheet) -> dict[str, list[str]]:
    return {name: list(column.index[column]) for name, column in sheet.best.items()}


def test_the_lowest_equal_error_rate_is_the_best():
    (sheet,) = protocol_sheets("verification", of_two("verification"))
    assert bold(sheet)["ROC AUC"] == ["one"]
    assert bold(sheet)["equal error rate"] == ["two"]
    assert sheet.cells.loc["one", "ROC AUC"] == "80.00 ± 1.00"


def test_nmi_has_no_interval_and_ties_are_all_the_best():
    (sheet,) = protocol_sheets("retrieval", of_two("retrieval"))
    assert sheet.cells["NMI"].tolist() == ["50.00", "50.00"]
    assert bold(sheet)["NMI"] == ["one", "two"]


def test_generalised_has_a_table_for_each_kind_of_query_with_a_column_a_shot():
    made = protocol_sheets("generalised", of_two("generalised"))
    assert len(made) == 4
    assert all(list(sheet.cells.columns) == ["1-shot", "5-shot"] for sheet in made)
    missing = protocol_sheets("generalised", of_two("generalised")[:3])  # the second learner has one shot alone
    assert missing[0].cells.loc["two"].tolist() == ["79.00 ± 1.00", "–"]


def test_several_seeds_have_a_table_of_their_own_first():
    seeds = pd.concat([of_two("verification"), of_two("verification").assign(seed=1, auc=[82.0, 81.0])])
    over, each = protocol_sheets("verification", seeds)
    assert "mean of 2 training seeds" in over.caption
    assert over.cells.loc["one", "ROC AUC"] == "81.00 ± 12.71"  # 12.706 is the t quantile of 1 degree of freedom
    assert list(each.cells.index) == ["one, seed 0", "two, seed 0", "one, seed 1", "two, seed 1"]


# the command line


def test_bench_prints_the_tables_of_its_protocols(call, path, tmp_path):
    options = "--preset", path, "--learner", "nearest-pixel", "--output", tmp_path / "run", "--device", "cpu"
    said = call("bench", *options, "--protocol", "verification,retrieval")
    assert said.code == 0
    row = rows(tmp_path / "run", "verification").iloc[0]
    assert f"{row.auc:.2f} ± {row.auc_ci95:.2f}" in said.out
    assert "mAP@R" in said.out
    assert f"Written to {tmp_path / 'run'}: verification.csv, retrieval.csv, results.md" in said.out


def test_evaluate_repeats_the_numbers_of_a_run(call, finished):
    checkpoint = finished / "checkpoints" / "npair-seed0" / "best.pt"
    row = rows(finished, "retrieval").iloc[0]
    said = call("evaluate", checkpoint, "--protocol", "retrieval", "--device", "cpu")
    assert f"{row.map_at_r:.2f} ± {row.map_at_r_ci95:.2f}" in said.out
    row = rows(finished, "generalised").iloc[1]
    options = "--way", 3, "--shot", 5, "--query", 2, "--episodes", 30
    said = call("evaluate", checkpoint, "--protocol", "generalised", *options, "--device", "cpu")
    assert f"{row.harmonic:.2f} ± {row.harmonic_ci95:.2f}" in said.out
    said = call("evaluate", checkpoint, "--protocol", "verification", "--device", "cpu")
    assert (said.code, "10,000 pairs" in said.out) == (0, True)


def test_held_out_by_the_command_line(call, path, tmp_path):
    preset = tmp_path / "own.toml"
    preset.write_text(PRESET.replace("held_out = 4\n", ""))
    train = "train", "--preset", preset, "--learner", "npair", "--device", "cpu"
    assert call(*train, "--output", tmp_path / "all").code == 0
    assert call(*train, "--output", tmp_path / "some", "--held-out", 3).code == 0
    evaluate = "--protocol", "generalised", "--episodes", 20, "--device", "cpu"
    said = call("evaluate", tmp_path / "some" / "npair-seed0" / "best.pt", *evaluate)
    assert (said.code, "harmonic mean" in said.out) == (0, True)
    said = call("evaluate", tmp_path / "all" / "npair-seed0" / "best.pt", *evaluate)
    assert (said.code, "none were held out" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "retrievel"], "unknown test protocol 'retrievel': did you mean 'retrieval'"),
        (["--protocol", "verification", "--split", "validation"], "chooses its threshold on validation classes"),
        (["--protocol", "generalised", "--split", "train"], "generalised needs classes that are not trained on"),
        (["--protocol", "generalised", "--shot", "24"], "24 shots and 15 queries need 39 images a class"),
        (["--protocol", "generalised", "--way", "0"], "way = 0 is invalid"),
        (["--protocol", "generalised", "--episodes", "1"], "episodes = 1 is invalid"),
    ],
)
def test_wrong_wishes_are_told_in_one_line(call, finished, arguments, message):
    said = call("evaluate", finished / "checkpoints" / "npair-seed0" / "best.pt", *arguments)
    (line,) = said.err.splitlines()
    assert (said.code, message in line) == (2, True)


def test_an_unknown_protocol_of_a_run_is_told_in_one_line(call, path, tmp_path):
    said = call("bench", "--preset", path, "--protocol", "verfication", "--output", tmp_path / "run")
    assert "unknown test protocol 'verfication': did you mean 'verification'" in said.err
    preset = tmp_path / "own.toml"
    preset.write_text(PRESET.replace("[evaluation.generalised]\nway", "[evaluation.generalised]\nways"))
    said = call("bench", "--preset", preset, "--output", tmp_path / "run")
    assert "[evaluation.generalised]: unknown key 'ways': did you mean 'way'" in said.err
