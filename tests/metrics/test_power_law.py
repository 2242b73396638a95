"""The law of a learning curve: found where it holds, refused where there is too little to find it in."""

from __future__ import annotations

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.metrics import fit_power_law

SIZES = np.array([2, 4, 8, 16, 32])


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 0.8, 0.7), (1.0, 0.6, 0.2), (0.5, 0.4, 2.0)])
def test_parameters_are_found_again(a, b, c):
    law = fit_power_law(SIZES, a - b * SIZES**-c, n_bootstrap=10)
    assert (law.a, law.b, law.c) == pytest.approx((a, b, c), abs=2e-3)
    np.testing.assert_allclose(law.predict([64, 128]), a - b * np.array([64.0, 128.0]) ** -c, atol=1e-4)
    assert law.n_max == 32


@pytest.mark.slow
@pytest.mark.parametrize("n_repeats", [5, 10])
def test_band_holds_the_truth_as_often_as_said(n_repeats):
    expected = 0.9 - 0.7 * np.array([16.0, 128.0]) ** -0.6
    held, widths = [], []
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.02, (5, n_repeats))
        law = fit_power_law(SIZES, (0.9 - 0.7 * SIZES**-0.6)[:, None] + noise, n_bootstrap=200)
        low, high = law.band([16, 128])
        held.append((low < expected) & (expected < high))
        widths.append(high - low)
    assert np.all(np.mean(held, axis=0) >= 0.88)
    assert np.median(widths, axis=0)[1] > np.median(widths, axis=0)[0]  # wider where nothing was measured
    narrow, wide = law.band([128], 0.5), law.band([128], 0.99)
    assert wide[0] < narrow[0] <= narrow[1] < wide[1]


def test_draws_of_one_pool_widen_the_band():
    acc = 0.9 - 0.7 * SIZES[:, None] ** -0.6 + np.random.default_rng(0).normal(0, 0.02, (5, 4))
    acc[-1] = acc[-1].mean()  # all there are: one draw, however often it is repeated
    whole, apart = SIZES / 32, np.zeros(5)
    width = [np.ptp(fit_power_law(SIZES, acc, shares=one).band([64])) for one in (whole, apart)]
    assert width[0] > 1.3 * width[1]
    with pytest.raises(InvalidInputError, match=r"shares must be one for each of 5 sizes, got \(2,\)"):
        fit_power_law(SIZES, acc, shares=[0.1, 0.2])


def test_no_law_promises_more_than_everything():
    law = fit_power_law(SIZES, [0.5, 0.62, 0.74, 0.86, 0.98], n_bootstrap=50)
    assert law.a <= 1
    assert law.predict([10_000])[0] <= 1
    assert np.all(law.samples[:, 0] <= 1)


def test_a_curve_without_repeats_gets_its_band_from_the_residuals():
    smooth = 0.9 - 0.7 * SIZES**-0.6
    rough = smooth + np.array([0.02, -0.02, 0.02, -0.02, 0.02])
    width = [np.ptp(fit_power_law(SIZES, one).band([64]))[()] for one in (smooth, rough)]
    assert width[0] < 1e-3 < width[1]


def test_same_seed_same_band():
    acc = 0.9 - 0.7 * SIZES[:, None] ** -0.6 + np.random.default_rng(0).normal(0, 0.02, (5, 4))
    one, two = (fit_power_law(SIZES, acc, random_state=3).samples for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("n", "acc", "message"),
    [
        (
            [4, 8, 16],
            [0.5, 0.6, 0.7],
            "a power law needs at least 4 sizes, got 3 (4, 8, 16). "
            "Add sizes to --samples-per-class, e.g. 2..16.",
        ),
        ([4, 8], [0.5], "acc must have one row for each of 2 sizes, got (1, 1)"),
        (
            [4, 8, 16, 32],
            [0.5, 0.6, np.nan, 0.7],
            "sizes must be positive and accuracies finite; leave failed fits out",
        ),
    ],
)
def test_too_little_is_refused(n, acc, message):
    with pytest.raises(InvalidInputError) as caught:
        fit_power_law(n, acc)
    assert str(caught.value) == message
