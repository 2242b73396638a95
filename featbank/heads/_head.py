"""What all heads share: labels, the feature space, prediction from original features or from columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank._lean_imports import import_sklearn
from featbank.errors import InvalidInputError
from featbank.heads import _rows
from featbank.heads._parameters import FLAG, Allowed, faults_of
from featbank.heads.space import FeatureSpace

import_sklearn()
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

__all__ = [
    "Evaluation",
    "Head",
    "ProbabilisticHead",
    "check_random_state",
    "encode_labels",
    "find_classes",
    "measure",
    "on_features",
    "softmax",
]

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
    """

    #: What values each parameter may take.
    _parameters: ClassVar[Mapping[str, Allowed]] = {
        "standardize": FLAG,
        "rotate": Allowed(values=(True, False, "auto")),
        "random_state": Allowed(
            least=0, below=2**32, whole=True, values=(None,), kinds=(np.random.RandomState,)
        ),
    }

    standardize: bool
    rotate: bool | Literal["auto"]
    classes_: NDArray[Any]
    space_: FeatureSpace
    failed_: str | None
    n_features_in_: int

    def _check(self) -> None:
        """Raise `InvalidInputError` naming every parameter whose value is not allowed."""
        faults = faults_of(self._parameters, self.get_params(deep=False))
        if faults:
            raise InvalidInputError(f"{type(self).__name__} cannot be fitted with {faults}")

    def _read_training(self, X: ArrayLike, y: ArrayLike) -> tuple[Any, NDArray[Any]]:
        features, labels = validate_data(self, X, y, dtype=FEATURE_DTYPES, ensure_all_finite=False)
        _rows.check_finite(features)
        check_classification_targets(labels)
        return features, np.asarray(labels)

    def _read(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        features: NDArray[Any] = validate_data(
            self, X, dtype=FEATURE_DTYPES, ensure_all_finite=False, reset=False
        )
        _rows.check_finite(features)
        return features

    def _read_columns(self, Z: NDArray[Any]) -> NDArray[Any]:
        check_is_fitted(self, "classes_")
        _rows.check_finite(Z)
        return Z

    @classmethod
    @abstractmethod
    def _fit_many(
        cls,
        heads: Sequence[Any],
        Z: NDArray[np.float32],
        y: NDArray[Any],
        subsets: Sequence[NDArray[np.int64]],
        space: FeatureSpace,
        others: Sequence[Evaluation],
    ) -> None:
        """Fit heads of this class to rows of `Z` (n_samples, n_columns), which are in `space` already."""

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


def measure(logits: NDArray[np.float64], codes: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of logits (n, k) against class numbers (n,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(codes)), codes]
    return float(losses.mean()), float((logits.argmax(axis=1) == codes).mean())


class ProbabilisticHead(Head):
    """A head whose scores are the logarithms of probabilities, up to a constant per row."""

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities of original features, float64 of shape (n_samples, n_classes)."""
        return softmax(self._logits_from_features(self._read(X)))

    def predict_proba_columns(self, Z: NDArray[Any]) -> NDArray[np.float64]:
        """Return class probabilities of rows that are in `space_` already, shape (n_samples, n_classes)."""
        return softmax(self._logits(self._read_columns(Z)))
