"""scikit-learn's own checks of an estimator, on every head; no failure is expected of any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from featbank.heads import (
    LinearSVMClassifier,
    MLPClassifier,
    NearestMeanClassifier,
    NeighborsClassifier,
    RidgeClassifier,
    SoftmaxClassifier,
)

HEADS = [
    SoftmaxClassifier(random_state=0),
    SoftmaxClassifier(solver="lbfgs"),
    MLPClassifier(hidden_units=16, random_state=0),
    NearestMeanClassifier(),
    NeighborsClassifier(),
    LinearSVMClassifier(random_state=0),
    RidgeClassifier(),
]


@parametrize_with_checks(HEADS)
def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
