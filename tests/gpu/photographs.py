"""JPEG files to push: drawn by numpy, or a few real ones, each repeated with bytes of its own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

#: (width, height): about what Caltech-101 has, and what ImageNet has.
SMALL, LARGE = (300, 225), (500, 375)


def draw(size: tuple[int, int], seed: int) -> bytes:
    """Return a JPEG with the spectrum of a photograph: noise at every scale, the coarser the stronger."""
    random = np.random.default_rng(seed)
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        noise = random.integers(0, 256, (max(2, cells * height // width), cells, 3), dtype=np.uint8)
        scaled = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        total += (np.asarray(scaled, np.float32) - 128) * (2.0 / cells) ** 0.6
    pixels = np.clip(128 + total, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def originals(folder: Path | None, size: tuple[int, int], n: int) -> list[bytes]:
    """Return `n` drawn JPEGs of a size, or all that lie in `folder`."""
    if folder is None:
        return [draw(size, seed) for seed in range(n)]
    found = [path.read_bytes() for path in sorted(folder.rglob("*.jp*g"))]
    found = [data for data in found if data[:2] == b"\xff\xd8"]
    if not found:
        raise SystemExit(f"--images {folder}: there is no JPEG file in it")
    return found


def numbered(data: bytes, number: int) -> bytes:
    """Return the same picture as another file: a comment behind the first segment says its number."""
    text = b"%012d" % number
    comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
    # an APP0 segment has to stay the first
    place = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return data[:place] + comment + data[place:]


def fill(folder: Path, pictures: Sequence[bytes], n: int, n_classes: int = 8) -> int:
    """Write `n` files into class folders, no two alike; returns their bytes."""
    for label in range(n_classes):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)

    def write(number: int) -> int:
        path = folder / f"class{number % n_classes}" / f"{number:06d}.jpg"
        return path.write_bytes(numbered(pictures[number % len(pictures)], number))

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(write, range(n)))
