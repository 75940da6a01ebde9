"""The run's report as one self-contained HTML file, and the evaluation's own page (what arXiv 2404.05595 §4 shows in
tables and figures)."""

from unifl.report.page import evaluation_page, write_report

__all__ = ["evaluation_page", "write_report"]
