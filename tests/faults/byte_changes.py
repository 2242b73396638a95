"""Files changed at random: bytes as a failing disk changes them, headers as somebody who means harm does."""

from __future__ import annotations

import copy
from typing import Any

import headers
import numpy as np

_TELLING = [
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


#: What stands in a header where something else is expected.
_ODD: list[Any] = [None, True, "", "../x", "zstd", "|u1", "O", [], {}, 0, -1, 1.5, [0, 0], 2**63, 2**70]


def mutate_header(data: bytes, random: np.random.Generator) -> bytes:
    """Change one to three values of the header and seal it again."""

    def change(document: dict[str, Any]) -> None:
        for _ in range(int(random.integers(1, 4))):
            _mutate(document, random, len(data))

    if random.integers(8):
        return headers.forged(data, change, checksums=bool(random.integers(4)))
    raw = mutate_bytes(headers.canonical(headers.header_of(data)), random)  # its text, whatever comes of it
    return headers.with_header(data, raw)


def _mutate(document: dict[str, Any], random: np.random.Generator, size: int) -> None:
    parents: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            parents.append((value, key))
            walk(value[key])

    walk(document)
    parent, key = parents[int(random.integers(len(parents)))]
    value, choice = parent[key], int(random.integers(6))
    other_parent, other_key = parents[int(random.integers(len(parents)))]
    if choice == 0:
        parent[key] = copy.deepcopy(_ODD[int(random.integers(len(_ODD)))])  # not the same list inside itself
    elif choice == 1:
        parent[key] = copy.deepcopy(other_parent[other_key])
    elif choice == 2 and isinstance(parent, dict):
        del parent[key]
    elif type(value) is int:
        telling = [*_TELLING, value - 1, value + 1, -value, value * 2, size, size - 1, size - value]
        parent[key] = int(telling[int(random.integers(len(telling)))])
    elif isinstance(value, str) and value:
        at = int(random.integers(len(value)))
        parent[key] = value[:at] + chr(int(random.integers(1, 0x250))) + value[at + 1 :]
    elif isinstance(value, list):
        value.insert(int(random.integers(len(value) + 1)), int(random.integers(100)))
    else:
        parent[key] = copy.deepcopy(_ODD[int(random.integers(len(_ODD)))])  # not the same list inside itself


def mutate_values(array: Any, random: np.random.Generator) -> None:
    """Change one to three values of an array."""
    flat = array.reshape(-1)
    for _ in range(int(random.integers(1, 4)) if len(flat) else 0):
        limit = np.iinfo(flat.dtype)
        value = _TELLING[int(random.integers(len(_TELLING)))]
        value = value - (1 << 8 * flat.dtype.itemsize) if value > limit.max else value
        flat[int(random.integers(len(flat)))] = max(limit.min, min(limit.max, value))


def mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, overwrite, move, repeat, drop or append runs of bytes; checksums stay as they were."""
    out = bytearray(data)
    choice = int(random.integers(6))
    place = int(random.integers(len(out)))
    length = int(random.integers(1, 64))
    if choice <= 1:
        for _ in range(int(random.choice([1, 1, 2, 8]))):
            out[int(random.integers(len(out)))] ^= 1 << int(random.integers(8))
    elif choice == 2:
        out[place : place + length] = random.bytes(length)
    elif choice == 3:
        return bytes(out[:place])
    elif choice == 4:  # a splice: what stands elsewhere
        start = int(random.integers(len(out)))
        out[place : place + length] = out[start : start + length]
    else:
        return (
            bytes(out[:place] + random.bytes(length) + out[place:])
            if random.integers(2)
            else bytes(out) + random.bytes(length)
        )
    return bytes(out)
