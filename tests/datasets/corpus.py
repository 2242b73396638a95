"""The corpus of odd image files: made here, each with the outcome that is declared for it.

``python tests/datasets/corpus.py FOLDER`` writes them; ``--peak`` decodes each and prints, as JSON, what came
of it, the memory it took over what the process had, and how long.
"""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH103, PTH109, PTH118, PTH123, PTH211

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from odd_images import (
    GREY16,
    LEVELS,
    Pixels,
    bad_crc,
    busy,
    chunk,
    decoded_as_it_is,
    encoded,
    fits,
    flipped,
    frames,
    grey,
    half,
    inverse_cmyk,
    lossy,
    lzw_bomb,
    on_white,
    palette,
    picture,
    png,
    resized,
    rgba,
    scene,
    solid_frames,
    turned,
    with_exif,
)
from PIL import Image


@dataclass(frozen=True)
class Specimen:
    """One file and what must become of it.

    One of `pixels` (with a `tolerance` for lossy formats) and `reason` says so; a bomb must be refused before
    memory is taken.
    """

    name: bytes
    make: Callable[[], bytes]
    pixels: Callable[[], Pixels] | None = None
    reason: str | None = None
    tolerance: int = 0
    bomb: bool = False


def ok(
    name: bytes, make: Callable[[], bytes], pixels: Callable[[], Pixels] = scene, tolerance: int = 0
) -> Specimen:
    return Specimen(name, make, pixels, tolerance=tolerance)


def bad(name: bytes, make: Callable[[], bytes], reason: str, *, bomb: bool = False) -> Specimen:
    return Specimen(name, make, reason=reason, bomb=bomb)


