"""The law of a learning curve, and what the next labels would bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from featbank.errors import InvalidInputError
from featbank.metrics.intervals import Floats, check_confidence, draws_correlation

__all__ = ["PowerLaw", "fit_power_law"]


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
