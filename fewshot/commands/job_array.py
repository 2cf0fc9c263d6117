"""The commands of a job array: one for each learner and seed of a run."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from fewshot.config import Config

_OWN = (
    "help",
    "learner",
    "seed",
    "plan",
    "workers",
    "ray",
    "resume",
    "output",
    "overwrite",
)  # that each command has for itself


def commands_of(
    parser: argparse.ArgumentParser, options: argparse.Namespace, config: Config, folder: Path
) -> list[str]:
    """The commands that run the learners and seeds of `config`, one each, into the run's folder `folder`.

    parser, options: of the command whose work they do; each has its other options. Each computes with one thread on the
    CPU, as workers do.
    """
    common = [word for action in parser._actions if action.dest not in _OWN for word in _words(action, options)]
    every = [
        ["--learner", asked, "--seed", str(seed), *common, "--output", str(folder), "--workers", "1", "--resume"]
        for asked in config.learner
        for seed in config.seeds
    ]
    return [shlex.join(["fewshot", "bench", *words]) for words in every]


def _words(action: argparse.Action, options: argparse.Namespace) -> list[str]:
    """An option as it was given; nothing if it has its default."""
    value: Any = getattr(options, action.dest, action.default)
    if value == action.default:
        return []
    flag = action.option_strings[-1]
    if action.nargs == 0:
        return [flag]
    return [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
