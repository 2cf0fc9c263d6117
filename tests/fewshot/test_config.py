"""Presets: complete, with the nearer table winning, and exact about what is wrong and where."""

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from conftest import refusal

import baselines
from episodes import InputError
from fewshot.config import Config, load_config
from fewshot.learners.registry import LEARNERS, default_options, find_learner


@pytest.fixture
def preset(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "own.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", baselines.presets())
@pytest.mark.parametrize("dataset", ["omniglot", "mini_imagenet"])
def test_shipped_presets_are_complete(name, dataset):
    config = load_config(name, dataset=dataset)
    assert config.learner
    assert config.data.dataset.partition(":")[0] == dataset
    for spec, settings in config.learner.items():
        defaults = default_options(find_learner(spec)[0])
        for one in (settings, *settings.per_shot.values()):
            assert one.batches
            assert one.options == {**defaults, **one.options}


@pytest.mark.parametrize("name", baselines.presets())
@pytest.mark.parametrize("dataset", ["omniglot", "mini_imagenet"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_shipped_presets_run_every_learner_in_every_variant(name, dataset, learner):
    specs = [f"{learner}:{variant}" if variant else learner for variant in LEARNERS[learner].variants]
    assert list(load_config(name, specs, dataset).learner) == specs


@pytest.mark.parametrize("name", ["paper", "quick"])
def test_a_preset_has_one_file_for_characters_and_one_for_photographs(name):
    of_folder = load_config(name, dataset=str(Path(__file__).parent))
    assert of_folder.learner == load_config(name, dataset="mini_imagenet").learner
    assert of_folder.learner != load_config(name).learner == load_config(name, dataset="glyphs").learner
    assert {one.augmentation for one in load_config(name).learner.values()} <= {"none", "affine"}


def test_the_pretrained_preset_trains_nothing_and_has_the_options_that_predict_has():
    config = load_config("pretrained", dataset=str(Path(__file__).parent))
    assert config.data.test == "all"
    for spec, settings in config.learner.items():
        assert (settings.steps, settings.per_shot) == (0, {})
        assert settings.options == default_options(find_learner(spec)[0])
    with pytest.raises(InputError, match="names no data set: name one, or a folder of images, with --dataset"):
        load_config("pretrained")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nsteps = 3\n", r"leaves no classes to train npair on: set steps = 0"),
        ("[training]\nsteps = 0\n[learner.npair.per_shot.5]\nsteps = 3\n", r"no classes to train npair on"),
    ],
)
def test_nothing_can_train_if_all_classes_are_for_the_test(preset, text, message):
    path = preset(f"learners = ['npair']\n[data]\ntest = 'all'\n{text}")
    with pytest.raises(InputError, match=message):
        load_config(path)
    still = preset("learners = ['npair']\n[data]\ntest = 'all'\n[training]\nsteps = 0\n")
    assert load_config(still).learner["npair"].steps == 0
    with pytest.raises(InputError, match="leaves no base classes to hold images out of"):
        load_config(still, held_out=2)


def test_the_paper_preset_trains_prototypical_networks_for_each_shot_as_their_paper():
    settings = load_config("paper", dataset="mini_imagenet").learner["prototypical"]
    models = {1: settings, 5: settings.per_shot["5"]}
    seen = {shot: (one.batches["classes"], one.options["shot"]) for shot, one in models.items()}
    assert seen == {1: (30, 1), 5: (20, 5)}  # Snell et al. 2017, section 3.2
    assert {one.batches["images"] - one.options["shot"] for one in models.values()} == {15}


def test_the_quick_preset_lists_its_learners_and_falls_back():
    config = load_config("quick")
    assert list(config.learner) == ["siamese", "prototypical", "imprinted", "npair"]
    assert config.data.fallback == "glyphs:scripts"
    assert config.evaluation.episodes == 10_000


def test_the_nearer_table_wins(preset):
    path = preset("""
[training]
steps = 1
learning_rate = 0.1
weight_decay = 0.5
[learner.siamese]
steps = 2
learning_rate = 0.2
[learner."siamese:koch"]
steps = 3
""")
    learners = load_config(path, ["npair", "siamese", "siamese:koch"]).learner
    values = {spec: (one.steps, one.learning_rate, one.weight_decay) for spec, one in learners.items()}
    assert values == {"npair": (1, 0.1, 0.5), "siamese": (2, 0.2, 0.5), "siamese:koch": (3, 0.2, 0.5)}


