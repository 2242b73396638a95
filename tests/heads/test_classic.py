from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC

from featbank.errors import FitWarning, InvalidInputError
from featbank.heads import (
    FeatureSpace,
    LinearSVMClassifier,
    NearestMeanClassifier,
    NeighborsClassifier,
    RidgeClassifier,
    classic,
    fit_stack,
)


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


@pytest.mark.parametrize("n_alike", [2, 400])
@pytest.mark.parametrize("temperature", [None, 0.07])
def test_of_equal_samples_the_earliest_are_nearest(n_alike, temperature) -> None:
    # each sample stands so often, of whatever class: products in float32 alone would choose any of them
    random = np.random.default_rng(0)
    few = random.normal(size=(1600 // n_alike, 7)) * 10
    X, y = few[random.integers(0, len(few), 1600)], random.integers(0, 300, 1600)
    head = NeighborsClassifier(temperature=temperature, standardize=False, rotate=False).fit(X, y)
    rows = np.concatenate([few[:30], random.normal(size=(30, 7))]).astype(np.float32)
    lengths = np.linalg.norm(few, axis=1) * np.linalg.norm(rows, axis=1)[:, None]
    group = (X[:, None] == few).all(axis=2).argmax(axis=1)
    cosines = (rows @ few.T / lengths)[:, group]
    for row, (cosine, shares) in enumerate(zip(cosines, head.predict_proba(rows), strict=True)):
        nearest = np.argsort(-cosine, kind="stable")[:5]
        away = 0 if temperature is None else (cosine[nearest] - cosine[nearest[0]]) / temperature
        votes = np.bincount(y[nearest], np.exp(away) * np.ones(5), minlength=300)
        np.testing.assert_allclose(shares, (votes / votes.sum())[head.classes_], atol=1e-5, err_msg=f"{row}")


def test_answers_are_those_of_each_alone(data) -> None:
    X, y = data
    head = NeighborsClassifier(n_neighbors=2).fit(X[::2], y[::2])
    answers, shares = head.answer_columns(head.space_.transform(X))
    np.testing.assert_array_equal(answers, head.predict(X))
    np.testing.assert_array_equal(answers, head.classes_[head.decision_function(X).argmax(axis=1)])
    np.testing.assert_allclose(shares, head.predict_proba(X), atol=1e-6)


def test_of_many_classes_those_float32_cannot_tell_apart_are_told_apart() -> None:
    means = np.random.default_rng(0).normal(size=(300, 6))
    means[150:] = means[:150] + 1e-6  # the nearest of each is off by less than float32 knows of the scores
    X, y = np.repeat(means, 2, axis=0), np.repeat(np.arange(300), 2)
    head = NearestMeanClassifier(standardize=False, rotate=False).fit(X, y)
    rows = X.astype(np.float32).astype(np.float64)
    scores = rows @ head.means_.T - 0.5 * (head.means_**2).sum(axis=1)
    np.testing.assert_array_equal(head.predict(X), scores.argmax(axis=1))


def test_a_tied_vote_goes_to_the_nearest() -> None:
    X = np.array([[1.0, 0.1], [1.0, 0.9], [-1.0, 0.0], [-1.0, 1.0]])
    head = NeighborsClassifier(n_neighbors=2, standardize=False, rotate=False).fit(X, [1, 0, 2, 2])
    assert head.predict([[1.0, 0.2], [1.0, 0.8]]).tolist() == [1, 0]


def test_fewer_samples_than_neighbours() -> None:
    head = NeighborsClassifier(n_neighbors=50).fit([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]], ["a", "b", "b"])
    np.testing.assert_allclose(head.predict_proba([[1.0, 0.0]]), [[1 / 3, 2 / 3]])


def test_votes_of_a_small_temperature_are_numbers(data) -> None:
    X, y = data
    head = NeighborsClassifier(temperature=1e-5).fit(X[::2], y[::2])
    nearest = NeighborsClassifier(n_neighbors=1).fit(X[::2], y[::2])
    shares = head.predict_proba(X[1::2])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_array_equal(head.predict(X[1::2]), nearest.predict(X[1::2]))


def test_ridge(data) -> None:
    X, y = data
    head = RidgeClassifier(alpha=3.0).fit(X[::2], y[::2])
    expected = SklearnRidge(alpha=3.0).fit(scaled(head, X[::2]), y[::2])
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(scaled(head, X)), atol=1e-4
    )


@pytest.mark.parametrize("alphas", [[0.5, 30.0], list(np.geomspace(1e-3, 1e3, 20))])
def test_ridges_on_the_same_and_other_rows_are_those_alone(data, alphas) -> None:
    X, y = data
    space = FeatureSpace(rotate=False)
    Z = space.fit_transform(X)
    subsets = [np.arange(0, len(y), 2), np.arange(len(y)), np.arange(1, len(y), 3)]
    jobs = [(alpha, rows) for alpha in alphas for rows in subsets]
    heads = fit_stack(
        [RidgeClassifier(alpha=alpha) for alpha, _ in jobs], Z, y, [rows for _, rows in jobs], space=space
    )
    for head, (alpha, rows) in zip(heads, jobs, strict=True):
        expected = SklearnRidge(alpha=alpha).fit(scaled(head, X[rows]), y[rows])
        np.testing.assert_allclose(
            head.decision_function(X), expected.decision_function(scaled(head, X)), atol=2e-5
        )


