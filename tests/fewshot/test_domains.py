"""Across data sets: models tested on data sets that they were not trained on, in a run and from its folder."""

import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import encoded, refusal, toy_bank, write_files

from episodes import ReadingOptions, load_dataset
from episodes.datasets import split_to_test
from fewshot.config import Evaluation, load_config
from fewshot.evaluation import evaluate
from fewshot.loading import open_checkpoint
from fewshot.other_data import reading_of, shared_with, with_other_data
from fewshot.protocols.domains import PROTOCOL, _samplers
from fewshot.protocols.registry import PROTOCOLS
from fewshot.provenance import key_of
from fewshot.records import COLUMNS

NUMBERS = ["source", "dataset", "split", "learner", "seed", "way", "shot", "query", "accuracy", "ci95", "ci95_open"]


def pictures(path, classes: int, images: int, seed: int = 0, size: int = 16):
    """A folder of classes, each a random colour pattern with noise."""
    random = np.random.default_rng(seed)
    files = {}
    for label in range(classes):
        pattern = random.integers(0, 180, (size, size, 3))
        for number in range(images):
            noisy = (pattern + random.integers(0, 75, pattern.shape)).astype(np.uint8)
            files[f"thing {label}/{number}.png"] = encoded(noisy)
    return write_files(path, files)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Two folders: faces without splits, of 3 images a class, and plants with four test classes."""
    folder = tmp_path_factory.mktemp("others")
    pictures(folder / "faces", 7, 3)
    for split, seed in {"train": 1, "test": 2}.items():
        pictures(folder / "plants" / split, 4, 6, seed)
    for path in sorted((folder / "plants" / "train").iterdir()):
        path.rename(path.with_name(f"other {path.name}"))
    return [folder / "faces", folder / "plants"]


@pytest.fixture(scope="module")
def run(call_once, preset, others, tmp_path_factory):
    """A finished run on the toy data that is tested on the two folders, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    said = call_once("bench", "--preset", preset, "--seed", "0,1", "--test", _named(others), "--output", folder)
    assert said.code == 0, said.err
    return folder, said


def _named(others) -> str:
    return ",".join(map(str, others))


def test_every_model_is_tested_on_every_data_set(run, others):
    rows = pd.read_csv(run[0] / "domains.csv")
    assert set(rows["source"]) == {"omniglot:vinyals"}
    cells = rows.groupby(["dataset", "split", "way", "shot", "query"], sort=False).size()
    assert cells.to_dict() == {
        ("toy", "test", 3, 1, 3): 4,
        ("faces", "all", 3, 1, 2): 4,
        ("plants", "test", 3, 1, 3): 4,
        ("toy", "test", 5, 1, 3): 4,
        ("faces", "all", 5, 1, 2): 4,
    }
    own = rows[rows["dataset"] == "toy"].reset_index(drop=True)
    episodes = pd.read_csv(run[0] / "results.csv")
    pd.testing.assert_frame_equal(own[NUMBERS[2:]], episodes[NUMBERS[2:]])
    assert rows["key"].nunique() == 4
    assert (rows["kept"].isna()).all()


def test_changed_names_and_episodes_are_told_in_one_line_each(run, others):
    said = run[1].out
    for path in others:
        assert said.count(f"{path}: its images become grey, as the models take them: {path}:grey\n") == 1
    assert said.count("faces:grey: query = 2, not 3: there are 7 classes, the smallest of 3 images") == 1
    assert said.count("plants:grey: ways = [3], not [3, 5]: there are 4 classes for test") == 1


def test_a_row_equals_the_evaluation_of_its_checkpoint_on_that_data_set(run, others):
    rows, arrays = pd.read_csv(run[0] / "domains.csv"), np.load(run[0] / "domains.npz")
    path = run[0] / "checkpoints" / "npair-seed1" / "best.pt"
    model = rows[rows["model"] == "npair-seed1"]
    for name, dataset, split, query in ((others[0], "faces", "all", 2), (others[1], "plants", "test", 3)):
        _, learner = open_checkpoint(path)
        bank = load_dataset(f"{name}:grey", split, size=16)
        found = evaluate(learner, bank, way=3, shot=1, query=query, episodes=40, device="cpu")
        row = model[(model["dataset"] == dataset) & (model["way"] == 3)].iloc[0]
        assert (row["accuracy"], row["ci95"]) == tuple(round(value, 4) for value in found.percent)
        heading = {"faces": "faces (grey, all classes)", "plants": "plants (given grey)"}[dataset]
        assert np.array_equal(arrays[f"npair-seed1/{heading}/3way1shot"], found.values)


