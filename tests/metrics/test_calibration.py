"""Calibration: known answers, and that a temperature mends what it is meant to mend."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.metrics import expected_calibration_error, fit_temperature, log_loss


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.fixture
def honest():
    """Logits whose softmax is the true distribution of the labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(20_000, 5))
    cumulative = softmax(logits).cumsum(axis=1)
    return (rng.random((20_000, 1)) > cumulative[:, :-1]).sum(axis=1), logits


def test_log_loss_equals_scikit_learn(honest):
    from sklearn.metrics import log_loss as reference

    y, logits = honest
    assert log_loss(y, softmax(logits)) == pytest.approx(reference(y, softmax(logits)))
    assert np.isfinite(log_loss([1], [[1.0, 0.0]]))


def test_error_is_small_for_an_honest_head_and_large_for_a_boaster(honest):
    y, logits = honest
    assert expected_calibration_error(y, softmax(logits)) < 0.02
    assert expected_calibration_error(y, softmax(4 * logits)) > 0.1


def test_error_by_hand():
    # Bin of 0.8: two answers, one right (gap 0.6); bin of 1.0: two answers, both right (gap 0).
    probabilities = [[0.8, 0.2], [0.8, 0.2], [1.0, 0.0], [0.0, 1.0]]
    assert expected_calibration_error([0, 1, 0, 1], probabilities) == pytest.approx(abs(1 - 1.6) / 4)
    assert expected_calibration_error([5, 7, 5, 7], probabilities, labels=[5, 7]) == pytest.approx(0.15)


def test_bins_are_open_to_the_left():
    """0.74 and 0.80 share the bin (11/15, 12/15]; one of the two answers is right."""
    error = expected_calibration_error([0, 1], [[0.74, 0.26], [0.80, 0.20]])
    assert error == pytest.approx(abs(1 - 1.54) / 2)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_temperature_undoes_a_scaling(honest, factor):
    y, logits = honest
    temperature = fit_temperature(y, factor * logits)
    assert temperature == pytest.approx(factor, rel=0.05)
    assert log_loss(y, softmax(factor * logits / temperature)) <= log_loss(y, softmax(factor * logits)) + 1e-9
    assert expected_calibration_error(y, softmax(factor * logits / temperature)) < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: log_loss([2], [[0.5, 0.5]]),
            "y_true holds a class outside 0..1, the columns of probabilities",
        ),
        (
            lambda: fit_temperature([0], [[0.0, -np.inf]]),
            "logits are not finite; clip probabilities away from 0 before taking logarithms",
        ),
        (lambda: expected_calibration_error([0], [[1.0]], n_bins=0), "n_bins=0 must be at least 1"),
    ],
)
def test_wrong_input_says_what_is_wrong(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value) == message
