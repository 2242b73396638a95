"""How sure a mean over draws is, and by what law it grows: intervals, paired differences, power laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import import_scipy
from featbank.errors import InvalidInputError

__all__ = [
    "FEWEST_DRAWS",
    "Interval",
    "PowerLaw",
    "bootstrap_interval",
    "draws_correlation",
    "fit_power_law",
    "mean_interval",
    "paired_difference",
    "share_of_folds",
]

Floats = NDArray[np.float64]

#: From so many values on there is an interval. Of one nothing is known of the spread. Of two the t-interval
#: is 12.7 times as wide as they are apart, which covers any axes and says no more than the two do.
FEWEST_DRAWS = 3


class Interval(NamedTuple):
    """A mean and its interval; `low` and `high` are NaN where values are too few to say of the spread.

    Examples
    --------
    >>> mean, low, high = mean_interval([0.82, 0.85, 0.84])
    >>> f"{mean:.1%}, {low:.1%} to {high:.1%}"
    '83.7%, 79.9% to 87.5%'
    """

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


def draws_correlation(share: float) -> float:
    """Return how strongly two draws of one pool are correlated that each take a share of it.

    What a score owes to single images is correlated by the share f of them that two draws have in common;
    what it owes to pairs of images by f * f; what it owes to more of them, or to the chance of a head, hardly
    at all. On real and simulated features, by several heads, these were about 0.65, 0.2 and 0.15 of
    its variance; with these `mean_interval` covers as often as it says.

    Parameters
    ----------
    share : float
        Over all training images of a class, those in one draw: 0 for draws with nothing in common, up to 1.

    Raises
    ------
    InvalidInputError
        If it is out of range.

    References
    ----------
    Hoeffding: A Class of Statistics with Asymptotically Normal Distribution, Ann. Math. Stat. 19, 1948,
    section 5. Nadeau, Bengio: Inference for the Generalization Error, Machine Learning 52, 2003, section 3.

    Examples
    --------
    >>> draws_correlation(0.5)
    0.375
    >>> round(draws_correlation(1.0), 2)
    0.85
    """
    if not 0 <= share <= 1:
        raise InvalidInputError(f"share={share!r} must lie between 0 and 1: the part of the pool in one draw")
    return 0.65 * share + 0.2 * share * share


def share_of_folds(n_folds: int) -> float:
    """Return the share with which `mean_interval` makes of the scores of folds Nadeau and Bengio's interval.

    Folds of a cross-validation are judged on images of their own by heads that have most training images in
    common: their variance is taken 1/n + 1/(n - 1) times, n_test / n_train being the latter. The interval
    speaks of other training and test images; of heads drawn from a part of the others it is too wide rather
    than too narrow.

    Parameters
    ----------
    n_folds : int
        From 2.

    Returns
    -------
    float
        Where `draws_correlation` is ``1 / n_folds``.

    References
    ----------
    Nadeau, Bengio: Inference for the Generalization Error, Machine Learning 52, 2003, section 3. Bouckaert,
    Frank: Evaluating the Replicability of Significance Tests, PAKDD 2004, section 2.

    Examples
    --------
    >>> round(draws_correlation(share_of_folds(5)), 12)
    0.2
    """
    if n_folds < 2:
        raise InvalidInputError(f"n_folds={n_folds!r} must be at least 2")
    return float((np.sqrt(0.65**2 + 0.8 / n_folds) - 0.65) / 0.4)


def mean_interval(values: ArrayLike, confidence: float = 0.95, *, share: float = 0.0) -> Interval:
    """Return the mean of `values` and its t-interval.

    Draws of one pool of training images overlap, so they differ less from each other than from what another
    pool would have given. With `share` the interval is widened by as much, and covers the mean that other
    training images would give, judged by the same test images. `bootstrap_interval` speaks of other test
    images.

    Parameters
    ----------
    values : array-like of float, shape (n_values,)
        E.g. the accuracies of the repeats of one size.
    confidence : float, default=0.95
        Level of the interval.
    share : float, default=0.0
        Which part of the pool each value was drawn from it with; see `draws_correlation`. 0 for values that
        are independent.

    Returns
    -------
    Interval
        ``(mean, low, high)``. Fewer than three values (`FEWEST_DRAWS`), and draws that take the whole pool
        (a share of 1), give a mean alone: `low` and `high` are NaN (null in JSON, no band in a figure). The
        interval is not clipped to [0, 1].

    Raises
    ------
    InvalidInputError
        If there is no value, one is not finite, or `confidence` or `share` is out of range.

    Examples
    --------
    >>> [round(one, 3) for one in mean_interval([0.5, 0.6, 0.7])]
    [0.6, 0.352, 0.848]
    >>> [round(one, 3) for one in mean_interval([0.5, 0.6, 0.7], share=0.5)]
    [0.6, 0.184, 1.016]
    """
    import_scipy()
    from scipy.special import stdtrit  # the t quantile; scipy.stats costs half a second to import

    array = _values(values, "values")
    check_confidence(confidence)
    mean, correlation = float(array.mean()), draws_correlation(share)
    if array.size < FEWEST_DRAWS or share == 1:
        return Interval(mean, float("nan"), float("nan"))
    # The values' own variance is 1 - correlation of that of one value over pools, that of their mean
    # (1 + (size - 1) correlation) / size of it.
    of_mean = array.var(ddof=1) * (1 / array.size + correlation / (1 - correlation))
    half = float(stdtrit(array.size - 1, 0.5 + confidence / 2) * np.sqrt(of_mean))
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, *, share: float = 0.0
) -> Interval:
    """Return the mean of ``a - b`` and its t-interval, for two heads or cuts scored on the same subsets.

    Pairing takes the luck of the draw out: entry i of both must come from the same repeat.

    Parameters
    ----------
    a, b : array-like of float, shape (n_repeats,)
        Accuracies, in the same order of repeats.
    confidence : float, default=0.95
        Level of the interval.
    share : float, default=0.0
        See `mean_interval`.

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
    return mean_interval(first - second, confidence, share=share)


