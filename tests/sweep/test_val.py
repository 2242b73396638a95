"""What stops training and chooses where it is not the bank's validation rows: ``val``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featbank.errors import FitWarning, InvalidInputError
from featbank.sampling import draw_nested, hold_out
from featbank.sweep import run_sweep
from tests.sweep.test_running import FAST, make_bank

ALL = ("softmax", "mlp", "logreg", "ncm", "knn", "svm", "ridge")
PARAMS = {
    "softmax": {"max_epochs": 12, "lr": 0.02},
    "mlp": {"max_epochs": 8, "lr": 0.02, "hidden_units": 16},
    "logreg": {"C": "auto"},
}


@pytest.fixture
def bank():
    """20 training and 10 test rows per class: the split of a user who has no validation rows."""
    return make_bank({"train": 20, "test": 10})


def test_how_many_are_held_out():
    y = np.repeat([0, 1, 2], [40, 40, 7])
    (draws,) = draw_nested(y, [1, 2, 3, 4, 5], repeats=1)
    for fraction, counts in ((0.2, [0, 1, 1, 1, 1]), (0.5, [0, 1, 1, 2, 2]), (0.9, [0, 1, 2, 3, 4])):
        for drawn, each in zip(draws.values(), counts, strict=True):
            held = hold_out(y, drawn, fraction)
            assert np.bincount(y[held], minlength=3).tolist() == [each] * 3
            assert set(held.tolist()) <= set(drawn.tolist())
    everything = np.arange(len(y))
    assert np.bincount(y[hold_out(y, everything, 0.1)]).tolist() == [4, 4, 1]
    # all there are is one draw, however often it is repeated
    np.testing.assert_array_equal(hold_out(y, everything, 0.1), hold_out(y, everything, 0.1, repeat=3))


def test_what_is_held_out_is_nested():
    y = np.tile(np.arange(4), 30)
    for repeat, draw in enumerate(draw_nested(y, [2, 4, 8, 16], repeats=3, random_state=5)):
        parts = [
            set(hold_out(y, rows, 0.25, random_state=5, repeat=repeat).tolist()) for rows in draw.values()
        ]
        kept = [set(rows.tolist()) - held for rows, held in zip(draw.values(), parts, strict=True)]
        assert all(a <= b for a, b in pairwise(parts))
        assert all(a <= b for a, b in pairwise(kept))


@pytest.mark.parametrize("val", [None, "none"])
def test_every_head_is_fitted_to_the_whole_draw_without(bank, val):
    options = {"samples_per_class": "1,2,8,all", "repeats": 2, "val": val}
    with pytest.warns(FitWarning, match=r"logreg: 2 of 7 heads: C='auto' has nothing to choose by"):
        result = run_sweep(bank, cuts=["fc7"], heads=ALL, head_params=PARAMS, **options)
    assert not result.failed
    assert {one.n_train for one in result.fits} == {3, 6, 24, 60}
    assert {one.val_top1 for one in result.fits} == {None}
    assert result.n_rows == {"train": 60, "val": 0, "test": 30}
    why = "no validation rows" if val is None else "--val none"
    assert result.notes[0].startswith(f"{why}: training stops by the training loss, C='auto' goes by cross-")
    assert {one.repeat for one in result.heads} == {0}
    assert min(one.top1 for one in result.fits if one.n_per_class == 20) > 0.8
    assert {one.C for one in result.fits if one.head == "logreg" and one.n_per_class == 1} == {1.0}


def test_a_part_of_each_draw_decides_for_every_head(bank):
    seen = []

    class Spy(LogisticRegression):
        def fit(self, X, y):
            seen.append((len(y), X.copy()))
            return super().fit(X, y)

    options = {"samples_per_class": "1,4,10,all", "repeats": 2, "val": 0.25, "head_params": PARAMS}
    with pytest.warns(FitWarning, match=r"logreg: 2 of 7 heads: C='auto' has nothing to choose by"):
        result = run_sweep(bank, cuts=["fc7"], heads=[*ALL, ("own", Spy())], **options)
    assert not result.failed
    # drawn, of which 0, 1, 3, 5 of a class are held out
    assert sorted({one.n_train for one in result.fits}) == [3, 12, 30, 60]
    assert sorted({n for n, _ in seen}) == [3, 9, 21, 45]
    for one in result.fits:
        assert (one.val_top1 is None) == (one.n_per_class == 1)
        share = {4: 3, 10: 9, 20: 15}.get(one.n_per_class)
        if share:
            assert one.val_top1 * share == pytest.approx(round(one.val_top1 * share))
    assert result.notes[:2] == [
        "--val 0.25: part of each draw is held out (0 of 3, 3 of 12, 9 of 30, 15 of 60 images) to stop "
        "training, to choose C and the head kept; heads are trained on the rest",
        "of one image per class none can be held out: there training goes by the training loss",
    ]
    # neither what trains nor what decides is a test row
    test = bank.arrays["fc7"][bank.manifest.rows("test")].astype(np.float32)
    assert not any((row == test).all(axis=1).any() for _, X in seen for row in X)
    with pytest.warns(FitWarning):
        again = run_sweep(bank, cuts=["fc7"], heads=[*ALL, ("own", Spy())], **options)
    strip = [(one.top1, one.val_top1, one.C, one.best_epoch) for one in result.fits]
    assert strip == [(one.top1, one.val_top1, one.C, one.best_epoch) for one in again.fits]
    alone = run_sweep(
        bank,
        cuts=["fc7"],
        heads=["mlp"],
        **options | {"samples_per_class": "10", "head_params": {"mlp": PARAMS["mlp"]}},
    )
    mine = [(one.top1, one.val_top1) for one in result.fits if one.head == "mlp" and one.n_per_class == 10]
    assert mine == [(one.top1, one.val_top1) for one in alone.fits]


def test_validation_rows_decide_nothing_where_something_else_does():
    bank = make_bank({"train": 20, "val": 6, "test": 10})
    for val in ("none", 0.25):
        result = run_sweep(bank, cuts=["fc7"], samples_per_class="4", repeats=1, head_params=FAST, val=val)
        other = make_bank({"train": 20, "val": 6, "test": 10})
        other.arrays["fc7"][other.manifest.rows("val")] = 0
        same = run_sweep(other, cuts=["fc7"], samples_per_class="4", repeats=1, head_params=FAST, val=val)
        assert [one.top1 for one in result.fits] == [one.top1 for one in same.fits]
        assert result.n_rows["val"] == 0


@pytest.mark.parametrize("val", ["none", 0.25])
def test_validation_rows_judge_where_there_is_no_test_and_something_else_decides(val):
    bank = make_bank({"train": 20, "val": 6})
    result = run_sweep(bank, cuts=["fc7"], samples_per_class="4", repeats=1, head_params=FAST, val=val)
    assert result.n_rows == {"train": 60, "val": 0, "test": 18}
    np.testing.assert_array_equal(result.heads[0].predictions.rows, bank.manifest.rows("val"))
    assert result.fits[0].top1 > 0.5
    note = "no test rows: accuracies are those on the validation rows, which decided nothing"
    assert note in result.notes


@pytest.mark.parametrize("val", [0, 1, 1.0, -0.1, True, float("nan"), "some", "0.2", [0.2]])
def test_what_cannot_decide(bank, val):
    with pytest.raises(InvalidInputError, match=r"^val=.* \(--val\) is not a part of each draw"):
        run_sweep(bank, samples_per_class="4", val=val)
