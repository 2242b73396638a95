"""Where images come from: sources, splits, manifests and decoding.

``open_dataset`` turns a folder, an archive, a CSV file, ``"torchvision:NAME"``, ... into a `Dataset`;
``build_manifest`` hashes its files and gives each row its split, ``compare_sources`` says what has changed
since; ``decode_image`` turns the bytes of one file into pixels, ``DecodePool`` those of many, in processes
that may die of it. Neither torch nor torchvision is imported before a torchvision dataset is asked for, and
Pillow not before an image is decoded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featbank.datasets._files import list_images, read_image_file
from featbank.datasets.building import (
    SourceFinding,
    build_manifest,
    check_classes,
    compare_sources,
    row_digests,
    row_indices,
)
from featbank.datasets.decode_pool import DecodedBatch, DecodeFailure, DecodePool, DecodeRequest
from featbank.datasets.derived import (
    BlurredDataset,
    is_tiny_imagenet,
    open_tiny_imagenet,
    select_images,
    with_test_images,
)
from featbank.datasets.duplicates import duplicates_across_labels, duplicates_across_splits
from featbank.datasets.sources import Dataset, absolute_source, open_dataset, reopen_dataset
from featbank.datasets.splits import SplitRule, assign_splits, parse_split

if TYPE_CHECKING:
    from featbank.datasets.decoding import DECODE_REASONS, decode_image, decoder_name

__all__ = [
    "DECODE_REASONS",
    "BlurredDataset",
    "Dataset",
    "DecodeFailure",
    "DecodePool",
    "DecodeRequest",
    "DecodedBatch",
    "SourceFinding",
    "SplitRule",
    "absolute_source",
    "assign_splits",
    "build_manifest",
    "check_classes",
    "compare_sources",
    "decode_image",
    "decoder_name",
    "duplicates_across_labels",
    "duplicates_across_splits",
    "is_tiny_imagenet",
    "list_images",
    "open_dataset",
    "open_tiny_imagenet",
    "parse_split",
    "read_image_file",
    "reopen_dataset",
    "row_digests",
    "row_indices",
    "select_images",
    "with_test_images",
]


def __getattr__(name: str) -> Any:
    if name in ("DECODE_REASONS", "decode_image", "decoder_name"):  # Pillow is for those who decode
        return getattr(import_module(f"{__name__}.decoding"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
