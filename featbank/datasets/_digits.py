"""The 1,797 handwritten digits that come inside scikit-learn."""

from __future__ import annotations

import numpy as np

from featbank.datasets._names import safe_name
from featbank.datasets._pnm import pnm_bytes

__all__ = ["DigitsDataset"]


class DigitsDataset:
    """Handwritten digits of 8 x 8 pixels, ten classes, no split of their own.

    The grey levels 0..16 become ``round(v * 255 / 16)``. An id is ``CLASS/INDEX.pgm`` with the index in
    ``sklearn.datasets.load_digits``.

    Parameters
    ----------
    name : str, default="digits"
        Name of the dataset.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    def __init__(self, *, name: str = "digits") -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)  # (1797, 8, 8)
        ids = [f"{label}/{index:04d}.pgm".encode() for index, label in enumerate(bunch.target)]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self.name = safe_name(name)
        self.location = "digits"
        self.ids: tuple[bytes, ...] = tuple(ids[index] for index in order)
        self.labels: tuple[str | None, ...] = tuple(str(bunch.target[index]) for index in order)
        self.classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))
        self.splits: tuple[str, ...] | None = None
        self._pixels = pixels[order]

    def read(self, index: int) -> bytes:
        """Return image `index` as the bytes of a PGM file."""
        return pnm_bytes(self._pixels[index])
