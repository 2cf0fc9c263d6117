"""The command line: `fewshot COMMAND`, each command a file in fewshot/commands."""

import argparse
import atexit
import contextlib
import errno
import gc
import logging
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version

from rich.console import Console
from tqdm.contrib.logging import logging_redirect_tqdm

from episodes import InputError
from episodes.bank import cache_folder
from fewshot.commands import (
    backbones,
    bench,
    check,
    compare,
    completion,
    data,
    embed,
    evaluate,
    export,
    import_,
    learners,
    perf,
    predict,
    presets,
    report,
    status,
    train,
    tune,
)
from fewshot.commands.arguments import add_volume
from fewshot.learners.faults import fault_of

_COMMANDS = (
    bench,
    tune,
    train,
    evaluate,
    predict,
    embed,
    export,
    compare,
    import_,
    report,
    status,
    learners,
    presets,
    check,
    backbones,
    perf,
    data,
    completion,
)  # as --help lists them
_SILENT = ("completion", "learners", "list", "presets", "status")  # commands that log nothing
# at its end Python would look through all objects for garbage, half a second with PyTorch's
atexit.register(gc.freeze)
_TIMED = "%(asctime)s %(message)s"
_LOGS = (logging.getLogger("fewshot"), logging.getLogger("episodes"))


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 for success, 2 for bad input, 130 if the user interrupted the command, and 1 if the
    program that reads the output has ended, as `head` does after its last line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # of what the locale cannot show
    logging.raiseExceptions = False  # one message at the end tells of unwritable lines, not tracebacks
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout:  # None if it was closed before the start
                sys.stdout.flush()
    except OSError as error:
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO):
            raise
        _drop_output()
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"fewshot: its output cannot be written ({error.strerror}): send it to another place", file=sys.stderr)
        return 2


def _drop_output() -> None:
    """Discard what stdout still holds, so that Python ends without a message."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str] | None) -> int:
    options = parser_of_commands().parse_args(arguments)
    loud, quiet = getattr(options, "verbose", False), getattr(options, "quiet", False)
    for one in _LOGS:
        one.setLevel(logging.DEBUG if loud else logging.INFO)
        if not one.handlers:
            one.addHandler(logging.StreamHandler(sys.stdout))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a log has no edge to wrap at
    try:
        with logging_redirect_tqdm(list(_LOGS)):
            for handler in (handler for one in _LOGS for handler in one.handlers):  # a run's run.log stays as it is
                handler.setLevel(logging.WARNING if quiet else logging.NOTSET)
                handler.setFormatter(logging.Formatter(_TIMED if loud else None))
            options.command(options, console)
    except InputError as error:
        print(f"fewshot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        instead = " in place of --overwrite" if getattr(options, "overwrite", False) else ""
        again = f"; the same command with --resume{instead} continues the run" if "resume" in options else ""
        print(f"\nfewshot: interrupted{again}", file=sys.stderr)
        return 130
    except Exception as error:
        fault = fault_of(error) or _fault_of_system(error)
        if not fault:  # a bug of ours
            raise
        print(f"fewshot: {InputError(fault)}", file=sys.stderr)
        return 2
    return 0


def _fault_of_system(error: Exception) -> str:
    """What the system refused: a file that an argument names, or a home for this user, as in a container; else ''."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used ({error.strerror})"
    try:
        cache_folder()
    except RuntimeError:
        return "there is no home folder to keep prepared images in: set FEWSHOT_CACHE to a folder for them"
    return ""


def parser_of_commands() -> argparse.ArgumentParser:
    """The parser of all commands; `options.parser` is the parser itself, for what describes it."""
    parser = argparse.ArgumentParser("fewshot", description="A few-shot learning benchmark suite.")
    parser.add_argument("--version", action="version", version=f"fewshot {version('fewshot')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.declare(commands)
    parser.set_defaults(parser=parser)
    for name, one in leaves(parser):
        if name not in _SILENT:
            add_volume(one)
    return parser


def leaves(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parsers of the commands, and of their actions, that have none below them, each with its last word."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from list(leaves(below)) or [(name, below)]
