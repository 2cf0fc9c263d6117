"""Makes room for a new run in the folder of an old one; nothing of the old run is deleted."""

import contextlib
import itertools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from episodes import InputError
from fewshot.files import writing
from fewshot.status import is_held

log = logging.getLogger("fewshot")


@contextlib.contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Inside, a run that `folder` holds stands beside it, under the folder's name and a number.

    If the body fails before the new run has written its settings, the old run moves back. InputError if a process is at
    work on the old run, or if the folder cannot be moved.
    """
    if not (folder / "config.toml").exists():
        yield
        return
    if any(is_held(lock) for lock in folder.glob("checkpoints/*/.lock")):
        raise InputError(f"another process is at work on {folder}: wait for it, or choose another folder with --output")
    place = folder.resolve()
    aside = next(
        one for number in itertools.count(1) if not (one := place.with_name(f"{place.name}-{number}")).exists()
    )
    with writing(place.parent):
        place.rename(aside)
    log.info("The old run of %s is in %s now", folder, aside)
    try:
        yield
    except BaseException:
        if not (place / "config.toml").exists():
            if place.exists():
                shutil.rmtree(place)  # of the new run, without its settings
            aside.rename(place)
            log.info("The old run is in %s again", folder)
        raise
