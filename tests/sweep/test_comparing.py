"""Cuts and heads in one table: the order, the paired differences, and when there are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from featbank.errors import InvalidInputError
from featbank.metrics import paired_difference
from featbank.sweep import Fit, SweepResult, compare


def fits(head, values, *, cut="fc7", n=8, duration_s=1.0, **more) -> list[Fit]:
    return [
        Fit(
            cut,
            head,
            None,
            n,
            repeat,
            3 * n,
            10,
            0,
            top1=value,
            duration_s=duration_s,
            **{"val_top1": value, "val_top5": value} | more,
        )
        for repeat, value in enumerate(values)
    ]


def draws(seed, judged="all", n_repeats=3, sizes=("8",)) -> dict[str, object]:
    subsets = {size: [f"{seed}-{size}-{repeat}" for repeat in range(n_repeats)] for size in sizes}
    return {"judged": judged, "subsets": subsets}


A, B = [0.80, 0.90, 0.70], [0.82, 0.91, 0.75]


def test_repeats_that_are_all_alike_have_the_exact_interval_of_the_images_or_none():
    both = [*fits("knn", [1.0] * 3), *fits("ncm", [1.0] * 3), *fits("mlp", [0.9] * 3)]
    right, same, alike = compare(SweepResult(both, n_rows={"train": 90, "test": 12})).curves
    for one in (right, same):
        assert (one.mean, one.high) == (1.0, 1.0)
        assert one.low == pytest.approx(beta.ppf(0.025, 12, 1))
    assert (alike.mean, alike.low, alike.high) == (pytest.approx(0.9), None, None)
    for one, mean in ((same, 0.0), (alike, -0.1)):
        assert one.difference.mean == pytest.approx(mean)
        assert np.isnan(one.difference[1:]).all()
    grouped = compare(SweepResult(both, n_rows={"train": 90, "test": 12}, judged_groups=[np.arange(12) // 4]))
    assert grouped.curves[0].low == pytest.approx(beta.ppf(0.025, 3, 1))


def test_a_difference_stays_within_what_there_is():
    result = SweepResult([*fits("knn", [1.0, 0.9, 1.0]), *fits("ncm", [0.1, 0.5, 0.0])])
    assert compare(result).curves[1].difference.low == -1


def test_best_first_with_paired_differences_and_times():
    result = SweepResult([*fits("softmax", A, duration_s=2.0), *fits("mlp", B), *fits("mlp", [0.1] * 3, n=4)])
    found = compare({"one": result})
    assert (found.metric, found.n_per_class, found.notes) == ("top1", 8, ())
    best, second = found.curves
    assert (best.head, best.difference, best.fit_s, best.total_s) == ("mlp", None, 1.0, 6.0)
    assert (second.head, second.n_paired, second.fit_s) == ("softmax", 3, 2.0)
    assert second.difference == paired_difference(A, B)
    assert second.difference.mean == pytest.approx(np.mean(A) - np.mean(B))
    assert best.low < best.mean < best.high


def test_equals_stand_as_they_were_asked_for_whatever_the_clock_says():
    result = SweepResult([*fits("slow", A, duration_s=2.0), *fits("quick", A)])
    assert [one.head for one in compare({"one": result}).curves] == ["slow", "quick"]


def test_the_largest_common_size_is_the_default():
    result = SweepResult(
        [
            *fits("a", A, n=4),
            *fits("a", A, n=16),
            *fits("b", B, n=4),
            *fits("b", B, n=16),
            *fits("b", B, n=32),
        ]
    )
    assert compare({"one": result}).n_per_class == 16
    found = compare({"one": result}, n_per_class=32)
    assert [one.head for one in found.curves] == ["b"]
    assert found.notes == ("a on fc7 is left out: it was not fitted at 32 samples per class",)
    with pytest.raises(InvalidInputError, match="5 samples per class were not fitted; there are 4, 16, 32"):
        compare({"one": result}, n_per_class=5)


def test_no_common_size():
    with pytest.raises(InvalidInputError) as caught:
        compare({"one": SweepResult([*fits("a", A, n=4), *fits("b", B, n=5)])})
    assert str(caught.value) == (
        "no number of samples per class is common to all 2 curves; they have 4, 5. Say which with --samples, "
        "or name fewer runs"
    )


def test_a_repeat_one_of_them_lacks_is_not_paired():
    failed = [Fit("fc7", "b", None, 8, 0, 24, 10, 0, status="failed", message="no")]
    result = SweepResult([*fits("a", A), *failed, *fits("b", B)[1:]])
    by_head = {one.head: one for one in compare({"one": result}).curves}
    assert (by_head["b"].n_repeats, by_head["b"].n_failed) == (2, 1)
    assert by_head["a"].n_paired == 2
    assert by_head["a"].difference.mean == paired_difference(A[1:], B[1:]).mean
    assert np.isnan(by_head["a"].difference.low)  # two pairs are too few for an interval


def test_runs_with_the_same_draws_are_paired():
    one = SweepResult(fits("a", A), draws=draws(0))
    two = SweepResult(fits("a", B), draws=draws(0))
    best, second = compare({"one": one, "two": two}).curves
    assert (best.run, second.run, second.n_paired) == ("two", "one", 3)
    assert second.difference == paired_difference(A, B)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (draws(1), "one drew other training images than two (another split or seed)"),
        (draws(0, judged="others"), "one is judged by other images than two"),
        ({}, "one did not record what was drawn (not finished, or an older version)"),
    ],
)
def test_runs_with_other_draws_are_not(other, why):
    one, two = SweepResult(fits("a", A), draws=other), SweepResult(fits("a", B), draws=draws(0))
    found = compare({"one": one, "two": two})
    assert [one.difference for one in found.curves] == [None, None]
    assert found.notes == (f"no paired differences: {why}",)


@pytest.mark.parametrize(
    ("more", "n_val", "said"),
    [
        ({"unit": "groups"}, 4, "two counts groups per class, one images"),
        ({"folds": 5}, 4, "two is judged by 5 folds, one by one split"),
        ({"val": "others"}, 9, "two was chosen with 9 validation labels, one with 4"),
        ({"val": "others"}, 4, "two was chosen by other validation images than one"),
        ({}, 4, None),
    ],
)
def test_what_is_not_alike_is_said(more, n_val, said):
    one = SweepResult(fits("a", A, n_val=4), draws=draws(0) | {"val": "some"})
    two = SweepResult(fits("a", [0.0, 0.1, 0.0], n_val=n_val), draws=draws(0) | {"val": "some"} | more)
    notes = compare({"one": one, "two": two}).notes
    assert [note for note in notes if note.startswith("two ")] == ([] if said is None else [said])


def test_only_the_repeats_that_agree_are_paired():
    some = draws(0)
    some["subsets"]["8"][0] = "another"
    found = compare(
        {"one": SweepResult(fits("a", A), draws=some), "two": SweepResult(fits("a", B), draws=draws(0))}
    )
    assert found.curves[1].n_paired == 2
    assert found.curves[1].difference.mean == paired_difference(A[1:], B[1:]).mean


def test_what_is_not_there():
    with pytest.raises(InvalidInputError, match="nothing to compare: no fit succeeded"):
        compare({})
    with pytest.raises(InvalidInputError, match="metric='top2' is not one of top1, top5, "):
        compare({"one": SweepResult(fits("a", A))}, metric="top2")
    mixed = SweepResult([*fits("a", A, top5=1.0), *fits("b", B)])
    found = compare({"one": mixed}, metric="top5")
    assert found.notes == ("b on fc7 is left out: none of its fits has top5",)
    others = SweepResult([*fits("a", A), *fits("b", B)])
    found = compare({"one": mixed, "two": others}, metric="top5")
    assert found.notes == (
        "b on fc7 of one is left out: none of its fits has top5",
        "two is left out: none of its fits has top5",
    )


def test_sweeps_with_other_scores_are_compared_by_accuracy():
    one = SweepResult(fits("a", A, metrics={"macro_f1": 0.5, "val_macro_f1": 0.5}))
    assert compare({"one": one, "again": one}).metric == "macro_f1"
    found = compare({"one": one, "two": SweepResult(fits("b", B))})
    assert (found.metric, len(found.curves)) == ("top1", 2)


def test_a_smaller_calibration_error_is_better():
    result = SweepResult([*fits("a", A, ece=0.3, val_top1=None), *fits("b", B, ece=0.1, val_top1=None)])
    assert [one.head for one in compare({"one": result}, metric="ece").curves] == ["b", "a"]


def test_the_best_is_the_best_by_validation():
    lucky, good = fits("lucky", [0.9] * 3, val_top1=0.5), fits("good", [0.8] * 3, val_top1=0.7)
    found = compare({"one": SweepResult([*lucky, *good])})
    assert ([one.head for one in found.curves], found.ranked_by) == (["good", "lucky"], "val_top1")
    assert found.curves[1].difference.mean == pytest.approx(0.1)
    ece = compare({"one": SweepResult([*lucky, *fits("good", A, val_top1=0.7, ece=0.2)])}, metric="ece")
    assert ece.ranked_by == "val_top1"


def test_without_validation_the_test_rows_choose_and_that_is_said():
    result = SweepResult([*fits("a", A, val_top1=None), *fits("b", B)])
    found = compare({"one": result})
    assert ([one.head for one in found.curves], found.ranked_by) == (["b", "a"], "top1")
    assert found.notes == (
        "not every curve has val_top1: the best is the best by top1 itself, on the images it is reported "
        "for, which flatters it",
    )


def test_the_default_size_is_the_largest_with_intervals():
    uneven = {"n_classes": 3, "fewest_per_class": 10, "most_per_class": 90}
    result = SweepResult(
        [*fits("a", A, n=4), *fits("b", B, n=4), *fits("a", A[:2], n=6), *fits("b", B[:2], n=6)]
        + [Fit("fc7", head, None, "all", 0, 120, 10, 0, top1=0.9, val_top1=0.9, **uneven) for head in "ab"]
    )
    assert compare({"one": result}).n_per_class == 4
    found = compare({"one": result}, n_per_class="all")
    assert {(one.n_draws, one.low) for one in found.curves} == {(1, None)}
    only = SweepResult([one for one in result.fits if one.n_per_class == "all"])
    assert compare({"one": only}).n_per_class == "all"


def test_one_fit_to_all_samples_stands_for_every_repeat():
    many, once = fits("softmax", A, n=40), fits("logreg", [0.9], n=40)
    result = SweepResult([*fits("softmax", A), *fits("logreg", B), *many, *once], n_rows={"train": 120})
    found = compare({"one": result}, n_per_class=40)
    (second,) = found.curves[1:]
    assert (second.n_paired, second.difference.mean) == (3, pytest.approx(np.mean(A) - 0.9))
    assert np.isnan(second.difference.low)


def test_without_test_rows_validation_decides():
    result = SweepResult([Fit("fc7", "a", None, 4, r, 12, 10, 0, val_top1=0.5) for r in range(2)])
    found = compare({"one": result})
    assert (found.metric, found.curves[0].mean) == ("val_top1", 0.5)
