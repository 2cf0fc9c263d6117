"""Classifier and `fewshot predict`: forms of pictures and labels, refusals, the csv file and the page."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encoded, refusal, toy_bank, write_files
from PIL import Image
from same_answers import write_checkpoint

from fewshot import Classifier, prediction
from fewshot.answers import NONE
from fewshot.config import Training
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.models import ModelSpec


def test_a_support_folder_has_the_classes_that_a_run_on_it_has(tmp_path):
    spec = ModelSpec.of(NearestPixel, toy_bank(2, 2, seed=0), Training(backbone="pixels"))
    images = [encoded(image) for image in toy_bank(3, 2, seed=3).images[:, 0].numpy()]
    names = [f"train/a/{i}.png" for i in (0, 1)] + ["train/b/0.png", "train/b/1.png", "val/c/0.png", "test/d/0.png"]
    splits = write_files(tmp_path / "splits", dict(zip(names, images)))
    bank = prediction.read_support(splits, spec)
    assert (bank.class_names, bank.sizes.tolist()) == (("a", "b", "c", "d"), [2, 2, 1, 1])
    files = {f"{i}.png": image for i, image in enumerate(images)}
    rows = "".join(f"{i}.png,{'owl' if i < 4 else 'cat'}\n" for i in range(6))
    listed = write_files(tmp_path / "listed", {**files, "labels.csv": f"filename,label\n{rows}".encode()})
    bank = prediction.read_support(listed, spec)
    assert (bank.class_names, bank.sizes.tolist()) == (("cat", "owl"), [2, 4])


@pytest.fixture
def pixels(tmp_path, monkeypatch, toy_banks) -> Path:
    """A checkpoint of nearest-pixel on the toy data, whose validation classes are there."""
    monkeypatch.setattr("fewshot.loading.load_dataset", lambda name, split, **_: toy_banks[split])
    spec = ModelSpec.of(NearestPixel, toy_banks["train"], Training(backbone="pixels"))
    return write_checkpoint(tmp_path / "best.pt", spec.build(NearestPixel), spec)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """support/ of three classes with 2, 3 and 4 pictures, and query/ with two pictures a class and a damaged one."""
    bank, files = toy_bank(5, 8, seed=3), {"query/damaged.png": b"no picture", "query/notes.txt": b"left out"}
    for number, name in enumerate(("=cat", "error", "owl")):
        shown = bank.images[bank.labels == number, 0].numpy()
        files |= {f"support/{name}/{i}.png": encoded(shown[i]) for i in range(number + 2)}
        files |= {f"query/{number}{i}.png": encoded(shown[i]) for i in (6, 7)}
    files["other/0.png"] = encoded(bank.images[bank.labels == 4, 0][0].numpy())
    return write_files(tmp_path / "pictures", files)


LEAD = r'(?s)<div class="said">.*?value="([0-9.]+)".*?value="([0-9.]+)"'  # the two likeliest classes of a picture


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_queries_of_which_none_can_be_read_are_an_error_and_the_table_says_why(call_plain, pixels, pictures, tmp_path):
    (tmp_path / "note.png").write_text("no picture")
    out = tmp_path / "a.csv"
    said = call_plain("predict", pixels, "--support", pictures / "support", tmp_path / "note.png", "--output", out)
    assert said.code == 2
    assert f"no query can be read as a picture: {out} says why" in said.err
    (row,) = rows_of(out)
    assert row["error"]


def test_the_csv_file_has_an_answer_and_probabilities_or_an_error_of_each_picture(
    call_plain, pixels, pictures, tmp_path
):
    out = tmp_path / "a.csv"
    said = call_plain("predict", pixels, "--support", pictures / "support", pictures / "query", "--output", out)
    assert said.code == 0, said.err
    assert "6 pictures answered, 1 cannot be read" in said.out
    assert "support set: 3 classes of 2 to 4 pictures" in said.out
    rows = {Path(row["file"]).name: row for row in rows_of(out)}
    assert list(rows["06.png"]) == ["file", "answer", "'=cat", "class error", "owl", "error"]
    answers = [rows[f"{number}{i}.png"]["answer"] for number in range(3) for i in (6, 7)]
    assert answers == ["'=cat", "'=cat", "error", "error", "owl", "owl"]
    for name, row in rows.items():
        chances = [row[column] for column in ("'=cat", "class error", "owl")]
        if name == "damaged.png":
            assert chances == ["", "", ""]
            assert row["answer"] == ""
            assert "not a readable image" in row["error"]
        else:
            assert sum(map(float, chances)) == pytest.approx(1, abs=1e-5)
            assert row["error"] == ""


def test_pictures_of_other_classes_are_none_of_these(call_plain, pixels, pictures, tmp_path):
    out = tmp_path / "a.csv"
    queries = [pictures / "query" / "06.png", pictures / "other"]
    said = call_plain(
        "predict", pixels, "--support", pictures / "support", *queries, "--output", out, "--reject", "0.05"
    )
    assert said.code == 0, said.err
    assert [row["answer"] for row in rows_of(out)] == ["'=cat", NONE]
    assert re.search(r"of pictures of known validation classes, \d\.\d ± \d\.\d % are refused \(95 % int", said.out)
    assert "of pictures of unknown validation classes, 100 % are refused" in said.out


def test_a_file_that_is_there_is_replaced_on_request_only(call_plain, pixels, pictures, tmp_path):
    out = tmp_path / "a.csv"
    out.write_text("mine")
    command = ["predict", pixels, "--support", pictures / "support", pictures / "query", "--output", out]
    said = call_plain(*command)
    assert said.code == 2
    assert "--overwrite" in said.err
    assert out.read_text() == "mine"
    assert call_plain(*command, "--overwrite").code == 0
    assert len(rows_of(out)) == 7
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "missing"}, "there is no"),
        ({"support": "query"}, "is in no class folder"),
        ({"support": "support/owl"}, "is in no class folder"),
        ({"support": "missing"}, "there is no"),
        ({"reject": "0.7"}, "at most 0.5"),
        ({"output": "nowhere/a.csv"}, "there is no folder"),
        ({"support": "query/06.png"}, "is neither a folder nor an archive"),
        ({"page": "a.csv"}, "choose two names"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(call_plain, pixels, pictures, tmp_path, change, message):
    wanted = {"query": "query", "support": "support", "reject": "0.05", "output": "a.csv", "page": "a.html", **change}
    said = call_plain(
        *("predict", pixels, "--support", pictures / wanted["support"], pictures / wanted["query"]),
        *("--output", tmp_path / wanted["output"], "--page", tmp_path / wanted["page"], "--reject", wanted["reject"]),
    )
    assert said.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "a.csv").exists()


def test_pictures_come_in_every_form_with_the_same_probabilities(pixels, pictures):
    files = sorted((pictures / "support").rglob("*.png"))
    made = Classifier(pixels, device="cpu").fit(files, [file.parent.name for file in files])
    queries = sorted((pictures / "query").glob("??.png"))
    expected = made.predict_proba(queries)
    opened = [Image.open(file) for file in queries]
    stacked = np.stack([np.asarray(image) for image in opened])
    forms = [opened, list(stacked), stacked, stacked[..., None], stacked / 255, torch.from_numpy(stacked)[:, None]]
    for form in forms:
        assert np.array_equal(made.predict_proba(form), expected)
    assert made.classes_.tolist() == ["=cat", "error", "owl"]
    assert made.score(queries, made.predict(queries)) == 1


def test_labels_keep_their_type(pixels):
    bank = toy_bank(3, 8, seed=3)
    labels = 10 * bank.labels.numpy()
    made = Classifier(pixels, device="cpu", temperature=1.0).fit(bank.images, labels)
    assert made.predict(bank.images).dtype == labels.dtype
    assert (made.predict(bank.images) == labels).all()
    assert "each image needs one label" in refusal(lambda: made.fit(bank.images, labels[1:]))
    assert "2 classes or more" in refusal(lambda: made.fit(bank.images[:8], labels[:8]))


def test_what_is_no_sequence_of_images_is_refused(pixels, pictures):
    bank = toy_bank(2, 8, seed=3)
    made = Classifier(pixels, device="cpu", temperature=1.0).fit(bank.images, bank.labels.numpy())
    path = pictures / "other" / "0.png"
    for one in (path, str(path), Image.new("L", (9, 9))):
        assert "give a list of it" in refusal(lambda one=one: made.predict(one))
    for gone in ("~/owl.png", "https://example.org/owl.png", pictures / "gone.png"):
        assert refusal(lambda gone=gone: made.predict([gone])) == f"there is no image {gone}"
    cut = pictures / "cut.png"
    cut.write_bytes(path.read_bytes()[:-30])
    with Image.open(cut) as opened:
        assert "cannot be decoded" in refusal(lambda: made.predict([opened]))


def test_a_folder_that_cannot_be_written_is_told_before_the_work(call_plain, pixels, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.commands.outputs.os.access", lambda *_: False)  # the superuser may write everywhere
    said = call_plain("predict", pixels, "--support", pictures / "support", pictures, "--output", tmp_path / "a.csv")
    assert (said.code, said.out) == (2, "")
    assert "you may not write" in said.err


def test_the_page_shows_a_strip_of_one_pixel(call_plain, pixels, pictures, tmp_path):
    (pictures / "query" / "strip.png").write_bytes(encoded(np.zeros((1, 2000), np.uint8)))
    page = tmp_path / "a.html"
    query = pictures / "query" / "strip.png"
    command = ["predict", pixels, "--support", pictures / "support", query, "--output", tmp_path / "a.csv"]
    assert call_plain(*command, "--page", page).code == 0
    assert page.read_text(encoding="utf-8").count("data:image/jpeg") == 1


def test_refused_pictures_are_answered_so_by_the_classifier(pixels, toy_banks):
    test = toy_banks["test"]
    known, unknown = (test.images[test.labels == number] for number in (0, 9))
    support = torch.cat([known[:3], test.images[test.labels == 1][:3]])
    made = Classifier(pixels, device="cpu", reject=0.1).fit(support, [0, 0, 0, 1, 1, 1])
    assert (made.predict(unknown) == NONE).all()
    assert (made.predict(known[3:]) == 0).mean() >= 0.8


def test_the_page_shows_doubtful_pictures_first_and_escapes_every_name(call_plain, pixels, pictures, tmp_path):
    hostile = "<script>alert(1)</script>".replace("/", "\u2215")
    (pictures / "support" / "owl").rename(pictures / "support" / hostile)
    (pictures / "query" / "06.png").rename(pictures / "query" / '"><img src=x onerror=alert(1)>.png')
    page = tmp_path / "a.html"
    said = call_plain(
        *("predict", pixels, "--support", pictures / "support", pictures / "query", pictures / "other"),
        *("--output", tmp_path / "a.csv", "--page", page, "--reject", "0.05"),
    )
    assert said.code == 0, said.err
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text
    assert re.findall(r"https?:", text) == []
    shown = re.findall(r"<b(?: class=.none.)?>(.*?)</b>", text)
    assert len(shown) == 7
    assert shown[0] == NONE
    assert "damaged.png" in text.partition("cannot be read")[2]
    leads = [float(first) - float(second) for first, second in re.findall(LEAD, text)][1:]
    assert leads == sorted(leads)
