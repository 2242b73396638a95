"""How sure a mean is: t-intervals over repeats, paired differences, bootstrap over test rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError

__all__ = ["FEWEST_DRAWS", "Interval", "bootstrap_interval", "mean_interval", "paired_difference"]

Floats = NDArray[np.float64]

#: From so many values on there is an interval. Of one nothing is known of the spread. Of two the t-interval
#: is 12.7 times as wide as they are apart, which covers any axes and says no more than the two do.
FEWEST_DRAWS = 3


class Interval(NamedTuple):
    """A mean and its interval; `low` and `high` are NaN where values are too few to say of the spread."""

    mean: float
    low: float
    high: float


def _values(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise InvalidInputError(f"{name} must be a non-empty row of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{name} must be finite; leave failed fits out, they have no accuracy")
    return array


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence={confidence!r} must lie between 0 and 1, e.g. 0.95")


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of `values` and its t-interval.

    Parameters
    ----------
    values : array-like of float, shape (n_values,)
        E.g. the accuracies of the repeats of one size.
    confidence : float, default=0.95
        Level of the interval.

    Returns
    -------
    Interval
        ``(mean, low, high)``. Fewer than three values (`FEWEST_DRAWS`) give a mean alone: `low` and `high`
        are NaN (null in JSON, no band in a figure). The interval is not clipped to [0, 1].

    Raises
    ------
    InvalidInputError
        If there is no value, one is not finite, or `confidence` is out of range.

    Examples
    --------
    >>> [round(one, 3) for one in mean_interval([0.5, 0.6, 0.7])]
    [0.6, 0.352, 0.848]
    """
    from scipy.special import stdtrit  # the t quantile; scipy.stats costs half a second to import

    array = _values(values, "values")
    check_confidence(confidence)
    mean = float(array.mean())
    if array.size < FEWEST_DRAWS:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stdtrit(array.size - 1, 0.5 + confidence / 2) * array.std(ddof=1) / np.sqrt(array.size))
    return Interval(mean, mean - half, mean + half)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of ``a - b`` and its t-interval, for two heads or cuts scored on the same subsets.

    Pairing takes the luck of the draw out: entry i of both must come from the same repeat.

    Parameters
    ----------
    a, b : array-like of float, shape (n_repeats,)
        Accuracies, in the same order of repeats.
    confidence : float, default=0.95
        Level of the interval.

    Returns
    -------
    Interval
        ``(mean, low, high)``; an interval that holds 0 is no difference that could be told. Fewer than three
        pairs give a mean alone.

    Raises
    ------
    InvalidInputError
        If the lengths differ, or as for `mean_interval`.

    Examples
    --------
    >>> [round(one, 3) for one in paired_difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.6])]
    [0.1, 0.1, 0.1]
    """
    first, second = _values(a, "a"), _values(b, "b")
    if first.shape != second.shape:
        raise InvalidInputError(f"a and b must be paired, got {first.size} and {second.size} values")
    return mean_interval(first - second, confidence)


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, *, n_resamples: int = 2000, random_state: int = 0
) -> Interval:
    """Return the mean over test rows and its percentile bootstrap interval.

    Says how far another test set of the same size could have moved the figure; the t-interval over
    repeats (`mean_interval`) says how far other training samples could have.

    Parameters
    ----------
    values : array-like of float, shape (n_rows,) or (n_repeats, n_rows)
        E.g. 1 for a row classified correctly, 0 for one that was not. With several repeats the rows are
        resampled for all of them together, because they share the rows.
    confidence : float, default=0.95
        Level of the interval.
    n_resamples : int, default=2000
        Number of resampled test sets.
    random_state : int, default=0
        Seed.

    Returns
    -------
    Interval

    References
    ----------
    Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13.

    Examples
    --------
    >>> mean, low, high = bootstrap_interval([1.0] * 80 + [0.0] * 20)
    >>> round(mean, 2), 0.70 < low < 0.75, 0.85 < high < 0.90
    (0.8, True, True)
    """
    array = np.asarray(values, dtype=np.float64)
    per_row = _values(array.mean(axis=0) if array.ndim == 2 and len(array) else array, "values")
    check_confidence(confidence)
    if n_resamples < 1:
        raise InvalidInputError(f"n_resamples={n_resamples!r} must be at least 1")
    rng = np.random.default_rng(random_state)
    step = max(1, 4_000_000 // per_row.size)  # 32 MB of row numbers at a time
    means = np.concatenate(
        [
            per_row[rng.integers(0, per_row.size, (min(step, n_resamples - start), per_row.size))].mean(
                axis=1
            )
            for start in range(0, n_resamples, step)
        ]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(per_row.mean()), float(low), float(high))