@pytest.mark.parametrize(
    ("shape", "alpha", "weight", "by_float32"),
    [
        ((500, 160), 1.0, None, True),
        ((500, 160), 1.0, "balanced", True),
        ((160, 500), 1.0, None, True),
        ((160, 500), 1.0, "balanced", True),
        ((500, 160), 1e-7, None, False),  # less than what rounding leaves
    ],
)
def test_ridge_by_products_in_float32_is_corrected(monkeypatch, shape, alpha, weight, by_float32) -> None:
    random = np.random.default_rng(0)
    y = (np.arange(shape[0]) % 3 == 0).astype(np.int64)
    lengths = np.geomspace(30 if shape[0] > shape[1] else 1, 1e-3, shape[1])
    X = (random.normal(size=shape) * lengths + y[:, None] + 2).astype(np.float32)
    results = []
    corrected = classic._corrected
    monkeypatch.setattr(classic, "_corrected", lambda *args: results.append(corrected(*args)) or results[-1])
    head = RidgeClassifier(alpha=alpha, class_weight=weight, standardize=False, rotate=False).fit(X, y)
    expected = SklearnRidge(alpha=alpha, class_weight=weight, solver="svd").fit(X.astype(np.float64), y)
    assert [one is not None for one in results] == [by_float32]
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(X.astype(np.float64)), atol=1e-5
    )


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_ridge_of_many_classes(weight) -> None:
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(400) % 90 % 50)  # some classes are twice as large
    X = (random.normal(size=(50, 30))[y] + random.normal(size=(400, 30)) + 2).astype(np.float32)
    head = RidgeClassifier(class_weight=weight, standardize=False, rotate=False).fit(X, y)
    expected = SklearnRidge(class_weight=weight, solver="svd").fit(X.astype(np.float64), y)
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(X.astype(np.float64)), atol=1e-6
    )


def test_ridge_and_svm_of_an_image_twice_with_two_labels() -> None:
    random = np.random.default_rng(0)
    y = np.arange(40) % 4
    X = np.abs(random.normal(size=(40, 4096))) + 0.2 * random.normal(size=(4, 4096))[y]
    X[1] = X[0]
    X = X.astype(np.float32)
    head = RidgeClassifier(alpha=1e-6, rotate=False).fit(X, y)
    Z = scaled(head, X)
    expected = SklearnRidge(alpha=1e-6, solver="svd").fit(Z, y)
    np.testing.assert_allclose(head.decision_function(X), expected.decision_function(Z), atol=1e-5)
    head = LinearSVMClassifier(C=1e3, rotate=False).fit(X, y)
    # each of the two is as far from its side: the squared hinges of one column pull alike
    np.testing.assert_allclose(head.decision_function(X)[:2, :2], 0.0, atol=1e-3)


def test_ridge_of_columns_that_are_nearly_alike() -> None:
    random = np.random.default_rng(4)
    X = random.normal(size=(330, 300)).astype(np.float32)
    X[:, 1] = X[:, 0] + 1e-3 * X[:, 1]
    y = np.where(np.arange(330) % 10 < 7, 0, np.arange(330) % 3)
    head = RidgeClassifier(alpha=1e-6, class_weight="balanced", rotate=False).fit(X, y)
    expected = SklearnRidge(alpha=1e-6, class_weight="balanced", solver="svd").fit(scaled(head, X), y)
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(scaled(head, X)), atol=1e-3
    )


@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_svm_is_that_of_liblinear_at_its_optimum(data, C: float) -> None:
    X, y = data
    head = LinearSVMClassifier(C=C).fit(X[::2], y[::2])
    expected = LinearSVC(C=C, tol=1e-10, dual=False, max_iter=100_000).fit(scaled(head, X[::2]), y[::2])
    np.testing.assert_allclose(
        head.decision_function(X), expected.decision_function(scaled(head, X)), atol=1e-4
    )


def test_neighbours_in_blocks_vote_as_they_do_at_once(data, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data
    expected = NeighborsClassifier(n_neighbors=3).fit(X[::2], y[::2])
    wanted, shares = expected.decision_function(X), expected.predict_proba(X)
    monkeypatch.setattr("featbank.heads.classic.BLOCK_VALUES", 3 * X.shape[1])
    head = NeighborsClassifier(n_neighbors=3).fit(X[::2], y[::2])
    np.testing.assert_allclose(head.decision_function(X), wanted, atol=1e-6)
    np.testing.assert_array_equal(head.predict_proba(X), shares)


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
    monkeypatch.setattr("featbank.heads._exact.MAX_NEWTON_STEPS", 2)
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


def test_ridge_of_many_classes_makes_no_matrix_of_rows_and_classes() -> None:
    random = np.random.default_rng(0)
    y = np.arange(6000) % 2000
    X = (random.normal(size=(2000, 64))[y] + 0.1 * random.normal(size=(6000, 64))).astype(np.float32)
    tracemalloc.start()
    try:
        head = RidgeClassifier().fit(X, y)
        answers = head.predict(X[:500])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(y) * 2000 / 2
    expected = SklearnRidge().fit(scaled(head, X), y)
    assert (answers == expected.predict(scaled(head, X[:500]))).all()
    np.testing.assert_allclose(
        head.decision_function(X[:50]), expected.decision_function(scaled(head, X[:50])), atol=1e-6
    )


def test_rows_of_a_subset_stand_in_its_order() -> None:
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (random.normal(size=(3, 100))[y] + random.normal(size=(60, 100))).astype(np.float32)
    space = FeatureSpace(rotate=False)
    Z = space.fit_transform(X)
    for kind in (RidgeClassifier, LinearSVMClassifier, NearestMeanClassifier):
        for turned in (np.arange(60), random.permutation(60)):
            (head,) = fit_stack([kind()], Z, y, [turned], space=space)
            assert (head.predict(X) == y).mean() > 0.95
