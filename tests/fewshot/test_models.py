"""A model is the same in training, after a resume and from its checkpoint; the model in a checkpoint is checked."""

import dataclasses
import sys

import pytest
import torch
from conftest import refusal, toy_bank

import fewshot.commands.evaluate
from fewshot import checkpoints
from fewshot.benchmark import run_benchmark
from fewshot.cli import main
from fewshot.config import Training, load_config
from fewshot.learners.clip import CLIP
from fewshot.learners.npair import NPair
from fewshot.learners.siamese import Siamese
from fewshot.models import ModelSpec

READER = """
from fewshot import Traits
from fewshot.learners.prototypical import Prototypical

SEEN = []


class Reader(Prototypical):
    \"\"\"Scores by the names of its base classes: without them it fails, with others it scores differently.\"\"\"

    variants = {"euclidean": Traits(text=True)}

    def scores(self, support, query):
        SEEN.append(self.class_names)
        found = super().scores(support, query)
        first = sum(map(ord, self.class_names[0])) % found.shape[2]
        return found + 5 * torch.eye(found.shape[2])[first]
"""


@pytest.fixture
def frogs():
    """Toy images of classes called Tree_Frog_00 and so on."""
    banks = {
        split: toy_bank(20, 8, seed=seed, split=split) for seed, split in enumerate(("train", "validation", "test"))
    }
    names = tuple(f"Tree_Frog_{number:02d}" for number in range(20))
    return {split: dataclasses.replace(bank, class_names=names) for split, bank in banks.items()}


@pytest.fixture
def reader(tmp_path):
    path = tmp_path / "reader.py"
    path.write_text("import torch\n" + READER)
    return f"{path}:Reader"


def test_a_learner_reads_the_same_names_in_training_after_a_resume_and_from_its_checkpoint(
    frogs, reader, preset, tmp_path, monkeypatch, capsys
):
    def bench(**more):
        config = load_config(str(preset), [reader])
        return run_benchmark(config, frogs, tmp_path / "run", device="cpu", progress=False, **more)

    before = bench()
    seen = {"trained": sys.modules["fewshot_learner_reader"].SEEN[-1]}
    (tmp_path / "run" / "results.csv").unlink()
    after = bench(resume=True)
    seen["resumed"] = sys.modules["fewshot_learner_reader"].SEEN[-1]
    monkeypatch.setattr(fewshot.commands.evaluate, "load_dataset", lambda name, split, **_: frogs[split])
    best = tmp_path / "run" / "checkpoints" / "Reader-euclidean-seed0" / "best.pt"
    row = before.iloc[0]
    protocol = ["--way", row["way"], "--shot", row["shot"], "--query", row["query"], "--episodes", row["episodes"]]
    assert main(["evaluate", str(best), "--learner", reader, "--device", "cpu", *map(str, protocol)]) == 0
    seen["from its checkpoint"] = sys.modules["fewshot_learner_reader"].SEEN[-1]
    names = tuple(f"Tree Frog {number:02d}" for number in range(20))
    assert seen == dict.fromkeys(("trained", "resumed", "from its checkpoint"), names)
    assert list(before["accuracy"]) == list(after["accuracy"])
    assert f"{row['accuracy']:.2f} ± " in capsys.readouterr().out


def test_a_checkpoint_gives_back_the_model(tmp_path, frogs):
    spec = ModelSpec.of(
        CLIP, frogs["train"], Training(options={"size": 8}), seed=3, variant="zero-shot", data=["a", "b"]
    )
    checkpoints.save(tmp_path / "best.pt", {"about": spec.to_checkpoint()})
    found = ModelSpec.from_checkpoint(checkpoints.load(tmp_path / "best.pt"), tmp_path / "best.pt")
    assert found == spec
    assert found.changes(spec) == set()
    assert (found.name, found.label) == ("clip-zero-shot-seed3", "clip (zero-shot), seed 3")
    one, other = (each.build(CLIP) for each in (spec, found))
    assert one.class_names == other.class_names == spec.class_names
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_a_checkpoint_of_an_older_version_opens(frogs):
    """A checkpoint of the first version lacks all that was added since."""
    about = ModelSpec.of(NPair, frogs["train"], Training(), source="s").to_checkpoint()
    first = ("learner", "name", "variant", "seed", "dataset", "channels", "size", "classes", "settings")
    old = {name: about[name] for name in first}
    old["settings"] = {"backbone": "conv4", "steps": 5}
    spec = ModelSpec.from_checkpoint({"about": old}, "best.pt")
    assert (spec.held_out, spec.data, spec.weights, spec.class_names, spec.fit) == (0, [], "", (), "")
    assert spec.build(NPair).class_names == ()
    assert spec.changes(spec.model_copy(update={"class_names": ("a",), "fit": "crop", "shot": 5})) == set()


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"learner": None}, "learner: "),
        ({"name": ""}, "name: "),
        ({"channels": 0}, "channels: "),
        ({"settings": {"steps": -1}}, "settings.steps: "),
        ({"class_names": [3]}, "class_names: "),
        ({"base_weights": "yes"}, "base_weights: "),
    ],
)
def test_an_altered_checkpoint_is_refused_and_the_place_is_named(frogs, changed, place):
    about = ModelSpec.of(NPair, frogs["train"], Training()).to_checkpoint() | changed
    assert f"best.pt does not say what learner it is of ({place}" in refusal(
        lambda: ModelSpec.from_checkpoint({"about": about}, "best.pt")
    )


@pytest.mark.parametrize(
    ("cls", "fields", "name"),
    [
        (NPair, {"asked": "npair"}, "npair-seed0"),
        (NPair, {"asked": "npair@timm:resnet18"}, "npair-timm-resnet18-seed0"),
        (
            Siamese,
            {"asked": "siamese:koch@conv4-32", "shot": 5, "variant": "koch", "seed": 2},
            "siamese-koch-conv4-32-5shot-seed2",
        ),
    ],
)
def test_a_model_is_named_by_what_tells_it_from_others_of_its_learner(frogs, cls, fields, name):
    assert ModelSpec.of(cls, frogs["train"], Training(), **fields).name == name
