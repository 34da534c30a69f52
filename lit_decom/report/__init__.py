"""A run directory, or two of them, as one self-contained HTML page."""

from lit_decom.report.page import write_report
from lit_decom.report.runs import find_runs
from lit_decom.report.shell import render_page

__all__ = ["find_runs", "render_page", "write_report"]
