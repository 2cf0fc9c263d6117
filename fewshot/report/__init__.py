"""A run as one page for readers, report.html, with its figures as files for papers; many runs as board.html."""

from fewshot.report.board import write_board
from fewshot.report.page import write_report

__all__ = ["write_board", "write_report"]