def bootstrap_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    *,
    groups: ArrayLike | None = None,
    n_resamples: int = 2000,
    random_state: int = 0,
) -> Interval:
    """Return the mean over test rows and its percentile bootstrap interval.

    Says how far another test set of the same size could have moved the figure, with these training samples;
    the t-interval over repeats (`mean_interval`) says how far other training samples could have.

    Parameters
    ----------
    values : array-like of float, shape (n_rows,) or (n_repeats, n_rows)
        E.g. 1 for a row classified correctly, 0 for one that was not. With several repeats the rows are
        resampled for all of them together, because they share the rows.
    confidence : float, default=0.95
        Level of the interval.
    groups : array-like of int, shape (n_rows,), optional
        Group of each row, such as its patient: whole groups are resampled, as rows of one group say much the
        same.
    n_resamples : int, default=2000
        Number of resampled test sets.
    random_state : int, default=0
        Seed.

    Returns
    -------
    Interval

    References
    ----------
    Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13. Field, Welsh: Bootstrapping
    Clustered Data, J. R. Stat. Soc. B 69, 2007.

    Examples
    --------
    >>> mean, low, high = bootstrap_interval([1.0] * 80 + [0.0] * 20)
    >>> round(mean, 2), 0.70 < low < 0.75, 0.85 < high < 0.90
    (0.8, True, True)

    Ten rows of each of ten patients, all right or all wrong, are not a hundred:

    >>> mean, low, high = bootstrap_interval([1.0] * 80 + [0.0] * 20, groups=np.arange(100) // 10)
    >>> round(mean, 2), low < 0.6, high
    (0.8, True, 1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    per_row = _values(array.mean(axis=0) if array.ndim == 2 and len(array) else array, "values")
    check_confidence(confidence)
    if n_resamples < 1:
        raise InvalidInputError(f"n_resamples={n_resamples!r} must be at least 1")
    sums: Floats = per_row
    counts: Floats = np.ones(per_row.size)
    if groups is not None:
        _, group_of = np.unique(groups, return_inverse=True)
        if group_of.size != per_row.size:
            raise InvalidInputError(f"{group_of.size} groups do not go with {per_row.size} rows")
        sums, counts = (np.bincount(group_of, one).astype(np.float64) for one in (per_row, counts))
    rng = np.random.default_rng(random_state)
    step = max(1, 4_000_000 // sums.size)  # 32 MB of row numbers at a time
    drawn = (
        rng.integers(0, sums.size, (min(step, n_resamples - start), sums.size))
        for start in range(0, n_resamples, step)
    )
    means = np.concatenate(
        [
            sums[at].mean(axis=1) if groups is None else sums[at].sum(axis=1) / counts[at].sum(axis=1)
            for at in drawn
        ]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(per_row.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """A learning curve ``acc(n) = a - b * n**-c`` and what other repeats would have made of it.

    Parameters
    ----------
    a, b, c : float
        Limit for many samples (at most 1), gap at one sample, and rate.
    samples : ndarray of float64, shape (n_bootstrap, 3)
        a, b, c of each resampled curve.
    n_max : float
        The largest size the law was fitted to; beyond it the law is an extrapolation.

    Examples
    --------
    >>> law = PowerLaw(a=0.9, b=0.5, c=0.5, samples=np.zeros((0, 3)), n_max=32)
    >>> law.predict([4, 25]).round(2).tolist()
    [0.65, 0.8]
    """

    a: float
    b: float
    c: float
    samples: Floats
    n_max: float

    def predict(self, n: ArrayLike) -> Floats:
        """Return the accuracy expected at `n` samples per class.

        Parameters
        ----------
        n : array-like of float, shape (n_points,)
            Samples per class.

        Returns
        -------
        ndarray of float64, shape (n_points,)
        """
        return self.a - self.b * np.asarray(n, dtype=np.float64) ** -self.c

    def band(self, n: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
        """Return the bootstrap band around `predict`.

        Parameters
        ----------
        n : array-like of float, shape (n_points,)
            Samples per class.
        confidence : float, default=0.95
            Level of the band at each point.

        Returns
        -------
        (low, high) : two ndarrays of float64, shape (n_points,)
        """
        check_confidence(confidence)
        a, b, c = self.samples.T[:, :, None]
        curves = a - b * np.asarray(n, dtype=np.float64)[None, :] ** -c  # (n_bootstrap, n_points)
        low, high = np.quantile(curves, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
        return low, high


def fit_power_law(
    n: ArrayLike,
    acc: ArrayLike,
    *,
    shares: ArrayLike | None = None,
    least: float = 0.0,
    n_bootstrap: int = 1000,
    random_state: int = 0,
) -> PowerLaw:
    """Fit ``acc(n) = a - b * n**-c`` to a learning curve by least squares.

    Parameters
    ----------
    n : array-like of float, shape (n_points,)
        Samples per class, at least four different ones.
    acc : array-like of float, shape (n_points,) or (n_points, n_repeats)
        Accuracies; with repeats the law is fitted to their means, and the band comes from resampling whole
        repeats (a repeat's nested subsets belong together). Without, from resampling the residuals.
    shares : array-like of float, shape (n_points,), optional
        Which part of its pool of training samples each draw takes, see `featbank.metrics.mean_interval`: the
        band is widened as its intervals are. Where it is 1 the repeats are one draw and know no spread; there
        the luck of the pool at the largest size that was drawn stands in. By default draws have nothing in
        common.
    least : float, default=0
        What no accuracy is less than; of Cohen's kappa -1.
    n_bootstrap : int, default=1000
        Resampled curves.
    random_state : int, default=0
        Seed.

    Returns
    -------
    PowerLaw
        With ``a <= 1``, ``b >= 0`` and ``0.01 <= c <= 4``.

    Raises
    ------
    InvalidInputError
        If there are fewer than four points: three parameters through three points fit anything. If `shares`
        are not one for each point, or out of range.

    References
    ----------
    Hestness et al.: Deep Learning Scaling is Predictable, Empirically, 2017, section 2. Figueroa et al.:
    Predicting sample size required for classification performance, BMC Med. Inform. Decis. Mak. 12:8, 2012.

    Examples
    --------
    >>> law = fit_power_law([4, 8, 16, 32], [0.65, 0.725, 0.7875, 0.84])
    >>> bool(law.predict([64])[0] > 0.84)
    True
    >>> fit_power_law([4, 8, 16], [0.6, 0.7, 0.75])
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: a power law needs at least 4 sizes, got 3 (4, 8, 16). Add sizes to
    --samples-per-class, e.g. 2..16.
    """
    sizes = np.asarray(n, dtype=np.float64)
    values = np.asarray(acc, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if sizes.ndim != 1 or values.ndim != 2 or len(values) != len(sizes):
        raise InvalidInputError(f"acc must have one row for each of {sizes.size} sizes, got {values.shape}")
    if not (np.isfinite(values).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InvalidInputError("sizes must be positive and accuracies finite; leave failed fits out")
    if len(np.unique(sizes)) < 4:
        raise InvalidInputError(
            f"a power law needs at least 4 sizes, got {len(np.unique(sizes))} "
            f"({', '.join(f'{one:g}' for one in np.unique(sizes))}). "
            f"Add sizes to --samples-per-class, e.g. 2..16."
        )
    means = values.mean(axis=1)
    a, b, c = _least_squares(sizes, means[None, :])[0]
    rng = np.random.default_rng(random_state)
    if values.shape[1] > 1:
        n_repeats = values.shape[1]
        chosen = rng.integers(0, n_repeats, (n_bootstrap, n_repeats))
        away = values[:, chosen].mean(axis=2).T - means  # (n_bootstrap, n_points)
        away = _over_pools(away, sizes, shares, n_repeats)
        # Resampling a handful of repeats alone gives bands that hold the truth 83 times in 100 (5 repeats);
        # this spread makes the deviations those of Student's t, as `mean_interval` has them.
        spread = np.sqrt(n_repeats / rng.chisquare(n_repeats - 1, (n_bootstrap, 1)))
        resampled = np.clip(means + away * spread, least, 1.0)
    else:
        fitted = a - b * sizes**-c
        # Three of the points' degrees of freedom went into the fit; the residuals are that much too small.
        residuals = (means - fitted) * np.sqrt(len(sizes) / (len(sizes) - 3))
        resampled = fitted + residuals[rng.integers(0, len(sizes), (n_bootstrap, len(sizes)))]
    return PowerLaw(float(a), float(b), float(c), _least_squares(sizes, resampled), float(sizes.max()))


def _over_pools(away: Floats, sizes: Floats, shares: ArrayLike | None, n_repeats: int) -> Floats:
    """Widen how far means of draws of one pool lie apart to how far those of other pools would."""
    if shares is None:
        return away
    given = np.asarray(shares, dtype=np.float64)
    if given.shape != sizes.shape:
        raise InvalidInputError(f"shares must be one for each of {sizes.size} sizes, got {given.shape}")
    correlation = np.array([draws_correlation(one) for one in given.tolist()])
    drawn = given < 1
    pool = n_repeats * correlation / (1 - correlation)
    found: Floats = away * np.sqrt(1 + pool)
    if drawn.any() and not drawn.all():
        # The mean over all draws of a size owes what it owes to the pool, as a head on the whole pool does.
        largest = np.flatnonzero(drawn)[sizes[drawn].argmax()]
        found[:, ~drawn] = (away[:, largest] * np.sqrt(pool[largest]))[:, None]
    return found


def _least_squares(sizes: Floats, curves: Floats) -> Floats:
    """Fit every curve at once: a and b are linear given c, which is searched on ever finer grids.

    The grids need no derivative and cannot diverge, and 1000 bootstrap curves cost one pass.
    """
    # Points come first and curves last, so that sums of a few points are sums of long rows.
    y = curves.T[:, None, :]  # (n_points, 1, n_curves)
    grids: Floats = np.geomspace(0.01, 4.0, 120)[:, None]  # the same for every curve at first
    column = np.arange(len(curves))
    for _ in range(4):
        a, b, error = _given_rate(sizes, y, grids)
        best = error.argmin(axis=0)
        grids = np.broadcast_to(grids, error.shape)  # (n_grid, n_curves)
        found = np.stack([a[best, column], b[best, column], grids[best, column]], axis=1)
        low = grids[np.maximum(best - 1, 0), column]
        high = grids[np.minimum(best + 1, len(grids) - 1), column]
        grids = np.linspace(low, high, 21)
    return found


def _given_rate(sizes: Floats, y: Floats, rates: Floats) -> tuple[Floats, Floats, Floats]:
    x = -(sizes[:, None, None] ** -rates)  # (n_points, n_grid, n_curves), or one for all curves
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    b = np.maximum((x0 * y0).sum(axis=0) / (x0 * x0).sum(axis=0), 0.0)
    a = y.mean(axis=0) - b * x.mean(axis=0)
    # An accuracy cannot tend to more than 1: there the law is 1 - b n^-c, with the b that fits best.
    over = a > 1.0
    b = np.where(over, np.maximum((x * (y - 1.0)).sum(axis=0) / (x * x).sum(axis=0), 0.0), b)
    a = np.where(over, 1.0, a)
    error = ((a + b * x - y) ** 2).sum(axis=0)
    return a, b, error
