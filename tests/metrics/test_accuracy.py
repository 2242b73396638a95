"""Accuracies, against counting by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.metrics import (
    catalogue,
    cohen_kappa,
    confusion_matrix,
    log_loss,
    most_confused,
    per_class_accuracy,
    roc_auc,
    top_k_accuracy,
)


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, 300), rng.normal(size=(300, 7))


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_top_k_equals_scikit_learn(scored, k):
    from sklearn.metrics import top_k_accuracy_score

    y, scores = scored
    expected = top_k_accuracy_score(y, scores, k=k, labels=np.arange(7)) if k < 7 else 1.0
    assert top_k_accuracy(y, scores, k=k) == pytest.approx(expected)


def test_columns_may_stand_for_any_codes_in_any_order(scored):
    y, scores = scored
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    assert top_k_accuracy(y, scores[:, order], k=2, labels=order) == top_k_accuracy(y, scores, k=2)


def test_a_class_the_head_never_saw_is_a_miss():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    assert top_k_accuracy([0, 1, 4], scores, k=5, labels=[0, 4]) == pytest.approx(2 / 3)


def test_equal_scores_are_no_hits():
    """A head that has collapsed to one constant must not look perfect."""
    y = np.arange(10)
    assert top_k_accuracy(y, np.full((10, 10), 0.1)) == 0.1
    assert top_k_accuracy(y, np.full((10, 10), 0.1), k=5) == 0.5


def test_confusion_counts_true_by_predicted(scored):
    from sklearn.metrics import confusion_matrix as reference

    y, scores = scored
    got = confusion_matrix(y, scores.argmax(axis=1), 7)
    np.testing.assert_array_equal(got, reference(y, scores.argmax(axis=1)))
    assert np.trace(got) / 300 == pytest.approx(top_k_accuracy(y, scores))
    np.testing.assert_allclose(per_class_accuracy(got), np.diag(got) / np.bincount(y))


def test_a_class_without_rows_has_no_accuracy():
    assert np.isnan(per_class_accuracy(confusion_matrix([0, 2], [0, 2], 3))).tolist() == [False, True, False]


def test_most_confused_names_pairs_worst_first():
    matrix = [[5, 2, 0], [3, 9, 3], [0, 0, 1]]
    assert most_confused(matrix) == [(1, 0, 3), (1, 2, 3), (0, 1, 2)]
    assert most_confused(matrix, limit=1) == [(1, 0, 3)]
    assert most_confused(np.eye(4, dtype=int)) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: top_k_accuracy([0, 1], [[1.0, 0.0]]),
            "scores must have shape (n_samples, n_classes) and y_true (n_samples,), got (1, 2) and (2,)",
        ),
        (lambda: top_k_accuracy([], np.zeros((0, 3))), "scores of shape (0, 3) holds nothing to score"),
        (lambda: top_k_accuracy([0], [[1.0, 0.0]], k=0), "k=0 must be at least 1"),
        (
            lambda: top_k_accuracy([0], [[np.nan, 0.0]]),
            "scores holds NaN; the head that gave it has not learned",
        ),
        (
            lambda: top_k_accuracy([0], [[1.0, 0.0]], labels=[0, 1, 2]),
            "labels must have one entry for each of 2 columns, got (3,)",
        ),
        (lambda: confusion_matrix([0, 3], [0, 1], 3), "y_true holds a class outside 0..2"),
        (lambda: confusion_matrix([0, 1], [0, -1], 3), "y_pred holds a class outside 0..2"),
        (
            lambda: confusion_matrix([0], [0, 1], 3),
            "y_true and y_pred must be equally long, got (1,) and (2,)",
        ),
    ],
)
def test_wrong_input_says_what_is_wrong(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("n_classes", [2, 5])
def test_scores_by_name_equal_scikit_learn(n_classes):
    """Of uneven classes, with ties, and with columns in another order than the codes."""
    from sklearn import metrics

    rng = np.random.default_rng(n_classes)
    codes = np.array([3, 7, 8, 11, 20])[:n_classes]
    uneven = np.arange(1, n_classes + 1) / np.arange(n_classes + 1).sum()
    y = np.concatenate([codes, rng.choice(codes, 200, p=uneven)])
    raised = rng.integers(1, 6, (len(y), n_classes)) + 2.0 * (codes == y[:, None])
    p = raised / raised.sum(axis=1, keepdims=True)
    y_pred = codes[p.argmax(axis=1)]
    auc = p[:, 1] if n_classes == 2 else p
    expected = {
        "balanced_accuracy": metrics.balanced_accuracy_score(y, y_pred),
        "macro_f1": metrics.f1_score(y, y_pred, average="macro"),
        "cohen_kappa": metrics.cohen_kappa_score(y, y_pred),
        "roc_auc": metrics.roc_auc_score(y, auc, multi_class="ovr"),
        "log_loss": metrics.log_loss(y, p, labels=codes),
    }
    assert set(expected) <= set(catalogue.names())
    forth = np.arange(n_classes)
    for name, value in expected.items():
        assert catalogue.evaluate(name, y, y_pred, p, labels=codes) == pytest.approx(value, abs=1e-12), name
        back = catalogue.evaluate(name, y, y_pred, p[:, forth[::-1]], labels=codes[::-1])
        assert back == pytest.approx(value, abs=1e-12), name  # of two classes both have one area


def test_scores_that_are_not_defined_are_not_known():
    p = np.full((3, 2), 0.5)
    assert catalogue.evaluate("roc_auc", [1, 1, 1], [1, 1, 1], p) is None
    assert catalogue.evaluate("cohen_kappa", [1, 1, 1], [1, 1, 1]) is None
    assert catalogue.evaluate("log_loss", [1, 1, 1], [1, 1, 1]) is None  # without probabilities
    assert roc_auc([0, 1, 1], [[0.2, 0.5, 0.3]] * 3) == 0.5  # nobody is of the third class
    assert log_loss([9], [[0.5, 0.5]], labels=[0, 1]) == pytest.approx(-np.log(np.finfo(float).eps))
    assert cohen_kappa([0, 0, 1, 1], [1, 1, 0, 0]) == -1
