"""Headers of featbank's files as somebody who knows the format would forge them: changed, sealed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

BLOCK = 4096


def block_of(data: bytes) -> int:
    """Return where the HDF5 file begins."""
    line = data[: data.index(b"\n") + 1]
    need, block = len(line) + int(line.split()[2]), BLOCK
    while block < need:
        block *= 2
    return block


def header_of(data: bytes) -> dict[str, Any]:
    """Return what the header says."""
    start = data.index(b"\n") + 1
    found: dict[str, Any] = json.loads(data[start : start + int(data.split(b" ", 3)[2])])
    return found


def with_header(data: bytes, header: bytes, version: int = 2) -> bytes:
    """Return a file with this header before the same HDF5 file; longer or shorter by whole blocks."""
    rest = data[block_of(data) :]
    line = f"featbank {version} {len(header)} {hashlib.sha256(header).hexdigest()}\n".encode()
    block = BLOCK
    while block < len(line) + len(header):
        block *= 2
    return (line + header).ljust(block, b"\0") + rest


def canonical(document: Any) -> bytes:
    """Return JSON as featbank writes it; no numbers and infinities as Python writes them."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def forged(data: bytes, change: Callable[[dict[str, Any]], Any], *, checksums: bool = True) -> bytes:
    """Return a file whose header was changed; checksums, and the digest of the rest, are true again."""
    document = header_of(data)
    changed = change(document)
    document = document if changed is None else changed
    if checksums and isinstance(document, dict):
        reseal(document, data)
    return with_header(data, canonical(document), document.get("format_version", 2))


def reseal(document: dict[str, Any], data: bytes) -> None:
    """Put the true checksums into a header, where the places make sense."""
    import math

    known = document.get("checksums")
    for name in known if isinstance(known, dict) else ():
        try:
            dtype, shape, offset = document["arrays"][name][:3]
            n_bytes = math.prod(shape) * int(dtype[2:])
            document["checksums"][name] = hashlib.sha256(data[offset : offset + n_bytes]).hexdigest()
        except (LookupError, TypeError, ValueError):
            continue
    if "rest" in document:
        document["rest"] = hashlib.sha256(data[block_of(data) :]).hexdigest()


def with_array(data: bytes, name: str, change: Callable[[Any], Any]) -> bytes:
    """Return a file with other values in one array, of the same size, and true checksums."""
    import numpy as np

    dtype, shape, offset = header_of(data)["arrays"][name]
    values = np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape).copy()
    changed = change(values)
    values = values if changed is None else changed
    out = data[:offset] + values.tobytes() + data[offset + values.nbytes :]
    return forged(out, lambda document: None)


def with_bytes(data: bytes, name: str, blob: bytes) -> bytes:
    """Return a file with other bytes in one array of bytes, longer or shorter, at the end of the file."""

    def change(document: dict[str, Any]) -> None:
        document["arrays"][name] = ["|u1", [len(blob)], len(data)]
        document["size"] = len(data) + len(blob)

    return forged(data + blob, change)


def bytes_in(data: bytes, name: str) -> bytes:
    """Return the bytes of one array of bytes."""
    _, (size,), offset = header_of(data)["arrays"][name]
    return data[offset : offset + size]
