"""One pass: batches of decoded images in, features per cut out, into a bank; settings, plan, push."""

from __future__ import annotations

from featbank.extraction.arithmetic import ERROR_LIMIT, split_precision
from featbank.extraction.choosing import open_loader
from featbank.extraction.device_images import DeviceBatchLoader
from featbank.extraction.estimating import estimate
from featbank.extraction.extracting import extract, push_on
from featbank.extraction.forward import Forward, choose_device, choose_devices
from featbank.extraction.images import Batch, BatchLoader
from featbank.extraction.jpeg_decoder import JpegDecoder, decode_of, open_jpeg_decoder
from featbank.extraction.missing import Task
from featbank.extraction.planning import ExtractionPlan, plan
from featbank.extraction.pushing import ExtractionResult, push
from featbank.extraction.repairing import RepairResult, repair_bank, settings_of, source_of
from featbank.extraction.settings import ON_OVERFLOW, ExtractionSettings, as_stored, stored_dtype
from featbank.extraction.slices import (
    SavedPlan,
    finish_plan,
    open_plan,
    plan_path,
    push_tasks,
    save_plan,
    slices_of,
    tasks_left,
)
from featbank.extraction.views import apply_view

__all__ = [
    "ERROR_LIMIT",
    "ON_OVERFLOW",
    "Batch",
    "BatchLoader",
    "DeviceBatchLoader",
    "ExtractionPlan",
    "ExtractionResult",
    "ExtractionSettings",
    "Forward",
    "JpegDecoder",
    "RepairResult",
    "SavedPlan",
    "Task",
    "apply_view",
    "as_stored",
    "choose_device",
    "choose_devices",
    "decode_of",
    "estimate",
    "extract",
    "finish_plan",
    "open_jpeg_decoder",
    "open_loader",
    "open_plan",
    "plan",
    "plan_path",
    "push",
    "push_on",
    "push_tasks",
    "repair_bank",
    "save_plan",
    "settings_of",
    "slices_of",
    "source_of",
    "split_precision",
    "stored_dtype",
    "tasks_left",
]
