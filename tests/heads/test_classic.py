from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import LinearSVMClassifier, NearestMeanClassifier, NeighborsClassifier, RidgeClassifier


@pytest.fixture(params=["few features", "many features"])
def data(request, blobs, sparse):
    if request.param == "few features":
        return blobs
    X, y = sparse(6, 10, 400, seed=0, noise=4.0)
    return X.astype(np.float64), y


def scaled(head, X: np.ndarray) -> np.ndarray:
    return (X - head.space_.mean_) / head.space_.scale_


def test_nearest_mean(data) -> None:
    X, y = data
    head = NearestMeanClassifier().fit(X[::2], y[::2])
    expected = NearestCentroid().fit(scaled(head, X[::2]), y[::2])
    np.testing.assert_array_equal(head.predict(X), expected.predict(scaled(head, X)))


def test_neighbours_by_cosine(data) -> None:
    X, y = data
    head = NeighborsClassifier(n_neighbors=3).fit(X[::2], y[::2])
    expected = KNeighborsClassifier(3, metric="cosine").fit(scaled(head, X[::2]), y[::2])
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(scaled(head, X)), atol=1e-12)


def test_a_tied_vote_goes_to_the_nearest() -> None:
    X = np.array([[1.0, 0.1], [1.0, 0.9], [-1.0, 0.0], [-1.0, 1.0]])
    head = NeighborsClassifier(n_neighbors=2, standardize=False, rotate=False).fit(X, [1, 0, 2, 2])
    assert head.predict([[1.0, 0.2], [1.0, 0.8]]).tolist() == [1, 0]


def test_fewer_samples_than_neighbours() -> None:
    head = NeighborsClassifier(n_neighbors=50).fit([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "b", "b"])
    np.testing.assert_allclose(head.predict_proba([[1.0, 0.0]]), [[1 / 3, 2 / 3]])


def test_ridge(data) -> None:
    X, y = data
    head = RidgeClassifier(alpha=3.0).fit(X[::2], y[::2])
    expected = SklearnRidge(alpha=3.0).fit(scaled(head, X[::2]), y[::2])
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(scaled(head, X)), atol=1e-4
    )


def test_svm(data) -> None:
    X, y = data
    head = LinearSVMClassifier(C=1e-3, random_state=0).fit(X[::2], y[::2])
    expected = LinearSVC(C=1e-3, random_state=0, max_iter=10_000).fit(scaled(head, X[::2]), y[::2])
    # liblinear stops early and penalises the intercept, so the agreement is not exact
    assert (head.predict(X) == expected.predict(scaled(head, X))).mean() > 0.97


@pytest.mark.parametrize("kind", [RidgeClassifier, LinearSVMClassifier, NearestMeanClassifier])
def test_two_classes_have_one_score(kind, blobs) -> None:
    X, y = blobs[0][:60], np.array(["no", "yes"])[blobs[1][:60]]
    head = kind().fit(X, y)
    score = head.decision_function(X)
    assert score.shape == (60,)
    np.testing.assert_array_equal(head.predict(X), np.where(score > 0, "yes", "no"))
    assert head.score(X, y) > 0.7
    assert not hasattr(head, "predict_proba")


def test_an_svm_that_gives_up_says_so(blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featbank.heads.classic.MAX_ITERATIONS", 2)
    message = r"^the linear SVM has not converged in 2 iterations \(C=5\.0\); use a smaller C$"
    with pytest.warns(FitWarning, match=message) as caught:
        LinearSVMClassifier(C=5.0, random_state=0).fit(*blobs)
    assert [one.filename for one in caught] == [__file__]


def test_bad_parameters(blobs) -> None:
    with pytest.raises(InvalidInputError, match=r"n_neighbors=0 \(allowed: a whole number from 1\)$"):
        NeighborsClassifier(n_neighbors=0).fit(*blobs)
    with pytest.raises(InvalidInputError, match=r"C=-1 \(allowed: a number over 0\)$"):
        LinearSVMClassifier(C=-1).fit(*blobs)
    with pytest.raises(InvalidInputError, match=r"alpha=-1 \(allowed: a number from 0\)$"):
        RidgeClassifier(alpha=-1).fit(*blobs)
