"""Images changed at random, twenty thousand of them in six formats: pixels or a reason, and nothing breaks.

A third of the changes are those of a failing disk or a bad line (flipped bits, holes, cuts, splices), a third
put numbers that parsers stumble over where headers are, a third know the format: PNG chunks keep valid
checksums, and what is compressed is changed before it is compressed again.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

_WHOLE = 20_000
_SIZE = 16
_BATCH = 64
_MEMORY_BYTES = 1 << 30
_TIMEOUT_S = 20.0
#: Numbers that have brought down parsers before.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")


def originals() -> dict[str, list[bytes]]:
    """Return good files of each format, in several of its kinds."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[0:40, 0:56]
    scene = np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)
    scene += rng.integers(0, 20, scene.shape, dtype=np.uint8)
    colour = Image.fromarray(scene)
    grey, palette = colour.convert("L"), colour.quantize(64)
    alpha = Image.fromarray(np.dstack([scene, scene[..., 0]]))
    deep = Image.fromarray(scene[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [colour.transpose(Image.Transpose.ROTATE_180)],
    }
    kinds: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "JPEG": [
            (colour, {"exif": exif}),
            (colour, {"progressive": True}),
            (grey, {"restart_marker_blocks": 4}),
            (colour.convert("CMYK"), {}),
        ],
        "PNG": [
            (colour, {"exif": exif}),
            (alpha, {}),
            (palette, {"transparency": 3}),
            (deep, {}),
            (colour, frames),
        ],
        "GIF": [(palette, {}), (palette, {"interlace": False, "transparency": 1}), (colour, frames)],
        "WEBP": [(colour, {"exif": exif}), (alpha, {"lossless": True}), (alpha, {}), (colour, frames)],
        "TIFF": [
            *(
                (colour, {"compression": one})
                for one in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
            ),
            (deep, {}),
            (colour.convert("1"), {"compression": "group4"}),
            (colour.convert("CMYK"), {"compression": "tiff_adobe_deflate"}),
        ],
        "BMP": [(colour, {}), (palette, {}), (colour.convert("1"), {}), (grey, {})],
    }
    found = {}
    for fmt, options in kinds.items():
        files = []
        for image, option in options:
            file = io.BytesIO()
            image.save(file, fmt, **option)
            files.append(file.getvalue())
        found[fmt] = files
    return found


def mutant(number: int, originals: dict[str, list[bytes]]) -> bytes:
    """Return mutant `number` of good files; the same for each call."""
    rng = np.random.default_rng([6, number])
    fmt = FORMATS[number % len(FORMATS)]
    files = originals[fmt]
    data = bytearray(files[int(rng.integers(len(files)))])
    way = int(rng.integers(3))
    for _ in range(int(rng.integers(1, 5))):
        if way == 0 or not data:
            data = _damaged(data, rng, files)
        elif way == 1:
            _put_number(data, rng)
        else:
            data = _forged_png(data, rng) if fmt == "PNG" else _put_number(data, rng)
    return bytes(data)


def _damaged(data: bytearray, rng: np.random.Generator, files: list[bytes]) -> bytearray:
    at = int(rng.integers(len(data) + 1))
    n = int(rng.integers(1, 64))
    ways: list[Callable[[], bytes]] = [
        lambda: _flipped(data, rng),
        lambda: data[:at] + bytes(n) + data[at + n :],
        lambda: data[:at],
        lambda: data[:at] + data[at + n :],
        lambda: data[:at] + data[max(at - n, 0) :],
        lambda: data[:at] + rng.bytes(n) + data[at + n :],
        lambda: data[:at] + files[int(rng.integers(len(files)))][at:],
    ]
    return bytearray(ways[int(rng.integers(len(ways)))]())


def _flipped(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, max(len(data), 1), int(rng.integers(1, 9))).tolist():
        if at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
    return data


