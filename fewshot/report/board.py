"""All runs of a folder as one page, board.html, which loads nothing from a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewshot import tables
from fewshot.files import read_text, replace_text, writing
from fewshot.report.data import Run, read_about, read_run
from fewshot.report.rendering import rendered
from fewshot.report.standings import panels_of
from fewshot.run_folder import find_runs

NAME = "board.html"


def write_board(folder: Path, output: Path | None = None) -> Path:
    """Write board.html of the runs in `folder`, there or in `output`, and return its path.

    Raises InputError if `folder` holds no run or a damaged one, or if `output` cannot be written.
    """
    home = output or folder
    page = board(find_runs(folder), links=home.resolve() == folder.resolve())
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        replace_text(home / NAME, page)
    return home / NAME


def board(folders: Sequence[Path], links: bool = False) -> str:
    """The page of these runs, as HTML; links: whether it links to report.html of each run, beside it."""
    runs = [read_run(folder) for folder in folders]
    panels = panels_of(runs)
    page = rendered(
        "board.html",
        panels=panels,
        choices={
            name: list(dict.fromkeys(getattr(one, name) for one in panels)) for name in ("split", "league", "task")
        },
        families=sorted({place.entry.family for panel in panels for place in panel.places}),
        runs=[_card(run, links) for run in runs],
    )
    return page.encode(errors="replace").decode()  # of names that are no text


def _card(run: Run, links: bool) -> dict[str, Any]:
    """What the page says of a run."""
    name, settings = run.folder.resolve().name, run.folder / "config.toml"
    return {
        "name": name,
        "caption": tables.caption(run.results),
        "about": read_about(run),
        "device": ", ".join(run.results["device"].unique()),
        "packages": ", ".join(f"torch {version}" for version in run.results["torch"].unique()),
        "settings": read_text(settings) if run.settings is not None else "",
        "report": f"{name}/report.html" if links and (run.folder / "report.html").is_file() else "",
    }
