"""fewshot embed, and runs on the features it writes: the same rows as on the images, at constant memory."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import encoded, refusal, toy_bank, write_files
from PIL import Image

from episodes import load_dataset
from fewshot.cli import main
from fewshot.config import load_config

MEASURED = ["learner", "variant", "way", "shot", "query", "episodes", "accuracy", "ci95", "ci95_open", "external"]
HEADS = ("prototypical", "prototypical:cosine", "simpleshot", "simpleshot:un", "imprinted", "imprinted:finetune",
         "nearest-pixel", "ridge", "svm", "baseline", "baseline++", "sklearn")  # fmt: skip
FEW_HEADS = ("prototypical:cosine", "nearest-pixel", "ridge")  # a run with few learners takes far less time
FROZEN = """
learners = [{learners}]
[evaluation]
ways = [5]
shots = [1, 3]
query = 4
episodes = 24
seed = 3
[validation]
way = 5
query = 4
episodes = 10
[data]
size = 16
[training]
backbone = "{backbone}"
weights = "{weights}"
steps = 0
[learner.baseline.options]
head_epochs = 10
[learner."baseline++".options]
head_epochs = 10
"""


def frozen(folder, heads, backbone, weights=""):
    path = folder / "frozen.toml"
    learners = ", ".join(f'"{name}"' for name in heads)
    path.write_text(FROZEN.format(learners=learners, backbone=backbone, weights=weights))
    return str(path)


def rows_of(folder, *arguments):
    assert main(["bench", *arguments, "--output", str(folder)]) == 0
    return pd.read_csv(folder / "results.csv", keep_default_na=False)[MEASURED]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 40 classes with 10 images of 16x16 pixels each, hard to tell apart."""
    folder, bank = tmp_path_factory.mktemp("pictures"), toy_bank(classes=40, images=10)
    noise = torch.randint(0, 170, bank.images.shape, generator=torch.Generator().manual_seed(0))
    images = (0.3 * bank.images + noise).byte().numpy()
    for number, (label, (image,)) in enumerate(zip(bank.labels.tolist(), images, strict=True)):
        (folder / f"class {label:02d}").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"class {label:02d}" / f"{number:03d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(pictures, tmp_path_factory):
    """A network that two steps trained on the base classes of the pictures."""
    folder = tmp_path_factory.mktemp("trained")
    preset = folder / "short.toml"
    preset.write_text(
        'learners = ["prototypical"]\n[validation]\nway = 5\nquery = 3\nepisodes = 10\n'
        '[training]\nbackbone = "conv4-32"\nsteps = 2\nvalidate_every = 2\nprecision = "float32"\n'
        "batches = {classes = 10, images = 4}\n[data]\nsize = 16\n"
    )
    arguments = ["--learner", "prototypical", "--preset", str(preset), "--dataset", pictures, "--output", str(folder)]
    assert main(["train", *arguments]) == 0
    return folder / "prototypical-euclidean-seed0" / "best.pt"


def test_features_of_a_checkpoint_give_the_rows_of_the_images(tmp_path, pictures, checkpoint):
    features, preset = tmp_path / "features.npz", frozen(tmp_path, HEADS, "conv4-32", checkpoint)
    assert main(["embed", str(checkpoint), pictures, "--output", str(features)]) == 0
    images = rows_of(tmp_path / "images", "--preset", preset, "--dataset", pictures)
    found = rows_of(tmp_path / "features", "--preset", preset, "--dataset", str(features))
    pd.testing.assert_frame_equal(found, images, check_exact=True)
    assert images["accuracy"].nunique() > len(HEADS)
    assert not found["external"].any()  # these base classes alone trained the checkpoint


def test_rows_say_which_learner_trained_the_weights_that_they_start_from(tmp_path, pictures, checkpoint):
    preset = frozen(tmp_path, ("simpleshot",), "conv4-32", checkpoint)
    rows_of(tmp_path / "run", "--preset", preset, "--dataset", pictures)
    rows = pd.read_csv(tmp_path / "run" / "results.csv", keep_default_na=False)
    assert set(rows["starts_from"]) == {"prototypical"}
    page = (tmp_path / "run" / "results.md").read_text()
    assert "simpleshot (cl2n) [from prototypical]" in page
    assert "A row marked 'from NAME' begins with weights that the learner NAME trained on the same base classes" in page


