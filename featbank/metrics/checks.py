"""Labels and score matrices that fit each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError

__all__ = ["check_columns", "check_scores", "columns_of"]

Floats = NDArray[np.float64]


def check_scores(y_true: ArrayLike, scores: ArrayLike, name: str) -> tuple[NDArray[np.int64], Floats]:
    """Check that labels and scores fit; labels without a column are the caller's affair."""
    y = np.asarray(y_true)
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or y.shape != (matrix.shape[0],):
        raise InvalidInputError(
            f"{name} must have shape (n_samples, n_classes) and y_true (n_samples,), "
            f"got {matrix.shape} and {y.shape}"
        )
    if not len(y) or not matrix.shape[1]:
        raise InvalidInputError(f"{name} of shape {matrix.shape} holds nothing to score")
    if np.isnan(matrix).any():
        raise InvalidInputError(f"{name} holds NaN; the head that gave it has not learned")
    return y.astype(np.int64), matrix


def check_columns(y_true: ArrayLike, scores: ArrayLike, name: str) -> tuple[NDArray[np.int64], Floats]:
    """Return both as arrays, checked: y must be columns of the scores."""
    y, matrix = check_scores(y_true, scores, name)
    if y.min() < 0 or y.max() >= matrix.shape[1]:
        raise InvalidInputError(
            f"y_true holds a class outside 0..{matrix.shape[1] - 1}, the columns of {name}"
        )
    return y, matrix


def columns_of(
    y: NDArray[np.int64], matrix: Floats, labels: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the column of each row's class, and whether it has one."""
    codes = np.arange(matrix.shape[1]) if labels is None else np.asarray(labels)
    if codes.shape != (matrix.shape[1],):
        raise InvalidInputError(
            f"labels must have one entry for each of {matrix.shape[1]} columns, got {codes.shape}"
        )
    order = np.argsort(codes)
    column = order[np.searchsorted(codes, y, sorter=order).clip(max=len(codes) - 1)]
    return column, codes[column] == y
