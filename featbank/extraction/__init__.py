"""One pass: batches of decoded images in, features per cut out, into a bank; settings, plan, push."""

from __future__ import annotations

from featbank.extraction.estimating import estimate
from featbank.extraction.extracting import extract
from featbank.extraction.missing import Task
from featbank.extraction.planning import ExtractionPlan, plan
from featbank.extraction.pushing import ExtractionResult, push
from featbank.extraction.repairing import RepairResult, repair_bank
from featbank.extraction.settings import ExtractionSettings
from featbank.extraction.slices import (
    SavedPlan,
    finish_plan,
    open_plan,
    push_tasks,
    save_plan,
    slices_of,
    tasks_left,
)
from featbank.extraction.views import apply_view

__all__ = [
    "ExtractionPlan",
    "ExtractionResult",
    "ExtractionSettings",
    "RepairResult",
    "SavedPlan",
    "Task",
    "apply_view",
    "estimate",
    "extract",
    "finish_plan",
    "open_plan",
    "plan",
    "push",
    "push_tasks",
    "repair_bank",
    "save_plan",
    "slices_of",
    "tasks_left",
]
