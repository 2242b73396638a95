"""The images of a dataset, blurred: what a test set looks like to somebody without their glasses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featbank.datasets._names import safe_name
from featbank.datasets._pnm import pnm_bytes
from featbank.datasets.sources import Dataset
from featbank.errors import InvalidInputError

__all__ = ["BlurredDataset", "blur_pixels"]


class BlurredDataset:
    """The images of a dataset after a Gaussian blur whose kernel is a part of each image's width.

    Parameters
    ----------
    dataset : Dataset
    per_width : float
        Kernel widths per image width, over 0: 75 blurs an image of 750 pixels with a kernel of 11 (10, made
        odd). An image of less than twice as many pixels across stays as it is.

    Raises
    ------
    InvalidInputError
        If `per_width` is not over 0.
    """

    decodes = True

    def __init__(self, dataset: Dataset, per_width: float) -> None:
        if not 0 < per_width < float("inf"):
            raise InvalidInputError(f"per_width={per_width!r} must be a finite number over 0")
        self._dataset, self._per_width = dataset, per_width
        self.name = safe_name(f"{dataset.name}-blurred")
        self.location = dataset.location
        self.ids, self.labels = dataset.ids, dataset.labels
        self.classes, self.splits = dataset.classes, dataset.splits

    def read(self, index: int) -> bytes:
        """Return the blurred image as a PPM file; raises `OSError` or `ImageDecodeError`."""
        from featbank.datasets.decoding import decode_image

        pixels = np.asarray(decode_image(self._dataset.read(index)))  # (height, width, 3)
        return pnm_bytes(blur_pixels(pixels, kernel_width(pixels.shape[1], self._per_width)))


def kernel_width(image_width: int, per_width: float) -> int:
    """Return the odd number of pixels nearest to ``image_width / per_width``, at least 1; a tie goes up.

    Examples
    --------
    >>> kernel_width(750, 75), kernel_width(640, 75), kernel_width(32, 75)
    (11, 9, 1)
    """
    return max(1, 2 * int(image_width / per_width / 2) + 1)


def blur_pixels(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Blur an image by a Gaussian kernel of `width` pixels, as OpenCV's ``GaussianBlur`` with sigma 0 does.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    width : int
        Odd; 1 changes nothing.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)

    References
    ----------
    OpenCV, ``getGaussianKernel``: sigma = 0.3 * ((width - 1) * 0.5 - 1) + 0.8; borders are mirrored without
    repeating the last pixel.
    """
    if width == 1:
        return pixels
    from scipy.ndimage import convolve1d

    sigma = 0.3 * ((width - 1) * 0.5 - 1) + 0.8
    offsets = np.arange(width) - width // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blurred = pixels.astype(np.float64)
    for axis in (0, 1):
        blurred = convolve1d(blurred, kernel, axis=axis, mode="mirror")
    return np.rint(blurred).astype(np.uint8)
