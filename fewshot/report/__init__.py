"""A run as one page for readers, report.html, with its figures as files for papers."""

from fewshot.report.page import write_report

__all__ = ["write_report"]
