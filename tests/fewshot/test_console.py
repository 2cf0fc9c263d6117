"""The output of commands: nothing that only a terminal can show, and errors before any long work."""

import numpy as np
import pytest
from PIL import Image

from episodes.datasets import glyphs
from fewshot.cli import main


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """An empty cache, so that images are prepared again."""
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))


BAR = ("\r", "%|", "step/s", "it/s")  # what progress bars consist of


def test_no_progress_bar_is_written_where_there_is_no_terminal(call, preset, tmp_path):
    said = call("bench", "--preset", preset, "--output", tmp_path / "run")
    assert said.code == 0
    assert not [mark for mark in BAR if mark in said.err]


def test_no_progress_bar_of_prepared_images_either(call_plain, monkeypatch):
    few = {script: (split, letters[:3]) for script, (split, letters) in glyphs.SCRIPTS.items()}
    monkeypatch.setattr(glyphs, "SCRIPTS", few)  # all characters take a minute, and say no more
    said = call_plain("data", "prepare", "glyphs")
    assert said.code == 0
    assert not [mark for mark in BAR if mark in said.err]


def test_an_occupied_folder_is_told_before_images_are_decoded(call, preset, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("", encoding="utf-8")

    def opened(*_, **__):
        raise AssertionError("the images were opened first")

    monkeypatch.setattr("fewshot.commands.bench.open_data", opened)
    said = call("bench", "--preset", preset, "--output", tmp_path / "run")
    assert said.code == 2
    assert "already holds a run" in said.err


def test_a_learner_that_does_not_train_has_no_accuracy_on_validation_classes(call, preset, tmp_path):
    said = call("bench", "--preset", preset, "--learner", "nearest-pixel@pixels", "--output", tmp_path / "run")
    assert said.code == 0
    assert "not trained, taken as it is" in said.err + said.out
    assert "nan" not in said.err + said.out


@pytest.mark.parametrize(("option", "named"), [("--protocol", "test protocol"), ("--learner", "learner")])
def test_a_list_of_nothing_is_told_by_what_it_is_a_list_of(option, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", option, ","])
    assert stopped.value.code == 2
    assert f"name at least one {named}" in capsys.readouterr().err


def test_data_check_names_the_images_that_occur_twice(call_plain, tmp_path):
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "eel", "fox"):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pics" / name / f"{number}.png")
    twin = tmp_path / "pics" / "cat" / "3.png"
    twin.write_bytes((tmp_path / "pics" / "cat" / "1.png").read_bytes())
    said = call_plain("data", "check", tmp_path / "pics")
    (line,) = [line for line in said.out.splitlines() if line.startswith("the same: ")]
    places = line.removeprefix("the same: ").split(" = ")
    assert [place.partition(" (")[0] for place in places] == ["cat/1.png", "cat/3.png"]


def test_training_curves_are_shown_though_the_weights_are_gone(call, preset, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.report.page.embed_flat", lambda *_: None)  # t-SNE takes seconds
    monkeypatch.setattr("fewshot.report.figures.drawn", lambda *_: b"<svg/>")
    run = tmp_path / "run"
    assert call("bench", "--preset", preset, "--output", run).code == 0
    for weights in run.rglob("*.pt"):
        weights.unlink()
    said = call("report", run)
    assert said.code == 0
    assert (
        "Training curves" not in (run / "report.html").read_text(encoding="utf-8").partition("are left out")[0][-200:]
    )
    assert (run / "figures" / "training-accuracy.svg").exists()
