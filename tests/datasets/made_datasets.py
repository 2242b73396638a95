"""Datasets in memory and on disk, of images that act on their decoder."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.datasets.decode_pool import DecodePool

SHAPE = (8, 8, 3)


class Images:
    """A dataset in memory; what is no bytes is raised."""

    name, location, classes, splits = "images", "memory", ("a", "b"), None

    def __init__(self, contents: list[bytes | Exception]) -> None:
        self.contents = contents
        self.ids = tuple(f"{number:05d}".encode() for number in range(len(contents)))
        self.labels = tuple("ab"[number % 2] for number in range(len(contents)))

    def read(self, index: int) -> bytes:
        content = self.contents[index]
        if isinstance(content, Exception):
            raise content
        return content


class Files(Images):
    """The same, on disk; only the processes may read it."""

    def __init__(self, contents: list[bytes | Exception], folder: Path) -> None:
        super().__init__(contents)
        self.folder, self.parent = folder, os.getpid()
        for name, content in zip(self.ids, contents, strict=True):
            if isinstance(content, bytes):
                (folder / name.decode()).write_bytes(content)

    def path_of(self, index: int) -> bytes:
        return os.fsencode(self.folder / self.ids[index].decode())

    def read(self, index: int) -> bytes:
        if os.getpid() == self.parent:
            pytest.fail("read in the parent")
        return (self.folder / self.ids[index].decode()).read_bytes()


def png(red: int, green: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.full(SHAPE, 77, dtype=np.uint8)
    pixels[0, 0] = red, green, 0
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pool_of(dataset, to_pixels, **options) -> DecodePool:
    settings = {"shape": SHAPE, "batch_size": 64, "workers": 2} | options
    return DecodePool(dataset, to_pixels, **settings)


class Decoded:
    """As torchvision's datasets are: each item is a picture that was decoded, and a number."""

    classes = ("a", "b")

    def __init__(self, acts: dict[int, str], n: int = 12) -> None:
        self.acts, self.numbers = acts, [index % 2 for index in range(n)]
        self.targets = self.numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        import odd_decoders as odd

        acts = {**odd.CRASHES, **odd.HANGS, **odd.OTHERS}
        code = acts.get(self.acts.get(index, ""), odd.PLAIN)
        pixels = odd.act(Image.open(io.BytesIO(png(code, index))))
        return Image.fromarray(pixels), self.numbers[index]
