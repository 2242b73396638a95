"""Files on disk: which names are images, and reading one without hanging on a pipe or a device."""

# Names must survive byte for byte, and pathlib has no bytes paths.
# ruff: noqa: PTH122

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from featbank._cache import user_path
from featbank.errors import ImageDecodeError, MissingDataError
from featbank.manifest import printable

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_FILE_BYTES",
    "list_images",
    "open_regular_file",
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
    with open_regular_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > MAX_FILE_BYTES:
            raise ImageDecodeError("too-many-bytes", f"{n_bytes} bytes is over the limit of {MAX_FILE_BYTES}")
        return file.readall()


def open_regular_file(path: bytes) -> FileIO:
    """Open a regular file for reading, unbuffered; raises `OSError` if it cannot be, or is none."""
    # Non-blocking, so that a pipe put in the place of an image does not hang the run.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{os.fsdecode(path)!r} is not a regular file")
    return file


def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """Return a file itself, or the images of a folder and its sub-folders in name order.

    Parameters
    ----------
    path : str or path
        A file of any name, or a folder, in which files count by their suffix and hidden ones do not.

    Raises
    ------
    MissingDataError
        If nothing is there, or the folder holds no image.
    """
    path = user_path(path)
    if not path.exists():
        raise MissingDataError(f"no image at {printable(str(path))!r}; give a file or a folder of images")
    if not path.is_dir():
        return [path]
    found = sorted(
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if suffix_of(os.fsencode(name)) in IMAGE_SUFFIXES and not name.startswith(".")
    )
    if not found:
        raise MissingDataError(f"no images in {printable(str(path))!r}; its files have no suffix of an image")
    return found


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of one image file; raises `OSError` or `ImageDecodeError`."""
    return read_regular_file(os.fsencode(user_path(path)))
