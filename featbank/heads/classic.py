"""Heads that need no gradient steps: nearest class mean, nearest neighbours, linear SVM, ridge."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import one_core_if
from featbank.errors import InvalidInputError
from featbank.heads._exact import Problem, solve
from featbank.heads.catalogue import HeadKind, Parameter
from featbank.heads.head import Head, TrainingRows, class_weights, find_classes, on_features
from featbank.heads.space import PRODUCT_COLUMNS, FeatureSpace

__all__ = [
    "KNN",
    "NCM",
    "RIDGE",
    "SVM",
    "LinearSVMClassifier",
    "NearestMeanClassifier",
    "NeighborsClassifier",
    "RidgeClassifier",
]


#: Values of a block of rows or of scores that are worked on at a time.
BLOCK_VALUES = 2**23
#: And of one that is gone through twice or in float64, which is faster within the caches.
CACHED_VALUES = 2**16
#: Rows that are compared with all samples at once, however many there are: fewer would only wait for memory.
LEAST_ROWS = 64
#: Columns whose products are summed in float32: the fewer, the closer is the bound of their rounding.
SUMMED_COLUMNS = 512
#: Multiply-adds of a product below which it has one thread: two would wait for each other.
MIN_SHARED = 2**27
#: Unit roundoff of float32.
ROUNDOFF = 2.0**-24
#: The nearest samples are looked for among groups of so many, and of at least this many groups per neighbour.
GROUP, GROUPS_PER_NEIGHBOUR = 64, 8
#: From so many classes on, and up to so many columns, float32 decides which class scores best where it can.
MANY_CLASSES, MOST_COLUMNS = 256, 4096
#: So many penalties and more on the same rows are solved by eigenvectors, fewer by a Cholesky factor each.
EIGEN_ALPHAS = 16
#: So many classes and more have their rows summed, which takes as long for any number of them.
SUMMED_CLASSES = 24
#: Part of the right side that solutions by products in float32 may leave, part of the solution that the last
#: correction of them may be, and what products of few columns cost beside these.
CORRECTED, SETTLED, THIN_COLUMNS = 1e-7, 1e-3, 4


#: Of heads that may subtract the mean alone.
_CENTERED = {
    "standardize": Parameter(values=(True, False, "center"), help=Head._parameters["standardize"].help)
}


class ClassicHead(Head):
    """Base of the classic heads, fitted from whatever columns the space gives.

    Distances, angles and L2 penalties do not change when the space is rotated, so the fit is that on
    standardised features; rows seen later count by their part in the span of the fitting rows.
    """

    def __init__(
        self, *, standardize: bool | Literal["center"] = True, rotate: bool | Literal["auto"] = "auto"
    ) -> None:
        self.standardize = standardize
        self.rotate = rotate

    @classmethod
    def _fit_many(cls, heads: Sequence[Any], rows: TrainingRows) -> None:
        every_code = []
        space = rows.space
        for head, own in zip(heads, rows.subsets, strict=True):
            head._check()
            head.classes_, codes = find_classes(rows.y[own])
            head.space_, head.n_features_in_, head.failed_ = space, space.n_features_, None
            every_code.append(codes)
        cls._fit_rows(heads, rows, every_code)

    @classmethod
    @abstractmethod
    def _fit_rows(cls, heads: Sequence[Any], rows: TrainingRows, codes: Sequence[NDArray[np.int64]]) -> None:
        """Fit to rows with the gain; `codes` are the numbers of the classes of each head's own."""

    @abstractmethod
    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one score per class of rows without the gain."""

    def _best(self, Z: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number of the class that scores best of rows in the space, not all scores at once."""
        codes = np.empty(len(Z), dtype=np.int64)
        for part in _parts(len(Z), max(Z.shape[1], len(self.classes_))):
            codes[part] = self._logits(Z[part]).argmax(axis=1)
        return codes

    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        logits = np.empty((len(Z), len(self.classes_)))
        for part in _parts(len(Z), Z.shape[1]):
            logits[part] = self._scores(np.asarray(Z[part], np.float64) / self.space_.gain_)
        return logits

    def _logits_from_features(self, X: NDArray[Any]) -> NDArray[np.float64]:
        logits = np.empty((len(X), len(self.classes_)))
        for part in _parts(len(X), X.shape[1]):
            logits[part] = self._logits(self.space_.transform(X[part]))
        return logits

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of each row of original features `X` (n_samples, n_features)."""
        features = self._read(X)
        codes = np.empty(len(features), dtype=np.int64)
        for part in _parts(len(features), features.shape[1]):
            codes[part] = self._best(self.space_.transform(features[part]))
        return self.classes_[codes]

    def predict_columns(self, Z: NDArray[Any]) -> NDArray[Any]:
        """Return the likeliest class of rows that are in `space_` already, shape (n_samples, n_columns)."""
        return self.classes_[self._best(self._read_columns(Z))]


class _LinearScores(ClassicHead):
    """Scores are linear in the columns: `weights_` (n_columns, n_classes), `offsets_` (n_classes,)."""

    weights_: NDArray[np.float64]
    offsets_: NDArray[np.float64]

    def _shaped(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows as the weights take them."""
        return Z

    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self._shaped(Z) @ self.weights_ + self.offsets_
        return scores

    def _best(self, Z: NDArray[Any]) -> NDArray[np.int64]:
        width, n_classes = self.weights_.shape
        if n_classes < MANY_CLASSES or width > MOST_COLUMNS:
            return super()._best(Z)
        # twice as fast as in float64, which is asked where rounding might decide
        weights, offsets = self.weights_.astype(np.float32), self.offsets_.astype(np.float32)
        longest = np.sqrt((self.weights_**2).sum(axis=0).max())
        codes = np.empty(len(Z), dtype=np.int64)
        for part in _parts(len(Z), max(width, n_classes)):
            rows = self._shaped(np.asarray(Z[part], np.float64) / self.space_.gain_)
            with np.errstate(over="ignore", invalid="ignore"):
                scores = rows.astype(np.float32) @ weights
                scores += offsets
                lengths = np.sqrt((rows * rows).sum(axis=1))
                off = 2 * ROUNDOFF * ((width + 4) * lengths * longest + 2 * np.abs(self.offsets_).max())
                near = scores >= (scores.max(axis=1) - 2 * off)[:, None]
            found = scores.argmax(axis=1)
            open_ = np.flatnonzero(near.sum(axis=1) != 1)
            found[open_] = (rows[open_] @ self.weights_ + self.offsets_).argmax(axis=1)
            codes[part] = found
        return codes

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
    normalize : bool, default=False
        Bring every row to length 1 first. With ``standardize="center"`` it is SimpleShot's CL2N, with False
        its L2N; it takes ``rotate=False``.
    standardize : bool or "center", default=True
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
    Mensink, Verbeek, Perronnin, Csurka, "Distance-based image classification", TPAMI 2013, section 3. Wang,
    Chao, Weinberger, van der Maaten, "SimpleShot: revisiting nearest-neighbor classification for few-shot
    learning", 2019, section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> NearestMeanClassifier().fit(X, y).score(X, y) > 0.8
    True
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "normalize": Parameter(values=(True, False), help="rows of length 1; takes --rotate false"),
        **Head._parameters,
        **_CENTERED,
    }

    means_: NDArray[np.float64]

    def __init__(
        self,
        *,
        normalize: bool = False,
        standardize: bool | Literal["center"] = True,
        rotate: bool | Literal["auto"] = "auto",
    ) -> None:
        self.normalize = normalize
        super().__init__(standardize=standardize, rotate=rotate)

    def _check(self) -> None:
        super()._check()
        if self.normalize and self.rotate is not False:
            raise InvalidInputError(
                "normalize=True (--normalize) is of whole rows, and a rotated space has only their part in "
                "the span of the training rows; add rotate=False (--rotate false)"
            )

    @classmethod
    def _fit_rows(cls, heads: Sequence[Any], rows: TrainingRows, codes: Sequence[NDArray[np.int64]]) -> None:
        width = rows.Z.shape[1]
        for head, own, targets in zip(heads, rows.subsets, codes, strict=True):
            order = np.argsort(targets, kind="stable")
            sums = np.zeros((len(head.classes_), width))
            for part in _parts(len(own), width):
                here = targets[order[part]]
                starts = np.flatnonzero(np.diff(here, prepend=-1))
                block = head._shaped(rows.Z[own[order[part]]].astype(np.float64) / rows.space.gain_)
                sums[here[starts]] += np.add.reduceat(block, starts, axis=0)
            head.means_ = sums / np.bincount(targets)[:, None]
            # |z - m|^2 without |z|^2, which is the same for all classes, is linear in z
            head.weights_, head.offsets_ = head.means_.T, -0.5 * (head.means_**2).sum(axis=1)

    def _shaped(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        return _unit(Z) if self.normalize else Z


class NeighborsClassifier(ClassicHead):
    """The vote of the k training samples at the smallest angle (largest cosine) in standardised features.

    Parameters
    ----------
    n_neighbors : int, default=5
        Fewer samples than that all vote.
    temperature : float or None, default=None
        Let each count ``exp(cosine / temperature)``, as in DINO's evaluation (0.07), instead of once.
    standardize : bool or "center", default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.

    Attributes
    ----------
    rows_ : ndarray of float32, shape (n_samples, n_columns)
        Training rows of length 1.
    targets_ : ndarray of int64, shape (n_samples,)
        Their positions in `classes_`.

    References
    ----------
    Wu, Xiong, Yu, Lin, "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018,
    section 3.4: the weighted vote. Caron et al., "Emerging properties in self-supervised vision transformers"
    (DINO), ICCV 2021, section 4.1 and appendix E.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> NeighborsClassifier(n_neighbors=3).fit(X, y).score(X, y) > 0.9
    True
    """

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "n_neighbors": Parameter(least=1, whole=True, help="samples that vote"),
        "temperature": Parameter(over=0, values=(None,)),
        **Head._parameters,
        **_CENTERED,
    }

    #: One is fitted, scored and let go at a time: it holds its rows.
    fits_alone = True
    rows_: NDArray[np.float32]
    targets_: NDArray[np.int64]

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        temperature: float | None = None,
        standardize: bool | Literal["center"] = True,
        rotate: bool | Literal["auto"] = "auto",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        super().__init__(standardize=standardize, rotate=rotate)

    @classmethod
    def _fit_rows(cls, heads: Sequence[Any], rows: TrainingRows, codes: Sequence[NDArray[np.int64]]) -> None:
        width = rows.Z.shape[1]
        for head, own, targets in zip(heads, rows.subsets, codes, strict=True):
            head.rows_, head.targets_ = np.empty((len(own), width), dtype=np.float32), targets
            for part in _parts(len(own), width):
                head.rows_[part] = _unit(rows.Z[own[part]].astype(np.float64))

    def _scores(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = np.full((len(Z), len(self.classes_)), 0.0 if self.temperature is not None else -0.25)
        for part in self._blocks(Z):
            row, code, _, score = self._votes(Z[part])
            scores[part.start + row, code] = score
        return scores

    def _best(self, Z: NDArray[Any]) -> NDArray[np.int64]:
        found = np.empty(len(Z), dtype=np.int64)
        for part in self._blocks(Z):
            row, code, _, score = self._votes(np.asarray(Z[part], np.float64))
            found[part] = _best_of(row, code, score)
        return found

    def _blocks(self, Z: NDArray[Any]) -> list[slice]:
        n, width = self.rows_.shape
        # of wide rows, which are held four times in float64, half as many
        return _parts(len(Z), max(2 * width, min(n, BLOCK_VALUES // LEAST_ROWS)))

    def _votes(
        self, Z: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return row, class, votes and score of each class that has votes of a row, by row and class."""
        chosen, cosines = self._nearest(_unit(Z))
        n_classes = len(self.classes_)
        # relative to the nearest, or with the smallest temperatures no vote would count, or all
        away = cosines - cosines[:, :1]
        each = np.ones_like(away) if self.temperature is None else np.exp(away / self.temperature)
        pairs = (np.arange(len(Z))[:, None] * n_classes + self.targets_[chosen]).reshape(-1)
        pairs, first, member = np.unique(pairs, return_index=True, return_inverse=True)
        votes: NDArray[np.float64] = np.bincount(member, weights=each.reshape(-1)).astype(np.float64)
        score = votes
        if self.temperature is None:
            # a tie goes to the class of the nearer sample; half a vote never outweighs a whole one
            score = votes + cosines.reshape(-1)[first] / 4
        row, code = np.divmod(pairs, n_classes)
        return row, code, votes, score

    def _nearest(self, unit: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the nearest samples of rows of length 1, nearest and then earliest first, and the cosines.

        Products in float32 say which samples may be among them, products in float64 which are.
        """
        (n, width), k = self.rows_.shape, min(self.n_neighbors, len(self.rows_))
        size = max(1, min(GROUP, n // (GROUPS_PER_NEIGHBOUR * k)))
        n_groups = -(-n // size)
        rough = np.full((len(unit), size * n_groups), -np.inf, dtype=np.float32)
        rough[:, :n] = 0
        columns = [slice(first, first + SUMMED_COLUMNS) for first in range(0, width, SUMMED_COLUMNS)]
        with one_core_if(len(unit) * n * SUMMED_COLUMNS < MIN_SHARED):
            for some in columns:
                rough[:, :n] += unit[:, some].astype(np.float32) @ self.rows_[:, some].T
        off = 1.01 * ROUNDOFF * (min(width, SUMMED_COLUMNS) + len(columns) + 4)
        # so many groups hold a sample as near as this, so the last of the nearest is no farther
        nearest = rough.reshape(len(unit), size, n_groups).max(axis=1)
        least = np.partition(nearest, n_groups - k, axis=1)[:, n_groups - k]
        row, sample = np.divmod(np.flatnonzero(rough >= (least - 2 * off)[:, None]), rough.shape[1])
        chosen = np.empty((len(unit), k), dtype=np.int64)
        cosines = np.empty((len(unit), k))
        crowded = np.bincount(row, minlength=len(unit)) > k * GROUPS_PER_NEIGHBOUR + GROUP
        few = ~crowded[row]
        chosen[~crowded], cosines[~crowded] = self._sorted(unit, row[few], sample[few], k)
        at = np.flatnonzero(crowded)
        for part in _parts(len(at), n):
            found = np.empty((part.stop - part.start, n))
            for block in _parts(n, width):
                found[:, block] = unit[at[part]] @ self.rows_[block].T.astype(np.float64)
            chosen[at[part]] = np.argsort(-found, axis=1, kind="stable")[:, :k]
            cosines[at[part]] = np.take_along_axis(found, chosen[at[part]], axis=1)
        return chosen, cosines

    def _sorted(
        self, unit: NDArray[np.float64], row: NDArray[np.int64], sample: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k nearest samples of each row that is there, and the cosines; pairs are in order."""
        cosines = np.empty(len(row))
        for part in _parts(len(row), unit.shape[1]):
            cosines[part] = np.einsum("ij,ij->i", unit[row[part]], self.rows_[sample[part]].astype(float))
        order = np.lexsort((-cosines, row))  # equal ones stay in order
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        kept = order[(starts[:, None] + np.arange(k)).reshape(-1)]
        return sample[kept].reshape(-1, k), cosines[kept].reshape(-1, k)

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
        shares = np.empty((len(features), len(self.classes_)))
        for part in _parts(len(features), features.shape[1]):
            shares[part] = self.predict_proba_columns(self.space_.transform(features[part]))
        return shares

    def predict_proba_columns(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        """Return the share of votes of rows that are in `space_` already."""
        return self.answer_columns(Z)[1]

    def answer_columns(self, Z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return `predict_columns` and `predict_proba_columns` of rows, whose neighbours are found once."""
        Z = self._read_columns(Z)
        codes = np.empty(len(Z), dtype=np.int64)
        shares = np.zeros((len(Z), len(self.classes_)))
        for part in self._blocks(Z):
            row, code, votes, score = self._votes(np.asarray(Z[part], np.float64))
            codes[part] = _best_of(row, code, score)
            shares[part.start + row, code] = votes / np.bincount(row, weights=votes)[row]
        return self.classes_[codes], shares


class LinearSVMClassifier(_LinearScores):
    """Linear support vector machine, one class against the rest, squared hinge loss, at its optimum.

    Parameters
    ----------
    C : float, default=0.01
        Inverse strength of the L2 penalty on standardised features. Smaller than scikit-learn's 1.0, which on
        hundreds of features takes many times as long and is not more accurate.
    class_weight : "balanced", mapping of label to float, or None, default=None
        As scikit-learn's: of each class against the rest its own rows count so often, the others once;
        balanced: n_samples / (n_classes * n_samples_of_the_class).
    standardize : bool, default=True
    rotate : bool or "auto", default="auto"
        See `FeatureSpace`.
    random_state : int, RandomState or None, default=None
        Changes nothing: the optimum is one.

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

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "C": Parameter(over=0, help="inverse of the regularisation"),
        "class_weight": Head._class_weight,
        **Head._parameters,
    }

    def __init__(
        self,
        *,
        C: float = 0.01,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        standardize: bool = True,
        rotate: bool | Literal["auto"] = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        super().__init__(standardize=standardize, rotate=rotate)
        self.random_state = random_state

    @property
    def _is_seeded(self) -> bool:
        return False

    @classmethod
    def _fit_rows(cls, heads: Sequence[Any], rows: TrainingRows, codes: Sequence[NDArray[np.int64]]) -> None:
        problems: list[Problem] = []
        # the gain would change what C means
        Z = rows.Z if rows.space.gain_ == 1 else rows.Z / np.float32(rows.space.gain_)
        for head, own, targets in zip(heads, rows.subsets, codes, strict=True):
            n = len(head.classes_)
            weights = class_weights(head.class_weight, head.classes_, targets)
            for c in range(n) if n > 2 else [1]:
                of_class = None
                if weights is not None:
                    of_class = weights if n == 2 else np.array([1.0, weights[c]])
                problems.append(Problem(own, (targets == c).astype(np.int64), 1, float(head.C), of_class))
        optima = iter(solve(Z, problems, loss="hinge"))
        for head in heads:
            n = len(head.classes_)
            found = [next(optima) for _ in range(n if n > 2 else 1)]
            head.C_, head.warned_ = float(head.C), None
            if not all(one.converged for one in found):
                steps = max(one.n_iter for one in found)
                head.warned_ = (
                    f"the linear SVM has not converged in {steps} iterations (C={head.C!r}); use a smaller C"
                )
            head._take_binary(
                np.stack([one.weights[:, 0] for one in found]), np.array([one.intercept[0] for one in found])
            )


class RidgeClassifier(_LinearScores):
    """Ridge regression on class indicators (+1 and -1); the largest output wins.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the L2 penalty on standardised features.
    class_weight : "balanced", mapping of label to float, or None, default=None
        How often a row counts; balanced: n_samples / (n_classes * n_samples_of_its_class).
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

    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "alpha": Parameter(least=0, help="weight decay"),
        "class_weight": Head._class_weight,
        **Head._parameters,
    }

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        standardize: bool = True,
        rotate: bool | Literal["auto"] = "auto",
    ) -> None:
        self.alpha = alpha
        self.class_weight = class_weight
        super().__init__(standardize=standardize, rotate=rotate)

    @classmethod
    def _fit_rows(cls, heads: Sequence[Any], rows: TrainingRows, codes: Sequence[NDArray[np.int64]]) -> None:
        Z, subsets, gain = rows.Z, rows.subsets, rows.space.gain_
        groups: dict[tuple[bytes, str], list[int]] = {}
        for at, one in enumerate(subsets):
            groups.setdefault((one.tobytes(), repr(heads[at].class_weight)), []).append(at)
        few = [len(subsets[members[0]]) <= Z.shape[1] for members in groups.values()]
        # the products of all rows serve the subsets that have them twice and more
        wanted = sum(len(subsets[m[0]]) ** 2 for m, one in zip(groups.values(), few, strict=True) if one)
        common = _products(Z) if wanted > len(Z) ** 2 else None
        for members in groups.values():
            mine, first = subsets[members[0]], heads[members[0]]
            n = len(first.classes_)
            targets = codes[members[0]]
            weights = class_weights(first.class_weight, first.classes_, codes[members[0]])
            # rows without the gain have weights that are so many times as large
            alphas = [float(heads[at].alpha) * gain**2 for at in members]
            own = Z if np.array_equal(mine, np.arange(len(Z))) else Z.take(mine, axis=0)
            counts = None if weights is None else weights[targets]
            if len(mine) <= Z.shape[1]:
                found = _Ridge(own, counts).by_rows(_signs(targets, n), alphas, common, mine)
            else:
                found = _Ridge(own[:], counts).by_columns(targets, n, alphas)
            for at, (coefficients, offset) in zip(members, found, strict=True):
                heads[at]._take_binary(gain * coefficients.T, offset)


#: What a pass over the rows finds beside its product: weights of the columns and the mean of the scores.
_Passed = tuple[NDArray[np.float64], NDArray[np.float64]]


class _Ridge:
    """Regressions on the same rows (n, p), each of which counts so often (once without `counts`).

    Rows may be an array, or, for `by_rows`, `Standardized`.
    """

    def __init__(self, rows: Any, counts: NDArray[np.float64] | None) -> None:
        self.rows, (self.n, self.p) = rows, rows.shape
        self.counts: NDArray[np.float64] = np.ones(self.n) if counts is None else counts
        self.shares = self.counts / self.counts.sum()
        self.roots = None if counts is None else np.sqrt(counts)[:, None]

    def by_rows(
        self,
        hot: NDArray[np.float64],
        alphas: Sequence[float],
        known: NDArray[np.float64] | None,
        mine: NDArray[np.int64],
    ) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Return weights (p, k) and offsets (k,) at each alpha.

        `known` are the products of all rows of the sweep, of which the regressions' are `mine`.
        """
        rows, roots, shares = self.rows, self.roots, self.shares
        level = shares @ hot
        of_mean: NDArray[Any] = np.empty(0)

        def products(dtype: Any) -> NDArray[Any]:
            nonlocal of_mean
            made: NDArray[Any] = _products(rows, dtype) if known is None else known[mine].take(mine, axis=1)
            of_mean = shares.astype(dtype) @ made
            made -= of_mean + (of_mean[:, None] - of_mean @ shares.astype(dtype))
            if roots is not None:
                made *= (roots * roots.T).astype(dtype)
            return made

        def outwards(X: NDArray[np.float64]) -> NDArray[np.float64]:
            scaled = X if roots is None else roots * X
            return scaled - np.outer(shares, scaled.sum(axis=0))

        def times(X: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Passed]:
            V, out, weights = outwards(X), np.zeros_like(X), np.empty((self.p, X.shape[1]))
            for columns in _parts(self.p, self.n, CACHED_VALUES):
                block = rows[:, columns].astype(np.float64)
                weights[columns] = block.T @ V
                out += block @ weights[columns]
            shift = shares @ out
            out -= shift
            return out if roots is None else roots * out, (weights, shift)

        right = hot - level if roots is None else roots * (hot - level)
        found = self._solved(products, right, alphas, times if known is None else None)
        if found[0][2] is not None:  # a correction is so small that float32 will do
            result = []
            for _, step, (weights, shift) in found:
                dual = outwards(step)
                small = np.empty(weights.shape, dtype=np.float32)
                for columns in _parts(self.p, self.n):
                    small[columns] = rows[:, columns].T @ dual.astype(np.float32)
                result.append((weights + small, level - shift - of_mean @ dual))
            return result
        of_rows = np.stack([outwards(one) for one, _, _ in found])  # (n_alphas, n, k)
        # of rows nearly alike that differ in class, large parts cancel: float32 would keep their rounding
        weights = np.empty((len(alphas), self.p, hot.shape[1]))
        for columns in _parts(self.p, self.n, CACHED_VALUES):
            weights[:, columns] = rows[:, columns].astype(np.float64).T @ of_rows
        return [(one, level - of_mean @ dual) for one, dual in zip(weights, of_rows, strict=True)]

    def by_columns(
        self, targets: NDArray[np.int64], n_classes: int, alphas: Sequence[float]
    ) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Return the same from the products of columns; the signs of many classes are never made."""
        rows, counts = self.rows, self.counts
        mean = np.zeros(self.p)
        parts = _parts(self.n, self.p, CACHED_VALUES)
        if n_classes < SUMMED_CLASSES:
            hot = _signs(targets, n_classes)
            level, right = self.shares @ hot, np.zeros((self.p, hot.shape[1]))
            weighted = counts[:, None] * (hot - level)
            for part in parts:
                block = rows[part].astype(np.float64)
                mean += self.shares[part] @ block
                right += block.T @ weighted[part]
        else:
            # with +1 in one column and -1 in the others, the sums of the rows of each class are all there is
            level = 2 * np.bincount(targets, weights=self.shares, minlength=n_classes) - 1
            right = np.zeros((self.p, n_classes))
            ends = np.cumsum(np.bincount(targets, minlength=n_classes))
            for code, own in enumerate(np.split(np.argsort(targets, kind="stable"), ends[:-1])):
                right[:, code] = counts[own] @ rows[own].astype(np.float64)
            mean = right.sum(axis=1)
            right = 2 * right - np.outer(mean, 1 + level)
            mean /= counts.sum()

        def products(dtype: Any) -> NDArray[Any]:
            scaled = rows if self.roots is None else (rows * self.roots).astype(np.float32)
            made = _products(scaled.T, dtype)
            made -= (counts.sum() * np.outer(mean, mean)).astype(dtype)
            return made

        def times(X: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Passed]:
            out, of_mean = np.zeros_like(X), mean @ X
            for part in parts:
                block = rows[part].astype(np.float64)
                out += block.T @ ((block @ X - of_mean) * counts[part, None])
            return out, (X, of_mean)

        found = [one + step for one, step, _ in self._solved(products, right, alphas, times)]
        return [(one, level - mean @ one) for one in found]

    def _solved(
        self,
        products: Callable[[Any], NDArray[Any]],
        right: NDArray[np.float64],
        alphas: Sequence[float],
        times: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], _Passed]] | None,
    ) -> list[tuple[NDArray[np.float64], Any, Any]]:
        """Return the solution of ``(products + alpha * I) x = right`` at each alpha, as `_corrected` does.

        By products in float32, twice as fast, and `times`, which multiplies by those in float64 to correct
        the solution, where that costs less.
        """
        corrections = 8 * (right.shape[1] + THIN_COLUMNS) * len(set(alphas))
        if times is not None and len(set(alphas)) < EIGEN_ALPHAS and corrections < min(self.n, self.p):
            found = _corrected(products(np.float32), right, alphas, times)
            if found is not None:
                return found
        return [(x, 0.0, None) for x in _regularised(products(np.float64), right, alphas)]


def _signs(targets: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Return +1 in the column of each row's class and -1 in the others; one column for two classes."""
    return np.where(targets[:, None] == (np.arange(n_classes) if n_classes > 2 else [1]), 1.0, -1.0)


def _products(rows: Any, dtype: Any = np.float64) -> NDArray[Any]:
    """Return the products of rows with each other, in `dtype`."""
    n, p = rows.shape
    first, *others = _parts(p, max(n, BLOCK_VALUES // PRODUCT_COLUMNS))
    part = rows[:, first].astype(dtype, copy=False)
    products: NDArray[Any] = part @ part.T
    for columns in others:
        part = rows[:, columns].astype(dtype, copy=False)
        products += part @ part.T
    return products


def _corrected(
    products: NDArray[np.float32],
    right: NDArray[np.float64],
    alphas: Sequence[float],
    times: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], _Passed]],
) -> list[tuple[NDArray[np.float64], Any, Any]] | None:
    """Return solutions, by a factor in float32; None where that is too far off.

    Each in two parts, the second of them small, and with what `times` made of the first.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    found: dict[float, tuple[NDArray[np.float64], NDArray[np.float64], _Passed]] = {}
    for alpha in set(alphas):
        matrix = products.T if len(set(alphas)) == 1 else products.copy().T
        matrix[np.diag_indices_from(matrix)] += np.float32(alpha)
        try:
            factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            return None
        x = cho_solve(factor, right.astype(np.float32), check_finite=False).astype(np.float64)
        before, enough = (float(np.abs(right).max()) * part for part in (1.0, CORRECTED))
        while True:
            product, passed = times(x)
            residual = right - product - alpha * x
            error = float(np.abs(residual).max())
            if not error < before / 4:
                return None
            step = cho_solve(factor, residual.astype(np.float32), check_finite=False).astype(np.float64)
            # each correction leaves the same part; where columns nearly depend on each other, a small
            # residual is no small error
            if error * error / before <= enough and np.abs(step).max() <= SETTLED * np.abs(x).max():
                break
            before = error
            x += step
        found[alpha] = x, step, passed
    return [found[alpha] for alpha in alphas]


def _regularised(
    products: NDArray[np.float64], right: NDArray[np.float64], alphas: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Return the solution of ``(products + alpha * I) x = right`` at each alpha, the shortest if several."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    found: dict[float, NDArray[np.float64]] = {}
    if len(set(alphas)) < EIGEN_ALPHAS:
        try:
            for alpha in set(alphas):
                matrix = products.copy().T  # by columns, as LAPACK has it: it is not copied again
                matrix[np.diag_indices_from(matrix)] += alpha
                factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
                found[alpha] = cho_solve(factor, right, check_finite=False)
            return [found[alpha] for alpha in alphas]
        except LinAlgError:
            found = {}
    values, vectors = np.linalg.eigh(products)
    inside = vectors.T @ right
    for alpha in set(alphas):
        lengths = values + alpha
        kept = lengths > len(values) * np.finfo(np.float64).eps * lengths[-1]
        found[alpha] = vectors[:, kept] @ (inside[kept] / lengths[kept, None])
    return [found[alpha] for alpha in alphas]


def _parts(n: int, width: int, n_values: int = BLOCK_VALUES) -> list[slice]:
    """Cut `n` rows so that no part holds more than `n_values` values of rows so wide."""
    step = max(1, n_values // width)
    return [slice(first, min(n, first + step)) for first in range(0, n, step)]


def _best_of(
    row: NDArray[np.int64], code: NDArray[np.int64], score: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return of each row the class that scores best, the first of equals; rows and classes are in order."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    best = np.flatnonzero(score == np.maximum.reduceat(score, starts)[row])
    found: NDArray[np.int64] = code[best[np.unique(row[best], return_index=True)[1]]]
    return found


def _unit(Z: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt((Z * Z).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = Z / np.where(lengths > 0, lengths, 1.0)
    return unit


NCM = HeadKind(NearestMeanClassifier, "nearest class mean")
KNN = HeadKind(NeighborsClassifier, "k nearest neighbours by cosine")
SVM = HeadKind(LinearSVMClassifier, "linear support vector machine")
RIDGE = HeadKind(RidgeClassifier, "ridge regression on class indicators")
