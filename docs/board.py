"""Adds the board of the committed runs to the documentation: mkdocs calls `on_files` (hooks in mkdocs.yml)."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fewshot.report.board import NAME, board
from fewshot.run_folder import find_runs

REFERENCE = Path(__file__).parents[1] / "results" / "reference"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The files of the site, and board.html."""
    files.append(File.generated(config, NAME, content=board(find_runs(REFERENCE))))
    return files
