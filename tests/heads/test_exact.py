from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featbank.heads import FeatureSpace, SoftmaxClassifier, _exact, fit_stack


def reference(X: np.ndarray, y: np.ndarray, C: float) -> LogisticRegression:
    # newton-cg: scikit-learn's lbfgs stops up to 1e-5 short of the optimum at any tolerance
    return LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cg").fit(X, y)


def standardized(space: FeatureSpace, X: np.ndarray) -> np.ndarray:
    return (X.astype(np.float64) - space.mean_) / space.scale_


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_agrees_with_scikit_learn_on_few_features(blobs, C: float) -> None:
    X, y = blobs
    head = SoftmaxClassifier(solver="lbfgs", C=C).fit(X, y)
    expected = reference(standardized(head.space_, X), y, C)
    assert head.converged_
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(head.space_, X)), atol=1e-5
    )


@pytest.mark.parametrize("C", [1e-4, 1.0])
def test_agrees_with_scikit_learn_on_more_features_than_samples(sparse, C: float) -> None:
    X, y = sparse(5, 6, 3000, seed=0)
    other, _ = sparse(5, 6, 3000, seed=1)
    head = SoftmaxClassifier(solver="lbfgs", C=C).fit(X, y)
    assert head.space_.rotated_
    expected = reference(standardized(head.space_, X), y, C)
    for rows in (X, other):
        np.testing.assert_allclose(
            head.predict_proba(rows), expected.predict_proba(standardized(head.space_, rows)), atol=1e-5
        )


def test_two_classes_are_penalised_as_scikit_learn_does(blobs) -> None:
    X, y = blobs[0][:60], blobs[1][:60]
    head = SoftmaxClassifier(solver="lbfgs", C=0.01).fit(X, y)
    expected = reference(standardized(head.space_, X), y, 0.01)
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(head.space_, X)), atol=1e-5
    )
    assert head.coef_.shape == (1, 40)
    np.testing.assert_allclose(X @ head.coef_[0] + head.intercept_[0], head.decision_function(X), atol=1e-6)


def test_a_subset_of_a_common_space_is_solved_in_its_own_span(sparse) -> None:
    X, y = sparse(5, 8, 3000, seed=0)
    space = FeatureSpace()
    Z = space.fit_transform(X)
    rows = np.flatnonzero(np.arange(40) % 8 < 3)
    (head,) = fit_stack([SoftmaxClassifier(solver="lbfgs")], Z, y, [rows], space=space)
    expected = reference(standardized(space, X[rows]), y[rows], 1.0)
    np.testing.assert_allclose(
        head.predict_proba(X), expected.predict_proba(standardized(space, X)), atol=1e-5
    )


def test_the_bound_on_the_error_holds(blobs) -> None:
    Z, y = blobs[0].astype(np.float64) / 10, blobs[1]
    optimum = _exact.solve(Z, y, 6, 1.0)
    assert optimum.logit_error <= _exact.LOGIT_TOLERANCE
    exact = reference(Z, y, 1.0)
    logits = Z @ optimum.weights + optimum.intercept
    difference = logits - exact.decision_function(Z)
    difference -= difference.mean(axis=1, keepdims=True)
    assert np.abs(difference).max() < 1e-5


def test_several_penalties_come_back_in_the_order_given(blobs) -> None:
    Z, y = blobs[0].astype(np.float64) / 10, blobs[1]
    penalties = [1.0, 0.01, 100.0]
    together = _exact.solve_path(Z, y, 6, penalties)
    for C, one in zip(penalties, together, strict=True):
        np.testing.assert_allclose(one.weights, _exact.solve(Z, y, 6, C).weights, atol=1e-5)
    sizes = [float((one.weights**2).sum()) for one in together]
    assert sizes[1] < sizes[0] < sizes[2]
