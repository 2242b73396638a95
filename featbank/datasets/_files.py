"""Files on disk: which names are images, and reading one without hanging on a pipe or a device."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH122, PTH123

from __future__ import annotations

import os
import stat
from pathlib import Path

from featbank.errors import ImageDecodeError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "read_image_file",
    "read_regular_file",
    "suffix_of",
]

#: Suffixes (lower case) under which a file is taken for an image; its content decides what it is.
IMAGE_SUFFIXES = frozenset(
    b".apng .bmp .gif .jfif .jpe .jpeg .jpg .mpo .pbm .pfm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)

#: A single image of more bytes is refused: it would be held in memory whole.
MAX_FILE_BYTES = 1 << 30


def suffix_of(name: bytes) -> bytes:
    """Return the suffix of a file name, lower case, with its dot; empty if it has none.

    Examples
    --------
    >>> suffix_of(b"IMG_1.JPG"), suffix_of(b"README")
    (b'.jpg', b'')
    """
    return os.path.splitext(name)[1].lower()


def read_regular_file(path: bytes) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        If the file cannot be opened or read, or is no regular file.
    ImageDecodeError
        With the reason ``"too-many-bytes"`` above `MAX_FILE_BYTES`.
    """
    # Non-blocking, so that a pipe put in the place of an image does not hang the run.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{os.fsdecode(path)!r} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageDecodeError(
                "too-many-bytes", f"{status.st_size} bytes is over the limit of {MAX_FILE_BYTES}"
            )
        return file.readall()


def read_image_file(path: Path) -> bytes:
    """Return the bytes of one image file; raises `OSError` or `ImageDecodeError`."""
    return read_regular_file(os.fsencode(path))
