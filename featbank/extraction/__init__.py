"""One pass: batches of decoded images in, features per cut out, into a bank; settings, plan, push."""

from __future__ import annotations

from featbank.extraction.estimating import estimate
from featbank.extraction.extracting import (
    extract,
    finish_plan,
    open_plan,
    push_tasks,
    save_plan,
    slices_of,
    tasks_left,
)
from featbank.extraction.forward import apply_view
from featbank.extraction.planning import ExtractionPlan, Task, plan
from featbank.extraction.pushing import ExtractionResult, push
from featbank.extraction.repairing import RepairResult, repair_bank
from featbank.extraction.saved_plan import SavedPlan
from featbank.extraction.settings import ExtractionSettings

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
