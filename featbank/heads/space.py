"""The space a head is trained in: standardised features, rotated into the span of the rows if smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._cores import one_core_if
from featbank.errors import InvalidInputError
from featbank.heads import _rows

__all__ = ["FeatureSpace", "RowProducts"]

#: ``rotate="auto"`` leaves rows alone beyond this many: the eigenvectors of their products take minutes.
MAX_ROTATED_ROWS = 8192
#: Columns of variance 1 that Adam's usual step suits; wider spaces are shrunk so that they move logits as
#: these do.
FULL_GAIN_COLUMNS = 4096
#: Directions in which the fitting rows vary less than this part of the widest are rounding noise.
EIGENVALUE_TOLERANCE = 1e-7
#: Rows below which one thread finds their eigenvectors.
MIN_SHARED_ROWS = 1024


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
        mean, scale = _statistics(source, standardize)
        scaling = _rows.Scaling(mean, scale)
        products = {}
        for name, rows in others.items():
            with np.errstate(invalid="ignore", over="ignore"):  # told below, with the rows
                products[name] = _rows.gram(_rows.as_source(rows), source, scaling)
            if not np.isfinite(products[name]).all():
                _rows.check_finite(_rows.as_source(rows))
        return cls(standardize, mean, scale, _rows.gram(source, None, scaling), products)


class FeatureSpace:
    r"""Standardise features and, where they outnumber the rows, rotate them into the span of the rows.

    The statistics are those of the rows given to `fit`, whatever is trained in the space afterwards: a sweep
    fits one space on the whole training split and draws all its subsets from the transformed rows.

    With more features than rows, the standardised rows :math:`Z` lie in a subspace of fewer than
    ``n_samples`` dimensions. An orthonormal basis of it comes from the products of the rows alone, :math:`G =
    Z Z^T = Q \Lambda Q^T`, and the rows in that basis are :math:`Q \Lambda^{1/2}`: 200,704 features of 896
    images become 895 columns, with all distances and angles kept. Rows seen later are projected on the same
    basis. A linear head trained by SGD or L-BFGS from zero never leaves this subspace, so for those the
    rotation changes nothing but the speed.

    For Adam, which gives every coordinate steps of one size, it is another parametrisation, and the choice of
    basis matters: along the eigenvectors themselves it would weigh the directions of least variance like
    those of most (0.76 instead of 0.90 accuracy at 4 images per class on Caltech-101). The basis is therefore
    turned by a fixed orthogonal matrix (shuffle, random signs, cosine transform), after which all columns
    have about the same variance, like standardised features. Dropout on columns is another thing than on
    features, too.

    All columns are then multiplied by one scalar, `gain_`, so that the mean square per column is 1. To SGD
    that is a factor on the learning rate, to L-BFGS one on C (which the heads take back, so that C means what
    it means on standardised features). To Adam it matters: each of its steps moves every weight by about the
    learning rate, so a logit by up to the learning rate times the sum of the absolute inputs. At 200,704
    standardised features and a learning rate of 1e-3 that is a jump of 160 per step; already at the 62,720 of
    MobileNetV2's last map a softmax head ends at 0.83 test accuracy so, and at 0.93 with the scalar. At 895
    columns of mean square 1 the same learning rate works as it does on the 4,096 of a fully connected layer.
    A space that is not rotated has gain 1 up to 4,096 features and ``4096 / n_features`` beyond, for the same
    reason.

    Parameters
    ----------
    standardize : bool, default=True
        Subtract the mean and divide by the standard deviation of each feature (by 1 where it is constant).
        False leaves both alone, in a rotated space, too: angles are those of the features as they are.
    rotate : bool or "auto", default="auto"
        "auto" rotates when there are more features than rows, up to 8,192 rows.

    Attributes
    ----------
    mean_, scale_ : ndarray of float64, shape (n_features,)
        What is subtracted and divided by.
    gain_ : float
        The scalar all columns are multiplied by.
    rotated_ : bool
        Whether columns are coordinates in the span of the fitting rows.
    eigenvalues_ : ndarray of float64, shape (n_columns,), or None
        Squared lengths of the fitting rows along the basis, largest first; None when not rotated.
    n_features_, n_columns_ : int
        Length of a row before and after.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float16)
    >>> space = FeatureSpace().fit(X)
    >>> space.n_features_, space.n_columns_, space.transform(X).dtype
    (50, 5, dtype('float32'))
    >>> Z = FeatureSpace(rotate=False).fit_transform(X)
    >>> same = space.transform(X) / space.gain_
    >>> bool(np.allclose(same @ same.T, Z @ Z.T, atol=1e-3))
    True
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    gain_: float
    rotated_: bool
    eigenvalues_: NDArray[np.float64] | None
    n_features_: int
    n_columns_: int

    def __init__(self, *, standardize: bool = True, rotate: bool | Literal["auto"] = "auto") -> None:
        if not isinstance(rotate, bool) and rotate != "auto":
            raise InvalidInputError(f"rotate={rotate!r} is not known; allowed: True, False, 'auto'")
        self.standardize = standardize
        self.rotate = rotate
        self._fitted_columns: NDArray[np.float32] | None = None
        self._rows_fitted: Any = None  # raw rows, kept by reference while the basis is not built
        self._combination: NDArray[np.float64] | None = None  # (n, n_columns): basis = Z.T @ combination
        self._basis: NDArray[np.float32] | None = None

    def rotates(self, n_samples: int, n_features: int) -> bool:
        """Return whether a space fitted on rows of this shape will be rotated."""
        if self.rotate == "auto":
            return n_samples < n_features and n_samples <= MAX_ROTATED_ROWS
        return bool(self.rotate)

    def fit(self, X: ArrayLike, *, products: RowProducts | None = None) -> FeatureSpace:
        """Take statistics, and the basis if the space is to be rotated, from `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), float16, float32, float64 or integer
            Rows, flattened in C order. Anything with `shape`, `dtype` and row slices is read in blocks and
            never copied whole. A rotated space keeps a reference to `X` and reads it again to transform other
            rows, until its basis is built (see `basis`).
        products : RowProducts, optional
            Of these rows, where they are known and the space `rotates`: `X` is not read then.

        Returns
        -------
        FeatureSpace
            This object.

        Raises
        ------
        InvalidInputError
            If `X` has fewer than two dimensions, no rows, or values that are not finite.
        """
        source = _rows.as_source(X)
        n, p = int(source.shape[0]), _rows.count_columns(source)
        rotated = self.rotates(n, p)
        if products is not None:
            self._check_products(products, rotated, n, p)
            mean, self.scale_ = products.mean, products.scale
        else:
            mean, self.scale_ = _statistics(source, self.standardize)
        self.mean_ = mean
        self.n_features_, self.rotated_ = p, rotated
        self._basis = self._rows_fitted = self._combination = self.eigenvalues_ = None
        if not rotated:
            self.n_columns_ = p
            self.gain_ = min(1.0, FULL_GAIN_COLUMNS / p)
            return self
        self._fit_basis(source, None if products is None else products.train)
        return self

    def _check_products(self, products: RowProducts, rotated: bool, n: int, p: int) -> None:
        if not rotated:
            raise InvalidInputError("products of rows are of use to a rotated space only; leave them out")
        if products.train.shape != (n, n) or products.mean.shape != (p,):
            raise InvalidInputError(
                f"products are of {len(products.train)} rows of {len(products.mean)} features, X has {n} of "
                f"{p}; give those of the same rows"
            )
        if products.standardize != self.standardize:
            raise InvalidInputError(
                f"products were made with standardize={products.standardize!r}, this space has "
                f"{self.standardize!r}; make them alike"
            )

    def _fit_basis(self, source: Any, known: NDArray[np.float64] | None) -> None:
        products = _rows.gram(source, None, self._scaling) if known is None else known.copy()
        if (
            self.standardize
        ):  # the rows are centred, so the vector of ones has eigenvalue 0; make it exactly so
            products -= products.mean(axis=0)
            products -= products.mean(axis=1)[:, None]
        with one_core_if(len(products) < MIN_SHARED_ROWS):
            values, vectors = np.linalg.eigh(products)
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = values > EIGENVALUE_TOLERANCE * max(float(values[0]), 0.0)
        if not kept.any():
            raise InvalidInputError(
                f"all {len(values)} rows are identical after standardisation; give rows that differ, or "
                "rotate=False"
            )
        values, vectors = values[kept], vectors[:, kept]
        # the sign of an eigenvector is arbitrary; fix it so that the same rows give the same columns
        # everywhere
        strongest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[strongest, np.arange(len(values))])
        self.eigenvalues_ = values.copy()
        self.n_columns_ = len(values)
        self.gain_ = float(np.sqrt(source.shape[0] * len(values) / values.sum()))
        self._rows_fitted = source
        self._fitted_columns = (_mix(vectors * np.sqrt(values)) * self.gain_).astype(np.float32)
        self._combination = _mix(vectors / np.sqrt(values))

    def fit_transform(self, X: ArrayLike, *, products: RowProducts | None = None) -> NDArray[np.float32]:
        """Fit on `X` and return it transformed, shape (n_samples, n_columns); cheaper than the two calls."""
        self.fit(X, products=products)
        if self._fitted_columns is None:
            return self.transform(X)
        Z, self._fitted_columns = self._fitted_columns, None
        return Z

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return rows in this space.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows with as many features as those of `fit`; read in blocks.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_columns)

        Raises
        ------
        InvalidInputError
            If a row has another number of features or holds NaN or infinity, or the space is not fitted.
        """
        source = self._checked(X)
        with np.errstate(invalid="ignore", over="ignore"):  # told below, with the rows
            if self._combination is not None and self._basis is None:
                out = self._project(_rows.gram(source, self._rows_fitted, self._scaling), self._combination)
            else:
                out = np.empty((int(source.shape[0]), self.n_columns_), dtype=np.float32)
                for rows, block in self.standardized_blocks(source):
                    out[rows] = (block if self._basis is None else block @ self._basis) * self.gain_
        # columns are fewer than features, and what is not finite in these is not in those
        if not np.isfinite(out).all():
            _rows.check_finite(source)
            _rows.check_finite(out)  # beyond float32
        return out

    def transform_products(self, products: RowProducts, name: str) -> NDArray[np.float32]:
        """Return the rows of one of the other sets of `products` in this space, which was fitted on them.

        Raises
        ------
        InvalidInputError
            If the space is not rotated, or its basis has been built since.
        """
        if self._combination is None:
            raise InvalidInputError("products of rows are of use to a rotated space only; use transform")
        return self._project(products.others[name], self._combination)

    def _project(
        self, products: NDArray[np.float64], combination: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        Z: NDArray[np.float32] = (products @ (combination * self.gain_)).astype(np.float32)
        return Z

    def standardized_blocks(self, X: ArrayLike) -> Any:
        """Yield (row slice, standardised rows (n_rows, n_features)), not rotated and without the gain."""
        source = self._checked(X)
        for rows, raw in _rows.row_blocks(source):
            yield rows, self._scaling(raw)

    def standardized(self, X: ArrayLike) -> _rows.Standardized:
        """Return rows that are standardised, and multiplied by the gain, whenever they are read."""
        return _rows.Standardized(self._checked(X), self._scaling, self.gain_)

    def basis(self) -> NDArray[np.float32] | None:
        """Return the orthonormal basis, float32 of shape (n_features, n_columns), or None when not rotated.

        It is built on the first call (4 bytes x n_features x n_columns) and replaces the reference to the
        rows the space was fitted on. Pickling a space builds it.
        """
        if self._basis is None and self._combination is not None:
            self._basis = _rows.project(self._rows_fitted, self._scaling, self._combination).astype(
                np.float32
            )
            self._rows_fitted = self._combination = None
        return self._basis

    def to_standardized(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return weights on columns, (n_columns, k), as weights on standardised features, (n_features, k)."""
        scaled = weights.astype(np.float64) * self.gain_
        if self._basis is not None:
            return self._basis @ scaled
        if self._combination is not None:
            return _rows.project(self._rows_fitted, self._scaling, self._combination @ scaled)
        return scaled

    def to_feature_space(self, weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weights on columns as coefficients of the original features.

        Parameters
        ----------
        weights : ndarray, shape (n_columns, k)

        Returns
        -------
        coefficients : ndarray of float64, shape (n_features, k)
        shift : ndarray of float64, shape (k,)
            What to add to the intercept: ``transform(X) @ weights == X @ coefficients + shift``.
        """
        coefficients = self.to_standardized(weights) / self.scale_[:, None]
        return coefficients, -(self.mean_ @ coefficients)

    @classmethod
    def from_arrays(
        cls,
        mean: NDArray[Any],
        scale: NDArray[Any],
        *,
        gain: float = 1.0,
        basis: NDArray[np.float32] | None = None,
        standardize: bool = True,
    ) -> FeatureSpace:
        """Build a fitted space from what a file holds.

        Parameters
        ----------
        mean, scale : ndarray, shape (n_features,)
        gain : float, default=1.0
        basis : ndarray of float32, shape (n_features, n_columns), or None
            Orthonormal columns; None for a space that is not rotated.
        standardize : bool, default=True
            What the space was made with.
        """
        space = cls(standardize=standardize, rotate=basis is not None)
        space.mean_, space.scale_ = mean.astype(np.float64), scale.astype(np.float64)
        space.n_features_ = len(mean)
        space.n_columns_ = len(mean) if basis is None else basis.shape[1]
        space.gain_, space.rotated_, space.eigenvalues_, space._basis = gain, basis is not None, None, basis
        return space

    @property
    def _scaling(self) -> _rows.Scaling:
        return _rows.Scaling(self.mean_, self.scale_)

    def _checked(self, X: Any) -> Any:
        if not hasattr(self, "mean_"):
            raise InvalidInputError("this FeatureSpace is not fitted yet; call fit(X) first")
        source = _rows.as_source(X)
        if _rows.count_columns(source) != self.n_features_:
            raise InvalidInputError(
                f"X has {_rows.count_columns(source)} features, but FeatureSpace is expecting "
                f"{self.n_features_} features as input; give rows of the cut it was fitted on"
            )
        return source

    def __getstate__(self) -> dict[str, Any]:
        self.basis()
        return self.__dict__.copy()

    def __repr__(self) -> str:
        return f"FeatureSpace(standardize={self.standardize!r}, rotate={self.rotate!r})"


def _mix(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn coordinates by a fixed orthogonal matrix: shuffle, random signs, cosine transform."""
    from scipy.fft import dct

    random = np.random.default_rng(0)
    order = random.permutation(coordinates.shape[1])
    signs = random.choice(np.array([-1.0, 1.0]), size=coordinates.shape[1])
    mixed: NDArray[np.float64] = dct(coordinates[:, order] * signs, axis=1, norm="ortho")
    return mixed


def _statistics(source: Any, standardize: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (1 where it is 0) of each feature; 0 and 1 where not asked for."""
    if not standardize:
        _rows.check_finite(source)
        return np.zeros(_rows.count_columns(source)), np.ones(_rows.count_columns(source))
    mean, variance = _rows.moments(source)
    # rounding leaves a variance of about n eps times the square of the mean in a constant feature
    n, eps = int(source.shape[0]), float(np.finfo(np.float64).eps)
    constant = variance <= n * eps * variance + (n * eps * mean) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))