def test_a_finished_run_is_not_tested_again(run, call, preset, others, trained):
    files = {name: (run[0] / name).read_bytes() for name in ("domains.csv", "domains.npz", "results.md", "keys.json")}
    arguments = ["bench", "--preset", preset, "--seed", "0,1", "--output", run[0], "--resume"]
    said = call(*arguments, "--test", _named(others))
    assert said.code == 0
    assert "All of it was finished earlier" in said.out
    assert trained == []
    assert all((run[0] / name).read_bytes() == content for name, content in files.items())
    said = call(*arguments)  # its rows could not be compared with what would be run now
    assert said.code == 2
    assert f"which must be named: --test {others[0]}:grey,{others[1]}:grey" in said.err


def test_a_run_can_be_tested_on_other_data_sets_later(run, call, preset, others, trained, tmp_path):
    folder = tmp_path / "run"
    assert call("bench", "--preset", preset, "--learner", "npair", "--output", folder).code == 0
    trained.clear()
    said = call(
        "bench", "--preset", preset, "--learner", "npair", "--output", folder, "--resume", "--test", _named(others)
    )
    assert said.code == 0, said.err
    assert trained == []
    together = pd.read_csv(run[0] / "domains.csv").query("model == 'npair-seed0'")
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "domains.csv")[NUMBERS], together[NUMBERS].reset_index(drop=True)
    )


def test_other_images_of_a_data_set_are_not_taken_for_the_same(run, call, preset, others, tmp_path):
    folder, faces = tmp_path / "run", tmp_path / "faces"
    shutil.copytree(others[0], faces)
    arguments = ["bench", "--preset", preset, "--learner", "npair", "--output", folder, "--test", faces]
    assert call(*arguments).code == 0
    (faces / "thing 0" / "0.png").write_bytes(encoded(np.zeros((16, 16, 3), np.uint8)))
    said = call(*arguments, "--resume")
    assert said.code == 2
    assert f"holds a run on other images of {faces}:grey" in said.err


def test_the_images_of_all_data_sets_are_in_the_key():
    wanted = load_config("quick", dataset="glyphs", others=["omniglot"]).evaluation
    keys = set()
    for target in ("a", "b"):
        for name in PROTOCOLS:
            keys.add(
                (name, key_of({"images": PROTOCOLS[name].images(wanted, {"test": "t", "omniglot:vinyals": target})}))
            )
    assert len([name for name, _ in keys if name == "domains"]) == 2
    assert len(keys) == len(PROTOCOLS) + 1


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("{tmp}/nothing", "there is no folder or archive of images at {tmp}/nothing"),
        ("omniglott", "omniglott"),
        ("{tmp}/single", "an episode needs one to learn from and one to ask"),
        ("{faces}:rgb", "the model takes images of 1 channel, and those of {faces}:rgb have 3"),
        ("{faces},{faces}:seed0", "have one name in tables, faces (seed0 grey)"),
        ("{faces},{tmp}/faces", "have one name in tables, faces (seed0 grey): leave one out, or rename it"),
        ("omniglot:lake-oneshot", "omniglot:lake-oneshot lists its episodes"),
    ],
)
def test_a_data_set_that_will_not_do_is_refused_before_any_training(
    call, preset, others, trained, tmp_path, monkeypatch, what, told
):
    pictures(tmp_path / "single", 6, 1)
    shutil.copytree(others[0], tmp_path / "faces")
    if "lake" in what:
        listed = toy_bank(4, 2, split="test")
        listed = type(listed)(**{**vars(listed), "listed": True, "group_names": ("a", "a", "b", "b")})
        monkeypatch.setattr("fewshot.other_data.load_dataset", lambda *_, **__: listed)
    names = {"tmp": tmp_path, "faces": others[0]}
    said = call("bench", "--preset", preset, "--test", what.format(**names), "--output", tmp_path / "run")
    assert said.code == 2
    assert told.format(**names) in said.err
    assert trained == []
    assert not (tmp_path / "run").exists()


def test_domains_without_data_sets_is_refused(call, preset, tmp_path):
    said = call("bench", "--preset", preset, "--protocol", "domains", "--output", tmp_path / "run")
    assert said.code == 2
    assert "name some with --test" in said.err


def test_a_finished_run_is_tested_from_its_folder(run, call, others, trained, tmp_path):
    said = call("evaluate", run[0], "--dataset", _named(others), "--output", tmp_path / "again")
    assert said.code == 0, said.err
    assert trained == []
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["domains.csv", "domains.md", "domains.npz"]
    order = ["learner", "seed", "dataset", "way"]
    found, expected = (pd.read_csv(path / "domains.csv").sort_values(order) for path in (tmp_path / "again", run[0]))
    pd.testing.assert_frame_equal(found[NUMBERS].reset_index(drop=True), expected[NUMBERS].reset_index(drop=True))
    before, now = (np.load(path / "domains.npz") for path in (run[0], tmp_path / "again"))
    assert set(before.files) == set(now.files)
    assert all(np.array_equal(before[name], now[name]) for name in before.files)
    tables = (tmp_path / "again" / "domains.md").read_text()
    assert tables in (run[0] / "results.md").read_text()
    assert "Across data sets, over training seeds, 3-way 1-shot" in tables


