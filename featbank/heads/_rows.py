"""Rows that may be too many to copy: statistics, products and projections over blocks of them.

A source is anything with `shape`, `dtype` and row slices: an array, a memory map, a cut of a bank. Of an
array, memory-mapped or not, blocks of columns are read, so that one pass serves all pairs of rows; other
sources are first read in runs of rows (`SLAB_BYTES` at a time, in their own dtype).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError

__all__ = [
    "BLOCK_BYTES",
    "SLAB_BYTES",
    "Scaling",
    "Standardized",
    "as_source",
    "check_finite",
    "count_columns",
    "gram",
    "moments",
    "project",
    "row_blocks",
]

#: Working memory of one block after conversion, in bytes.
BLOCK_BYTES = 64 * 2**20
#: How much of a source that is no array is read at a time, in bytes of its own dtype.
SLAB_BYTES = 256 * 2**20
#: How many rows that hold NaN are named.
SHOWN_ROWS = 10
#: Columns whose products are summed in float32 before the sum goes on in float64.
PRODUCT_COLUMNS = 4096

Float = NDArray[np.floating[Any]]


def as_source(X: Any) -> Any:
    """Return `X` if it can be sliced by rows as it is, else as an array; raises `InvalidInputError`."""
    source = X if hasattr(X, "shape") and hasattr(X, "dtype") and hasattr(X, "__getitem__") else np.asarray(X)
    if type(source).__module__.split(".")[0] == "torch":
        source = X.detach().cpu().numpy()
    if len(source.shape) < 2:
        raise InvalidInputError(
            f"features have shape {tuple(source.shape)!r}; give one row per sample: (n_samples, n_features) "
            "or (n_samples, channels, height, width)"
        )
    if not all(source.shape):
        raise InvalidInputError(
            f"features have shape {tuple(source.shape)!r}; give at least one sample and one feature"
        )
    if np.dtype(source.dtype).kind not in "fiub":
        raise InvalidInputError(
            f"features have dtype {source.dtype!r}; give float16, float32, float64 or integers"
        )
    return source


def count_columns(source: Any) -> int:
    """Return how many features a row of `source` has once it is flattened."""
    return prod(int(length) for length in source.shape[1:])


def _slabs(source: Any) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield (rows, array of (n_rows, n_features)) in the source's own dtype; an array is one slab."""
    n, p = int(source.shape[0]), count_columns(source)
    if isinstance(source, np.ndarray):
        yield slice(0, n), source.reshape(n, p)
        return
    step = max(1, SLAB_BYTES // (p * np.dtype(source.dtype).itemsize))
    for start in range(0, n, step):
        stop = min(n, start + step)
        yield slice(start, stop), np.asarray(source[start:stop]).reshape(stop - start, p)


def _working(dtype: Any) -> type[np.floating[Any]]:
    """Return the dtype arithmetic is done in: float64 where the source has more than float32 can hold."""
    kind = np.dtype(dtype)
    return np.float32 if kind.kind == "f" and kind.itemsize <= 4 else np.float64


def _column_step(n_rows: int, itemsize: int) -> int:
    return max(64, min(PRODUCT_COLUMNS, BLOCK_BYTES // max(1, n_rows * itemsize)))


class Scaling:
    """What turns a raw row into a standardised one: ``(x - mean) / scale``.

    Parameters
    ----------
    mean, scale : ndarray of float64, shape (n_features,)
        Per feature; `scale` has no zeros.
    """

    def __init__(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        self.mean = mean
        self.scale = scale
        self._mean32 = mean.astype(np.float32)
        self._inverse32 = (1.0 / scale).astype(np.float32)
        self._nothing = not mean.any() and bool((scale == 1).all())

    def __call__(self, raw: NDArray[Any], start: int = 0, stop: int | None = None) -> Float:
        """Return columns `start` to `stop` of raw rows, standardised, in the working dtype (a copy)."""
        if _working(raw.dtype) is np.float32:
            block: Float = raw[:, start:stop].astype(np.float32)
            if self._nothing:
                return block
            block -= self._mean32[start:stop]
            block *= self._inverse32[start:stop]
            return block
        block = raw[:, start:stop].astype(np.float64)
        block -= self.mean[start:stop]
        block /= self.scale[start:stop]
        return block


class Standardized:
    """Rows of a source, standardised whenever they are read: blocks or chosen rows, float32.

    Parameters
    ----------
    source : source
        Raw rows, shape (n, ...).
    scaling : Scaling
        The statistics to standardise by.
    gain : float
        What every value is multiplied by after that.
    """

    def __init__(self, source: Any, scaling: Scaling, gain: float) -> None:
        self.shape = (int(source.shape[0]), count_columns(source))
        self._source, self._scaling, self._gain = source, scaling, np.float32(gain)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        raw = np.asarray(self._source[rows])
        block = self._scaling(raw.reshape(len(raw), self.shape[1])).astype(np.float32, copy=False)
        if self._gain != 1:
            block *= self._gain
        return block

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield (rows, block)."""
        step = max(1, BLOCK_BYTES // (4 * self.shape[1]))
        for start in range(0, len(self), step):
            rows = slice(start, min(len(self), start + step))
            yield rows, self[rows]


def moments(source: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance (divided by n) of each feature, accumulated in float64.

    Slabs are joined by the pairwise update, so that the answer does not depend on how the source is cut
    beyond float64 rounding.

    References
    ----------
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    p = count_columns(source)
    mean, squares, count = np.zeros(p), np.zeros(p), 0
    with np.errstate(invalid="ignore", over="ignore"):  # told below, with advice
        for _, slab in _slabs(source):
            m = len(slab)
            step = _column_step(m, 8)
            for start in range(0, p, step):
                block = slab[:, start : start + step].astype(np.float64)
                average = block.mean(axis=0)
                block -= average
                here = slice(start, start + step)
                shift = average - mean[here]
                squares[here] += np.einsum("ij,ij->j", block, block) + shift**2 * (count * m / (count + m))
                mean[here] += shift * (m / (count + m))
            count += m
    if not (np.isfinite(mean).all() and np.isfinite(squares).all()):
        check_finite(source)
        raise InvalidInputError(
            "the variance of a feature is beyond float64; scale the features down before fitting"
        )
    return mean, squares / count


def check_finite(source: Any) -> None:
    """Raise `InvalidInputError`, with the numbers of the rows, where a row holds NaN or infinity."""
    bad: list[int] = []
    for rows, block in row_blocks(source):
        if block.dtype.kind == "f":
            bad += (rows.start + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
    if bad:
        shown = ", ".join(map(str, bad[:SHOWN_ROWS])) + (", ..." if len(bad) > SHOWN_ROWS else "")
        raise InvalidInputError(
            f"{len(bad)} of {int(source.shape[0])} rows hold NaN or infinity: {shown} (counted from 0); drop "
            "or replace them"
        )


def gram(left: Any, right: Any | None, scaling: Scaling) -> NDArray[np.float64]:
    """Return the products of standardised rows, ``Z_left @ Z_right.T``.

    Products of `PRODUCT_COLUMNS` columns are summed in float32 (float64 for float64 sources), their sums in
    float64, which keeps the relative error near 1e-7 at any number of features.

    Parameters
    ----------
    left, right : source
        Raw rows; `right` None means `left` again, at half the cost.
    scaling : Scaling
        The statistics to standardise by.

    Returns
    -------
    ndarray of float64, shape (n_left, n_right)
    """
    same = right is None
    other = left if right is None else right
    out = np.zeros((int(left.shape[0]), int(other.shape[0])))
    for rows, slab in _slabs(left):
        for columns, slab_2 in _slabs(other):
            if same and columns.start < rows.start:
                out[rows, columns] = out[columns, rows].T
                continue
            alike = same and rows == columns
            step = _column_step(len(slab) + len(slab_2), 4)
            for start in range(0, slab.shape[1], step):
                a = scaling(slab, start, start + step)
                b = a if alike else scaling(slab_2, start, start + step)
                out[rows, columns] += a @ b.T
    return out


def project(source: Any, scaling: Scaling, weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``Z.T @ weights``: what a combination of standardised rows is in the features.

    Parameters
    ----------
    source : source
        Raw rows, shape (n, ...).
    scaling : Scaling
        The statistics to standardise by.
    weights : ndarray, shape (n, k)

    Returns
    -------
    ndarray of float64, shape (n_features, k)
    """
    p = count_columns(source)
    out = np.zeros((p, weights.shape[1]))
    for rows, slab in _slabs(source):
        step = _column_step(len(slab), 8)
        for start in range(0, p, step):
            block = scaling(slab, start, start + step)
            out[start : start + step] += block.T @ weights[rows].astype(block.dtype)
    return out


def row_blocks(source: Any, itemsize: int = 8) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield (rows, raw rows of shape (n_rows, n_features)), small enough for `BLOCK_BYTES` once converted."""
    n, p = int(source.shape[0]), count_columns(source)
    step = max(1, BLOCK_BYTES // (p * itemsize))
    for start in range(0, n, step):
        stop = min(n, start + step)
        yield slice(start, stop), np.asarray(source[start:stop]).reshape(stop - start, p)
