"""How the odd image files of the corpus are made."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


@cache
def scene() -> Pixels:
    """A picture of 36 x 24 whose four corners differ, smooth enough for JPEG."""
    y, x = np.mgrid[0:24, 0:36]
    return np.stack([x * 7, y * 10, (x + y) * 4], axis=2).astype(np.uint8)


@cache
def busy() -> Pixels:
    """The same, noisy and larger, so that half of its file is half of its pixels."""
    noise = np.random.default_rng(6).integers(0, 40, (120, 180, 3), dtype=np.uint8)
    return np.tile(scene(), (5, 5, 1)) // 2 + noise


def grey(values: Any) -> Pixels:
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2)


GREY16 = (np.arange(24 * 36, dtype=np.uint32).reshape(24, 36) * 70 + 255).astype(np.uint16)
LEVELS = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)


def picture(array: Any = None) -> Image.Image:
    return Image.fromarray(scene() if array is None else array)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes, share: float, n_bytes: int) -> bytes:
    """Invert some bytes in the middle of the file."""
    damaged = bytearray(data)
    for at in range(int(len(data) * share), int(len(data) * share) + n_bytes):
        damaged[at] ^= 0xFF
    return bytes(damaged)


def bad_crc(data: bytes, kind: bytes) -> bytes:
    at = data.index(kind)
    size = struct.unpack(">I", data[at - 4 : at])[0]
    end = at + 4 + size
    return data[:end] + bytes(4) + data[end + 4 :]


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", quality=95, subsampling=0, exif=exif)


def turned(orientation: int) -> Pixels:
    """What EXIF 2.3 (table 6) says is stored, undone."""
    stored = np.asarray(Image.open(io.BytesIO(with_exif(orientation))))
    undo: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    return undo[orientation](stored)


def palette(**options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
        return encoded(image, **options)

    return make


def on_white(rgba: Pixels) -> Pixels:
    alpha = rgba[..., 3:].astype(int)
    return np.floor((rgba[..., :3].astype(int) * alpha + 255 * (255 - alpha)) / 255 + 0.5).astype(np.uint8)


@cache
def rgba() -> Pixels:
    return np.dstack([scene(), np.mgrid[0:24, 0:36][1].astype(np.uint8) * 7])


def frames(fmt: str, **options: Any) -> Callable[[], bytes]:
    rest = [picture(scene()[::-1]), picture(scene()[:, ::-1])]
    return lambda: encoded(picture(), fmt, save_all=True, append_images=rest, **options)


def solid_frames(fmt: str) -> Callable[[], bytes]:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    return lambda: encoded(first, fmt, save_all=True, append_images=[second])


def lzw_bomb() -> bytes:
    """A TIFF that says 30,000 x 30,000 and holds one small LZW strip."""
    data = bytearray(encoded(Image.new("L", (64, 64)), "TIFF", compression="tiff_lzw"))
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    for entry in range(struct.unpack(order + "H", data[at : at + 2])[0]):
        start = at + 2 + 12 * entry
        tag = struct.unpack(order + "H", data[start : start + 2])[0]
        if tag in (256, 257, 278):  # width, height, rows in a strip
            data[start + 2 : start + 12] = struct.pack(order + "HII", 4, 1, 30_000)
    return bytes(data)


def resized(data: bytes, at: int, form: str, *sizes: int) -> bytes:
    """Write other sizes into a header."""
    changed = bytearray(data)
    changed[at : at + struct.calcsize(form)] = struct.pack(form, *sizes)
    return bytes(changed)


def fits() -> bytes:
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    2",
    ]
    cards += ["NAXIS1  =                    4", "NAXIS2  =                    4", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def inverse_cmyk() -> Pixels:
    return np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (16, 16, 3))


def lossy() -> bytes:
    return encoded(picture(), "JPEG", quality=95, subsampling=0)


def decoded_as_it_is(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))