def contents() -> list[Specimen]:
    """Files whose bytes are the matter; 71 of them."""
    jpeg_tolerance = 6
    rows = [
        # what is no image
        bad(b"empty.jpg", lambda: b"", "empty"),
        bad(b"page.jpg", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not-an-image"),
        bad(b"zeros.png", lambda: bytes(4096), "not-an-image"),
        bad(b"drawing.png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image"),
        bad(b"script.jpg", lambda: encoded(picture(), "EPS"), "not-an-image"),
        bad(
            b"paper.png",
            lambda: encoded(picture(), "PDF", creationDate=time.gmtime(0), modDate=time.gmtime(0)),
            "not-an-image",
        ),
        bad(
            b"layers.jpg",
            lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(99),
            "truncated",
        ),
        ok(b"stars.jpg", fits, lambda: grey(np.zeros((4, 4)))),
        ok(b"icon.png", lambda: encoded(picture(), "ICO", sizes=[(36, 24)])),
        bad(b"no-pixels.png", lambda: png(0, 3, 8, 2, b""), "not-an-image"),
        bad(b"only-a-head.jpg", lambda: b"\xff\xd8\xff", "not-an-image"),
        # damage
        *(
            bad(
                f"cut.{fmt.lower()}".encode(),
                lambda fmt=fmt: half(encoded(picture(busy()), fmt)),
                "truncated",
            )
            for fmt in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM")
        ),
        bad(b"cut.webp", lambda: half(encoded(picture(busy()), "WEBP")), "decoder-error"),
        bad(b"no-end-mark.jpg", lambda: lossy()[:-2], "truncated"),
        bad(b"rotten.png", lambda: flipped(encoded(picture(busy()), "PNG"), 0.5, 40), "decoder-error"),
        bad(b"rotten-head.jpg", lambda: flipped(lossy(), 0.0, 4), "not-an-image"),
        # A JPEG has no checksum: its decoder paints over damage. The digest in the manifest is what tells.
        ok(
            b"rotten.jpg",
            lambda: flipped(lossy(), 0.8, 6),
            lambda: decoded_as_it_is(flipped(lossy(), 0.8, 6)),
        ),
        ok(b"crc-of-pixels.png", lambda: bad_crc(encoded(picture(), "PNG"), b"IDAT")),
        bad(b"crc-of-head.png", lambda: bad_crc(encoded(picture(), "PNG"), b"IHDR"), "not-an-image"),
        # names that lie
        ok(b"really-png.jpg", lambda: encoded(picture(), "PNG")),
        ok(b"really-bmp.png", lambda: encoded(picture(), "BMP")),
        ok(b"really-jpeg.gif", lossy, tolerance=jpeg_tolerance),
        ok(b"really-webp.JPG", lambda: encoded(picture(), "WEBP", lossless=True)),
        # kinds of pixels
        ok(b"grey.png", lambda: encoded(picture(scene()[..., 0]), "PNG"), lambda: grey(scene()[..., 0])),
        ok(
            b"bilevel.png",
            lambda: encoded(picture(scene()[..., 0] > 99), "PNG"),
            lambda: grey((scene()[..., 0] > 99) * 255),
        ),
        *(
            ok(
                f"grey16.{fmt}".encode(),
                lambda fmt=fmt: encoded(picture(GREY16), fmt),
                lambda: grey(GREY16 >> 8),
            )
            for fmt in ("PNG", "TIFF", "PPM")
        ),
        ok(
            b"grey16-big-endian.tif",
            lambda: encoded(picture(GREY16.astype(">u2")), "TIFF"),
            lambda: grey(GREY16 >> 8),
        ),
        ok(
            b"colour16.png",
            lambda: png(1, 1, 16, 2, b"\0\x12\x34\x56\x78\x9a\xbc"),
            lambda: np.array([[[0x12, 0x56, 0x9A]]], dtype=np.uint8),
        ),
        ok(
            b"floats-to-1.tif",
            lambda: encoded(picture(LEVELS), "TIFF"),
            lambda: grey(np.arange(256).reshape(16, 16)),
        ),
        bad(b"floats-to-1000.tif", lambda: encoded(picture(LEVELS * 1000), "TIFF"), "unsupported-mode"),
        bad(b"floats-nan.tif", lambda: encoded(picture(LEVELS * np.nan), "TIFF"), "unsupported-mode"),
        bad(
            b"integers32.tif",
            lambda: encoded(picture(np.ones((4, 4), dtype=np.int32)), "TIFF"),
            "unsupported-mode",
        ),
        bad(b"lab.tif", lambda: encoded(Image.new("LAB", (4, 4)), "TIFF"), "unsupported-mode"),
        ok(
            b"cmyk.jpg",
            lambda: encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100),
            inverse_cmyk,
            tolerance=3,
        ),
        ok(
            b"cmyk.tif",
            lambda: encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"),
            inverse_cmyk,
        ),
        ok(
            b"palette.png",
            palette(fmt="PNG"),
            lambda: np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200]]], dtype=np.uint8),
        ),
        ok(
            b"palette-alpha.png",
            palette(fmt="PNG", transparency=bytes([0, 51, 255])),
            lambda: np.array([[[255] * 3, [204, 244, 204], [0, 0, 200]]], dtype=np.uint8),
        ),
        ok(
            b"palette-transparent.gif",
            palette(fmt="GIF", transparency=0),
            lambda: np.array([[[255] * 3, [0, 200, 0], [0, 0, 200]]], dtype=np.uint8),
        ),
        ok(
            b"grey-alpha.png",
            lambda: encoded(Image.fromarray(rgba()[..., 2:], "LA"), "PNG"),
            lambda: on_white(rgba()[..., [2, 2, 2, 3]]),
        ),
        ok(b"alpha.png", lambda: encoded(picture(rgba()), "PNG"), lambda: on_white(rgba())),
        ok(
            b"alpha.webp",
            lambda: encoded(picture(rgba()), "WEBP", lossless=True, exact=True),
            lambda: on_white(rgba()),
        ),
        # orientation
        *(
            ok(
                f"exif-{one}.jpg".encode(),
                lambda one=one: with_exif(one),
                lambda one=one: turned(one),
            )
            for one in range(1, 9)
        ),
        ok(
            b"exif-garbage.jpg",
            lambda: encoded(
                picture(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"
            ),
            tolerance=jpeg_tolerance,
        ),
        # several pictures in one file: the first
        ok(
            b"animated.gif",
            solid_frames("GIF"),
            lambda: np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (8, 8, 3)),
        ),
        ok(b"animated.webp", frames("WEBP", lossless=True)),
        ok(b"animated.png", frames("PNG")),
        ok(b"pages.tif", frames("TIFF")),
        ok(b"two-lenses.jpg", frames("MPO", quality=95, subsampling=0), tolerance=jpeg_tolerance),
        # bombs
        bad(b"bomb-12k.png", lambda: png(12_000, 12_000, 8, 2, b""), "too-many-pixels", bomb=True),
        bad(b"bomb-60k.png", lambda: png(60_000, 60_000, 8, 2, b""), "too-many-pixels", bomb=True),
        bad(
            b"bomb-text.png",
            lambda: png(
                2, 1, 8, 0, b"\0\x12\x34", chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))
            ),
            "decoder-error",
            bomb=True,
        ),
        bad(
            b"bomb-profile.png",
            lambda: png(
                2, 1, 8, 0, b"\0\x12\x34", chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000)))
            ),
            "decoder-error",
            bomb=True,
        ),
        bad(b"bomb-lzw.tif", lzw_bomb, "too-many-pixels", bomb=True),
        bad(
            b"bomb.gif",
            lambda: resized(encoded(Image.new("P", (16, 16)), "GIF"), 6, "<HH", 65_535, 65_535),
            "too-many-pixels",
            bomb=True,
        ),
        bad(
            b"bomb.bmp",
            lambda: resized(encoded(picture(), "BMP"), 18, "<ii", 50_000, 50_000),
            "too-many-pixels",
            bomb=True,
        ),
        bad(b"bomb.ppm", lambda: b"P6 90000 90000 255\n", "too-many-pixels", bomb=True),
        bad(
            b"bomb.webp",
            # lossless: 14 bits each of width - 1 and height - 1
            lambda: resized(encoded(Image.new("L", (1, 1)), "WEBP", lossless=True), 21, "<I", 0x0FFFFFFF),
            "too-many-pixels",
            bomb=True,
        ),
    ]
    return rows