def _put_number(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Overwrite one to four bytes, most often near the start, where headers are."""
    number = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    size = int(rng.choice([1, 2, 4]))
    near = min(len(data), 256 if rng.random() < 0.7 else len(data))
    at = int(rng.integers(max(near - size, 1)))
    order: Any = "little" if rng.random() < 0.5 else "big"
    data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)
    return data


def _forged_png(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Change one chunk, inside its compression where it has one, and write its checksum anew."""
    chunks = _chunks(bytes(data))
    if not chunks:
        return _put_number(data, rng)
    at = int(rng.integers(len(chunks)))
    kind, body = chunks[at]
    way = int(rng.integers(4))
    if way == 0:
        chunks.insert(at, chunks[int(rng.integers(len(chunks)))])
    elif kind == b"IDAT" and way == 1:
        try:
            rows = bytearray(zlib.decompress(body))
        except zlib.error:
            rows = bytearray(body)
        chunks[at] = kind, zlib.compress(bytes(_put_number(rows, rng) if rows else rows))
    else:
        chunks[at] = kind, bytes(_put_number(bytearray(body), rng)) if body else body
    whole = bytearray(data[:8])
    for kind, body in chunks:
        whole += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return whole


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            break
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


class Mutants:
    """A dataset that is made as it is read."""

    name, location, classes, splits = "mutants", "made", ("mutant",), None

    def __init__(self, n: int) -> None:
        self.ids = tuple(f"{number:06d}".encode() for number in range(n))
        self.labels = ("mutant",) * n
        self.originals = originals()

    def read(self, index: int) -> bytes:
        """Return mutant `index`."""
        return mutant(index, self.originals)


def decode(n: int, workers: int) -> dict[str, Any]:
    """Decode `n` mutants in the pool; this process must not notice what is in them."""
    from featbank.backbones import Preprocessing
    from featbank.datasets import DECODE_REASONS
    from featbank.datasets.decode_pool import DecodePool, DecodeRequest

    outcomes: dict[str, collections.Counter[str]] = {fmt: collections.Counter() for fmt in FORMATS}
    deaths, bad = [], []
    starts = range(0, n, _BATCH)
    with DecodePool(
        Mutants(n),
        Preprocessing(_SIZE, _SIZE + 2).apply_geometry,
        shape=(_SIZE, _SIZE, 3),
        batch_size=_BATCH,
        workers=workers,
        timeout_s=_TIMEOUT_S,
        max_memory_bytes=_MEMORY_BYTES,
    ) as pool:
        requests = (DecodeRequest(range(start, min(start + _BATCH, n))) for start in starts)
        for start, batch in zip(starts, pool.batches(requests), strict=True):
            failed = {one.position: one for one in batch.failures}
            for position in range(len(batch.decoded)):
                fmt = FORMATS[(start + position) % len(FORMATS)]
                one = failed.get(position)
                outcomes[fmt]["pixels" if one is None else one.reason] += 1
                if (one is None) != bool(batch.decoded[position]):
                    bad.append(f"mutant {start + position}: neither pixels nor a reason")
                if one is not None and one.reason not in DECODE_REASONS:
                    bad.append(f"mutant {start + position}: {one.reason}: {one.detail}")
                if one is not None and one.reason in ("crashed", "timeout"):
                    deaths.append(f"mutant {start + position} ({fmt}): {one.detail}")
    return {
        "outcomes": {fmt: dict(one.most_common()) for fmt, one in outcomes.items()},
        "deaths": deaths,
        "bad": bad,
    }


def run(scale: float) -> dict[str, Any]:
    """Decode the mutants in a process of their own, and say what came of them and of it.

    Returns
    -------
    dict
        ``figures``; ``bad`` (what must not be); ``ok``; ``deaths`` (of decoding processes, which is what they
        are for); ``outcomes`` of each format.
    """
    n = max(60, round(_WHOLE * scale))
    started = time.monotonic()
    command = [sys.executable, __file__, "--decode", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told: dict[str, Any] = {"outcomes": {}, "deaths": [], "bad": [done.stderr[-2000:]]}
    if done.returncode == 0:
        told = json.loads(done.stdout)
    total: collections.Counter[str] = collections.Counter()
    for one in told["outcomes"].values():
        total.update(one)
    crashes = int(done.returncode != 0)
    figures: dict[str, Any] = {
        "mutated images": n,
        "formats": len(FORMATS),
        "crashes of the parent": crashes,
        "deaths of a decoder": len(told["deaths"]),
        "decoded": total.pop("pixels", 0),
        "refused": sum(total.values()),
        "reasons": ", ".join(f"{count} {reason}" for reason, count in total.most_common()),
        "per second": round(n / (time.monotonic() - started)),
    }
    ok = crashes == 0 and not told["bad"] and figures["decoded"] + figures["refused"] == n
    return {"figures": figures, "ok": ok, **told}


def main() -> int:
    """Run the scenario alone; ``--decode`` is how it calls itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--decode", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.decode:
        sys.stdout.write(json.dumps(decode(chosen.decode, max(2, min(8, os.cpu_count() or 2)))))
        return 0
    result = run(chosen.scale)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
