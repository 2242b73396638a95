"""``class_weight="balanced"``: the optimum is scikit-learn's, and gradient heads go there."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import RidgeClassifier as Ridge
from sklearn.svm import LinearSVC

from featbank.errors import InvalidInputError
from featbank.heads import fit_stack, make
from featbank.heads.space import FeatureSpace


def rows_of(counts, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(y), n_features)) + 0.7 * rng.normal(size=(len(counts), n_features))[y], y


CASES = {"many rows": ([90, 20, 6], 6), "many features": ([30, 9, 5], 80), "two classes": ([60, 9], 6)}


@pytest.mark.parametrize(("counts", "n_features"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("weight", ["balanced", None])
def test_optima_are_those_of_scikit_learn(counts, n_features, weight):
    X, y = rows_of(counts, n_features)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    new = rows_of(counts, n_features, seed=1)[0]
    new = (new - X.mean(axis=0)) / X.std(axis=0)
    options = {"class_weight": weight, "standardize": False}
    theirs = LogisticRegression(C=0.3, class_weight=weight, tol=1e-10, max_iter=20_000).fit(Z, y)
    mine = make("logreg", C=0.3, **options).fit(Z, y)
    np.testing.assert_allclose(mine.predict_proba(new), theirs.predict_proba(new), atol=2e-5)
    # liblinear penalises the intercept, as the head does
    theirs = LinearSVC(C=0.05, class_weight=weight, dual=len(Z) < n_features, tol=1e-9, max_iter=200_000)
    mine = make("svm", C=0.05, **options).fit(Z, y)
    np.testing.assert_allclose(
        mine.decision_function(new), theirs.fit(Z, y).decision_function(new), atol=3e-4
    )
    theirs = Ridge(alpha=2.0, class_weight=weight, solver="cholesky").fit(Z, y)
    mine = make("ridge", alpha=2.0, **options).fit(Z, y)
    np.testing.assert_allclose(mine.decision_function(new), theirs.decision_function(new), atol=2e-5)


@pytest.mark.parametrize(("name", "lr"), [("softmax", 0.02), ("mlp", 0.003)])
def test_gradient_heads_go_to_the_weighted_optimum(name, lr):
    """There the mean probability of a class is its part of the weights: half with them, a fifth without."""
    X, y = rows_of([160, 40])
    options = {"lr": lr, "max_epochs": 60, "patience": 60, "random_state": 0, "restore": "last"}
    for class_weight, weights in (("balanced", np.repeat([0.625, 2.5], [160, 40])), (None, np.ones(200))):
        head = make(name, class_weight=class_weight, **options).fit(X, y)
        mean = np.average(head.predict_proba(X)[:, 1], weights=weights)
        assert mean == pytest.approx(0.5 if class_weight else 0.2, abs=0.04)
        likelihoods = np.log(head.predict_proba(X)[np.arange(200), y])
        loss = -np.average(likelihoods, weights=weights)
        assert head.history_["train_loss"][-1] == pytest.approx(loss, abs=0.06)


def test_heads_of_one_stack_have_weights_of_their_own_rows():
    """One draw has few of class 0, the other few of class 1; together they come out as each alone."""
    X, y = rows_of([60, 60])
    space = FeatureSpace()
    Z = space.fit_transform(X)
    subsets = [np.r_[0:10, 60:100], np.r_[0:40, 60:70]]
    for name in ("softmax", "logreg", "ridge", "svm"):
        together = [make(name, class_weight="balanced", random_state=0) for _ in subsets]
        fit_stack(together, Z, y, subsets, space=space)
        for head, own in zip(together, subsets, strict=True):
            (alone,) = fit_stack(
                [make(name, class_weight="balanced", random_state=0)], Z, y, [own], space=space
            )
            np.testing.assert_allclose(
                head.decision_function(X), alone.decision_function(X), atol=1e-4, err_msg=name
            )


def test_the_penalty_is_chosen_by_the_weighted_loss():
    X, y = rows_of([200, 8], n_features=4, seed=3)
    chosen = [make("logreg", C="auto", class_weight=one).fit(X, y).C_ for one in ("balanced", None)]
    assert chosen[0] != chosen[1]


def test_another_word_is_refused():
    with pytest.raises(InvalidInputError, match=r"class_weight='even' \(allowed: None or 'balanced'\)"):
        make("svm", class_weight="even")
