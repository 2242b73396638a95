"""Published findings, checked on curves that are known."""

from __future__ import annotations

import pytest

from featbank.pipeline import Claim, Verdict
from featbank.pipeline.comparing import StudyPoint, check_claim
from featbank.sweep import Score


def point(value, *, experiment="e", cut="fc7", head="softmax", n=16, at=None, half=None):
    score = Score(value) if half is None else Score(value, value - half, value + half)
    return StudyPoint(cut, head, n, {"top1": score}, at, experiment=experiment, chance=0.1)


def judged(check, points, experiments=("e",), **of):
    return check_claim(Claim("said", check, experiments, **of), points)


def test_depth():
    rising = [point(value, cut=cut) for cut, value in (("p3", 0.2), ("p4", 0.5), ("p5", 0.7))]
    assert judged("rises-with-depth", rising) == Verdict(
        "said", True, "softmax: p3 20.0 %, p4 50.0 %, p5 70.0 %"
    )
    assert judged("rises-with-depth", rising[::-1]).holds is False
    assert judged("rises-with-depth", rising[:1]).holds is None
    small = [point(0.9, cut="p3", n=4), *rising]  # only the largest size of each line counts
    assert judged("rises-with-depth", small).holds is True


def test_depth_over_several_experiments_is_in_the_order_of_the_claim():
    points = [point(0.7, experiment="b", cut="p5"), point(0.2, experiment="a", cut="p3")]
    assert judged("rises-with-depth", points, ("a", "b")).holds is True
    assert judged("rises-with-depth", points, ("b", "a")).holds is False


def test_gains_are_per_doubling():
    line = [point(value, n=n) for n, value in ((1, 0.2), (4, 0.6), (8, 0.75))]
    found = judged("gains-shrink", line)
    assert found == Verdict("said", True, "fc7 softmax: +20.0, +15.0 points per doubling from 1 to 8")
    assert judged("gains-shrink", [*line[:2], point(0.85, n=8)]).holds is False
    assert judged("gains-shrink", line[:2]).holds is None
    two = [*line, *(point(value, cut="p5", n=n) for n, value in ((1, 0.1), (2, 0.2), (4, 0.4)))]
    assert judged("gains-shrink", two).holds is False
    assert judged("gains-shrink", two).said.startswith("1 of 2 lines; fc7 softmax: ")
    assert judged("gains-shrink", two, cut="fc7").holds is True


@pytest.mark.parametrize(
    ("first", "half", "holds", "said"),
    [
        (0.5, None, True, "a 50.0 %, b 60.0 %"),
        (0.7, None, False, "a 70.0 %, b 60.0 %"),
        (0.5, 0.02, True, "a 50.0 %, b 60.0 % (95 % intervals do not touch)"),
        (0.58, 0.02, False, "a 58.0 %, b 60.0 % (95 % intervals touch)"),
    ],
)
def test_lower_is_lower_than_the_interval(first, half, holds, said):
    points = [point(first, experiment="a", half=half), point(0.6, experiment="b", half=half)]
    assert judged("lower", points, ("a", "b")) == Verdict("said", holds, said)


def test_lower_at_one_size():
    points = [
        point(0.5, experiment="a", n=4),
        point(0.9, experiment="a"),
        point(0.6, experiment="b", n=4),
        point(0.6, experiment="b"),
    ]
    assert judged("lower", points, ("a", "b")).holds is False
    assert judged("lower", points, ("a", "b"), n_per_class=4).holds is True


def test_lower_needs_two():
    assert judged("lower", [point(0.5, experiment="a")], ("a", "b")).holds is None
    assert judged("lower", [point(0.5)]).said == "two experiments are needed"


def test_no_learning_is_less_than_twice_chance():
    assert judged("no-learning", [point(0.19)]) == Verdict("said", True, "e fc7 19.0 %; chance is 10.0 %")
    assert judged("no-learning", [point(0.21)]).holds is False
    assert judged("no-learning", [point(0.19), point(0.5, cut="p5")]).holds is False


def test_the_best_temperature():
    warm = [point(value, cut="softmax", at=at) for at, value in ((0.5, 0.3), (1.0, 0.4), (1.81, 0.5))]
    found = judged("best-temperature-over-1", warm)
    assert found == Verdict("said", True, "e softmax: highest 50.0 % at T=1.81, 40.0 % at T=1")
    assert judged("best-temperature-over-1", [*warm, point(0.6, cut="softmax", at=0.6)]).holds is False
    assert judged("best-temperature-over-1", warm[:1]).said == "fewer than two temperatures"


def test_nothing_measured():
    assert judged("no-learning", [point(0.5)], metric="val_top1") == Verdict(
        "said", None, "nothing was measured as val_top1"
    )
    assert judged("no-learning", [point(0.5)], ("other",)).holds is None