def test_a_test_from_a_folder_may_have_other_episodes(run, call, others, tmp_path):
    said = call(
        *("evaluate", run[0], "--dataset", others[1], "--way", "2", "--shot", "2", "--query", "4", "--episodes", "20"),
        *("--output", tmp_path),
    )
    assert said.code == 0, said.err
    rows = pd.read_csv(tmp_path / "domains.csv")
    assert set(rows[["way", "shot", "query", "episodes"]].itertuples(index=False, name=None)) == {(2, 2, 4, 20)}
    assert set(rows["dataset"]) == {"toy", "plants"}


def test_what_a_run_lacks_or_does_not_take_is_said(run, call, others, tmp_path):
    def told(*arguments) -> str:
        said = call("evaluate", *arguments)
        assert said.code == 2
        return said.err

    assert "name the data sets to test its models on with --dataset" in told(run[0])
    assert "is no run's folder" in told(tmp_path, "--dataset", others[0])
    assert "leave out --protocol and --split" in told(run[0], "--dataset", others[0], "--protocol", "retrieval")
    assert "already holds a run" in told(run[0], "--dataset", others[0], "--output", run[0])
    best = run[0] / "checkpoints" / "npair-seed0" / "best.pt"
    assert "domains tests a whole run" in told(best, "--protocol", "domains")
    shutil.copytree(run[0], tmp_path / "part")
    (tmp_path / "part" / "checkpoints" / "npair-seed1" / "best.pt").unlink()
    assert "has no checkpoint of npair with seed 1" in told(tmp_path / "part", "--dataset", others[0])


def test_a_row_that_contradicts_its_episodes_is_found(run):
    rows, arrays = pd.read_csv(run[0] / "domains.csv"), dict(np.load(run[0] / "domains.npz"))
    assert PROTOCOL.unlike(rows, arrays) == [""] * len(rows)
    rows.loc[0, "accuracy"] += 1
    (name,) = [name for name in arrays if name.startswith("prototypical-euclidean-seed0/faces") and "3way" in name]
    del arrays[name]
    reasons = PROTOCOL.unlike(rows, arrays)
    assert "domains.csv says" in reasons[0]
    assert sum("domains.npz lacks the episodes" in reason for reason in reasons) == 1
    assert sum(map(bool, reasons)) == 2


def plain_ranks(accuracies: dict[str, np.ndarray]) -> dict[str, float]:
    """Meta-Dataset's ranks with ties, one by one: scipy's paired t test and Holm's correction."""
    names = sorted(accuracies, key=lambda name: -accuracies[name].mean())
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    p = {pair: scipy.stats.ttest_rel(*(accuracies[name] for name in pair)).pvalue for pair in pairs}
    apart = set()
    for step, pair in enumerate(sorted(pairs, key=p.get)):
        if p[pair] * (len(pairs) - step) > 0.05:
            break
        apart.add(pair)
    found, place = {}, 1
    while names:
        tied = [name for name in names if name == names[0] or (names[0], name) not in apart]
        for name in tied:
            found[name] = np.mean(range(place, place + len(tied)))
        place += len(tied)
        names = [name for name in names if name not in tied]
    return found


def test_ranks_with_ties_are_those_of_a_plain_implementation():
    random, rows, arrays = np.random.default_rng(1), [], {}
    expected: dict[str, list[float]] = {}
    for dataset in ("a", "b", "c", "d"):
        difficulty = random.normal(0, 0.1, 300)
        learners = {}
        for number in range(6):
            noise = random.normal(0, 0.15, 300)
            values = np.clip(0.5 + difficulty + 0.012 * random.permutation(6)[number] + noise, 0, 1)
            learners[f"m{number}"] = values
            row = dict.fromkeys(COLUMNS, "") | dict.fromkeys(["transductive", "text", "external", "collapsed"], False)
            row |= {"source": "s", "dataset": dataset, "protocol": "p", "split": "test", "learner": f"m{number}"}
            row |= {"model": f"m{number}-seed0", "seed": 0, "way": 5, "shot": 1, "query": 15, "episodes": 300}
            row |= {"backbone": "conv4", "image_size": 84, "accuracy": 100 * values.mean(), "ci95": 1.0}
            rows.append(row | {"shared_classes": 2 if dataset == "b" else 0, "shared_images": 0})
            arrays[f"m{number}-seed0/{dataset} (p)/5way1shot"] = values
        for name, rank in plain_ranks(learners).items():
            expected.setdefault(name, []).append(rank)
    assert any(rank % 1 for ranks in expected.values() for rank in ranks)  # there are ties
    assert len({rank for ranks in expected.values() for rank in ranks}) > 2  # and not of all
    (sheet,) = PROTOCOL.sheets(pd.DataFrame(rows), arrays)
    assert sheet.cells["rank"].to_dict() == {name: f"{np.mean(ranks):.2f}" for name, ranks in expected.items()}
    assert list(sheet.cells.columns) == ["rank", "a (p)", "b (p)", "c (p)", "d (p)"]
    assert "Some of the test was in the training, too: b (p) 2 class names" in sheet.note
    (sheet,) = PROTOCOL.sheets(pd.DataFrame(rows), {})  # without the episodes nothing is told apart
    assert "rank" not in sheet.cells


