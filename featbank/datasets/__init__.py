"""Where images come from: sources, splits, manifests and decoding.

``open_dataset`` turns a folder, an archive, a CSV file, ``"torchvision:NAME"``, ... into a `Dataset`;
``build_manifest`` hashes its files and gives each row its split, ``compare_sources`` says what has changed
since; ``decode_image`` turns the bytes of one file into pixels. Neither torch nor torchvision is imported
before a torchvision dataset is asked for, and Pillow not before an image is decoded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featbank.datasets._files import list_images, read_image_file
from featbank.datasets.building import SourceFinding, SplitRule, build_manifest, compare_sources, parse_split
from featbank.datasets.derived import BlurredDataset, select_images
from featbank.datasets.sources import Dataset, open_dataset
from featbank.manifest import duplicates_across_labels, duplicates_across_splits

if TYPE_CHECKING:
    from featbank.datasets.decoding import DECODE_REASONS, decode_image

__all__ = [
    "DECODE_REASONS",
    "BlurredDataset",
    "Dataset",
    "SourceFinding",
    "SplitRule",
    "build_manifest",
    "compare_sources",
    "decode_image",
    "duplicates_across_labels",
    "duplicates_across_splits",
    "list_images",
    "open_dataset",
    "parse_split",
    "read_image_file",
    "select_images",
]


def __getattr__(name: str) -> Any:
    if name in ("DECODE_REASONS", "decode_image"):  # Pillow is for those who decode
        return getattr(import_module(f"{__name__}.decoding"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
