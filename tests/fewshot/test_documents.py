"""The code and the commands in README and in the pages of the documentation work unchanged."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_bank

from baselines import published
from docs import tables
from fewshot import checkpoints
from fewshot.backbones import make_backbone
from fewshot.cli import parser_of_commands
from fewshot.config import Training
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.learners.registry import LEARNERS, traits_of
from fewshot.models import ModelSpec
from fewshot.report import board
from fewshot.testing.checks import CHECKS, HOLDS
from fewshot.testing.specimen import specimens

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
TUTORIALS = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "docs/tutorials").glob("*.md"))}
BLOCKS = {text for page in PAGES.values() for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL)}
# Each block of code is run by a test below, which finds it by this word.
RUN = (
    "MyIdea(Learner)",
    "SoftNeighbours(Learner)",
    "AnyShots(SoftNeighbours)",
    "NearestMean(Learner)",
    "MovedMeans(NearestMean)",
    "EpisodeSampler",
    "train(learner",
    "kind_sampler",
    "InferenceSession",
    'published("omniglot"',
    "why_not_runnable(",
    "Classifier(",
)


def block(word: str) -> str:
    """The one Python block with `word` in it, the same on every page that shows it."""
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_every_block_of_code_is_run_by_a_test():
    assert {block(word) for word in RUN} == BLOCKS


def commands_of(page: str) -> list[str]:
    """The commands of the suite in the console blocks of a page, without what the shell does around them."""
    lines = [
        line
        for text in re.findall(r"```console\n(.*?)```", page, re.DOTALL)
        for line in text.replace("\\\n", " ").splitlines()
    ]
    parts = [part for line in lines for part in re.split(r"&&|[|>]", line.partition(" #")[0])]
    found = [re.match(r"(?:\$ )?\s*(?:\.venv/bin/)?(fewshot \S.*)", part.strip()) for part in parts]
    return [one[1] for one in found if one]


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page, text in PAGES.items() for command in commands_of(text)]
)
def test_every_command_on_a_page_is_one_that_the_command_line_takes(page, command):
    options = parser_of_commands().parse_args(shlex.split(command)[1:])
    assert callable(options.command)


def test_the_commands_that_compare_with_a_paper_run(call_plain, tmp_path, monkeypatch):
    runs = {"quick-omniglot": "quick-omniglot", "plain": "mining-icons-plain", "changed": "mining-icons-hard"}
    for name, run in runs.items():
        shutil.copytree(REFERENCE / run, tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    found = [one for one in commands_of(PAGES["docs/compare.md"]) if one.startswith("fewshot compare")]
    assert len(found) == 3
    for command in found:
        said = call_plain(*shlex.split(command)[1:])
        assert (said.code, said.err) == (0, "")
    assert r"\toprule" in (tmp_path / "comparison.tex").read_text()


def test_the_readme_is_read_in_two_minutes():
    assert len(PAGES["README.md"].splitlines()) < 150


def test_the_learner_is_short_and_stands_in_the_table_beside_the_others(call, preset, tmp_path):
    source = block("SoftNeighbours(Learner)")
    assert len(source.splitlines()) <= 20
    (tmp_path / "my_idea.py").write_text(source)
    learners = f"{tmp_path}/my_idea.py:SoftNeighbours,prototypical"
    said = call("bench", "--preset", preset, "--output", tmp_path / "run", "--device", "cpu", "--learner", learners)
    assert (said.code, said.err.count("Traceback")) == (0, 0)
    assert "SoftNeighbours" in said.out
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["learner"]) == {"SoftNeighbours", "prototypical"}


def test_what_a_learner_declares_is_what_its_variants_have():
    names = {}
    exec(block("MyIdea(Learner)"), names)
    backbone = make_backbone("conv4-32", 1, 16)
    assert [names["MyIdea"](backbone, 5, one).traits.fits_episodes for one in ("", "plain", "fitted")] == [0, 0, 1]


def test_the_learner_keeps_the_promises(call, tmp_path):
    (tmp_path / "my_idea.py").write_text(block("SoftNeighbours(Learner)"))
    said = call("check", f"{tmp_path}/my_idea.py:SoftNeighbours")
    assert (said.code, said.err) == (0, "")


def test_the_learner_that_takes_a_mask_keeps_the_promises_of_masks(tmp_path):
    (tmp_path / "my_idea.py").write_text(block("SoftNeighbours(Learner)") + block("AnyShots(SoftNeighbours)"))
    (specimen,) = specimens(f"{tmp_path}/my_idea.py:AnyShots")
    results = [check(specimen) for check in CHECKS if "mask" in check.name]
    assert {result.outcome for result in results} == {HOLDS}, results


@pytest.mark.parametrize("name", ["NearestMean", "MovedMeans"])
def test_the_episodic_and_the_transductive_learner_keep_the_promises(call, tmp_path, name):
    (tmp_path / "my_idea.py").write_text(block("NearestMean(Learner)") + block("MovedMeans(NearestMean)"))
    said = call("check", f"{tmp_path}/my_idea.py:{name}")
    assert (said.code, said.err) == (0, "")


def test_a_transductive_learner_that_does_not_say_so_is_told(call, tmp_path):
    source = block("NearestMean(Learner)") + block("MovedMeans(NearestMean)").replace("transductive=True", "")
    (tmp_path / "my_idea.py").write_text(source)
    said = call("check", f"{tmp_path}/my_idea.py:MovedMeans")
    assert said.code == 2
    assert "transductive" in said.out + said.err


def test_episodes_come_in_the_shapes_it_says(real_data):
    names = {}
    exec(block("EpisodeSampler"), names)
    assert names["bank"].classes == 1692
    assert (names["episodes"].support.shape, names["episodes"].query.shape) == ((10_000, 5, 1), (10_000, 5, 15))
    assert names["images"].shape == (5, 1, 28, 28)


def test_a_learner_trains_and_is_evaluated_from_python():
    names = {
        "load_dataset": lambda name, split: toy_bank(30, 20, size=28, split=split),
        "bank": toy_bank(30, 20, size=28),
    }
    source = block("train(learner").replace("steps=500", "steps=2").replace("10_000", "20")
    *lines, last = source.strip().splitlines()
    exec("\n".join(lines), names)
    assert 50 < eval(last, names).mean <= 100


def test_episodes_of_a_kind_are_evaluated_from_python():
    bank = toy_bank(30, 20)
    names = {"bank": bank, "learner": NearestPixel(torch.nn.Flatten(), bank.classes)}
    *lines, last = block("kind_sampler").replace("1000", "20").strip().splitlines()
    exec("\n".join(lines), names)
    assert 50 < eval(last, names).mean <= 100


def test_a_classifier_labels_pictures(tmp_path, monkeypatch, toy_banks):
    spec = ModelSpec.of(NearestPixel, toy_banks["train"], Training(backbone="pixels"))
    checkpoints.save(tmp_path / "best.pt", {"about": spec.to_checkpoint(), "learner": {}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewshot.loading.load_dataset", lambda name, split, **_: toy_banks[split])
    images = toy_banks["test"].images.unflatten(0, (30, 24))
    names = {"pictures": images[:2, :3].flatten(0, 1), "labels": ["a"] * 3 + ["b"] * 3, "others": images[:3, 5]}
    exec(block("Classifier("), names)
    assert names["classifier"].predict(names["others"]).tolist() == ["a", "b", "none of these"]
    assert names["classifier"].predict_proba(names["others"]).shape == (3, 2)


def test_an_exported_network_gives_embeddings(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, save

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 1, 2, 2])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", 4])
    flatten = helper.make_node("Flatten", ["images"], ["embeddings"])
    model = helper.make_model(
        helper.make_graph([flatten], "network", [images], [embeddings]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    helper.set_model_props(model, {"fewshot": '{"size": 2}'})
    save(model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names = {"images": np.ones((3, 1, 2, 2), np.float32)}
    exec(block("InferenceSession"), names)
    assert (names["embeddings"].shape, names["about"]) == ((3, 4), {"size": 2})


def test_published_numbers_are_chosen_by_what_they_are_of(capsys):
    exec(block('published("omniglot"'), {})
    printed = capsys.readouterr().out
    assert re.search(r"Prototypical Networks +Euclidean +96\.00? +Snell et al. 2017", printed)


def test_the_best_published_numbers_and_the_reasons_are_printed(capsys):
    exec(block("why_not_runnable("), {})
    printed = capsys.readouterr().out
    assert "the suite has no learner of this method" in printed
    assert re.search(r"inductive +resnet12 +71\.75 +EASY +Bendou et al. 2022", printed)


def test_the_number_of_published_numbers_is_that_of_the_file():
    assert f"has {len(published()):,} published numbers" in PAGES["docs/compare.md"]


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page, target)
        for page, text in (PAGES | TUTORIALS).items()
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    ],
)
def test_its_links_lead_somewhere(page, target):
    path = (ROOT / page).parent / target
    assert path.exists() or path == ROOT / "docs" / board.NAME  # which docs/board.py makes for the site


@pytest.mark.parametrize(
    ("page", "run", "learners"),
    [
        ("README.md", "quick-omniglot", 4),
        ("docs/index.md", "quick-omniglot", 4),
        ("docs/learners.md", "quick-omniglot-all", 22),
        ("docs/data-sets.md", "quick-mini_imagenet", 4),
        ("docs/compare.md", "paper-omniglot", 4),
        ("docs/compare.md", "paper-omniglot-lake-oneshot", 4),
    ],
)
def test_its_tables_are_those_that_runs_wrote(page, run, learners):
    written = (REFERENCE / run / "results.md").read_text()
    first = re.search(r"(^\|.*\n)+", written, re.MULTILINE).group().strip()
    assert len(first.splitlines()) == 2 + learners
    assert first in PAGES[page]


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_marked_tables_are_what_the_command_writes(page):
    text = page.read_text()
    assert tables.rewritten(text) == text


def test_a_marked_table_is_written_anew_and_the_rest_of_the_page_stays():
    page = "before\n\n<!-- table: reference-runs -->\n\n| old |\n|:--|\n| 1 |\n\nafter\n\n| own |\n|:--|\n| 2 |\n"
    after = tables.rewritten(page)
    assert after.startswith("before\n\n<!-- table: reference-runs -->\n\n| run ")
    assert after.endswith("|\n\nafter\n\n| own |\n|:--|\n| 2 |\n")
    assert "old" not in after
    assert tables.rewritten(after) == after
    assert tables.rewritten("<!-- table: reference-runs -->\n\nafter\n").endswith("|\n\nafter\n")


def test_a_table_that_there_is_not_is_told():
    with pytest.raises(KeyError, match="there is no run or table no-run"):
        tables.rewritten("<!-- table: no-run -->\n\n")


@pytest.mark.parametrize(
    "run", [path for path in sorted(REFERENCE.iterdir()) if path.is_dir()], ids=lambda run: run.name
)
def test_a_reference_run_says_its_command_machine_and_time(run):
    about = tables.about(run)
    assert set(about) == {"command", "machine", "time"}
    assert all(about.values())


def test_every_learner_that_trains_is_above_nearest_pixels():
    results = pd.read_csv(REFERENCE / "quick-omniglot-all" / "results.csv")
    trained = results[results["learner"].map(lambda name: traits_of(LEARNERS[name]).trains)]
    floor = results[results["learner"] == "nearest-pixel"].set_index(["way", "shot"])["accuracy"]
    assert (trained["learner"].nunique(), len(floor)) == (21, 4)
    for (way, shot), rows in trained.groupby(["way", "shot"]):
        assert rows["accuracy"].min() > floor[way, shot]


def test_its_speeds_are_those_that_were_measured():
    measured = pd.read_csv(REFERENCE / "perf" / "perf.csv").set_index(["task", "contender"])
    table = re.search(r"^\| task \|.*\n\|.*\n((\|.*\n)+)", PAGES["docs/speed.md"], re.MULTILINE)
    (header, *rows) = table.group().splitlines()
    contenders = header.strip("| ").split(" | ")[1:]
    assert (contenders, len(rows)) == (["fewshot", "easyfsl", "learn2learn", "plain loop"], 1 + 13)
    for row in rows[1:]:
        task, *cells = row.strip("| ").split(" | ")
        task, unit = task.removesuffix(")").rsplit(" (", 1)
        ours = measured.loc[(task, "fewshot"), "median"]
        for contender, cell in zip(contenders, cells, strict=True):
            if cell == "–":
                assert (task, contender) not in measured.index
                continue
            theirs = measured.loc[(task, contender)]
            value, _, ratio = cell.removesuffix(")").partition(" (")
            decimals = len(value.partition(".")[2])
            assert (theirs["unit"], f"{theirs['median']:,.{decimals}f}") == (unit, value)
            if contender != "fewshot":
                times = ours / theirs["median"] if theirs["faster"] else theirs["median"] / ours
                assert ratio == f"{times:.1f}"


def test_the_speeds_of_the_readme_are_those_that_were_measured():
    measured = pd.read_csv(REFERENCE / "perf" / "perf.csv").set_index(["task", "contender"])
    tasks = {
        "draw 5-way 1-shot episodes of Omniglot": "indices, Omniglot, 5-way 1-shot",
        "evaluate 10,000 episodes, conv4 at 28x28": "conv4, Omniglot at 28x28, 10,000 episodes",
        "evaluate 10,000 episodes, resnet12 at 84x84": "resnet12, miniImageNet at 84x84, 10,000 episodes",
        "train prototypical networks, conv4 at 28x28": "prototypical, conv4, 28x28, cpu",
    }
    rows = re.findall(r"^\| (.*) \((\S*s)\) \| (.*) \|$", PAGES["README.md"], re.MULTILINE)
    assert [task for task, _, _ in rows] == list(tasks)
    for task, unit, cells in rows:
        for contender, cell in zip(
            ("fewshot", "easyfsl", "learn2learn", "plain loop"), cells.split(" | "), strict=True
        ):
            if cell == "–":
                assert (tasks[task], contender) not in measured.index
                continue
            row = measured.loc[(tasks[task], contender)]
            assert (row["unit"], f"{row['median']:,.{len(cell.partition('.')[2])}f}") == (unit, cell)


def test_its_times_to_an_accuracy_are_those_that_were_measured():
    measured = pd.read_csv(REFERENCE / "perf" / "perf.csv").set_index("part")
    history = json.loads(measured.loc["target", "details"])["history"]
    sentence = r"reaches\s+([\d.]+) % .*? after (\d+) s\s+and ([\d.]+) % after (\d+) s"
    told = re.search(sentence, PAGES["docs/speed.md"]).groups()
    for percent, seconds in (told[:2], told[2:]):
        assert int(seconds) == round(next(spent for spent, found in history if found >= float(percent)))


def test_its_backbones_are_those_that_were_measured():
    measured = pd.read_csv(REFERENCE / "backbones.csv").set_index("backbone")
    row = r"^\| `([\w-]+)` .*?\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$"
    rows = re.findall(row, PAGES["docs/backbones.md"], re.MULTILINE)
    assert len(rows) == 8
    for name, *numbers in rows:
        row = measured.loc[name, ["parameters", "embedding", "train_rate", "embed_rate"]]
        assert numbers == [f"{round(value):,}" for value in row]
