"""Exceptions in a learner's own code become a sentence with the file, the line and the promise that was broken."""

import re
import traceback
from pathlib import Path
from types import FrameType

from fewshot.learners.base import Learner
from fewshot.learners.registry import source_of

# the methods that the suite calls, and what the suite expects of each
_PROMISES = {
    "__init__": "__init__ takes backbone, classes, variant='' and the options",
    "check_batches": "check_batches takes batches and raises InputError if `loss` cannot use them",
    "embed": "embed gives (B, D) from images (B, C, H, W)",
    "episode_scores": "episode_scores gives (E, Q, N) from an EmbeddedBank and Episodes",
    "loss": "loss gives a scalar from images (B, C, H, W) and labels (B,)",
    "scores": "scores gives (E, Q, N) from support (E, N, K, D) and query (E, Q, D)",
}


_Frame = tuple[FrameType, int]  # of a traceback, with its line


def fault_of(error: Exception, suite: bool = False) -> str:
    """One sentence about the learner in whose methods `error` was raised; '' if none of its methods raised the error.

    suite: whether learners of the suite count too. By default only learners from outside the suite count: an exception
    in the suite is a bug, and its traceback should be shown.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    entered = _entered(frames, suite)
    if entered is None:
        return _wrong_signature(error, frames[-1][0], suite) if frames else ""
    learner, frames = entered
    method, _ = frames[0]
    inner, line = [(frame, line) for frame, line in frames if _package(frame) == _package(method)][-1]
    return _sentence(learner, method.f_code.co_name, _at(inner.f_code.co_filename, line), error)


def place_of(learner: Learner, method: str) -> str:
    """The file and line in which a learner from outside the suite defines `method`, ' (mine.py, line 12)'; '' for
    learners of the suite."""
    function = getattr(type(learner), method)
    if function.__module__ not in _modules(type(learner)):
        return ""
    return f" ({_at(function.__code__.co_filename, function.__code__.co_firstlineno)})"


def _entered(frames: list[_Frame], suite: bool) -> tuple[type[Learner], list[_Frame]] | None:
    """The learner whose method raised, and the frames from that method inwards; None if no method did.

    A frame in the learner's own code comes before one in the code of the suite's learner that it is derived from.
    """
    methods = [
        (number, _learner_of(frame), frame.f_globals.get("__name__")) for number, (frame, _) in enumerate(frames)
    ]
    for inherited in (suite, True):
        for number, learner, module in methods:
            if learner and (suite or source_of(learner)) and module in _modules(learner, inherited):
                return learner, frames[number:]
    return None


def _wrong_signature(error: Exception, frame: FrameType, suite: bool) -> str:
    """The sentence for a method that does not take what it is called with: Python raises that in the caller."""
    called = re.match(r"([\w.<>]+)\(\) (?:takes|missing|got)", str(error)) if isinstance(error, TypeError) else None
    if called is None:
        return ""
    for value in frame.f_locals.values():
        for method in _PROMISES if isinstance(value, Learner) else ():
            function = getattr(type(value), method)
            if function.__qualname__ == called[1] and function.__module__ in _modules(type(value), suite):
                place = _at(function.__code__.co_filename, function.__code__.co_firstlineno)
                return _sentence(type(value), method, place, error)
    return ""


def _sentence(learner: type[Learner], method: str, place: str, error: Exception) -> str:
    said = " ".join(str(error).split()) or "no message"
    promise = f"; the promise: {_PROMISES[method]}" if method in _PROMISES else ""
    return f"{learner.__name__}.{method} raised {type(error).__name__} in {place}: {said:.300}{promise}"


def _learner_of(frame: FrameType) -> type[Learner] | None:
    """The learner whose method a frame is of."""
    first = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
    cls = first if isinstance(first, type) else type(first)
    return cls if issubclass(cls, Learner) else None


def _modules(learner: type[Learner], suite: bool = False) -> set[str]:
    """The modules that define a learner and its base classes, without the suite's own modules."""
    written = [cls for cls in learner.__mro__ if issubclass(cls, Learner) and cls is not Learner]
    return {cls.__module__ for cls in written if suite or source_of(cls)}


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _at(file: str, line: int) -> str:
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"
