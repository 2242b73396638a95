"""A run: the folder one command leaves behind, and what can be read back from it.

A run folder ``<YYYYmmdd-HHMMSS>-<name>/`` holds ``run.json`` (where the features came from, everything a
prediction needs, the parameters, which heads were kept), ``results.csv`` (one line per fit), ``heads/``,
``histories.json``, ``predictions/`` (what each kept head answered), ``hits.jsonl`` (which rows each fit got
right) and ``figures/``. Files are replaced whole and lines are appended as results arrive, so that an
interrupted run can be read, and gone on with.
"""

from __future__ import annotations

from featbank.runs.exporting import export_run_folder
from featbank.runs.folder import Run
from featbank.runs.store import (
    BestCurve,
    RunInfo,
    describe_run,
    find_run,
    list_runs,
    open_run,
    remove_run,
    runs_of_bank,
)
from featbank.sweep.results import Answer, answer_of

__all__ = [
    "Answer",
    "BestCurve",
    "Run",
    "RunInfo",
    "answer_of",
    "describe_run",
    "export_run_folder",
    "find_run",
    "list_runs",
    "open_run",
    "remove_run",
    "runs_of_bank",
]
