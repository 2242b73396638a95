"""Where images come from: sources, splits, manifests and decoding.

``open_dataset`` turns a folder, a CSV file, ``"torchvision:NAME"`` or ``"digits"`` into a `Dataset`;
``build_manifest`` hashes its files and gives each row its split; ``decode_image`` turns the bytes of one
file into pixels. Neither torch nor torchvision is imported before a torchvision dataset is asked for, and
Pillow not before an image is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featbank.datasets._files import list_images, read_image_file
from featbank.datasets.building import build_manifest, row_indices
from featbank.datasets.duplicates import duplicates_across_splits
from featbank.datasets.sources import Dataset, open_dataset
from featbank.datasets.splits import SplitRule, assign_splits, parse_split

if TYPE_CHECKING:
    from featbank.datasets.decoding import DECODE_REASONS, decode_image, decoder_name

__all__ = [
    "DECODE_REASONS",
    "Dataset",
    "SplitRule",
    "assign_splits",
    "build_manifest",
    "decode_image",
    "decoder_name",
    "duplicates_across_splits",
    "list_images",
    "open_dataset",
    "parse_split",
    "read_image_file",
    "row_indices",
]

_DECODING = frozenset({"DECODE_REASONS", "decode_image", "decoder_name"})


def __getattr__(name: str) -> Any:
    if name in _DECODING:
        from featbank.datasets import decoding

        return getattr(decoding, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
