"""The space a head is trained in: standardised features, rotated into the span of the rows if smaller.

A source of rows, which may be too many to copy, is anything with `shape`, `dtype` and row slices: an array, a
memory map, a cut of a bank. Of an array, memory-mapped or not, blocks of columns are read, so that one pass
serves all pairs of rows; other sources are first read in runs of rows (`SLAB_BYTES` at a time, in their own
dtype).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import one_core_if
from featbank.errors import InvalidInputError

__all__ = ["FeatureSpace", "RowProducts", "Standardized", "check_finite", "in_all_views"]

#: ``rotate="auto"`` leaves rows alone beyond this many: the eigenvectors of their products take minutes.
MAX_ROTATED_ROWS = 8192
#: Columns of variance 1 that Adam's usual step suits; wider spaces are shrunk so that they move logits as
#: these do.
FULL_GAIN_COLUMNS = 4096
#: Directions in which the fitting rows vary less than this part of the widest are rounding noise.
EIGENVALUE_TOLERANCE = 1e-7
#: Rows below which one thread finds their eigenvectors.
MIN_SHARED_ROWS = 1024
#: Working memory of one block after conversion, in bytes.
BLOCK_BYTES = 64 * 2**20
#: How much of a source that is no array is read at a time, in bytes of its own dtype.
SLAB_BYTES = 256 * 2**20
#: And where each run of rows is read once.
ONCE_BYTES = 32 * 2**20
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


def _slabs(source: Any, n_bytes: int | None = None) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield (rows, array of (n_rows, n_features)) in the source's own dtype; an array is one slab."""
    n, p = int(source.shape[0]), count_columns(source)
    if isinstance(source, np.ndarray):
        yield slice(0, n), source.reshape(n, p)
        return
    step = max(1, (n_bytes or SLAB_BYTES) // (p * np.dtype(source.dtype).itemsize))
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
        """Return columns `start` to `stop` of raw rows, standardised, in the working dtype.

        A copy, but where there is nothing to do.
        """
        if _working(raw.dtype) is np.float32:
            block: Float = raw[:, start:stop].astype(np.float32, copy=not self._nothing)
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
    """Rows of a source, standardised whenever they are read: indexed by rows, or rows and a run of columns.

    What is read is float32.

    Parameters
    ----------
    source : source
        Raw rows, shape (n, ...).
    scaling : Scaling
        The statistics to standardise by.
    gain : float
        What every value is multiplied by after that.

    Examples
    --------
    >>> X = np.arange(12, dtype=np.float16).reshape(3, 4)
    >>> rows = FeatureSpace(rotate=False).fit(X).standardized(X)
    >>> rows.take([0, 2]).shape, rows[:1, 2:].astype(float).round(3).tolist()
    ((2, 4), [[-1.225, -1.225]])
    """

    def __init__(self, source: Any, scaling: Scaling, gain: float | np.float32) -> None:
        self.shape = (int(source.shape[0]), count_columns(source))
        self.source, self.scaling = source, scaling
        self.gain: float | np.float32 = np.float32(gain)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> NDArray[np.float32]:
        rows, columns = at if isinstance(at, tuple) else (at, slice(None))
        raw = np.asarray(self.source[rows])
        start, stop, _ = columns.indices(self.shape[1])
        block = self.scaling(raw.reshape(len(raw), self.shape[1]), start, stop).astype(np.float32, copy=False)
        if self.gain == 1:
            return block
        if np.may_share_memory(block, raw):
            return block * self.gain
        block *= self.gain
        return block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)

    def __truediv__(self, number: float) -> Standardized:
        return Standardized(self.source, self.scaling, self.gain / np.float32(number))

    def take(self, rows: ArrayLike, axis: Literal[0] = 0) -> Standardized:
        """Return some of the rows, a copy of them as they are in the source."""
        return Standardized(self.source[np.asarray(rows)], self.scaling, self.gain)

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
        for _, slab in _slabs(source, min(ONCE_BYTES, SLAB_BYTES)):
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
        with np.errstate(invalid="ignore", over="ignore"):
            # the sum tells in a fraction of the time that all are finite; float16's is soon too large
            fine = block.dtype.kind != "f" or (block.dtype.itemsize > 2 and np.isfinite(block.sum()))
        if not fine:
            bad += (rows.start + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
    if bad:
        shown = ", ".join(map(str, bad[:SHOWN_ROWS])) + (", ..." if len(bad) > SHOWN_ROWS else "")
        raise InvalidInputError(
            f"{len(bad)} of {int(source.shape[0])} rows hold NaN or infinity: {shown} (counted from 0); drop "
            "or replace them"
        )


def gram(
    left: Any, right: Any | None, scaling: Scaling, of_right: Scaling | None = None
) -> NDArray[np.float64]:
    """Return the products of standardised rows, ``Z_left @ Z_right.T``.

    Products of `PRODUCT_COLUMNS` columns are summed in float32 (float64 for float64 sources), their sums in
    float64, which keeps the relative error near 1e-7 at any number of features.

    Parameters
    ----------
    left, right : source
        Raw rows; `right` None means `left` again, at half the cost.
    scaling : Scaling
        The statistics to standardise by.
    of_right : Scaling, optional
        Those of `right`, where they are others.

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
                b = a if alike else (of_right or scaling)(slab_2, start, start + step)
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
    for rows, slab in _slabs(source, min(ONCE_BYTES, SLAB_BYTES)):
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


@dataclass(frozen=True, eq=False)
class RowProducts:
    """What a rotated space needs of its features, which are read once for it and never again.

    Parameters
    ----------
    standardize : bool or "center"
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

    standardize: bool | Literal["center"]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    train: NDArray[np.float64]
    others: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        others: Mapping[str, ArrayLike],
        *,
        standardize: bool | Literal["center"] = True,
    ) -> RowProducts:
        """Compute them: statistics and products of the rows `X`, products of `others` with `X`.

        Raises
        ------
        InvalidInputError
            If `X` has fewer than two dimensions or no rows, or a row of any holds NaN or infinity.
        """
        source = as_source(X)
        mean, scale = _statistics(source, standardize)
        scaling = Scaling(mean, scale)
        products = {}
        for name, rows in others.items():
            with np.errstate(invalid="ignore", over="ignore"):  # told below, with the rows
                products[name] = gram(as_source(rows), source, scaling)
            if not np.isfinite(products[name]).all():
                check_finite(as_source(rows))
        return cls(standardize, mean, scale, gram(source, None, scaling), products)


