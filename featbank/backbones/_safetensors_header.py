"""What a safetensors file says it holds, checked against its size before one tensor is read."""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["MAX_TENSORS", "HeaderError", "describe_safetensors"]

#: Thousands of times what torchvision's largest network has, and still parsed at once.
_MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 20_000
_MAX_DIMS = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_METADATA = "__metadata__"


class HeaderError(ValueError):
    """The file contradicts itself, or claims more than is allowed; the text says how."""


def describe_safetensors(file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """Read the header of a safetensors file.

    Parameters
    ----------
    file : binary file
        At its beginning.
    size_bytes : int
        Of the whole file.

    Returns
    -------
    dict of str to Tensor
        Shapes and dtypes, on the meta device.

    Raises
    ------
    HeaderError
        If the header is no such header, or its tensors do not cover the rest of the file exactly: without
        holes, overlaps, or bytes that belong to nobody.
    """
    head = file.read(8)
    n_header = int.from_bytes(head, "little")
    if len(head) < 8 or n_header > size_bytes - 8:
        raise HeaderError(f"its header would have {n_header} bytes, the file has {size_bytes}")
    if n_header > _MAX_HEADER_BYTES:
        raise HeaderError(f"its header has {n_header} bytes, {_MAX_HEADER_BYTES} are the most")
    try:
        header = json.loads(file.read(n_header), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, HeaderError) else HeaderError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is no JSON object")
    header.pop(_METADATA, None)
    if len(header) > MAX_TENSORS:
        raise HeaderError(f"it lists {len(header)} tensors, {MAX_TENSORS} are the most")
    parts = {name: _part(name, entry) for name, entry in header.items()}
    _check_cover(parts, size_bytes - 8 - n_header)
    return {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, (_, _, shape, dtype) in parts.items()
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise HeaderError(f"its header has {twice[:100]!r} twice")
    return found


def _part(name: str, entry: Any) -> tuple[int, int, tuple[int, ...], torch.dtype]:
    """Return begin, end, shape and dtype of one tensor."""
    shown = repr(name[:100])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"its header does not describe tensor {shown}")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise HeaderError(f"tensor {shown} is of type {entry['dtype']!r:.40}; {', '.join(_DTYPES)} are read")
    if not _is_sizes(entry["shape"]) or len(entry["shape"]) > _MAX_DIMS:
        raise HeaderError(f"tensor {shown} has the shape {entry['shape']!r:.80}")
    if not _is_sizes(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        raise HeaderError(f"tensor {shown} has the offsets {entry['data_offsets']!r:.80}")
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    wanted = math.prod(shape) * dtype.itemsize
    if end - begin != wanted:
        raise HeaderError(f"tensor {shown} of shape {shape} needs {wanted} bytes and has {end - begin}")
    return begin, end, shape, dtype


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def _check_cover(parts: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]], n_bytes: int) -> None:
    at = 0
    for name, (begin, end, _, _) in sorted(parts.items(), key=lambda item: item[1][:2]):
        if begin != at:
            fault = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise HeaderError(f"tensor {name[:100]!r} {fault} (bytes {begin} to {end}, {at} expected)")
        at = end
    if at != n_bytes:
        raise HeaderError(f"its tensors end at byte {at}, its data at {n_bytes}")
