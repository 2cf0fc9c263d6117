"""Icons: one bank from any form of the package, no look-alikes, disjoint splits, credits, no trust in files."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal, write_files

from episodes import load_dataset
from episodes.bank import cache_folder
from episodes.datasets import icon_styles, icons
from episodes.datasets.iconify import IconSet, find
from episodes.errors import MissingData

pytest.importorskip("resvg_py", reason="needs the extra icons")

SPLITS = ("train", "validation", "test")
NAMES = [f"thing-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"][:16]
SETS = [f"set-{number:02d}" for number in range(22)]


def drawing(seed: int) -> str:
    """A checkered square that no other seed gives."""
    blocks = np.random.default_rng(seed).integers(0, 2, (6, 6))
    blocks[0, 0] = blocks[-1, -1] = 1
    return "".join(f'<rect x="{x}" y="{y}" width="1" height="1"/>' for y, x in np.argwhere(blocks).tolist())


def record(title: str, licence: str = "MIT", author: str = "") -> dict:
    return {
        "name": title,
        "author": {"name": author or f"author of {title}", "url": f"https://example.org/{title}"},
        "license": {"title": licence, "spdx": licence, "url": "https://example.org/licence"},
    }


def package(**changes: object) -> dict[str, bytes]:
    """The files of a package of 22 sets with 16 names; `changes` replace or add files, by their names without .json."""
    files: dict[str, object] = {"collections": {prefix: record(prefix) for prefix in SETS}}
    for number, prefix in enumerate(SETS):
        bodies = {name: {"body": drawing(100 * number + place)} for place, name in enumerate(NAMES)}
        files[f"json/{prefix}"] = {"prefix": prefix, "icons": bodies, "width": 6, "height": 6}
    files |= {name.replace("__", "/"): change for name, change in changes.items()}
    return {
        f"package/{name}.json": data if isinstance(data, bytes) else json.dumps(data).encode()
        for name, data in files.items()
    }


@pytest.fixture
def data(tmp_path, own_cache):
    """A function that writes a package as `name` and gives its data folder."""

    def written(files: dict[str, bytes], name: str = "iconify/iconify-json-1.0.0.tgz"):
        write_files(tmp_path / "data" / name, files)
        return tmp_path / "data"

    return written


def banks(folder, dataset: str = "icons"):
    return {split: load_dataset(dataset, split, data=folder, size=16) for split in SPLITS}


def test_names_are_split_into_classes_that_stay_where_they_are(data, tmp_path):
    folder = data(package())
    found = banks(folder)
    names = {split: set(bank.class_names) for split, bank in found.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 16
    assert set(load_dataset("icons", "all", data=folder, size=16).class_names) == set().union(*names.values())
    assert all(names.values())
    assert "thing a" in set().union(*names.values())
    assert all((bank.sizes == 22).all() and bank.images.shape[1:] == (1, 16, 16) for bank in found.values())
    wider = package()
    for place, prefix in enumerate(SETS):
        table = json.loads(wider[f"package/json/{prefix}.json"])
        table["icons"]["another"] = {"body": drawing(9000 + place)}
        wider[f"package/json/{prefix}.json"] = json.dumps(table).encode()
    for split, bank in banks(
        write_files(tmp_path / "wider" / "iconify" / "iconify-json-2.tgz", wider).parents[1]
    ).items():
        assert set(bank.class_names) - {"another"} == names[split]


def test_every_form_of_the_package_gives_the_same_bank(data, tmp_path):
    files = package()
    expected = {split: bank.checksum for split, bank in banks(data(files)).items()}
    forms = ("a/iconify.zip", "b/iconify", "c/@iconify/iconify-json-2.tar", "d/icons")
    for form in forms:
        inside = {name.replace("package/", "json/" if "icons" in form else ""): text for name, text in files.items()}
        write_files(tmp_path / form, files if form.startswith(("a", "c")) else inside)
        found = banks((tmp_path / form).parents[form.count("/") - 1])
        assert {split: bank.checksum for split, bank in found.items()} == expected, form


def test_of_forks_one_drawing_is_kept_and_names_that_lose_too_many_are_left_out(data):
    files = package()
    for fork in SETS[:2]:  # they copy the last set, a little larger
        table = json.loads(files[f"package/json/{SETS[-1]}.json"])
        files[f"package/json/{fork}.json"] = json.dumps({**table, "prefix": fork, "left": -1, "width": 8}).encode()
    found = banks(data(files))
    assert all((bank.sizes == 20).all() for bank in found.values())
    assert not {SETS[1], SETS[-1]} & set(icons.set_names(found["train"]))
    assert SETS[0] in icons.set_names(found["train"])
    third = json.loads(files[f"package/json/{SETS[-1]}.json"])
    third["icons"] = {name: third["icons"][name] for name in NAMES[:15]}
    files[f"package/json/{SETS[2]}.json"] = json.dumps(third).encode()
    del files[f"package/json/{SETS[3]}.json"]
    assert "too small a part" in refusal(lambda: banks(data(files)))


def test_sets_that_are_not_free_and_rare_names_are_left_out(data):
    closed = {prefix: record(prefix, "MIT" if place < 20 else "GPL-3.0") for place, prefix in enumerate(SETS)}
    rare = {"prefix": SETS[0], "icons": {name: {"body": drawing(place)} for place, name in enumerate(NAMES[-9:])}}
    found = banks(data(package(collections=closed, **{"json__set-00": {**rare, "width": 6, "height": 6}})))
    assert sum(bank.classes for bank in found.values()) == 9
    assert {name for bank in found.values() for name in icons.set_names(bank)} == set(SETS[:20])


def test_drawings_that_could_read_files_are_left_out(data, tmp_path):
    files = package()
    table = json.loads(files[f"package/json/{SETS[3]}.json"])
    for name in NAMES:
        table["icons"][name]["body"] += f'<image href="{tmp_path}/secret.png"/>'
    files[f"package/json/{SETS[3]}.json"] = json.dumps(table).encode()
    found = banks(data(files))
    assert SETS[3] not in {name for bank in found.values() for name in icons.set_names(bank)}


def test_new_styles_are_the_same_classes_drawn_by_other_authors(data):
    sets = [f"set-{number:02d}" for number in range(40)]
    listed = {prefix: record(prefix, author=f"author {number // 2}") for number, prefix in enumerate(sets)}
    tables = {
        f"json__{prefix}": {
            "icons": {name: {"body": drawing(100 * number + place)} for place, name in enumerate(NAMES[:4])},
            "width": 6,
            "height": 6,
        }
        for number, prefix in enumerate(sets)
    }
    folder = data(package(collections=listed, **tables))
    found = banks(folder, "icons:sets")
    assert found["train"].class_names == found["validation"].class_names == found["test"].class_names
    authors = {
        split: {listed[name]["author"]["name"] for name in icons.set_names(bank)} for split, bank in found.items()
    }
    assert sum(map(len, authors.values())) == len(set().union(*authors.values())) == 20
    assert "have the same classes" in refusal(lambda: load_dataset("icons:sets", "all", data=folder, size=16))


def hollow(seed: int) -> str:
    """The borders of the squares of `drawing`."""
    return drawing(seed).replace("/>", ' fill="none" stroke="black" stroke-width="0.3"/>')


def test_a_class_of_styles_is_a_name_as_outlining_or_filling_sets_draw_it(data):
    files = package()
    for number, prefix in enumerate(SETS[:11]):
        table = json.loads(files[f"package/json/{prefix}.json"])
        table["icons"] = {name: {"body": hollow(5000 + 100 * number + i)} for i, name in enumerate(NAMES)}
        files[f"package/json/{prefix}.json"] = json.dumps(table).encode()
    folder = data(files)
    by_name = banks(folder)
    for split, bank in banks(folder, "icons:styles").items():
        named = [f"{style} {name}" for style in ("outline", "solid") for name in by_name[split].class_names]
        assert list(bank.class_names) == named
        assert bank.group_names == tuple(name.partition(" ")[0] for name in named)
        assert bool((bank.sizes == 11).all())
        outlined = np.array(icons.set_names(bank)) < SETS[11]
        assert (outlined == [bank.group_names[label] == "outline" for label in bank.labels.tolist()]).all()


def test_names_without_enough_drawings_in_each_style_are_no_classes_of_styles(data):
    assert "too small a part" in refusal(lambda: banks(data(package()), "icons:styles"))


def test_fullness_is_the_share_of_ink_that_stays_inside_its_border():
    images = np.zeros((4, 32, 32), np.uint8)
    images[0, 4:9, 4:9] = 200  # 5x5 pixels, of which 3x3 lie inside
    images[1, 4:6] = 255  # a line of two pixels
    images[2, :3, :3] = 9  # in the corner: beyond the border there is no ink
    assert np.allclose(icon_styles.fullness(images), [9 / 25, 0, 1 / 9, 0])
    assert icon_styles.styles(images, ["a", "b", "c", "c"]) == {"b": "outline", "c": "outline"}  # a is in between


def test_credits_of_every_set_stand_beside_the_images(data):
    listed = {prefix: record(f"Icons, {prefix} Outline") for prefix in SETS}
    bank = banks(data(package(collections=listed)))["test"]
    [path] = (cache_folder() / "banks").glob("icons-names-test-16-*/credits.csv")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["set"] for row in rows] == SETS
    assert sum(int(row["images"]) for row in rows) == len(bank)
    assert rows[0]["title"] == "Icons, set-00 Outline"
    assert rows[0]["styles"] == "outline"
    assert rows[0]["author"] == "author of Icons, set-00 Outline"
    assert rows[0]["licence"] == "MIT"
    assert rows[0]["licence_url"] == "https://example.org/licence"


@pytest.mark.parametrize(
    ("title", "styles"),
    [
        ("HeroIcons v1 Outline", ("outline",)),
        ("Font Awesome 5 Solid", ("solid",)),
        ("IconPark TwoTone", ("duotone",)),
        ("Duoicons", ("duotone",)),
        ("Material Symbols Rounded Filled", ("solid", "rounded")),
        ("Sharp free icons", ("sharp",)),
        ("Streamline", ()),
        ("Groundwork Online", ()),
    ],
)
def test_styles_are_whole_words_of_the_title(title, styles):
    assert IconSet("a", title, "", "", "MIT", "").styles == styles


def test_a_missing_package_is_told_with_what_to_do(tmp_path, own_cache):
    (tmp_path / "data").mkdir()
    assert "npm pack @iconify/json" in refusal(lambda: banks(tmp_path / "data"), MissingData)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"collections": b"{"}, "no JSON"),
        ({"collections": b"[" * 200_000}, "no JSON"),
        ({"collections": [1]}, "no table"),
        ({"collections": {"set-00": {"name": "one"}}}, "no title, author or licence"),
        ({"collections": {"set-00": record("one")}}, "no name that 20 sets draw"),
        ({"json__set-00": {"icons": [1]}}, "no table of"),
    ],
)
def test_damaged_packages_are_refused_and_leave_nothing(data, own_cache, changes, reason):
    assert reason in refusal(lambda: banks(data(package(**changes))))
    assert not list((own_cache / "banks").glob("*"))


def test_paths_that_lead_out_of_the_archive_are_refused(data):
    assert "leads out of the archive" in refusal(lambda: banks(data(package() | {"../../json/evil.json": b"{}"})))


def test_icons_that_are_no_drawings_are_left_out(data):
    odd = [{"body": 3}, {"body": drawing(1), "width": "wide"}, {"body": drawing(2), "left": 1e300}, 7, {}]
    odd += [{"body": drawing(3), "height": 0}, {"body": drawing(4), "top": float("nan")}, {"body": "<path"}]
    strange = {"icons": dict(zip(NAMES, odd)) | {"../up": {"body": drawing(5)}}, "width": 6, "height": 6}
    found = banks(data(package(**{"json__set-00": strange})))
    assert "set-00" not in {name for bank in found.values() for name in icons.set_names(bank)}


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FEWSHOT_DATA"), reason="needs the package @iconify/json in FEWSHOT_DATA")
def test_the_real_icons_are_those_of_the_documentation(cache):
    folder = Path(os.environ["FEWSHOT_DATA"])
    if find([folder]) is None:
        pytest.skip(f"{folder} has no package @iconify/json")
    found = {split: load_dataset("icons", split, data=folder) for split in SPLITS}
    assert [bank.classes for bank in found.values()] == [226, 58, 90]
    assert all(bank.sizes.min() >= 20 for bank in found.values())
    page = Path(__file__).parents[2] / "docs" / "data-sets.md"
    assert found["test"].checksum in page.read_text(encoding="utf-8")
