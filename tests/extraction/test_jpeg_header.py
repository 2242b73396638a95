"""Which files are plain JPEGs, told from their headers: nothing that decoders may see differently."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank.extraction.jpeg_decoder import plain_jpeg_size

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import corpus


def jpeg(mode: str = "RGB", size: tuple[int, int] = (37, 21), **options: Any) -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def exif(tag: int = 0x0112, kind: int = 3, count: int = 1, value: int = 1, order: str = "<") -> bytes:
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(order + "IHHHIHHI", 8, 1, tag, kind, count, value, 0, 0)


def with_segment(marker: int, body: bytes, data: bytes | None = None) -> bytes:
    data = jpeg() if data is None else data
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_byte(data: bytes, marker: int, offset: int, value: int) -> bytes:
    """Change one byte of the body of the first segment of a kind."""
    at = data.index(bytes([0xFF, marker])) + 4 + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


PLAIN: dict[str, Callable[[], bytes]] = {
    "as Pillow writes it": jpeg,
    "colours at full size": lambda: jpeg(subsampling=0),
    "4:2:2": lambda: jpeg(subsampling=1),
    "progressive": lambda: jpeg(progressive=True),
    "grey": lambda: jpeg("L"),
    "a comment": lambda: jpeg(comment=b"\xff\xda no scan"),
    "a colour profile": lambda: jpeg(icc_profile=b"x" * 200),
    "upright by EXIF": lambda: with_segment(0xE1, exif()),
    "upright by EXIF, the other byte order": lambda: with_segment(0xE1, exif(order=">")),
    "EXIF without orientation": lambda: with_segment(0xE1, exif(tag=0x010F, value=6)),
    "XMP": lambda: with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
    "Adobe's YCbCr": lambda: with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"),
}

OTHER: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "only marks": lambda: b"\xff\xd8\xff\xd9",
    "another format": lambda: b"\x89PNG\r\n\x1a\n" + bytes(50),
    "no end mark": lambda: jpeg()[:-2],
    "cut, with an end mark": lambda: jpeg()[:300] + b"\xff\xd9",
    "bytes behind the end": lambda: jpeg() + b"\0",
    "two pictures": lambda: jpeg() + jpeg(),
    "four colours": lambda: jpeg("CMYK"),
    "turned by EXIF": lambda: with_segment(0xE1, exif(value=6)),
    "turned by EXIF, the other byte order": lambda: with_segment(0xE1, exif(value=6, order=">")),
    "an orientation that is no number": lambda: with_segment(0xE1, exif(kind=2)),
    "EXIF that cannot be read": lambda: with_segment(0xE1, exif()[:-9]),
    "EXIF of no byte order": lambda: with_segment(0xE1, b"Exif\0\0XX*\0"),
    "EXIF twice": lambda: with_segment(0xE1, exif(), with_segment(0xE1, exif())),
    "turned by XMP": lambda: with_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation="6"/>'),
    "Adobe's RGB": lambda: with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "pictures behind this one": lambda: with_segment(0xE2, b"MPF\0more"),
    "a length beyond the end": lambda: with_byte(jpeg(), 0xDB, -2, 0xFF),
    "no mark where one must be": lambda: jpeg()[:2] + b"\0" + jpeg()[2:],
    "12 bits": lambda: with_byte(jpeg(), 0xC0, 0, 12),
    "no height": lambda: with_byte(with_byte(jpeg(), 0xC0, 1, 0), 0xC0, 2, 0),
    "components named otherwise": lambda: with_byte(jpeg(), 0xC0, 6, ord("R")),
    "colours sampled oddly": lambda: with_byte(jpeg(), 0xC0, 10, 0x21),
    "grey sampled oddly": lambda: with_byte(jpeg("L"), 0xC0, 7, 0x22),
    "extended coding": lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc1", 1),
    "arithmetic coding": lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1),
    "two frames": lambda: with_segment(0xC0, b"\x08\0\x15\0\x25\1\1\x11\0"),
    "no frame": lambda: jpeg().replace(b"\xff\xc0", b"\xff\xfe", 1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain(name: str) -> None:
    assert plain_jpeg_size(PLAIN[name]()) == (37, 21)


@pytest.mark.parametrize("name", OTHER)
def test_not_plain(name: str) -> None:
    assert plain_jpeg_size(OTHER[name]()) is None


def test_of_the_odd_images_these_are_plain() -> None:
    plain = {one.name for one in corpus.contents() if plain_jpeg_size(one.make())}
    assert plain == {b"rotten.jpg", b"really-jpeg.gif", b"exif-1.jpg"}


def test_any_start_of_a_file_is_read_without_an_error() -> None:
    data = with_segment(0xE1, exif())
    assert all(plain_jpeg_size(data[:n] + b"\xff\xd9") is None for n in range(600))
