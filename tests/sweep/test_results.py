"""Results: curves, comparisons and laws from fits; CSV that comes back bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from featbank.errors import InvalidInputError
from featbank.metrics import mean_interval
from featbank.sweep import CurvePoint, Fit, Predictions, SweepResult, compare
from featbank.sweep.records import COLUMNS, fits_from_csv, fits_to_csv

FC7, POOL = ("fc7", "softmax", None), ("block4_pool", "softmax", None)


def fit(key=FC7, n=4, repeat=0, **values) -> Fit:
    cut, head, temperature = key
    base = Fit(cut, head, temperature, n, repeat, 12 if n == "all" else 3 * n, 10, 7)
    return replace(base, **values)


def curve_fits(key=FC7, sizes=(2, 4, 8, 16), repeats=3, shift=0.0) -> list[Fit]:
    luck = np.random.default_rng(0).normal(0, 0.03, (len(sizes), repeats))
    return [
        fit(key, n, r, top1=float(0.9 - 0.6 * n**-0.7 + luck[i, r] + shift), val_top1=0.5)
        for i, n in enumerate(sizes)
        for r in range(repeats)
    ]


def test_curve_can_be_written_as_json_without_nan():
    points = SweepResult([*curve_fits(repeats=1), *curve_fits(POOL)]).points()
    plain = [one.to_dict() for one in points]
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert [CurvePoint.from_dict(one) for one in plain] == points
    assert points[0].scores["top1"].low is None
    assert points[0].n_repeats == 1
    assert points[4].scores["top1"].low < points[4].mean("top1") < points[4].scores["top1"].high
    assert {"cut", "head", "n_per_class", "n_repeats", "top1_mean", "top1_low", "top1_high"} <= set(plain[0])


def test_interval_narrows_with_less_confidence():
    result = SweepResult(curve_fits())
    (wide, narrow) = (result.points(c)[0] for c in (0.99, 0.5))
    assert wide.scores["top1"].low < narrow.scores["top1"].low


def test_difference_pairs_repeats():
    result = SweepResult([*curve_fits(), *curve_fits(POOL, shift=-0.01)])
    mean, low, high = result.curve(*FC7).difference(result.curve(*POOL), 8)
    assert (mean, low, high) == pytest.approx((0.01, 0.01, 0.01))
    # A repeat one of the two lacks is left out, whatever its value.
    lacking = SweepResult([one for one in result.fits if (one.key, one.repeat) != (POOL, 1)])
    assert lacking.curve(*FC7).difference(lacking.curve(*POOL), 8).mean == pytest.approx(0.01)


def test_power_law_uses_the_repeats_that_are_whole():
    fits = curve_fits(repeats=4)
    law = SweepResult(fits).curve(*FC7).power_law()
    assert law.n_max == 16
    assert float(law.predict([64])[0]) > SweepResult(fits).points()[-1].mean("top1")
    broken = [replace(fits[0], status="failed", top1=None), *fits[1:]]
    same = SweepResult([one for one in fits if one.repeat]).curve(*FC7).power_law()
    np.testing.assert_array_equal(SweepResult(broken).curve(*FC7).power_law().samples, same.samples)
    assert SweepResult(curve_fits(repeats=1)).curve(*FC7).power_law().n_max == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda result: result.curve(*FC7).difference(result.curve(*("fc6", "softmax", None)), 4),
            "no fit of 'fc6/softmax'; there are 'fc7/softmax'",
        ),
        (
            lambda result: result.curve(*FC7).difference(result.curve(*FC7), 5),
            "'fc7/softmax' and 'fc7/softmax' share no repeat at 5 samples per class that knows top1",
        ),
        (
            lambda result: result.curve(*FC7).difference(result.curve(*FC7), 4, metric="top2"),
            "metric='top2' is not one of top1, top5, ",
        ),
        (
            lambda result: SweepResult(curve_fits(sizes=(4, 8, 16))).curve(*FC7).power_law(),
            "a power law needs at least 4 sizes, got 3 (4, 8, 16). ",
        ),
    ],
)
def test_wrong_questions_are_told(call, message):
    with pytest.raises(InvalidInputError) as caught:
        call(SweepResult(curve_fits()))
    assert str(caught.value).startswith(message)


def test_csv_comes_back_bit_for_bit():
    fits = [
        fit(top1=0.1 + 0.2, val_top1=1 / 3, duration_s=1.23e-7, best_epoch=3, ece=0.0),
        fit(("softmax", 'my, "own"', 1.5), "all", 1, status="failed", message='a, "b" and\tc'),
        fit(("fc7", "mlp", None), 8, 2, random_state=2**31 - 1),
    ]
    text = SweepResult(fits).to_csv()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert len(text.splitlines()) == 4
    again = fits_from_csv(text)
    assert again == fits
    assert [type(one.n_per_class) for one in again] == [int, str, int]
    assert "nan" not in text.lower().replace("n_", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("repeat,", "", 1), "not the columns of this version: repeat"),
        (lambda text: text.replace("top5,", "top7,", 1), "not the columns of this version: top7"),
        (lambda text: text.replace("top5,", "top1,", 1), "not the columns of this version: one stands twice"),
        (lambda text: "", "not the columns of this version: cut, "),
        (lambda text: text.rstrip("\n")[:-30] + "\n", "line 2 cannot be read ("),
        (lambda text: text.replace(",0.5,", ",-7.5e300,"), "line 2 cannot be read (top1 = -7.5e+300 must be"),
        (
            lambda text: text.replace(",0.5,", ",1.01,"),
            "line 2 cannot be read (top1 = 1.01 must be at most 1)",
        ),
        (lambda text: text.replace(",0.5,", ",nan,"), "line 2 cannot be read (top1 = nan"),
        (lambda text: text.replace(",0.5,", f",{'9' * 400},"), "line 2 cannot be read (top1 = inf"),
        (
            lambda text: text.replace(",ok,", ",fine,"),
            "line 2 cannot be read (status = 'fine' is unknown; known: ",
        ),
    ],
)
def test_damaged_csv_is_told(change, message):
    with pytest.raises(InvalidInputError) as caught:
        fits_from_csv(change(fits_to_csv([fit(top1=0.5)])))
    assert str(caught.value).startswith(message)


def test_intervals_stay_among_the_accuracies_there_are():
    fits = [fit(top1=top1, repeat=repeat) for repeat, top1 in enumerate((0.9, 0.95, 1.0))]
    (point,) = SweepResult(fits).points()
    assert (point.mean("top1"), point.scores["top1"].high) == (pytest.approx(0.95), 1.0)
    assert 0.0 <= point.scores["top1"].low < 0.95


def test_an_interval_knows_how_much_of_the_pool_was_drawn():
    """As recorded, or else by the number of training rows; of classes with more images less is drawn."""
    fits = [fit(n=4, repeat=r, top1=0.5 + r / 100) for r in range(4)]
    pool = {"train": 24}
    recorded = {"judged": "x", "subsets": {"4": ["a", "b", "c", "d"]}, "shares": {"4": 0.75}}
    expected = [
        (0.0, SweepResult(fits)),
        (0.5, SweepResult(fits, n_rows=pool)),
        (0.75, SweepResult(fits, n_rows=pool, draws=recorded)),
    ]
    for share, result in expected:
        (point,) = result.points()
        wanted = mean_interval([one.top1 for one in fits], share=share)
        assert (point.scores["top1"].low, point.scores["top1"].high) == pytest.approx(wanted[1:])
        other = SweepResult([replace(one, head="mlp", top1=0.4) for one in fits]).curve("fc7", "mlp")
        apart = result.curve(*FC7).difference(other, 4)
        assert apart == pytest.approx([one - 0.4 for one in wanted])


SUBSETS = {"judged": "x", "subsets": {"4": ["a", "b", "c", "d"], "8": ["e"] * 4, "16": ["f", "g", "f", "g"]}}


def test_an_interval_takes_three_different_draws():
    """Of 8 per class there is one draw, of 16 there are two, whatever the number of repeats."""
    fits = [fit(n=n, repeat=r, top1=0.5 + r / 100) for n in (4, 8, 16) for r in range(4)]
    points = {one.n_per_class: one for one in SweepResult(fits, draws=SUBSETS).points()}
    assert {n: one.n_draws for n, one in points.items()} == {4: 4, 8: 1, 16: 2}
    assert {n: one.n_repeats for n, one in points.items()} == {4: 4, 8: 4, 16: 4}
    assert points[4].scores["top1"].low < 0.515 < points[4].scores["top1"].high
    for n in (8, 16):
        assert points[n].mean("top1") == pytest.approx(0.515)
        assert points[n].scores["top1"].low is points[n].scores["top1"].high is None
        assert (points[n].scores["top1"].min, points[n].scores["top1"].max) == (0.5, 0.53)
    other = [replace(one, head="mlp") for one in fits]
    both = SweepResult([*fits, *other], draws=SUBSETS)
    assert both.curve(*FC7).difference(both.curve(*("fc7", "mlp", None)), 4).low == 0.0
    assert np.isnan(both.curve(*FC7).difference(both.curve(*("fc7", "mlp", None)), 8).low)


@pytest.mark.parametrize(("n", "n_rows"), [(4, {"train": 12}), ("all", {})])
def test_all_samples_are_one_draw(n, n_rows):
    fits = [fit(n=n, repeat=repeat, top1=0.5) for repeat in range(5)]
    (point,) = SweepResult(fits, n_rows=n_rows).points()
    assert (point.n_draws, point.all_samples, point.scores["top1"].low) == (1, True, None)
    assert fits[0].name == f"fc7-softmax-{'all' if n == 'all' else 'n4'}-r0"
    (some,) = SweepResult([replace(one, n_per_class=3, n_train=9) for one in fits], n_rows=n_rows).points()
    assert (some.n_draws, some.all_samples, some.scores["top1"].low) == (5, False, 0.5)


def test_points_say_what_the_heads_chose():
    (point,) = SweepResult([fit(repeat=r, top1=0.5, C=C) for r, C in enumerate((0.1, 10.0))]).points()
    assert point.ranges == {"C": (0.1, 10.0)}


def test_two_repeats_are_too_few_for_the_band_of_a_law():
    """They say of the spread at each size what one number can; the sizes beside the law say more."""
    two = SweepResult(curve_fits(repeats=2))
    means = [
        fit(n=n, top1=float(np.mean([one.top1 for one in two.fits if one.n_per_class == n])))
        for n in (2, 4, 8, 16)
    ]
    np.testing.assert_array_equal(
        two.curve(*FC7).power_law().samples, SweepResult(means).curve(*FC7).power_law().samples
    )


def test_all_of_uneven_classes_takes_no_part_in_a_power_law():
    sizes = [fit(n=n, repeat=r, top1=0.9 - 1 / n + r / 100) for n in (4, 8, 16, 32) for r in range(3)]
    uneven = [fit(n="all", repeat=r, top1=0.1) for r in range(3)]
    plain, with_all = (SweepResult(fits).curve(*FC7).power_law() for fits in (sizes, [*sizes, *uneven]))
    assert (with_all.a, with_all.b, with_all.c, with_all.n_max) == (plain.a, plain.b, plain.c, 32)
    with pytest.raises(InvalidInputError, match=r"needs at least 4 sizes, got 3 \(4, 8, 16\)"):
        SweepResult([*sizes[:9], *uneven]).curve(*FC7).power_law()


def test_perfect_folds_count_together_and_groups_once():
    folds = [fit(repeat=r, top1=1.0) for r in range(3)]
    draws = {"folds": 3}
    (told,) = SweepResult(folds, n_rows={"test": 120}, draws=draws).resolution()
    assert told.startswith(
        "1 of 1 curves' sizes got all 120 test images right: so few bound the accuracy to 97"
    )
    imperfect = [*folds[:2], replace(folds[2], top1=0.9)]
    assert SweepResult(imperfect, n_rows={"test": 120}, draws=draws).resolution() == []
    groups = (np.repeat(np.arange(20), 6).astype(np.int32),)
    (told,) = SweepResult(folds, n_rows={"test": 120}, judged_groups=groups).resolution()
    assert told.startswith(
        "3 of 3 fits got all 120 test images of 20 groups right: so few bound the accuracy"
    )
    assert f"{100 * 0.025 ** (1 / 20):.3g} to 100 % only (95 % interval of so many groups)" in told


def test_one_fit_to_all_samples_keeps_the_band_of_a_power_law():
    repeated = [fit(n=n, repeat=r, top1=0.9 - 1 / n + r / 100) for n in (4, 8, 16) for r in range(3)]
    last = [fit(n=32, repeat=r, top1=0.9) for r in range(3)]
    three, once = (SweepResult([*repeated, *last[:n]], n_rows={"train": 96}) for n in (3, 1))
    assert once.curve(*FC7).power_law().band([64])[0] == three.curve(*FC7).power_law().band([64])[0]


def test_few_images_to_judge_by_are_told():
    fits = [fit(repeat=r, top1=1.0 if r else 0.9) for r in range(3)]
    assert SweepResult(fits, n_rows={"test": 12}).resolution() == [
        "only 12 test images: each is 8.33 points of accuracy",
        "2 of 3 fits got all 12 test images right: so few bound the accuracy to 73.5 to 100 % only (exact "
        "95 % interval), however little the repeats differ",
    ]
    assert SweepResult(fits, n_rows={"test": 5000}).resolution() == []
    assert SweepResult(fits[:1], n_rows={"test": 200}).resolution() == []
    assert (
        SweepResult([fit(val_top1=1.0)], n_rows={"test": 0, "val": 200})
        .resolution()[0]
        .startswith(
            "1 of 1 fits got all 200 validation images right: so few bound the accuracy to 98.2 to 100 %"
        )
    )


def test_a_result_fits_a_screen():
    result = SweepResult([fit(repeat=r, message="x" * 500) for r in range(500)], classes=("x",) * 1000)
    assert repr(result) == "<SweepResult of 500 fits, 1 curves>"
    rows = np.arange(10**6)
    answers = Predictions("test", rows, rows, rows)
    kept = replace(result.fits[0], estimator=rows, predictions=answers, draw=rows)
    assert max(len(repr(one)) for one in (kept, answers)) < 2000


def test_results_show_themselves_in_a_notebook():
    hostile = ("<b>", "softmax", None)
    result = SweepResult([*curve_fits(), *curve_fits(hostile, shift=-0.1)], notes=["a & b"])
    html = result._repr_html_()
    assert "<th>16</th>" in html
    assert "<td>&lt;b&gt;</td>" in html
    assert html.endswith("<p>test accuracy in % by samples per class</p><p>a &amp; b</p>")
    curve = result.curve("fc7", "softmax")._repr_html_()
    mean = f"{100 * result.curve('fc7', 'softmax').points()[-1].mean('top1'):.1f} %"
    assert f"<td>16</td><td>{mean}</td>" in curve
    best, other = compare(result).curves
    shown = compare(result)._repr_html_()
    assert f"<td>{100 * other.difference.mean:+.1f}</td>" in shown
    assert shown.index("fc7") < shown.index("&lt;b&gt;")
    assert "<th>run</th>" not in shown
    assert "<th>run</th>" in compare({"one": result, "two": result})._repr_html_()
    assert best.difference is None


def test_results_are_frames():
    pytest.importorskip("pandas")
    result = SweepResult([*curve_fits(), *curve_fits(POOL)])
    assert len(result.to_frame()) == len(result.fits)
    assert list(result.curve("fc7", "softmax").to_frame()["n_per_class"]) == [2, 4, 8, 16]
    frame = compare(result).to_frame()
    assert list(frame["cut"]) == [one.cut for one in compare(result).curves]
    assert frame["difference"][1] == compare(result).curves[1].difference.mean


def test_a_loss_is_no_share():
    """It may be more than 1, less of it is better, and kappa may be less than 0; nothing is cut off."""
    fits = [
        replace(fit(("fc7", head, None), repeat=r), metrics={"log_loss": loss + r / 10, "cohen_kappa": -0.3})
        for head, loss in (("softmax", 2.5), ("mlp", 1.5))
        for r in range(3)
    ]
    again = fits_from_csv(SweepResult(fits).to_csv())
    assert [one.metrics for one in again] == [one.metrics for one in fits]
    found = compare({"one": SweepResult(again)}, metric="log_loss")
    assert [(one.head, round(one.mean, 6)) for one in found.curves] == [("mlp", 1.6), ("softmax", 2.6)]
    assert found.curves[0].high > 1.6
    assert "<td>1.600</td>" in (html := found._repr_html_())
    assert "%" not in html.partition("<table")[2]
    with pytest.raises(InvalidInputError, match=r"metric='log_loss' falls as samples grow"):
        SweepResult(again).curve(*FC7).power_law(metric="log_loss")
    with pytest.raises(InvalidInputError, match=r"metric='ece' falls"):
        SweepResult(again).curve(*FC7).power_law(metric="ece")
    (point, _) = SweepResult(again).points()
    assert point.scores["cohen_kappa"].mean == pytest.approx(-0.3)
    for name, value in (("log_loss", "inf"), ("log_loss", "-1"), ("cohen_kappa", "-1.5"), ("macro_f1", "2")):
        text = SweepResult([replace(fits[0], metrics={name: 0.5})]).to_csv().replace("0.5", value)
        with pytest.raises(InvalidInputError, match=f"{name} is not within"):
            fits_from_csv(text)
