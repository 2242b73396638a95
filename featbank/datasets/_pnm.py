"""Pixels that come without a file of their own, as the bytes of a PGM or PPM file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_bytes", "pnm_bytes"]


def pnm_bytes(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    r"""Return a binary PGM (grey) or PPM (colour) file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (h, w) or (h, w, 3), or of uint16, shape (h, w)

    Examples
    --------
    >>> pnm_bytes(np.array([[0, 255]], dtype=np.uint8))
    b'P5\n2 1\n255\n\x00\xff'
    """
    height, width = pixels.shape[:2]
    magic = "P5" if pixels.ndim == 2 else "P6"
    if pixels.dtype == np.uint8:
        return f"{magic}\n{width} {height}\n255\n".encode() + pixels.tobytes()
    return f"{magic}\n{width} {height}\n65535\n".encode() + pixels.astype(">u2").tobytes()


def image_bytes(image: Image) -> bytes:
    """Return a Pillow image as PGM or PPM: grey of 8 or 16 bits stays grey, all else becomes RGB.

    The EXIF orientation is applied first, because these formats cannot carry it.

    Raises
    ------
    ImageDecodeError
        If the image cannot be loaded or has no agreed conversion to RGB.
    """
    from featbank.datasets.decoding import decoder_errors, upright, upright_rgb

    with decoder_errors():
        image.load()
        if image.mode == "L" and "transparency" not in image.info:
            return pnm_bytes(np.asarray(upright(image)))
        if image.mode.startswith("I;16") and "transparency" not in image.info:
            return pnm_bytes(np.asarray(upright(image)).astype(np.uint16))
        return pnm_bytes(np.asarray(upright_rgb(image)))
