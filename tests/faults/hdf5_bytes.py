"""HDF5 files as bytes: where the headers stand, and checksums repaired after something in them was changed.

Damage alone stops at the checksums of the format; whoever means harm repairs them. So does this.
"""

from __future__ import annotations

import struct

import numpy as np

_MASK = 0xFFFFFFFF


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hashlittle, the checksum of HDF5's metadata."""

    def rot(value: int, by: int) -> int:
        return ((value << by) | (value >> (32 - by))) & _MASK

    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    place, left = 0, len(data)
    while left > 12:
        x, y, z = struct.unpack_from("<III", data, place)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        a = ((a - c) & _MASK) ^ rot(c, 4)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ rot(a, 6)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ rot(b, 8)
        b = (b + a) & _MASK
        a = ((a - c) & _MASK) ^ rot(c, 16)
        c = (c + b) & _MASK
        b = ((b - a) & _MASK) ^ rot(a, 19)
        a = (a + c) & _MASK
        c = ((c - b) & _MASK) ^ rot(b, 4)
        b = (b + a) & _MASK
        place, left = place + 12, left - 12
    if not left:
        return c
    x, y, z = struct.unpack("<III", data[place:].ljust(12, b"\0"))
    a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
    for first, second, by in (
        (2, 1, 14),
        (0, 2, 11),
        (1, 0, 25),
        (2, 1, 16),
        (0, 2, 4),
        (1, 0, 14),
        (2, 1, 24),
    ):
        values = [a, b, c]
        values[first] = ((values[first] ^ values[second]) - rot(values[second], by)) & _MASK
        a, b, c = values
    return c


def headers(data: bytes, base: int = 0) -> list[tuple[int, int]]:
    """Return (start, end) of each checksummed piece from `base` on; the last four bytes are the checksum."""
    pieces = [(base, base + 48)] if data[base + 8 : base + 9] in (b"\x02", b"\x03") else []
    place = base
    while (place := data.find(b"OHDR", place)) >= 0:
        flags = data[place + 5] if place + 5 < len(data) else 0
        at = place + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[at : at + width], "little")
        end = at + width + size + 4
        if end <= len(data):
            pieces.append((place, end))
            pieces += _continuations(data, at + width, end - 4, bool(flags & 4), base)
        place += 4
    return [piece for piece in pieces if _is_whole(data, piece)]


def _continuations(data: bytes, place: int, end: int, ordered: bool, base: int) -> list[tuple[int, int]]:
    found = []
    while place + 4 <= end:
        kind, size = data[place], int.from_bytes(data[place + 1 : place + 3], "little")
        body = place + 4 + (2 if ordered else 0)
        if kind == 0x10 and body + 16 <= end:
            offset, length = struct.unpack_from("<QQ", data, body)
            if base + offset + length <= len(data):
                piece = (base + offset, base + offset + length)
                found += [piece, *_continuations(data, piece[0] + 4, piece[1] - 4, ordered, base)]
        place = body + size
    return found


def _is_whole(data: bytes, piece: tuple[int, int]) -> bool:
    start, end = piece
    return end - start > 8 and lookup3(data[start : end - 4]) == int.from_bytes(data[end - 4 : end], "little")


def repaired(data: bytearray, piece: tuple[int, int]) -> None:
    """Put the right checksum at the end of a piece."""
    start, end = piece
    data[end - 4 : end] = lookup3(bytes(data[start : end - 4])).to_bytes(4, "little")


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


def mutate_header(data: bytes, pieces: list[tuple[int, int]], random: np.random.Generator) -> bytes:
    """Change one to three fields of the headers and repair the checksums."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        start, end = pieces[int(random.integers(len(pieces)))]
        place = int(random.integers(start + 4, end - 4))
        width = int(random.choice([1, 1, 2, 4, 8]))
        width = min(width, end - 4 - place)
        choice = int(random.integers(4))
        if choice == 0:
            out[place] ^= 1 << int(random.integers(8))
        elif choice == 1:
            out[place] = int(random.integers(256))
        elif choice == 2:
            value = _TELLING[int(random.integers(len(_TELLING)))]
            out[place : place + width] = (value & (256**width - 1)).to_bytes(width, "little")
        else:  # an address or a length of another piece
            other = pieces[int(random.integers(len(pieces)))]
            value = int(random.choice([other[0], other[1] - other[0], len(data), len(data) - place]))
            out[place : place + width] = (value & (256**width - 1)).to_bytes(width, "little")
        repaired(out, (start, end))
    return bytes(out)


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


def check() -> None:
    """Fail if checksums are not found and repaired: then nothing here would be tested."""
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # as its author gives it