PER_SHOT = """
[learner.prototypical]
steps = 1
backbone = "conv4-32"
options = {shot = 1, scale = 3.0}
[learner.prototypical.per_shot.5]
steps = 2
options = {shot = 5}
[learner."prototypical@resnet12"]
steps = 3
per_shot = {}
[learner."prototypical:cosine"]
options = {scale = 7.0}
"""


def test_a_model_for_one_shot_has_the_settings_of_its_learner_but_for_its_own(preset):
    settings = load_config(preset(PER_SHOT), ["prototypical"]).learner["prototypical"]
    (own,) = settings.per_shot.values()
    values = [(one.steps, one.backbone, one.options["shot"], one.options["scale"]) for one in (settings, own)]
    assert values == [(1, "conv4-32", 1, 3.0), (2, "conv4-32", 5, 3.0)]


def test_a_backbone_is_named_with_the_learner_and_an_empty_table_takes_away(preset):
    specs = ["prototypical@resnet12", "prototypical:cosine@conv4-128", "prototypical:cosine@torchvision:resnet18"]
    learners = load_config(preset(PER_SHOT), specs).learner
    seen = [(one.backbone, one.steps, one.options["scale"], list(one.per_shot)) for one in learners.values()]
    assert seen == [("resnet12", 3, 3.0, []), ("conv4-128", 1, 7.0, ["5"]), ("torchvision:resnet18", 1, 7.0, ["5"])]
    own = learners["prototypical:cosine@conv4-128"].per_shot["5"]
    assert (own.backbone, own.options["scale"]) == ("conv4-128", 7.0)


def test_learners_are_those_asked_for_or_listed_or_of_the_tables(preset):
    tables = "[learner.npair]\n[learner.siamese]\n"
    assert list(load_config(preset(tables)).learner) == ["npair", "siamese"]
    listed = preset('learners = ["imprinted"]\n' + tables)
    assert list(load_config(listed).learner) == ["imprinted"]
    assert list(load_config(listed, ["prototypical"]).learner) == ["prototypical"]


def test_a_data_set_that_is_asked_for_has_no_fallback():
    config = load_config("quick", dataset="omniglot:lake")
    assert (config.data.dataset, config.data.fallback) == ("omniglot:lake", "")


def test_a_configuration_that_is_written_reads_back_the_same(preset):
    config = load_config("quick", ["siamese", "siamese:koch", "imprinted:finetune"])
    text = tomli_w.dumps(config.model_dump())
    again = load_config(preset(text))
    assert again.preset == "own"  # the file may have been changed since
    assert again.model_copy(update={"preset": config.preset}) == config
    assert Config.model_validate(tomllib.loads(text)) == config


