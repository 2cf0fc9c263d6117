"""A stranger's pictures, from a folder to a table: the suite in the hands of a user who only wants the best learner."""

import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fewshot.performance.backbones
from episodes import ReadingOptions
from fewshot import checkpoints
from fewshot.cli import main
from fewshot.loading import validation_classes
from fewshot.models import ModelSpec

PRESET = """
learners = ["prototypical", "imprinted"]
[training]
backbone = "conv4-32"
augmentation = "crop"
steps = 2
[data]
size = 24
[evaluation]
episodes = 30
[learner.prototypical]
batches = {classes = 5, images = 4}
[learner.imprinted]
batches = {size = 16}
"""
SAVED = [("RGB", "jpg"), ("L", "png"), ("P", "gif"), ("RGBA", "webp"), ("CMYK", "tiff"), ("1", "bmp"), ("I;16", "png")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """15 classes of 8 pictures of all sizes, modes and formats, and a file that is no picture."""
    folder, random = tmp_path_factory.mktemp("strangers") / "my pictures", np.random.default_rng(0)
    for label in range(15):
        (folder / f"kind {label:02d}").mkdir(parents=True)
        for number in range(8):
            height, width = random.integers(20, 90, 2)
            mode, suffix = SAVED[(label + number) % len(SAVED)]
            if mode == "I;16":
                image = Image.fromarray(random.integers(0, 65_536, (height, width), dtype=np.uint16))
            else:
                image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
            image.save(folder / f"kind {label:02d}" / f"{number}.{suffix}")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    for name in ("fewshot", "episodes"):
        logging.getLogger(name).handlers.clear()

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield command
    for name in ("fewshot", "episodes"):
        logging.getLogger(name).handlers.clear()


def test_a_folder_of_mixed_pictures_ends_in_a_table(call, pictures, tmp_path):
    (tmp_path / "tiny.toml").write_text(PRESET)
    code, out, err = call("bench", "--preset", "tiny.toml", "--dataset", pictures)
    assert code == 0, err
    assert "1 file is left out" in out
    assert "notes.txt" in out
    assert "test: ways = [5], not [5, 20]" in out
    results = pd.read_csv(tmp_path / "results" / "tiny-my pictures" / "results.csv")
    assert set(zip(results["learner"], results["way"], results["shot"])) == {
        (learner, 5, shot) for learner in ("prototypical", "imprinted") for shot in (1, 5)
    }
    assert (results["dataset"] == "my pictures").all()
    assert (results["protocol"] == "seed0").all()
    checkpoint = tmp_path / "results" / "tiny-my pictures" / "checkpoints" / "imprinted-imprint-seed0" / "best.pt"
    code, out, err = call("evaluate", checkpoint, "--query", 3, "--episodes", 30)
    assert code == 0, err
    assert "my pictures (seed0), test classes" in out


def write_noise(folder, classes, images):
    random = np.random.default_rng(1)
    for label in range(classes):
        (folder / f"kind {label:02d}").mkdir(parents=True)
        for number in range(images):
            pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"kind {label:02d}" / f"{number}.png")


def test_a_small_folder_runs_as_the_readme_prints_it(call, tmp_path):
    """12 classes of 12 pictures: 4 classes are left for test, fewer than the 5 ways of the preset."""
    write_noise(tmp_path / "pics", 12, 12)
    arguments = ["--learner", "prototypical", "--steps", 2, "--episodes", 20, "--query", 3, "--shot", "1,2"]
    code, out, err = call("bench", "--dataset", "pics", *arguments)
    assert code == 0, err
    assert "test: ways = [4], not [5, 20]: there are 4 classes for test" in out
    results = pd.read_csv(tmp_path / "results" / "quick-pics" / "results.csv")
    assert results[["way", "shot", "query", "episodes"]].to_numpy().tolist() == [[4, 1, 3, 20], [4, 2, 3, 20]]
    assert "training 2 steps" in out
    checkpoint = next((tmp_path / "results").rglob("best.pt"))
    code, _, err = call("evaluate", checkpoint, "--episodes", 20)
    assert (code, "--way" in err) == (2, True)
    code, _, err = call("evaluate", checkpoint, "--way", 4, "--query", 12, "--episodes", 20)
    assert (code, "--query" in err) == (2, True)
    assert call("evaluate", checkpoint, "--way", 4, "--query", 11, "--episodes", 20)[0] == 0


