"""What a rotated feature space needs of its features: their statistics and the products of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.heads import _rows

__all__ = ["RowProducts", "statistics"]


@dataclass(frozen=True, eq=False)
class RowProducts:
    """What a rotated space needs of its features, which are read once for it and never again.

    Parameters
    ----------
    standardize : bool
        Whether features were divided by their standard deviation.
    mean, scale : ndarray of float64, shape (n_features,)
        What was subtracted and divided by.
    train : ndarray of float64, shape (n_samples, n_samples)
        Products of the fitting rows with each other.
    others : mapping of str to ndarray of float64, shape (n_rows, n_samples)
        Products of other rows, by the name of their set, with the fitting rows.

    Examples
    --------
    >>> import numpy as np
    >>> from featbank.heads import FeatureSpace
    >>> X = np.random.default_rng(0).normal(size=(8, 50))
    >>> products = RowProducts.of(X[:6], {"test": X[6:]})
    >>> space = FeatureSpace(rotate=True)
    >>> Z = space.fit_transform(X[:6], products=products)
    >>> bool(np.array_equal(space.transform_products(products, "test"), space.transform(X[6:])))
    True
    """

    standardize: bool
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    train: NDArray[np.float64]
    others: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, X: ArrayLike, others: Mapping[str, ArrayLike], *, standardize: bool = True) -> RowProducts:
        """Compute them: statistics and products of the rows `X`, products of `others` with `X`.

        Raises
        ------
        InvalidInputError
            If `X` has fewer than two dimensions or no rows, or a row of any holds NaN or infinity.
        """
        source = _rows.as_source(X)
        mean, scale = statistics(source, standardize)
        scaling = _rows.Scaling(mean, scale)
        products = {}
        for name, rows in others.items():
            with np.errstate(invalid="ignore", over="ignore"):  # told below, with the rows
                products[name] = _rows.gram(_rows.as_source(rows), source, scaling)
            if not np.isfinite(products[name]).all():
                _rows.check_finite(_rows.as_source(rows))
        return cls(standardize, mean, scale, _rows.gram(source, None, scaling), products)


def statistics(source: Any, standardize: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (1 where it is 0) of each feature; 0 and 1 where not asked for."""
    mean, variance = _rows.moments(source)
    if not standardize:
        return np.zeros_like(mean), np.ones_like(mean)
    # rounding leaves a variance of about n eps times the square of the mean in a constant feature
    n, eps = int(source.shape[0]), float(np.finfo(np.float64).eps)
    constant = variance <= n * eps * variance + (n * eps * mean) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))