def test_defaults_are_spelled_out_in_a_written_configuration(preset):
    written = load_config(preset("[learner.siamese]\n")).model_dump()
    assert written["learner"]["siamese"]["batches"] == {"classes": 60, "images": 4}
    assert written["learner"]["siamese"]["options"] == {"margin": 1.2, "nearest": True}
    assert written["evaluation"]["query"] == 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nstep = 3\n[learner.npair]\n", r"\[learner\.npair\]: unknown key 'step': did you mean 'steps'"),
        ("[learner.siamese]\nstep = 3\n", r"\[learner\.siamese\]: unknown key 'step': did you mean 'steps'"),
        ("[evaluation]\nway = [5]\n", r"\[evaluation\]: unknown key 'way': did you mean 'ways'"),
        ("[evalution]\nways = [5]\n", r"unknown key 'evalution': did you mean 'evaluation'"),
        ("[trainin]\nsteps = 5\n", r"unknown key 'trainin': did you mean 'training'"),
        ("[evaluation]\nepisodes = 1\n", r"\[evaluation\]: episodes = 1 is invalid"),
        ("[evaluation]\nquery = '15'\n", r"\[evaluation\]: query = '15' is invalid"),
        ("[evaluation]\nshots = [1, 0]\n", r"\[evaluation\]: shots = 0 is invalid"),
        ("[learner.npair]\nlearning_rate = 'fast'\n", r"\[learner\.npair\]: learning_rate = 'fast' is invalid"),
        ("[learner.npair]\nlearning_rate = 0.0\n", r"learning_rate = 0\.0 is invalid"),
        ("[learner.npair]\nsteps = true\n", r"steps = True is invalid"),
        ("[learner.npair]\nschedule = 'cosine'\n", r"schedule = 'cosine' is invalid: .*'one-cycle'"),
        ("[learner.npair]\nbackbone = 'conv5'\n", r"unknown backbone 'conv5': did you mean 'conv4"),
        ("learners = ['npair@conv5']\n", r"unknown backbone 'conv5': did you mean 'conv4"),
        ("[learner.npair]\naugmentation = 'crops'\n", r"unknown augmentation 'crops': did you mean 'crop'"),
        ("[learner.npair]\nmilestones = {late = 0.1}\n", r"milestones.*late"),
        ("[learner.npair]\nschedule = 'milestones'\n", r"\[learner\.npair\]: schedule = 'milestones' and a table of"),
        ("[training]\nmilestones = {3 = 0.1}\n[learner.npair]\n", r"milestones' and a table of milestones go together"),
        ("learners = ['npair@']\n", r"'npair@' names no backbone"),
        ("[learner.npair.per_shot.5]\nstep = 3\n", r"unknown key 'step': did you mean 'steps'"),
        ("[learner.npair.per_shot.none]\nsteps = 3\n", r"per_shot.*none"),
        ("[learner.npair.per_shot.5]\nbackbone = 'conv5'\n", r"unknown backbone 'conv5'"),
        ("[data]\ndataset = './nowhere'\n", r"there is no folder or archive of images at nowhere"),
        ("[learner.npair]\nbatches = {classes = 5}\n", r"is neither \{classes = P, images = K\} nor \{size = B\}"),
        ("[learner.npair]\nbatches = {classes = 5, images = 0}\n", r"is neither"),
        ("[learner.npair]\noptions = {margin = 1.0}\n", r"unknown option of npair 'margin'"),
        ("[learner.npar]\n", r"unknown learner 'npar': did you mean 'npair'"),
        ("learners = ['npair']\n[learner.siamese]\nstep = 3\n", r"\[learner\.siamese\]: unknown key 'step'"),
        ("learners = 'npair'\n", r"learners must be a list of names"),
        ("learners = [1]\n", r"learners must be a list of names"),
        ("training = 3\n", r"training and learner must be tables"),
        ("learner = 3\n", r"training and learner must be tables"),
        ("data = 3\n", r"data = 3 is invalid"),
        ("[data]\ndataset = 'omniglto'\n", r"unknown data set 'omniglto': did you mean 'omniglot'"),
        ("[data]\ndataset = 'omniglot:lak'\n", r"unknown split protocol of omniglot 'lak': did you mean 'lake'"),
        ("[data]\nfallback = 'glyps'\n", r"unknown data set 'glyps': did you mean 'glyphs'"),
        ("steps = = 3\n", r"own\.toml cannot be read.* line 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(preset, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(preset(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["learners = []\n", "learners = ['npair']\n[evaluation]\nways = []\n", "learners = ['npair']\n[learner.npar]\n"],
    ids=["no learner", "no way", "table of no learner"],
)
def test_a_preset_that_says_nothing_is_refused(preset, text):
    with pytest.raises(InputError):
        load_config(preset(text))


def test_a_table_that_should_be_one_is_an_error_with_a_data_set_asked_for_too(preset):
    with pytest.raises(InputError, match="data"):
        load_config(preset("data = 3\nlearners = ['npair']\n"), dataset="glyphs")


