from __future__ import annotations

import pickle

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.heads import MLPClassifier

from .test_softmax import XOR, XOR_LABELS


def test_xor_is_learnt() -> None:
    head = MLPClassifier(hidden_units=32, lr=0.01, random_state=0).fit(XOR, XOR_LABELS)
    assert head.score(XOR, XOR_LABELS) == 1.0


def test_defaults_learn_many_features(sparse) -> None:
    X, y = sparse(8, 8, 25_088, seed=0, noise=3.0)
    X_test, y_test = sparse(8, 4, 25_088, seed=1, noise=3.0)
    head = MLPClassifier(max_epochs=20, random_state=0).fit(X, y)
    assert head.weights_[0].shape == (63, 1000)
    assert head.score(X, y) > 0.95
    assert head.score(X_test, y_test) > 0.5


def test_layers_are_given_on_the_original_features(blobs, sparse) -> None:
    for X, y in (blobs, sparse(4, 6, 500, seed=0)):
        head = MLPClassifier(hidden_units=20, max_epochs=5, random_state=0).fit(X, y)
        (first, second), (bias, last) = head.coefs_, head.intercepts_
        assert first.shape == (X.shape[1], 20)
        scores = np.maximum(X.astype(np.float64) @ first + bias, 0.0) @ second + last
        np.testing.assert_allclose(scores, head.decision_function(X), atol=1e-4)


def test_a_random_state_decides_the_hidden_layer(blobs) -> None:
    X, y = blobs
    heads = [MLPClassifier(hidden_units=8, max_epochs=2, random_state=seed).fit(X, y) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(heads[0].weights_[0], heads[1].weights_[0])
    assert np.abs(heads[0].weights_[0] - heads[2].weights_[0]).max() > 0.1


def test_dropout_falls_on_the_hidden_units(blobs) -> None:
    X, y = blobs
    plain, dropped = (
        MLPClassifier(hidden_units=50, dropout=p, max_epochs=20, random_state=0).fit(X, y) for p in (0.0, 0.5)
    )
    assert dropped.history_["train_loss"][-1] > plain.history_["train_loss"][-1]
    assert dropped.score(X, y) > 0.8  # nothing is dropped when it predicts


def test_a_pickled_head_predicts_the_same(sparse) -> None:
    X, y = sparse(4, 6, 2000, seed=0)
    head = MLPClassifier(hidden_units=10, max_epochs=3, random_state=0).fit(X, y)
    np.testing.assert_allclose(
        pickle.loads(pickle.dumps(head)).predict_proba(X), head.predict_proba(X), atol=1e-5
    )


def test_bad_parameters(blobs) -> None:
    with pytest.raises(InvalidInputError, match=r"hidden_units=0 \(allowed: a whole number from 1\)$"):
        MLPClassifier(hidden_units=0).fit(*blobs)
    with pytest.raises(InvalidInputError, match=r"solver='lbfgs' \(allowed: 'adam' or 'sgd'\)$"):
        MLPClassifier(solver="lbfgs").fit(*blobs)  # type: ignore[arg-type]