def test_classes_and_images_that_both_sides_share_are_counted(tmp_path):
    train = toy_bank(6, 4)
    images = train.images[:, 0].numpy()
    files = {
        f"class_{label}/{number}.png": encoded(images[4 * label + number]) for label in (2, 3) for number in (0, 1)
    }
    files |= {f"new/{number}.png": encoded(255 - images[number]) for number in range(2)}
    path = write_files(tmp_path / "again", files)
    shared = shared_with(train, load_dataset(f"{path}:grey", "all", size=16))
    assert shared.classes == ["class 2", "class 3"]
    assert shared.images == 4


def test_a_folder_is_tested_on_all_classes_unless_its_user_says_which(others, tmp_path):
    assert split_to_test(str(others[0])) == "all"
    assert split_to_test(f"{others[0]}:grey") == "all"
    assert split_to_test(f"{others[0]}:seed3") == "test"
    assert split_to_test(f"{others[1]}:inverted") == "test"
    assert split_to_test("omniglot") == "test"
    np.savez(tmp_path / "plain.npz", features=np.eye(12, 3, dtype=np.float32), labels=np.arange(12) // 2)
    assert split_to_test(str(tmp_path / "plain.npz")) == "all"


def test_a_data_set_gets_the_colours_of_the_models(others):
    config = load_config("quick", dataset="glyphs", others=[str(others[1])])
    grey = {"test": toy_bank(5, 4, split="test")}
    found, banks = with_other_data(config, grey)
    assert found.evaluation.domains.datasets == [f"{others[1]}:grey"]
    assert banks[f"{others[1]}:grey"].images.shape[1:] == (1, 16, 16)
    rgb = {"test": type(grey["test"])(**{**vars(grey["test"]), "images": grey["test"].images.expand(-1, 3, -1, -1)})}
    found, banks = with_other_data(config, rgb)
    assert found.evaluation.domains.datasets == [str(others[1])]
    assert banks[str(others[1])].images.shape[1:] == (3, 16, 16)


def test_features_and_images_are_not_tested_together(others, tmp_path):
    path = tmp_path / "features.npz"
    np.savez(path, features=np.random.default_rng(0).random((60, 3), np.float32), labels=np.arange(60) // 5)
    config = load_config("quick", dataset="glyphs", others=[str(path)])
    assert "holds features, and toy (random) test holds images" in refusal(
        lambda: with_other_data(config, {"test": toy_bank(5, 4, split="test")})
    )


def test_a_model_for_one_shot_is_tested_with_that_shot():
    wanted = Evaluation(ways=[2, 9], shots=[1, 5, 9], query=4)

    def cells(shots: tuple[int, ...], images: int) -> list[tuple[int, int, int]]:
        return [(one.way, one.shot, one.query) for one in _samplers(wanted, shots, toy_bank(3, images))]

    assert cells((1, 5, 9), 20) == [(2, 1, 4), (2, 5, 4), (2, 9, 4)]
    assert cells((5,), 20) == [(2, 5, 4)]
    assert cells((5,), 7) == [(2, 5, 2)]  # as the model for one shot has it
    assert cells((1,), 7) == [(2, 1, 2)]
    assert cells((9,), 7) == []


def test_what_is_left_out_is_left_out_of_folders_alone(others):
    config = load_config("quick", dataset="glyphs", others=[str(others[0])], min_images=2)
    assert reading_of("glyphs", config) == ReadingOptions()
    assert reading_of(str(others[0]), config) == ReadingOptions(2)
    alone = load_config("quick", dataset="glyphs", min_images=2)
    assert reading_of("glyphs", alone) == ReadingOptions(2)  # which is refused when the data set is opened