def test_unreadable_presets(tmp_path):
    with pytest.raises(InputError, match=r"there is no preset file .*none\.toml"):
        load_config(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.toml cannot be read"):
        load_config(str(tmp_path / "bytes.toml"))


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown preset 'quik': did you mean .*'quick'"):
        load_config("quik")


def test_arguments_stand_in_for_the_presets_episodes_and_steps(preset):
    path = preset(
        "[learner.prototypical]\nsteps = 50\n[learner.prototypical.per_shot.5]\nsteps = 70\n"
        "[learner.imprinted]\nsteps = 0\n[evaluation]\nseed = 3\n[evaluation.generalised]\nepisodes = 9\n"
    )
    config = load_config(path, ways=[4], shots=[1, 2], query=6, episodes=20, steps=8)
    wanted = config.evaluation
    assert (wanted.ways, wanted.shots, wanted.query, wanted.episodes, wanted.seed) == ([4], [1, 2], 6, 20, 3)
    joint = wanted.generalised
    assert (joint.way, joint.shots, joint.query, joint.episodes) == (4, [1, 2], 6, 20)
    steps = [one.steps for one in (config.learner["prototypical"], *config.learner["prototypical"].per_shot.values())]
    assert steps == [8, 8]
    assert config.learner["imprinted"].steps == 0, "what does not train still does not"
    few = load_config(path, ways=[2, 3]).evaluation
    assert (few.ways, few.generalised.way, few.generalised.episodes) == ([2, 3], 5, 9)


def test_an_argument_that_will_not_do_is_not_blamed_on_the_preset(preset):
    path = preset("[learner.prototypical]\nsteps = 50\n")
    assert "in the arguments: episodes = 1 is invalid" in refusal(lambda: load_config(path, episodes=1))
    assert "in the arguments [data]: size = 5000 is invalid" in refusal(lambda: load_config(path, size=5000))
    assert "in the arguments [data]: held_out = -1 is" in refusal(lambda: load_config(path, held_out=-1))
    assert "in the arguments [seeds]: [0, 0] names a number twice" in refusal(lambda: load_config(path, seeds=[0, 0]))


@pytest.mark.parametrize(
    ("learner", "augmentation"),
    [
        ("baseline", "resized-crop"),
        ("baseline++", "resized-crop"),
        ("simpleshot", "resized-crop"),
        ("sklearn", "crop-jitter"),
        ("svm", "crop-jitter"),
        ("svm@resnet12-flat", "crop-jitter"),
    ],
)
def test_the_paper_preset_distorts_photographs_as_the_source_does(learner, augmentation):
    settings = load_config("paper", [learner], "mini_imagenet").learner[learner]
    assert settings.augmentation == augmentation
    if learner.startswith("svm"):
        assert [settings.options[name] for name in ("way", "shot", "smoothing")] == [5, 15, 0.1]
        assert settings.backbone == ("resnet12-flat" if "@" in learner else "conv4")


# of the settings in each file; a new digest needs a new version in the file, and then a new line here
VERSIONS = {
    ("cpu-hours", "natural", 3): "4c0259424eac",
    ("challenge", "characters", 1): "4de7bb2bc88c",
    ("paper", "characters", 1): "1fce10788b7f",
    ("paper", "natural", 1): "982232763c15",
    ("pretrained", "images", 1): "df882bc814ee",
    ("quick", "characters", 6): "2bb5e4580de1",
    ("quick", "features", 2): "1d4ddd9cd9fc",
    ("quick", "natural", 2): "7a5eff9ba9aa",
}


def test_a_preset_whose_settings_change_gets_another_version():
    found = {}
    for name, files in baselines.presets().items():
        for kind, path in files.items():
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            version = table.pop("version")
            settings = json.dumps(table, sort_keys=True).encode()
            found[name, kind, version] = hashlib.sha256(settings).hexdigest()[:12]
    assert found == VERSIONS


def test_a_configuration_names_its_preset_and_the_version(preset):
    own = "learners = ['prototypical']\n"
    assert load_config("quick").preset == "quick 6"
    assert load_config("quick", steps=10).preset == "quick 6, changed"
    assert load_config(preset(own)).preset == "own"
    assert load_config(preset(f"version = 12\n{own}")).preset == "own 12"


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "'two'", "true"])
def test_the_version_of_a_preset_is_a_whole_number(preset, version):
    with pytest.raises(InputError, match=r"version = .* is invalid, write a whole number from 1 on"):
        load_config(preset(f"version = {version}\nlearners = ['prototypical']\n"))