def test_classes_that_are_too_few_for_splits_become_test_classes(tmp_path, pictures, capsys):
    folder, features = tmp_path / "few", tmp_path / "few.npz"
    for name in ("class 00", "class 01"):
        shutil.copytree(Path(pictures) / name, folder / name)
    assert main(["embed", "pixels", str(folder), "--size", "16", "--output", str(features)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "20 of test" in said[0]
    command = shlex.split(said[-1].removeprefix("Next: fewshot "))
    shape = ["--way", "2", "--shot", "1", "--query", "5", "--episodes", "10", "--learner", "prototypical"]
    assert main([*command, *shape, "--output", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_files_of_every_form_give_the_rows_of_one_another(tmp_path, pictures, checkpoint, suffix):
    rows, preset = [], frozen(tmp_path, FEW_HEADS, "conv4-32", checkpoint)
    for form in (".npz", suffix):
        features = tmp_path / f"features{form}"
        assert main(["embed", str(checkpoint), pictures, "--output", str(features)]) == 0
        rows.append(rows_of(tmp_path / f"run{form}", "--preset", preset, "--dataset", str(features)))
        for split in ("train", "validation", "test"):
            one, other = (load_dataset(str(tmp_path / f"features{kind}"), split) for kind in (".npz", form))
            assert torch.equal(one.images, other.images)
            assert (one.class_names, one.trained_on) == (other.class_names, other.trained_on)
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert not rows[1]["external"].any()


@pytest.mark.parametrize("backbone", ["pixels", "conv4-32"])
def test_features_of_a_backbone_give_the_rows_of_the_images(tmp_path, pictures, backbone):
    features, preset = tmp_path / "features.npz", frozen(tmp_path, FEW_HEADS, backbone)
    assert main(["embed", backbone, pictures, "--size", "16", "--output", str(features)]) == 0
    images = rows_of(tmp_path / "images", "--preset", preset, "--dataset", pictures)
    found = rows_of(tmp_path / "features", "--preset", preset, "--dataset", str(features))
    pd.testing.assert_frame_equal(found, images, check_exact=True)
    assert images["accuracy"].nunique() > len(FEW_HEADS)


def test_a_file_says_what_it_holds(tmp_path, pictures, checkpoint):
    path = tmp_path / "half.npz"
    assert main(["embed", str(checkpoint), pictures, "--output", str(path), "--split", "test", "--float16"]) == 0
    images = load_dataset(pictures, "test", size=16)
    with np.load(path) as file:
        assert file["embeddings"].dtype == np.float16
        assert file["class_names"].tolist() == list(images.class_names)
        assert np.array_equal(file["labels"], images.labels.numpy())
        assert set(file["split"]) == {"test"}
    bank = load_dataset(str(path), "test")
    assert bank.name == images.name
    assert bank.trained_on == ""
    assert list(tmp_path.iterdir()) == [path]  # no unfinished file is left


def test_features_from_elsewhere_are_external_and_train_what_a_learner_itself_has(tmp_path, caplog):
    random = np.random.default_rng(0)
    path = tmp_path / "elsewhere.npz"
    np.savez(path, x=random.normal(size=(200, 8)).astype(np.float32), y=np.repeat(np.arange(20), 10))
    learners = "prototypical,ridge,clip"
    small = ["--learner", learners, "--steps", "2", "--episodes", "10", "--way", "2", "--shot", "1"]
    assert main(["bench", "--dataset", str(path), *small, "--output", str(tmp_path / "run")]) == 0
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    assert rows["external"].all()
    assert set(rows["backbone"]) == {"features"}
    assert (tmp_path / "run" / "checkpoints" / "ridge-seed0" / "training.csv").read_text().count("\n") == 2
    best = tmp_path / "run" / "checkpoints" / "ridge-seed0" / "best.pt"
    assert main(["evaluate", str(best), "--way", "2", "--query", "3", "--episodes", "10"]) == 0
    assert main(["data", "check", str(path)]) == 0


def test_texts_let_openclip_tell_classes_by_name(tmp_path):
    random = np.random.default_rng(0)
    texts = random.normal(size=(20, 16)).astype(np.float32)
    path = tmp_path / "texts.npz"
    near = np.repeat(texts, 10, 0) + random.normal(scale=0.1, size=(200, 16)).astype(np.float32)
    np.savez(path, x=near, y=np.repeat(np.arange(20), 10), texts=texts, classes=np.arange(20))
    small = ["--dataset", str(path), "--episodes", "10", "--way", "2", "--shot", "1"]
    learners = ["--learner", "openclip:zero-shot,openclip:tip-adapter"]
    rows = rows_of(tmp_path / "run", *small, *learners)
    assert (rows["accuracy"] == 100).all()


def test_what_only_images_have_is_refused_in_one_sentence(tmp_path, pictures, capsys):
    path = tmp_path / "plain.npz"
    np.savez(path, x=np.eye(40, dtype=np.float32), y=np.repeat(np.arange(20), 2))
    text = refusal(lambda: load_config("quick", learners=["prototypical@conv4"], dataset=str(path)))
    assert "holds features and not images: leave out the backbone" in text
    for command, told in {
        ("data", "show", str(path)): "which make no picture",
        ("embed", "pixels", str(path)): "holds features already",
        ("embed", "features", pictures): "takes a file of features",
        ("embed", "pixels", pictures, "--output", str(tmp_path / "x.csv")): "unknown form of a file of features",
        ("bench", "--dataset", pictures, "--learner", "prototypical@features", "--output", str(tmp_path / "run")):
            "takes a file of features",
    }.items():  # fmt: skip
        assert main(list(command)) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_the_names_of_the_files_are_read_back(suffix, tmp_path, capsys):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 3, 9, 9), dtype=np.uint8)
    pixels[5, 2] = pixels[4, 1]  # a picture that occurs again
    files = {f"kind {c}/é{i}.png": encoded(pixels[c, i]) for c in range(6) for i in range(3)}
    folder, path = write_files(tmp_path / "pics", files), tmp_path / f"features.{suffix}"
    assert main(["embed", "pixels", str(folder), "--size", "9", "--output", str(path)]) == 0
    for split in ("train", "test", "all"):
        bank = load_dataset(str(path), split)
        assert set(bank.files) <= set(files)
        for name, label in zip(bank.files, bank.labels.tolist(), strict=True):
            assert name.startswith(bank.class_names[label] + "/")
    capsys.readouterr()
    assert main(["data", "check", str(path), "--split", "all"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("the same: "))
    assert set(said.removeprefix("the same: ").split(" = ")) == {"kind 4/é1.png (all)", "kind 5/é2.png (all)"}


def test_names_of_files_are_not_read_before_they_are_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "named.npz"
    names = np.array([f"{row}.png" for row in range(40)])
    np.savez(path, x=np.random.default_rng(0).normal(size=(40, 3)), y=np.repeat(np.arange(20)[::-1], 2), files=names)
    load_dataset(str(path), "test")  # prepares it
    read = []
    text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: read.append(self.name) or text(self, *a, **k))
    bank = load_dataset(str(path), "all")
    bank = load_dataset(str(path), "all")
    assert "files.json" not in read
    assert list(bank.files) == names.reshape(20, 2)[::-1].ravel().tolist()
    assert "files.json" in read


MEASURE = """
import re, sys, time
import torch
from episodes import load_dataset
from fewshot.evaluation import evaluate
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.backbones import make_backbone

def anonymous():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]) / 1024

before = time.perf_counter()
bank = load_dataset(sys.argv[1], "test")
opened = time.perf_counter() - before
learner = NearestPixel(make_backbone("features", bank.images.shape[1], 1), bank.classes)
empty = anonymous()
evaluate(learner, bank, 5, 1, 15, 20_000)
first = anonymous()  # freed memory is kept (devices.prepare), so that this is the peak
evaluate(learner, bank, 5, 1, 15, 40_000, seed=1)
print(opened, empty, first, anonymous())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory of a process in /proc")
def test_a_million_features_open_at_once_and_are_benchmarked_at_constant_memory(tmp_path):
    """10^6 x 768 float16 features: opened in under 0.2 s, and 40,000 episodes of them in the memory of 20,000."""
    count, size = 1_000_000, 768
    path = tmp_path / "million.npz"
    write_million(path, count, size)
    load_dataset(str(path), "test")  # reads the file once
    said = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    opened, empty, first, last = map(float, said.stdout.split())
    print(
        f"opened in {opened:.3f} s; anonymous memory {empty:.0f} MiB, after 20,000 episodes {first:.0f}"
        f", then {last:.0f}"
    )
    assert opened < 0.2
    assert last - empty < 732  # MiB: half of the file, most of it one part of the episodes
    assert last - first < 16
    path.unlink()


def write_million(path, count, size):
    from fewshot.feature_writing import Features, write_features

    block = np.random.default_rng(0).normal(size=(10_000, size)).astype(np.float16)
    labels = np.arange(count) // 100
    features = Features(
        shape=(count, size),
        dtype=block.dtype,
        parts=(block + np.float16(start % 97) for start in range(0, count, len(block))),
        labels=labels,
        of_classes={"class_names": [str(number) for number in range(labels[-1] + 1)]},
        of_rows={"split": np.full(count, "test")},
        about={},
    )
    write_features(path, features)
