"""Downloads of data sets: short time limits, no partial data sets, and clear advice if there is no network."""

import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from episodes.bank import cache_folder
from episodes.errors import MissingData

_TIMEOUT = 10  # seconds a download may stay silent


def download(fetch: Callable[[Path], object], name: str, title: str, advice: str, folders: list[Path]) -> Path:
    """Move what `fetch(folder)` puts into an empty folder to data/`name` in the cache folder, and return its path.

    Raises MissingData if `fetch` fails, with `advice` on where to put the data set `title` instead.
    """
    home = cache_folder() / "data" / name
    waiting = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as unfinished:
            fetch(Path(unfinished))
            for path in Path(unfinished).iterdir():
                if (home / path.name).is_dir():  # left by an earlier download and damaged since
                    shutil.rmtree(home / path.name)
                shutil.move(path, home / path.name)
        return home
    except (OSError, RuntimeError) as error:
        reason = re.sub(r"[<>]|urlopen error |\[Errno -?\d+\] ", "", str(error)).strip() or type(error).__name__
        raise MissingData(
            f"{title} is not in {', '.join(map(str, folders))} and cannot be downloaded ({reason}): {advice} and name"
            " its parent with --data or FEWSHOT_DATA"
        ) from error
    finally:
        socket.setdefaulttimeout(waiting)
