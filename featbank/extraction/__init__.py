"""One pass: batches of decoded images in, features per cut out, into a bank."""

from __future__ import annotations

from featbank.extraction._extract import extract
from featbank.extraction.device_images import DeviceBatchLoader, ImageLoader, open_loader
from featbank.extraction.forward import Forward, choose_device, choose_devices
from featbank.extraction.images import BadImage, Batch, BatchLoader
from featbank.extraction.jpeg_decoder import (
    DECODE,
    JpegDecoder,
    choose_jpeg_decoder,
    decode_of,
    open_jpeg_decoder,
)
from featbank.extraction.overflow import ON_OVERFLOW, as_stored, stored_dtype
from featbank.extraction.precision import ERROR_LIMIT, PRECISIONS, PrecisionProof, split_precision
from featbank.extraction.repairing import RepairResult, repair_bank, source_of
from featbank.extraction.task import Extraction, ExtractionResult
from featbank.extraction.work import ExtractionPlan

__all__ = [
    "DECODE",
    "ERROR_LIMIT",
    "ON_OVERFLOW",
    "PRECISIONS",
    "BadImage",
    "Batch",
    "BatchLoader",
    "DeviceBatchLoader",
    "Extraction",
    "ExtractionPlan",
    "ExtractionResult",
    "Forward",
    "ImageLoader",
    "JpegDecoder",
    "PrecisionProof",
    "RepairResult",
    "as_stored",
    "choose_device",
    "choose_devices",
    "choose_jpeg_decoder",
    "decode_of",
    "extract",
    "open_jpeg_decoder",
    "open_loader",
    "repair_bank",
    "source_of",
    "split_precision",
    "stored_dtype",
]
