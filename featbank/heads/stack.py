"""Fit all the heads of a sweep at one cut from one transformed matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.heads import _rows
from featbank.heads._head import Evaluation, Head
from featbank.heads.space import FeatureSpace

__all__ = ["fit_stack"]

H = TypeVar("H", bound=Head)


def fit_stack(
    estimators: Sequence[H],
    Z: NDArray[np.float32],
    y: ArrayLike,
    subsets: Sequence[ArrayLike],
    *,
    space: FeatureSpace,
    Z_val: NDArray[np.float32] | None = None,
    y_val: ArrayLike | None = None,
    Z_test: NDArray[np.float32] | None = None,
    y_test: ArrayLike | None = None,
) -> list[H]:
    """Fit each estimator to its subset of the rows of `Z`, together where that is faster.

    Heads trained by Adam or SGD that share their settings (but learning rate, penalty and seed), the size of
    their subset and their classes go through one batched program; `_planner` cuts it so that it is not slower
    than one head after another. Exact heads on the same subset share one
    problem, whatever their C. Others are fitted one by one. A
    head comes out the same in any company, to floating-point tolerance: its mini-batches are drawn by its own
    `random_state`.

    Standardisation is common to the whole sweep: `space` holds the statistics of the rows it was fitted on
    (the whole training split), not those of each subset. `standardize` and `rotate` of the estimators are not
    used.

    Parameters
    ----------
    estimators : sequence of heads
        Fitted in place.
    Z : ndarray of float32, shape (n_samples, n_columns)
        Training rows as ``space.transform`` (or ``fit_transform``) gave them.
    y : array-like of shape (n_samples,)
        Their labels.
    subsets : sequence of array-like of int
        One per estimator: the rows of `Z` it is fitted to, without repeats.
    space : FeatureSpace
        Fitted; becomes each head's `space_`, so that ``predict`` takes original features.
    Z_val, y_val, Z_test, y_test : ndarray and array-like, optional
        Transformed rows the heads are watched on, as in `SoftmaxClassifier.fit`. For a head whose subset
        lacks some classes, rows of those classes are left out.

    Returns
    -------
    list of heads
        The `estimators`, in their order.

    Raises
    ------
    InvalidInputError
        If lengths do not fit, a subset has rows outside `Z` or one class only, or a parameter is out of
        range.

    Warns
    -----
    FitWarning
        Once per cause, with the number of heads concerned.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from featbank.heads import SoftmaxClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> space = FeatureSpace()
    >>> Z = space.fit_transform(X[:1000])
    >>> subsets = [np.arange(0, 200), np.arange(200, 400)]
    >>> heads = [SoftmaxClassifier(random_state=seed) for seed in (0, 1)]
    >>> heads = fit_stack(heads, Z, y[:1000], subsets, space=space)
    >>> [head.score(X[1000:], y[1000:]) > 0.8 for head in heads]
    [True, True]
    """
    labels = np.asarray(y)
    if Z.shape != (len(labels), space.n_columns_):
        raise InvalidInputError(
            f"Z has shape {Z.shape!r}, but y has {len(labels)} labels and the space {space.n_columns_} "
            "columns; give rows as space.transform returns them"
        )
    if len(subsets) != len(estimators):
        raise InvalidInputError(
            f"{len(estimators)} estimators got {len(subsets)} subsets; give one subset each"
        )
    rows = [_checked_rows(subset, len(labels), number) for number, subset in enumerate(subsets)]
    for columns in (Z, Z_val, Z_test):
        if columns is not None and len(columns):
            _rows.check_finite(columns)
    watched: list[Evaluation] = []
    if Z_val is not None and y_val is not None:
        watched.append(Evaluation("val", Z_val, np.asarray(y_val)))
    if Z_test is not None and y_test is not None:
        watched.append(Evaluation("test", Z_test, np.asarray(y_test)))
    for kind, members in _by_kind(estimators).items():
        chosen = [estimators[i] for i in members]
        parts = [rows[i] for i in members]
        kind._fit_many(chosen, Z, labels, parts, space, watched)
    return list(estimators)


def _by_kind(estimators: Sequence[Any]) -> dict[type[Head], list[int]]:
    kinds: dict[type[Head], list[int]] = {}
    for number, estimator in enumerate(estimators):
        if not isinstance(estimator, Head):
            raise InvalidInputError(
                f"{estimator!r} is no head of featbank; make one with featbank.heads.make(name)"
            )
        kinds.setdefault(type(estimator), []).append(number)
    return kinds


def _checked_rows(subset: ArrayLike, n_samples: int, number: int) -> NDArray[np.int64]:
    rows = np.asarray(subset)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise InvalidInputError(
            f"subset {number} has shape {rows.shape!r} and dtype {rows.dtype}; give row numbers, one "
            "dimension of int"
        )
    if rows.min() < 0 or rows.max() >= n_samples:
        raise InvalidInputError(
            f"subset {number} asks for rows {rows.min()} to {rows.max()}; allowed: 0 to {n_samples - 1}"
        )
    return rows.astype(np.int64)
