"""One pass: batches of decoded images in, features per cut out, into a bank."""

from __future__ import annotations

from featbank.extraction._extract import extract
from featbank.extraction.forward import Forward, choose_device
from featbank.extraction.images import BadImage, Batch, BatchLoader
from featbank.extraction.precision import ERROR_LIMIT, PRECISIONS, PrecisionProof, split_precision
from featbank.extraction.storing import stored_dtype
from featbank.extraction.task import BATCH_SIZE, Extraction, ExtractionResult
from featbank.extraction.work import ExtractionPlan

__all__ = [
    "BATCH_SIZE",
    "ERROR_LIMIT",
    "PRECISIONS",
    "BadImage",
    "Batch",
    "BatchLoader",
    "Extraction",
    "ExtractionPlan",
    "ExtractionResult",
    "Forward",
    "PrecisionProof",
    "choose_device",
    "extract",
    "split_precision",
    "stored_dtype",
]