#: Names a file system allows and a terminal, a log or a CSV may choke on; each holds the scene as PNG.
NAMES = (
    b"new\nline.png",
    b"latin-1-caf\xe9.png",
    b"\xff\xfe\x80.png",
    b"n" * 251 + b".png",
    b"red\x1b[31m\x1b]0;title\x07.png",
    b"-rf.png",
    b" spaces \t.png",
    b"quote'\"`$(id).png",
    b"per%cent%s{0}.png",
    "caf\u00e9.png".encode(),
    "cafe\u0301.png".encode(),
    "\U0001f408.png".encode(),
    "\u202egnp.exe.png".encode(),
)


def named(name: bytes) -> Specimen:
    """A picture of its own for a name."""
    pixels = np.roll(scene(), NAMES.index(name), axis=0)
    return Specimen(name, lambda: encoded(picture(pixels), "PNG"), lambda: pixels)


def write_folder(folder: Path) -> dict[bytes, Specimen]:
    """Write the corpus as class folders ``a`` (contents) and ``b`` (names, and what is no file at all).

    Returns
    -------
    dict of bytes to Specimen
        What a dataset must list: id -> its specimen. Everything else there must be left out.
    """
    root = os.fsencode(folder)
    wanted: dict[bytes, Specimen] = {}
    for label, specimens in (
        (b"a", contents()),
        (b"b", [named(name) for name in NAMES]),
    ):
        os.makedirs(os.path.join(root, label))
        for one in specimens:
            relative = os.path.join(label, one.name)
            with open(os.path.join(root, relative), "wb") as file:
                file.write(one.make())
            wanted[relative] = one
    outside = root + b"-outside.png"
    with open(outside, "wb") as file:
        file.write(encoded(picture(), "PNG"))
    inside = os.path.join(root, b"b")
    os.symlink(b"-rf.png", os.path.join(inside, b"link-inside.png"))
    wanted[b"b/link-inside.png"] = named(b"-rf.png")
    os.symlink(b".", os.path.join(inside, b"loop"))
    os.symlink(b"..", os.path.join(inside, b"loop-up"))
    os.symlink(outside, os.path.join(inside, b"link-outside.png"))
    wanted[b"b/link-outside.png"] = Specimen(b"link-outside.png", lambda: encoded(picture(), "PNG"), scene)
    os.symlink(b"/dev/zero", os.path.join(inside, b"device.png"))
    os.mkfifo(os.path.join(inside, b"pipe.png"))
    os.makedirs(os.path.join(inside, b"folder.png"))
    with open(os.path.join(inside, b".hidden.png"), "wb") as file:
        file.write(encoded(picture(), "PNG"))
    _socket(inside)
    return wanted


def _socket(folder: bytes) -> None:
    # The address of a socket has room for 100 bytes; a relative one fits wherever the folder is.
    here = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(b"socket.png")
    finally:
        os.chdir(here)


def peaks() -> dict[str, dict[str, Any]]:
    """Decode every specimen here; Linux alone says (and resets) the most memory a process had."""
    from featbank.datasets import decode_image
    from featbank.errors import ImageDecodeError

    found = {}
    for one in contents():
        data = one.make()
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water_bytes()
        started = time.perf_counter()
        try:
            outcome = "pixels {} x {}".format(*decode_image(data).size)
        except ImageDecodeError as error:
            outcome = error.reason
        found[one.name.decode()] = {
            "bomb": one.bomb,
            "outcome": outcome,
            "bytes": len(data),
            "peak_bytes": _high_water_bytes() - before,
            "duration_s": round(time.perf_counter() - started, 4),
        }
    return found


def _high_water_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--peak", action="store_true")
    chosen = parser.parse_args()
    if chosen.folder is not None:
        sys.stdout.write(f"{len(write_folder(chosen.folder))} files in {chosen.folder}\n")
    if chosen.peak:
        sys.stdout.write(json.dumps(peaks(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
