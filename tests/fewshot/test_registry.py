"""Learners by name, from files and from installed packages; their options; and the errors for wrong ones."""

import importlib.metadata

import pytest

from episodes import InputError
from fewshot import Learner, register
from fewshot.learners import find_learner, learner_names
from fewshot.learners.registry import LEARNERS, checked_options, default_options, source_of

GOOD = """
from fewshot import Learner, Traits

class Mine(Learner):
    variants = dict.fromkeys(["plain", "fancy"], Traits())

    def __init__(self, backbone, classes, variant="", rate: float = 0.5, tags="all"):
        super().__init__(backbone, classes, variant)

    def loss(self, images, labels):
        return self.embed(images).square().mean()

    def scores(self, support, query):
        return query @ support.mean(2).mT

class Half(Learner):
    def loss(self, images, labels):
        return 0

class Other:
    pass

number = 3
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The registry is restored after each test."""
    monkeypatch.setattr("fewshot.learners.registry.LEARNERS", dict(LEARNERS))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_every_registered_name_and_variant_is_found():
    for name, cls in LEARNERS.items():
        assert find_learner(name) == (cls, "")
        for variant in filter(None, cls.variants):
            assert find_learner(f"{name}:{variant}") == (cls, variant)
    assert set(LEARNERS) <= set(learner_names())


def test_the_suites_own_learners_have_no_source_file():
    assert all(source_of(cls) is None for cls in LEARNERS.values())


def test_a_learner_in_a_file(file):
    cls, variant = find_learner(f"{file}:Mine")
    assert issubclass(cls, Learner)
    assert (cls.name, variant) == ("Mine", "")
    assert source_of(cls) == file.resolve()
    assert find_learner(f"{file}:Mine:fancy")[1] == "fancy"


def test_variants_of_another_form_are_refused(file):
    file.write_text(GOOD.replace('dict.fromkeys(["plain", "fancy"], Traits())', '("plain", "fancy")'))
    with pytest.raises(InputError, match=r"variants of Mine must be of the form \{'NAME': Traits\(...\)\}"):
        find_learner(f"{file}:Mine")


@pytest.mark.parametrize("flag", ["transductive = True", "supervised = False"])
def test_a_flag_on_the_class_is_refused_since_it_would_say_nothing(file, flag):
    file.write_text(GOOD.replace("class Mine(Learner):", f"class Mine(Learner):\n    {flag}"))
    with pytest.raises(InputError, match=rf"Mine sets {flag.split()[0]} on its class, which says nothing: declare"):
        find_learner(f"{file}:Mine")


def test_the_contract_is_small_and_has_no_switches():
    own = {name for name in vars(Learner) if not name.startswith("_")} | {"variant", "traits", "backbone"}
    own |= {"class_names", "stage"}  # which its __init__ sets
    assert len(own) <= 19
    assert not any(isinstance(vars(Learner).get(name), bool) for name in own)


def test_a_changed_file_is_read_again(file):
    find_learner(f"{file}:Mine")
    file.write_text(GOOD.replace('"fancy"', '"other"'))
    assert find_learner(f"{file}:Mine:other")[1] == "other"


def test_a_learner_that_its_file_registers(file):
    file.write_text(
        GOOD.replace("import Learner", "import Learner, register").replace(
            "class Mine", '@register("my-own")\nclass Mine'
        )
    )
    assert find_learner(f"{file}:Mine")[0].name == "my-own"
    find_learner(f"{file}:Mine")  # the same file twice is no clash
    assert "my-own" in learner_names()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("siamse", r"unknown learner 'siamse': did you mean 'siamese'"),
        ("zzz", "unknown learner 'zzz': choose one of .*imprinted, .*prototypical, .*siamese"),
        ("siamese:koh", r"unknown variant of siamese 'koh': did you mean 'koch'\?"),
        ("nowhere.py:Mine", "there is no learner file nowhere.py"),
        ("mine.py", "'mine.py' names a file without a class: write mine.py:ClassName"),
    ],
)
def test_wrong_names(spec, message):
    with pytest.raises(InputError, match=message):
        find_learner(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Yours", r"mine\.py has no class Yours: it has Mine, Half"),
        ("Other", r"Other in .*mine\.py is no learner: derive it from fewshot\.Learner"),
        ("number", r"number in .*mine\.py is no learner"),
        ("Half", r"Half in .*mine\.py is not a whole learner: it lacks scores"),
        ("Mine:fanci", r"unknown variant of Mine 'fanci': did you mean 'fancy'\?"),
    ],
)
def test_wrong_classes_in_a_file(file, name, message):
    with pytest.raises(InputError, match=message) as caught:
        find_learner(f"{file}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nclass Mine(:\n", r"cannot be loaded: SyntaxError in line 2"),
        ("x = 1\n\nraise RuntimeError('why')\n", r"cannot be loaded: RuntimeError in line 3: why"),
        ("import no_such_module_at_all\n", r"cannot be loaded: ModuleNotFoundError in line 1: No module named"),
        ("x = 1\n", r"has no class Mine: it has no learner at all"),
    ],
    ids=["syntax", "exception", "import", "empty"],
)
def test_a_file_that_will_not_load(file, text, message):
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        find_learner(f"{file}:Mine")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_learners_of_one_name_are_refused():
    class Another(Learner):
        pass

    with pytest.raises(InputError, match=r"two learners are called 'siamese': .*Siamese and .*Another; rename one"):
        register("siamese")(Another)


def test_an_installed_package_brings_a_learner(monkeypatch):
    cls = LEARNERS["npair"]
    point = importlib.metadata.EntryPoint("foreign", f"{cls.__module__}:{cls.__qualname__}", "fewshot.learners")

    def entry_points(group, **chosen):
        assert group == "fewshot.learners"
        return importlib.metadata.EntryPoints([point]).select(**chosen)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert "foreign" in learner_names()
    assert find_learner("foreign") == (cls, "")
    with pytest.raises(InputError, match="did you mean 'foreign'"):
        find_learner("foreing")


def test_options_are_the_keyword_arguments_after_the_variant(file):
    cls, _ = find_learner(f"{file}:Mine")
    assert default_options(cls) == {"rate": 0.5, "tags": "all"}
    assert default_options(LEARNERS["siamese"]) == {"margin": 1.2, "nearest": True}


def test_options_over_the_defaults(file):
    cls, _ = find_learner(f"{file}:Mine")
    complete = checked_options(cls, {"rate": 2, "tags": "any"})
    assert complete == {"rate": 2.0, "tags": "any"}
    assert type(complete["rate"]) is float  # a whole number will do for a float


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("siamese", {"magrin": 1.0}, r"unknown option of siamese 'magrin': did you mean 'margin'\?"),
        ("siamese", {"margin": "wide"}, r"the option margin of siamese must be of type float.* not 'wide'"),
        ("siamese", {"margin": True}, r"must be of type float"),
        ("prototypical", {"shot": 1.5}, r"the option shot of prototypical must be of type int"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(InputError, match=message):
        checked_options(LEARNERS[name], options)