class FeatureSpace:
    r"""Standardise features and, where they outnumber the rows, rotate them into the span of the rows.

    The statistics are those of the rows given to `fit`, whatever is trained in the space afterwards: a sweep
    fits one space on the whole training split and draws all its subsets from the transformed rows.

    With more features than rows, the standardised rows ``Z`` lie in a subspace of fewer than
    ``n_samples`` dimensions. An orthonormal basis of it comes from the products of the rows alone, ``G =
    Z Z^T = Q L Q^T``, and the rows in that basis are ``Q L^(1/2)``: 200,704 features of 896
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
    standardize : bool or "center", default=True
        Subtract the mean and divide by the standard deviation of each feature (by 1 where it is constant).
        "center" subtracts alone. False leaves both alone, in a rotated space, too: angles are those of the
        features as they are.
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

    def __init__(
        self,
        *,
        standardize: bool | Literal["center"] = True,
        rotate: bool | Literal["auto"] = "auto",
    ) -> None:
        if standardize not in (True, False, "center"):
            raise InvalidInputError(
                f"standardize={standardize!r} is not known; allowed: True, False, 'center'"
            )
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
        source = as_source(X)
        n, p = int(source.shape[0]), count_columns(source)
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
        products = gram(source, None, self._scaling) if known is None else known.copy()
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
                out = self._project(gram(source, self._rows_fitted, self._scaling), self._combination)
            else:
                out = np.empty((int(source.shape[0]), self.n_columns_), dtype=np.float32)
                for rows, block in self.standardized_blocks(source):
                    out[rows] = (block if self._basis is None else block @ self._basis) * self.gain_
        # columns are fewer than features, and what is not finite in these is not in those
        if not (np.isfinite(out.min()) and np.isfinite(out.max())):
            check_finite(source)
            check_finite(out)  # beyond float32
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
        for rows, raw in row_blocks(source):
            yield rows, self._scaling(raw)

    def standardized(self, X: ArrayLike) -> Standardized:
        """Return rows that are standardised, and multiplied by the gain, whenever they are read."""
        return Standardized(self._checked(X), self._scaling, self.gain_)

    def basis(self) -> NDArray[np.float32] | None:
        """Return the orthonormal basis, float32 of shape (n_features, n_columns), or None when not rotated.

        It is built on the first call (4 bytes x n_features x n_columns) and replaces the reference to the
        rows the space was fitted on. Pickling a space builds it.
        """
        if self._basis is None and self._combination is not None:
            self._basis = project(self._rows_fitted, self._scaling, self._combination).astype(np.float32)
            self._rows_fitted = self._combination = None
        return self._basis

    def to_standardized(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return weights on columns, (n_columns, k), as weights on standardised features, (n_features, k)."""
        scaled = weights.astype(np.float64) * self.gain_
        if self._basis is not None:
            return self._basis @ scaled
        if self._combination is not None:
            return project(self._rows_fitted, self._scaling, self._combination @ scaled)
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
        standardize: bool | Literal["center"] = True,
    ) -> FeatureSpace:
        """Build a fitted space from what a file holds.

        Parameters
        ----------
        mean, scale : ndarray, shape (n_features,)
        gain : float, default=1.0
        basis : ndarray of float32, shape (n_features, n_columns), or None
            Orthonormal columns; None for a space that is not rotated.
        standardize : bool or "center", default=True
            What the space was made with.
        """
        space = cls(standardize=standardize, rotate=basis is not None)
        space.mean_, space.scale_ = mean.astype(np.float64), scale.astype(np.float64)
        space.n_features_ = len(mean)
        space.n_columns_ = len(mean) if basis is None else basis.shape[1]
        space.gain_, space.rotated_, space.eigenvalues_, space._basis = gain, basis is not None, None, basis
        return space

    @property
    def _scaling(self) -> Scaling:
        return Scaling(self.mean_, self.scale_)

    def _checked(self, X: Any) -> Any:
        if not hasattr(self, "mean_"):
            raise InvalidInputError("this FeatureSpace is not fitted yet; call fit(X) first")
        source = as_source(X)
        if count_columns(source) != self.n_features_:
            raise InvalidInputError(
                f"X has {count_columns(source)} features, but FeatureSpace is expecting "
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


def _statistics(
    source: Any, standardize: bool | Literal["center"]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (1 where it is 0) of each feature; 0 and 1 where not asked for."""
    if not standardize:
        check_finite(source)
        return np.zeros(count_columns(source)), np.ones(count_columns(source))
    mean, variance = moments(source)
    if standardize == "center":
        return mean, np.ones(len(mean))
    # rounding leaves a variance of about n eps times the square of the mean in a constant feature
    n, eps = int(source.shape[0]), float(np.finfo(np.float64).eps)
    constant = variance <= n * eps * variance + (n * eps * mean) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def in_all_views(rows: NDArray[np.int64], n_images: int, n_views: int) -> NDArray[np.int64]:
    """Return where rows of the first block of `n_images` stand in all blocks.

    Examples
    --------
    >>> in_all_views(np.array([0, 2]), 5, 2).tolist()
    [0, 2, 5, 7]
    """
    return np.concatenate([rows + n_images * view for view in range(n_views)])
