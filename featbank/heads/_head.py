"""What all heads share: labels, their feature space, fitting many at once, prediction."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._process import import_sklearn
from featbank.errors import FitWarning, InvalidInputError
from featbank.heads._parameters import Parameter, faults_of
from featbank.heads.space import FeatureSpace, Standardized, check_finite, in_all_views

import_sklearn()
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

__all__ = [
    "Evaluation",
    "Head",
    "ProbabilisticHead",
    "Score",
    "TrainingRows",
    "check_random_state",
    "class_weights",
    "encode_labels",
    "find_classes",
    "fit_stack",
    "measure",
    "on_features",
    "softmax",
    "warn_of",
]

H = TypeVar("H", bound="Head")

#: Dtypes features are taken in as they are; anything else becomes the first.
FEATURE_DTYPES = [np.float64, np.float32, np.float16]


def find_classes(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the classes of `y`, sorted, and the number of each sample's class; one class is an error."""
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInputError(
            "a head needs samples of at least 2 classes, but the data holds only one class: "
            f"{classes.tolist()[0]!r}; add samples of another class"
        )
    return classes, codes.astype(np.int64)


def class_weights(
    class_weight: Any, classes: NDArray[Any], codes: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Return what the loss of a row of each class is multiplied by; None where all count alike.

    Examples
    --------
    >>> class_weights("balanced", np.array(["a", "b"]), np.array([0, 0, 0, 1])).round(3).tolist()
    [0.667, 2.0]
    >>> class_weights({"b": 5.0}, np.array(["a", "b"]), np.array([0, 0, 0, 1])).tolist()
    [1.0, 5.0]
    """
    if class_weight is None:
        return None
    if class_weight == "balanced":
        return len(codes) / (len(classes) * np.bincount(codes, minlength=len(classes)))
    return np.array([float(class_weight.get(label, 1.0)) for label in classes.tolist()])


#: Says how good answers are, larger for better: of labels, answers, probabilities (n, n_classes), and the
#: label of each column of these.
Score = Callable[[NDArray[Any], NDArray[Any], NDArray[np.float64], NDArray[Any]], float]
#: The same of class numbers 0 ... n_classes - 1, which need no labels.
CodeScore = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], float]


def encode_labels(y: ArrayLike, classes: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Return the position of each label in `classes`; raises `InvalidInputError` for any other label."""
    labels = np.asarray(y)
    codes = np.searchsorted(classes, labels)
    wrong = classes[np.minimum(codes, len(classes) - 1)] != labels
    if wrong.any():
        strangers = np.unique(labels[wrong])
        shown = ", ".join(repr(one) for one in strangers[:5].tolist())
        rest = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise InvalidInputError(
            f"{what} holds classes the training labels do not: {shown}{rest}; leave those samples out"
        )
    return codes.astype(np.int64)


@dataclass(frozen=True)
class Evaluation:
    """Transformed rows a head is watched on while it trains, with their labels; `name` is "val" or "test"."""

    name: str
    Z: NDArray[np.float32]
    y: NDArray[Any]


@dataclass(frozen=True)
class TrainingRows:
    """What heads of one class are fitted to in one call.

    `Z` (n_samples, n_columns) are rows in `space`, an array or `space.Standardized`, `y` their labels;
    `subsets` says for each head which of them are its own.

    Examples
    --------
    >>> X, y = np.array([[0.0], [2.0], [4.0], [6.0]], dtype=np.float32), np.array(["a", "a", "b", "b"])
    >>> space = FeatureSpace(rotate=False)
    >>> rows = TrainingRows(space.fit_transform(X), y, [np.array([0, 2]), np.arange(4)], space)
    >>> [rows.y[own].tolist() for own in rows.subsets]  # what each of two heads is fitted to
    [['a', 'b'], ['a', 'a', 'b', 'b']]
    """

    Z: Any
    y: NDArray[Any]
    subsets: Sequence[NDArray[np.int64]]
    space: FeatureSpace
    others: Sequence[Evaluation] = ()
    #: Blocks of equally many rows, each a view of the same images; a subset has its rows of each in turn.
    n_views: int = 1
    #: Group of each row of the first block; each row is a group of its own where this is None.
    groups: NDArray[np.int64] | None = None
    #: By which heads are chosen that are told so, on validation rows.
    score: Score | None = None

    def of(self, members: Sequence[int]) -> TrainingRows:
        """Return what some of the heads are fitted to."""
        return replace(self, subsets=[self.subsets[i] for i in members])

    def score_of(self, classes: NDArray[Any]) -> CodeScore | None:
        """Return the score as one of numbers of these classes; a draw may lack some of those there are."""
        score = self.score
        if score is None:
            return None
        return lambda codes, answers, shares: score(classes[codes], classes[answers], shares, classes)


class Head(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Base of the heads: a scikit-learn classifier that lives in a `FeatureSpace`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    space_ : FeatureSpace
        What features go through first.
    n_features_in_ : int
        Length of a row of original features.
    failed_ : str or None
        Why the fit came to nothing; None when it did not fail.
    warned_ : str or None
        What the fit warned of.

    Examples
    --------
    A head of one's own says its parameters and how it is fitted, scores, and stores itself:

    >>> class NearestMean(Head):
    ...     _parameters = {"power": Parameter(over=0, help="power of the distance"), **Head._parameters}
    ...     def __init__(self, *, power=2.0, standardize=True, rotate=False):
    ...         self.power, self.standardize, self.rotate = power, standardize, rotate
    ...     @classmethod
    ...     def _fit_many(cls, heads, rows):
    ...         for head, own in zip(heads, rows.subsets, strict=True):
    ...             head.space_, head.n_features_in_ = rows.space, rows.space.n_features_
    ...             Z, y = rows.Z[own], rows.y[own]
    ...             head.classes_ = np.unique(y)
    ...             head.means_ = np.stack([Z[y == one].mean(axis=0) for one in head.classes_])
    ...     def _logits(self, Z):
    ...         return -(np.abs(Z[:, None] - self.means_) ** self.power).sum(axis=2).astype(float)
    ...     def _stored(self):
    ...         return {"means": self.means_}, self.space_
    ...     def _take_stored(self, tensors):
    ...         self.means_ = tensors["means"]
    >>> X, y = np.array([[0.0], [0.2], [3.0], [3.4]], dtype=np.float32), ["cat", "cat", "dog", "dog"]
    >>> NearestMean().fit(X, y).predict([[0.1], [9.0]]).tolist()
    ['cat', 'dog']
    >>> NearestMean(power=0).fit(X, y)
    Traceback (most recent call last):
        ...
    featbank.errors.InvalidInputError: NearestMean cannot be fitted with power=0 (allowed: a number over 0)
    """

    #: What each parameter is, and what values it may take: read by fits, studies and the command line.
    _class_weight = Parameter(
        values=(None, "balanced"),
        kinds=(dict,),
        help="balanced: rare classes count as much as frequent ones",
    )
    _parameters: ClassVar[Mapping[str, Parameter]] = {
        "standardize": Parameter(
            values=(True, False), help="shift and scale features by the statistics of the training rows"
        ),
        "rotate": Parameter(
            values=(True, False, "auto"),
            help="train in the span of the training rows; auto: where it is smaller",
        ),
        "random_state": Parameter(
            least=0, below=2**32, whole=True, values=(None,), kinds=(np.random.RandomState,)
        ),
    }

    standardize: bool | Literal["center"]
    rotate: bool | Literal["auto"]
    classes_: NDArray[Any]
    space_: FeatureSpace
    failed_: str | None = None
    warned_: str | None = None
    n_features_in_: int

    @property
    def _is_seeded(self) -> bool:
        """Whether another `random_state` may give another head from the same rows."""
        return "random_state" in self.get_params(deep=False)

    def _check(self) -> None:
        """Raise `InvalidInputError` naming every parameter whose value is not allowed."""
        given = vars(self)  # `get_params` reads the signature anew each time
        faults = faults_of(self._parameters, given)
        if faults:
            raise InvalidInputError(f"{type(self).__name__} cannot be fitted with {faults}")

    def _read_training(self, X: ArrayLike, y: ArrayLike) -> tuple[Any, NDArray[Any]]:
        # the space looks for what is not finite
        features, labels = validate_data(self, X, y, dtype=FEATURE_DTYPES, ensure_all_finite=False)
        found = np.asarray(labels)
        if found.dtype.kind not in "biuUS":  # whole numbers and words are classes
            check_classification_targets(found)
        return features, found

    def _read(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        features: NDArray[Any] = validate_data(
            self, X, dtype=FEATURE_DTYPES, ensure_all_finite=False, reset=False
        )
        check_finite(features)
        return features

    def _read_columns(self, Z: NDArray[Any]) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        check_finite(Z)
        return Z

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
        self._fit_many([self], TrainingRows(Z, labels, [np.arange(len(labels))], space))
        warn_of([self], stacklevel=2)
        return self

    @classmethod
    @abstractmethod
    def _fit_many(cls, heads: Sequence[Any], rows: TrainingRows) -> None:
        """Fit heads of this class; what each warns of is left in its `warned_`."""

    @abstractmethod
    def _logits(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        """Return one score per class from rows in the space, shape (n_samples, n_classes)."""

    def _logits_from_features(self, X: NDArray[Any]) -> NDArray[np.float64]:
        return self._logits(self.space_.transform(X))

    @abstractmethod
    def _stored(self) -> tuple[dict[str, NDArray[Any]], FeatureSpace]:
        """Return the arrays a file must hold, and the space they belong to, the lighter the better."""

    @abstractmethod
    def _take_stored(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Set fitted state from what `_stored` returned; the space is set already."""

    def _fitted_facts(self) -> dict[str, Any]:
        """Return what is known of the fit beside arrays, by attribute name."""
        return {"failed_": self.failed_}

    def _try(self) -> NDArray[np.float64]:
        """Return the scores of one row, as `decision_function` does; `ValueError` where arrays do not fit."""
        return self.decision_function(np.zeros((1, self.n_features_in_), np.float32))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of each row of original features `X` (n_samples, n_features)."""
        return self._label(self._logits_from_features(self._read(X)))

    def predict_columns(self, Z: NDArray[Any]) -> NDArray[Any]:
        """Return the likeliest class of rows that are in `space_` already, shape (n_samples, n_columns)."""
        return self._label(self._logits(self._read_columns(Z)))

    def _label(self, logits: NDArray[np.float64]) -> NDArray[Any]:
        labels: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return labels

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scores: (n_samples, n_classes), or for two classes (n_samples,), positive for the second."""
        logits = self._logits_from_features(self._read(X))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


def on_features(space: FeatureSpace) -> FeatureSpace:
    """Return the space of the standardised features themselves, without rotation and gain."""
    return FeatureSpace.from_arrays(space.mean_, space.scale_, standardize=space.standardize)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities, float64, each row summing to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def measure(
    logits: NDArray[np.float64], codes: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return mean cross-entropy, weighted by class, and accuracy of logits (n, k) against numbers (n,)."""
    by_class = np.ascontiguousarray(logits.T)  # maxima and sums of whole rows of memory
    by_class -= by_class.max(axis=0)
    losses = np.log(np.exp(by_class).sum(axis=0)) - by_class[codes, np.arange(len(codes))]
    each = None if weights is None else weights[codes]
    return float(np.average(losses, weights=each)), float((logits.argmax(axis=1) == codes).mean())


class ProbabilisticHead(Head):
    """A head whose scores are the logarithms of probabilities, up to a constant per row."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities of original features, float64 of shape (n_samples, n_classes)."""
        return softmax(self._logits_from_features(self._read(X)))

    def predict_proba_columns(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        """Return class probabilities of rows that are in `space_` already, shape (n_samples, n_classes)."""
        return softmax(self._logits(self._read_columns(Z)))


def warn_of(heads: Sequence[Head], stacklevel: int) -> None:
    """Warn of what fits left in `warned_`, once per cause, with the number of heads concerned."""
    told = [head.warned_ for head in heads if head.warned_]
    for cause in dict.fromkeys(told):
        message = cause if len(heads) == 1 else f"{told.count(cause)} of {len(heads)} heads: {cause}"
        warnings.warn(message, FitWarning, stacklevel=stacklevel + 1)


def fit_stack(
    estimators: Sequence[H],
    Z: NDArray[np.float32] | Standardized,
    y: ArrayLike,
    subsets: Sequence[ArrayLike],
    *,
    space: FeatureSpace,
    Z_val: NDArray[np.float32] | None = None,
    y_val: ArrayLike | None = None,
    Z_test: NDArray[np.float32] | None = None,
    y_test: ArrayLike | None = None,
    n_views: int = 1,
    groups: ArrayLike | None = None,
    score: Score | None = None,
) -> list[H]:
    """Fit each estimator to its subset of the rows of `Z`, together where that is faster.

    Heads trained by Adam or SGD that share their settings (but learning rate, penalty and seed), the size of
    their subset and their classes go through one batched program, which is cut so that it is not slower than
    one head after another. Exact heads, support vector machines and ridge share passes over the rows, or the
    products of these. Others are fitted one by one. A head comes out the same in any company, to
    floating-point tolerance: its mini-batches are drawn by its own `random_state`.

    Standardisation is common to the whole sweep: `space` holds the statistics of the rows it was fitted on
    (the whole training split), not those of each subset. `standardize` and `rotate` of the estimators are not
    used.

    Parameters
    ----------
    estimators : sequence of heads
        Fitted in place.
    Z : ndarray of float32 or Standardized, shape (n_samples, n_columns)
        Training rows as ``space.transform`` (or ``fit_transform``) gave them; or, where they are many
        numbers, ``space.standardized``, of which no copy in float32 is made as a whole: they must be finite.
    y : array-like of shape (n_samples,)
        Their labels.
    subsets : sequence of array-like of int
        One per estimator: the rows of `Z` it is fitted to, without repeats.
    space : FeatureSpace
        Fitted; becomes each head's `space_`, so that ``predict`` takes original features.
    Z_val, y_val, Z_test, y_test : ndarray and array-like, optional
        Transformed rows the heads are watched on, as in `SoftmaxClassifier.fit`. For a head whose subset
        lacks some classes, rows of those classes are left out.
    n_views : int, default=1
        How many blocks of rows `Z` has, each a view of the same images in the same order; `y` and `subsets`
        count in the first. Heads trained by Adam or SGD draw a view for each image and epoch, others are
        fitted to all of them.
    groups : array-like of int, shape (n_samples,), optional
        Group of each row, such as its patient: what is chosen by cross-validation tears none apart.
    score : callable, optional
        ``score(y_true, y_pred, probabilities, labels)`` of validation rows, larger for better; `labels` are
        those of the columns of the probabilities. Heads with ``monitor="metric"`` stop by it, and
        ``C="auto"`` is chosen by it.

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
    if Z.shape != (len(labels) * n_views, space.n_columns_):
        views = f" ({n_views} views)" if n_views > 1 else ""
        raise InvalidInputError(
            f"Z has shape {Z.shape!r}, but y has {len(labels)} labels{views} and the space "
            f"{space.n_columns_} columns; give rows as space.transform returns them"
        )
    if len(subsets) != len(estimators):
        raise InvalidInputError(
            f"{len(estimators)} estimators got {len(subsets)} subsets; give one subset each"
        )
    rows = [_checked_rows(subset, len(labels), number) for number, subset in enumerate(subsets)]
    for columns in (Z, Z_val, Z_test):
        if isinstance(columns, np.ndarray) and len(columns):
            check_finite(columns)
    watched: list[Evaluation] = []
    if Z_val is not None and y_val is not None:
        watched.append(Evaluation("val", Z_val, np.asarray(y_val)))
    if Z_test is not None and y_test is not None:
        watched.append(Evaluation("test", Z_test, np.asarray(y_test)))
    rows = [in_all_views(one, len(labels), n_views) for one in rows]
    whose = None if groups is None else np.asarray(groups, dtype=np.int64)
    if whose is not None and whose.shape != labels.shape:
        raise InvalidInputError(
            f"groups has shape {whose.shape!r}, but y {labels.shape!r}; give one for each row"
        )
    training = TrainingRows(Z, np.tile(labels, n_views), rows, space, watched, n_views, whose, score)
    for kind, members in _by_kind(estimators).items():
        chosen = [estimators[i] for i in members]
        kind._fit_many(chosen, training.of(members))
        warn_of(chosen, stacklevel=2)
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
