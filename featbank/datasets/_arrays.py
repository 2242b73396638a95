"""Pixels that come without a file of their own, as PGM and PPM; the digits that come inside scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featbank._lean_imports import import_sklearn
from featbank.datasets.sources import safe_name
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DigitsDataset", "image_bytes", "pnm_bytes"]


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


class DigitsDataset:
    """Handwritten digits of 8 x 8 pixels, ten classes, no split of their own.

    The grey levels 0..16 become ``round(v * 255 / 16)``. An id is ``CLASS/INDEX.pgm`` with the index in
    ``sklearn.datasets.load_digits``.

    Parameters
    ----------
    rest : str, default=""
        Must be empty: there is one set of digits.
    name : str, optional
        Name of the dataset; default: ``"digits"``.

    Raises
    ------
    InvalidInputError
        If `rest` is not empty.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    def __init__(self, rest: str = "", *, name: str | None = None) -> None:
        if rest:
            raise InvalidInputError(f"data='digits:{rest}' is unknown; the digits are called 'digits' alone")
        import_sklearn("sklearn.datasets")
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)  # (1797, 8, 8)
        ids = [f"{label}/{index:04d}.pgm".encode() for index, label in enumerate(bunch.target)]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.name = safe_name(name or "digits")
        self.location = "digits"
        self.ids: tuple[bytes, ...] = tuple(ids[index] for index in order)
        self.labels: tuple[str | None, ...] = tuple(str(bunch.target[index]) for index in order)
        self.classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))
        self.splits: tuple[str, ...] | None = None
        self._pixels = pixels[order]

    def read(self, index: int) -> bytes:
        """Return image `index` as the bytes of a PGM file."""
        return pnm_bytes(self._pixels[index])
