"""One self-contained HTML page of a run or of trainings: question, figures, confusion, provenance, cost.

``write_report`` writes it. The page holds its style, its script, its drawings and small copies of images;
it loads nothing, and every text in it is escaped.
"""

from __future__ import annotations

from featbank.report.page import Report, write_report

__all__ = [
    "Report",
    "write_report",
]
