"""How far a head means what it says: log loss, calibration error, temperature."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.metrics.checks import check_columns, check_scores, columns_of

__all__ = ["expected_calibration_error", "fit_temperature", "log_loss"]


def log_loss(y_true: ArrayLike, probabilities: ArrayLike, *, labels: ArrayLike | None = None) -> float:
    """Return the mean negative log-probability of the true class.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        True class codes.
    probabilities : array-like of float, shape (n_samples, n_classes)
        Rows that sum to 1.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column; 0, 1, ... by default.

    Returns
    -------
    float
        In nats, at least 0; a probability below 2.2e-16 (and that of a class without a column) counts as
        that, as scikit-learn has it, so the result is finite.

    Examples
    --------
    >>> round(log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 4)
    0.6931
    """
    check = check_columns if labels is None else check_scores
    y, matrix = check(y_true, probabilities, "probabilities")
    column, known = columns_of(y, matrix, labels)
    own = np.where(known, matrix[np.arange(len(y)), column], 0.0)
    return float(-np.mean(np.log(np.maximum(own, np.finfo(np.float64).eps))))


def expected_calibration_error(
    y_true: ArrayLike, probabilities: ArrayLike, *, labels: ArrayLike | None = None, n_bins: int = 15
) -> float:
    """Return how far confidence and accuracy lie apart, on average over bins of equal width.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        True class codes.
    probabilities : array-like of float, shape (n_samples, n_classes)
        Rows that sum to 1.
    labels : array-like of int, shape (n_classes,), optional
        Class code of each column; 0, 1, ... by default.
    n_bins : int, default=15
        Bins of the confidence; the value depends on it, so compare only equal ones.

    Returns
    -------
    float
        In [0, 1]; 0 when of the answers given with confidence p a share p is right.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 2.

    Examples
    --------
    >>> expected_calibration_error([0, 0, 1, 1], [[1, 0], [1, 0], [1, 0], [1, 0]])
    0.5
    """
    y, matrix = check_scores(y_true, probabilities, "probabilities")
    if n_bins < 1:
        raise InvalidInputError(f"n_bins={n_bins!r} must be at least 1")
    codes = np.arange(matrix.shape[1]) if labels is None else np.asarray(labels)
    right = codes[matrix.argmax(axis=1)] == y
    return calibration_error(matrix.max(axis=1), right, n_bins=n_bins)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Return `expected_calibration_error` of answers: how sure of each, and whether it is right."""
    # Bins are open to the left, (0, 1/15], as in the paper; rounding must not push 1.0 into a bin of its own.
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gap).sum() / len(right))


def fit_temperature(y_true: ArrayLike, logits: ArrayLike) -> float:
    """Find the temperature T at which softmax(logits / T) has the least log loss.

    Fit it on validation rows: on training rows a head looks surer than it is, and on test rows the
    calibration reported afterwards would be flattered.

    Parameters
    ----------
    y_true : array-like of int, shape (n_samples,)
        Column of the true class of each row.
    logits : array-like of float, shape (n_samples, n_classes)
        Scores before softmax; the logarithm of probabilities does as well.

    Returns
    -------
    float
        In [0.01, 100]; over 1 for an over-confident head. The loss has one minimum, so the search is safe.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> logits = [[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]]  # sure, but right three times in four
    >>> round(fit_temperature([0, 0, 1, 1], logits), 2)
    3.64
    """
    y, matrix = check_columns(y_true, logits, "logits")
    if not np.isfinite(matrix).all():
        raise InvalidInputError(
            "logits are not finite; clip probabilities away from 0 before taking logarithms"
        )
    matrix = matrix - matrix.max(axis=1, keepdims=True)
    own = np.take_along_axis(matrix, y[:, None], axis=1)[:, 0]

    # The loss is convex in 1 / T: Newton's steps where they stay between the ends, else half of what is left.
    low, high, beta = 0.01, 100.0, 1.0
    for _ in range(100):
        p = np.exp(beta * matrix)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * matrix).sum(axis=1)
        slope = float((mean - own).mean())
        if slope == 0:
            break
        bend = float(((p * matrix**2).sum(axis=1) - mean**2).mean())
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / bend if bend > 0 else np.inf
        last, beta = beta, step if low < step < high else float(np.sqrt(low * high))
        if abs(beta - last) <= 1e-10 * beta:
            break
    return 1 / beta
