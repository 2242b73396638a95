"""Intervals cover what they promise to cover."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.metrics import bootstrap_interval, mean_interval, paired_difference


def test_t_interval_equals_scipy():
    from scipy import stats

    values = [0.61, 0.58, 0.66, 0.60, 0.63]
    mean, low, high = mean_interval(values, confidence=0.9)
    expected = stats.t.interval(0.9, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected))


@pytest.mark.parametrize("values", [[0.5], [0.4, 0.6], [0.5, 0.5]])
def test_one_value_or_two_have_a_mean_but_no_interval(values):
    mean, low, high = mean_interval(values)
    assert mean == 0.5
    assert np.isnan([low, high]).all()
    assert np.isfinite(mean_interval([*values, 0.5, 0.7])).all()


def test_five_repeats_cover_the_truth_as_often_as_said():
    draws = np.random.default_rng(0).normal(0.7, 0.05, size=(2000, 5))
    covered = [low <= 0.7 <= high for _, low, high in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_draws_of_one_pool_say_less_than_draws_of_several():
    """The larger the share, the wider the interval; a whole pool says nothing of other pools."""
    values = [0.61, 0.58, 0.66, 0.60, 0.63]
    widths = [np.ptp(mean_interval(values, share=share)[1:]) for share in (0, 0.25, 0.5, 27 / 28)]
    assert widths == sorted(widths)
    assert widths[2] / widths[0] == pytest.approx(np.sqrt(1 + 5 * 0.375 / 0.625))
    assert np.isnan(mean_interval(values, share=1)[1:]).all()
    assert paired_difference(values, [0.0] * 5, share=0.5) == mean_interval(values, share=0.5)


def test_pairing_takes_the_luck_of_the_draw_out():
    luck = np.random.default_rng(1).normal(0, 0.1, 8)
    a, b = 0.7 + luck, 0.68 + luck + np.linspace(-0.005, 0.005, 8)
    paired = paired_difference(a, b)
    assert paired.mean == pytest.approx(0.02)
    assert paired.low > 0
    assert mean_interval(a).low < mean_interval(b).mean  # unpaired, the two could not be told apart


def test_bootstrap_resamples_rows_not_repeats():
    rng = np.random.default_rng(2)
    rows = (rng.random(400) < 0.8).astype(float)
    mean, low, high = bootstrap_interval(rows)
    half = 1.96 * np.sqrt(mean * (1 - mean) / 400)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.12)
    # Repeats that agree on every row say nothing new about the rows.
    assert bootstrap_interval(np.tile(rows, (10, 1))) == bootstrap_interval(rows)
    assert bootstrap_interval(rows, random_state=1) != bootstrap_interval(rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "values must be a non-empty row of numbers, got shape (0,)"),
        (
            lambda: mean_interval([0.5, np.nan]),
            "values must be finite; leave failed fits out, they have no accuracy",
        ),
        (lambda: mean_interval([0.5], confidence=95), "confidence=95 must lie between 0 and 1, e.g. 0.95"),
        (
            lambda: mean_interval([0.5], share=1.5),
            "share=1.5 must lie between 0 and 1: the part of the pool in one draw",
        ),
        (lambda: paired_difference([1, 2], [1]), "a and b must be paired, got 2 and 1 values"),
        (lambda: bootstrap_interval([1.0], n_resamples=0), "n_resamples=0 must be at least 1"),
    ],
)
def test_wrong_input_says_what_is_wrong(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert str(caught.value) == message
