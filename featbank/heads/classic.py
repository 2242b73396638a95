"""Heads that need no gradient steps: nearest class mean, nearest neighbours, linear SVM, ridge."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import FitWarning
from featbank.heads._head import Evaluation, Head, check_random_state, find_classes, on_features
from featbank.heads._parameters import NOT_NEGATIVE, POSITIVE, WHOLE, Allowed
from featbank.heads.space import FeatureSpace

__all__ = ["LinearSVMClassifier", "NearestMeanClassifier", "NeighborsClassifier", "RidgeClassifier"]


#: Passes of liblinear over the samples before it gives up.
MAX_ITERATIONS = 10_000


class ClassicHead(Head):
    """Base of the classic heads: fitted one by one, from whatever columns the space gives.

    Distances, angles and L2 penalties do not change when the space is rotated, so the fit is that on
    standardised features; rows seen later count by their part in the span of the fitting rows.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Any:
        """Fit to original features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels, numbers or strings, of at least two classes.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If `y` has one class or a parameter is out of range.
        """
        features, labels = self._read_training(X, y)
        find_classes(labels)
        self._check()
        space = FeatureSpace(standardize=self.standardize, rotate=self.rotate)
        Z = space.fit_transform(features)
        self._fit_many([self], Z, labels, [np.arange(len(labels))], space, [])
        return self

    @classmethod
    def _fit_many(
        cls,
        heads: Sequence[Any],
        Z: NDArray[np.float32],
        y: NDArray[Any],
        subsets: Sequence[NDArray[np.int64]],
        space: FeatureSpace,
        others: Sequence[Evaluation],
    ) -> None:
        for head, rows in zip(heads, subsets, strict=True):
            head._check()
            classes, codes = find_classes(y[rows])
            head.classes_, head.space_, head.n_features_in_ = classes, space, space.n_features_
            head.failed_ = None
            # the gain would change what C and alpha mean
            head._fit_rows(Z[rows].astype(np.float64) / space.gain_, codes)

    @abstractmethod
    def _fit_rows(self, Z: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        """Fit to rows without the gain, (n_samples, n_columns), and class numbers."""

    @abstractmethod
    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one score per class of rows without the gain."""

    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        return self._scores(np.asarray(Z, dtype=np.float64) / self.space_.gain_)


class _LinearScores(ClassicHead):
    """Scores are linear in the columns: `weights_` (n_columns, n_classes), `offsets_` (n_classes,)."""

    weights_: NDArray[np.float64]
    offsets_: NDArray[np.float64]

    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = Z @ self.weights_ + self.offsets_
        return scores

    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        weights = self.space_.to_standardized(self.weights_ / self.space_.gain_)
        arrays = {"weights": weights.astype(np.float32), "offsets": self.offsets_.astype(np.float32)}
        return arrays, on_features(self.space_)

    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        self.weights_, self.offsets_ = tensors["weights"], tensors["offsets"]

    def _take_binary(self, coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> None:
        # scikit-learn gives one row of coefficients for two classes
        if len(coef) == 1:
            coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        self.weights_, self.offsets_ = coef.T, np.asarray(intercept)


class NearestMeanClassifier(_LinearScores):
    """The class whose mean is nearest, by Euclidean distance between standardised features.

    Parameters
    ----------
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.

    Attributes
    ----------
    means_ : ndarray of float64, shape (n_classes, n_columns)
        In the columns of `space_`, without its gain.
    classes_, space_, n_features_in_
        As for every head.

    References
    ----------
    Mensink, Verbeek, Perronnin, Csurka, "Distance-based image classification", TPAMI 2013, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> NearestMeanClassifier().fit(X, y).score(X, y) > 0.8
    True
    """

    means_: NDArray[np.float64]

    def __init__(self, *, standardize: bool = True, rotate: bool | Literal["auto"] = "auto") -> None:
        self.standardize = standardize
        self.rotate = rotate

    def _fit_rows(self, Z: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        self.means_ = np.stack([Z[codes == c].mean(axis=0) for c in range(len(self.classes_))])
        # |z - m|^2 without |z|^2, which is the same for all classes, is linear in z
        self.weights_, self.offsets_ = self.means_.T, -0.5 * (self.means_**2).sum(axis=1)


class NeighborsClassifier(ClassicHead):
    """The vote of the k training samples at the smallest angle (largest cosine) in standardised features.

    Parameters
    ----------
    n_neighbors : int, default=5
        Fewer samples than that all vote.
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.

    Attributes
    ----------
    rows_ : ndarray of float32, shape (n_samples, n_columns)
        Training rows of length 1.
    targets_ : ndarray of int64, shape (n_samples,)
        Their positions in `classes_`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> NeighborsClassifier(n_neighbors=3).fit(X, y).score(X, y) > 0.9
    True
    """

    _parameters: ClassVar[Mapping[str, Allowed]] = {**Head._parameters, "n_neighbors": WHOLE}

    rows_: NDArray[np.float32]
    targets_: NDArray[np.int64]

    def __init__(
        self, *, n_neighbors: int = 5, standardize: bool = True, rotate: bool | Literal["auto"] = "auto"
    ) -> None:
        self.n_neighbors = n_neighbors
        self.standardize = standardize
        self.rotate = rotate

    def _fit_rows(self, Z: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        self.rows_, self.targets_ = _unit(Z).astype(np.float32), codes

    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        votes, nearest = self._votes(Z)
        # a tie goes to the class of the nearer sample; half a vote never outweighs a whole one
        return votes + nearest / 4

    def _votes(self, Z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        k = min(self.n_neighbors, len(self.rows_))
        cosines = _unit(Z) @ self.rows_.T.astype(np.float64)
        chosen = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        votes = np.zeros((len(Z), len(self.classes_)))
        nearest = np.full_like(votes, -1.0)
        for j in range(k):
            here = (np.arange(len(Z)), self.targets_[chosen[:, j]])
            votes[here] += 1.0
            nearest[here] = np.maximum(nearest[here], cosines[here[0], chosen[:, j]])
        return votes, nearest

    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        return {"rows": self.rows_, "targets": self.targets_}, self.space_

    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        rows, targets = tensors["rows"], tensors["targets"]
        if rows.ndim != 2 or not len(rows) or targets.shape != (len(rows),) or targets.dtype.kind != "i":
            raise ValueError(f"rows of shape {rows.shape} and targets of shape {targets.shape}")
        if not 0 <= targets.min() <= targets.max() < len(self.classes_):
            raise ValueError(f"a target is not among the {len(self.classes_)} classes")
        self.rows_, self.targets_ = rows, targets

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the share of votes per class, float64 of shape (n_samples, n_classes)."""
        features = self._read(X)
        return self.predict_proba_columns(self.space_.transform(features))

    def predict_proba_columns(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        """Return the share of votes of rows that are in `space_` already."""
        votes, _ = self._votes(np.asarray(self._read_columns(Z), dtype=np.float64))
        shares: NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
        return shares


class LinearSVMClassifier(_LinearScores):
    """Linear support vector machine, one class against the rest, squared hinge loss (liblinear).

    Parameters
    ----------
    C : float, default=0.01
        Inverse strength of the L2 penalty on standardised features. Smaller than scikit-learn's 1.0, which on
        hundreds of features takes liblinear many times as long and is not more accurate.
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.
    random_state : int, RandomState or None, default=None
        Order in which liblinear visits the samples.

    Attributes
    ----------
    classes_, space_, n_features_in_
        As for every head.

    References
    ----------
    Fan, Chang, Hsieh, Wang, Lin, "LIBLINEAR: a library for large linear classification", JMLR 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> LinearSVMClassifier(random_state=0).fit(X, y).score(X, y) > 0.8
    True
    """

    _parameters: ClassVar[Mapping[str, Allowed]] = {**Head._parameters, "C": POSITIVE}

    def __init__(
        self,
        *,
        C: float = 0.01,
        standardize: bool = True,
        rotate: bool | Literal["auto"] = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.C = C
        self.standardize = standardize
        self.rotate = rotate
        self.random_state = random_state

    def _fit_rows(self, Z: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC  # takes half a second, which loading any head would

        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        machine = LinearSVC(C=self.C, random_state=seed, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(Z, codes)
        if machine.n_iter_ >= MAX_ITERATIONS:
            warnings.warn(
                f"the linear SVM has not converged in {MAX_ITERATIONS} iterations (C={self.C!r}); "
                "use a smaller C",
                FitWarning,
                stacklevel=4,
            )
        self._take_binary(machine.coef_, machine.intercept_)


class RidgeClassifier(_LinearScores):
    """Ridge regression on class indicators (+1 and -1); the largest output wins.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the L2 penalty on standardised features.
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.

    Attributes
    ----------
    classes_, space_, n_features_in_
        As for every head.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> RidgeClassifier().fit(X, y).score(X, y) > 0.8
    True
    """

    _parameters: ClassVar[Mapping[str, Allowed]] = {**Head._parameters, "alpha": NOT_NEGATIVE}

    def __init__(
        self, *, alpha: float = 1.0, standardize: bool = True, rotate: bool | Literal["auto"] = "auto"
    ) -> None:
        self.alpha = alpha
        self.standardize = standardize
        self.rotate = rotate

    def _fit_rows(self, Z: NDArray[np.float64], codes: NDArray[np.int64]) -> None:
        from sklearn.linear_model import RidgeClassifier as SklearnRidge

        ridge = SklearnRidge(alpha=self.alpha).fit(Z, codes)
        self._take_binary(np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_))


def _unit(Z: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt((Z * Z).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = Z / np.where(lengths > 0, lengths, 1.0)
    return unit