def test_what_a_training_left_out_of_a_folder_stays_left_out_of_what_its_checkpoint_is_used_on(call, tmp_path):
    write_noise(tmp_path / "pics", 12, 8)
    for label in (3, 7):
        for number in range(6):
            (tmp_path / "pics" / f"kind {label:02d}" / f"{number}.png").unlink()
    (tmp_path / "pics" / "kind 05" / "0.png").write_bytes(b"no picture")
    left_out = ["--min-images", 5, "--skip-damaged"]
    (tmp_path / "tiny.toml").write_text(PRESET)
    trained = ["--preset", "tiny.toml", "--learner", "prototypical", "--output", "out"]
    code, _, err = call("train", "--dataset", "pics", *trained, *left_out)
    assert code == 0, err
    checkpoint = next((tmp_path / "out").rglob("best.pt"))
    spec = ModelSpec.from_checkpoint(checkpoints.load(checkpoint), checkpoint)
    assert spec.reading == ReadingOptions(5, skip_damaged=True)
    assert validation_classes(spec).checksum == spec.data[1]
    for command in (["evaluate", checkpoint], ["evaluate", checkpoint, "--dataset", "pics"]):
        code, _, err = call(*command, "--split", "all", "--way", 10, "--query", 2, "--episodes", 20)
        assert code == 0, err
    code, _, err = call("evaluate", checkpoint, "--min-images", 8, "--way", 2, "--query", 2)
    assert code == 2  # what the user says counts, and here the damaged image is not to be skipped
    assert "pics" in err
    code, _, err = call("embed", checkpoint, "pics", "--output", "features.npz")
    assert code == 0, err
    with np.load("features.npz") as arrays:
        assert len(arrays["labels"]) == 79


@pytest.mark.parametrize(
    ("name", "value"),
    [("--way", "0"), ("--way", "5,x"), ("--shot", ","), ("--query", "-1"), ("--episodes", "1"), ("--steps", "1e3")],
)
def test_an_argument_of_bench_that_will_not_do_is_named(call, capsys, name, value):
    with pytest.raises(SystemExit) as ended:
        call("bench", f"{name}={value}")
    assert ended.value.code == 2
    assert f"argument {name}: " in capsys.readouterr().err


def test_another_seed_is_another_data_set(call, pictures, tmp_path):
    (tmp_path / "tiny.toml").write_text(PRESET)
    code, _, err = call("bench", "--preset", "tiny.toml", "--dataset", f"{pictures}:seed3", "--learner", "imprinted")
    assert code == 0, err
    results = pd.read_csv(tmp_path / "results" / "tiny-my pictures-seed3" / "results.csv")
    assert (results["protocol"] == "seed3").all()


def test_check_says_what_is_there_and_what_is_left_out(call, pictures):
    code, out, err = call("data", "check", pictures)
    assert code == 0, err
    assert "splits made by class with seed0: 7 train, 3 validation, 5 test classes" in out
    assert "1 file is left out, of no image format that Pillow reads here (1 x .txt)" in out
    assert out.count("computed again and the same") == 3


def test_check_finds_pictures_that_are_there_twice(call, pictures, tmp_path):
    for number in (1, 2):
        for label, times in (("a", 2), ("b", 1)):
            for copy in range(times):
                path = tmp_path / "twins" / f"{label}{number}" / f"{copy}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), "red" if number == 1 else "blue").save(path)
    for number in range(12):
        for shade in range(2):
            path = tmp_path / "twins" / f"c{number:02d}" / f"{shade}.png"
            path.parent.mkdir(parents=True) if shade == 0 else None
            Image.new("RGB", (20, 20), (number, shade, 99)).save(path)
    for label in ("b1", "b2"):
        Image.new("RGB", (20, 20), (7, 7, 7 if label == "b1" else 8)).save(tmp_path / "twins" / label / "own.png")
    code, out, err = call("data", "check", tmp_path / "twins")
    assert code == 0, err
    assert "images that occur again: " in out
    assert "in the same class" in out


