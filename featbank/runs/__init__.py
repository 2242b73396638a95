"""A run: the folder one command leaves behind, and what can be read back from it.

A run folder ``<YYYYmmdd-HHMMSS>-<name>/`` holds ``run.json`` (where the features came from, everything a
prediction needs, the parameters, which heads were kept), ``results.csv`` (one line per fit), ``heads/``,
``histories.json``, ``predictions/`` (what each kept head answered) and ``figures/``. Files are replaced
whole as results arrive, so that an interrupted run can be read.
"""

from __future__ import annotations

from featbank.runs.creating import create_run
from featbank.runs.finding import latest_run, list_runs, open_run, resolve_run
from featbank.runs.folder import Run

__all__ = ["Run", "create_run", "latest_run", "list_runs", "open_run", "resolve_run"]