def test_check_says_what_is_missing_in_one_sentence(call):
    code, out, err = call("data", "check", "cub")
    assert code == 2
    assert "not found" in out
    assert len(err.splitlines()) == 1
    assert "put CUB_200_2011.tgz" in err


def test_show_writes_a_picture_of_an_episode(call, pictures, tmp_path):
    code, out, err = call("data", "show", pictures, "--query", 3, "--size", 32)
    assert code == 0, err
    assert "Written to episode-my pictures.png" in out
    with Image.open(tmp_path / "episode-my pictures.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 20


def test_backbones_are_listed_with_their_sizes(call, tmp_path):
    code, out, err = call("backbones", "--size", 84)
    assert code == 0, err
    assert "113,088" in out
    assert "12,424,320" in out
    assert "torchvision:NAME" in out


def test_backbones_are_measured_into_a_file(call, tmp_path, monkeypatch):
    monkeypatch.setattr(fewshot.performance.backbones, "_SECONDS", 0)
    names = "conv4-32,torchvision:resnet18"
    options = ["--size", 32, "--batch", 2, "--backbone", names, "--measure", "--output", "rates.csv", "--device", "cpu"]
    code, _, err = call("backbones", *options)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "rates.csv")
    assert table["backbone"].tolist() == names.split(",")
    assert (table[["train_rate", "embed_rate"]] > 0).all(axis=None)


def test_check_names_every_damaged_file_at_once(call, tmp_path):
    path = tmp_path / "damaged"
    for number in range(12):
        for shade in range(2):
            file = path / f"c{number:02d}" / f"{shade}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number, shade, 99)).save(file)
    broken = ["c01/0.png", "c05/1.png", "c09/0.png"]
    for name in broken:
        (path / name).write_bytes((path / name).read_bytes()[:40])
    code, out, err = call("data", "check", path, "--split", "all")
    assert code == 2
    lines = [line for line in out.splitlines() if line.startswith("damaged: ")]
    assert [line.split(" in ")[0].removeprefix("damaged: ") for line in lines] == broken
    assert "3 of the images of damaged all cannot be decoded: replace them; of a folder of your own, --skip-" in err
    code, out, err = call("data", "check", path, "--split", "all", "--skip-damaged", "--min-images", 2)
    assert code == 0, err
    assert f"3 damaged images are left out: {', '.join(broken)}" in out
    assert "3 classes of fewer than 2 images are left out: c01 (1), c05 (1), c09 (1)" in out
    assert "damaged (seed0) all: 9 classes, 18 images" in out


def test_check_compares_two_data_sets_and_writes_all_that_occur_again(call, tmp_path):
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        for number in range(4):
            (tmp_path / name / f"kind{number // 2}").mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((90, 90))
            pixels.save(tmp_path / name / f"kind{number // 2}" / f"{number}.png")
    with Image.open(tmp_path / "one" / "kind0" / "1.png") as picture:
        picture.save(tmp_path / "two" / "kind1" / "copy.png")
        picture.save(tmp_path / "two" / "kind1" / "again.jpg", quality=60)
    options = ["--split", "all", "--against", tmp_path / "two", "--output", tmp_path / "again.csv"]
    code, out, err = call("data", "check", tmp_path / "one", *options)
    assert code == 0, err
    other = f"all of {tmp_path / 'two'}"
    assert f"the same: kind0/1.png (all) = kind1/copy.png ({other})" in out
    assert "alike: kind0/1.png (all) = kind1/again.jpg" in out
    table = pd.read_csv(tmp_path / "again.csv")
    assert table.groupby("kind").size().to_dict() == {"alike": 3, "same": 2}
    assert set(table["file"]) == {"kind0/1.png", "kind1/copy.png", "kind1/again.jpg"}
    assert set(table["split"]) == {"all", other}
