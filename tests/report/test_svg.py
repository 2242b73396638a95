"""Charts: values stand where their axes say, and what cannot be drawn leaves a gap."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from featbank.plots.chart import (
    MARKERS,
    Axis,
    Chart,
    Look,
    Point,
    Series,
    linear_axis,
    log_axis,
    percent_axis,
    size_axis,
)
from featbank.report._svg import both, element, path_through

X = Axis("x", 0, 10, ((0, "0"), (10, "10")))
Y = Axis("y (%)", 0, 100, ((0, "0"), (100, "100")))


def drawn(*points: Point, **options) -> str:
    return str(both(Chart("words", X, Y, (Series("a", points, Look("h0", marker=0)),), **options)))


def places(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)"', text)]


def test_points_stand_where_the_axes_say():
    wide = places(drawn(Point(0, 0), Point(5, 50), Point(10, 100)))[:3]
    (left, bottom), (middle, centre), (right, top) = wide
    assert left < middle < right
    assert bottom > centre > top
    assert middle == pytest.approx((left + right) / 2)
    assert centre == pytest.approx((top + bottom) / 2)
    assert right <= 720
    assert bottom <= 400


def test_both_drawings_have_the_same_points():
    text = drawn(Point(1, 10, said=("n", "10 %", "more")), Point(2, 20))
    assert len(places(text)) == 4
    assert text.count('aria-label="n, 10 %, more"') == 2
    assert re.findall(r'viewBox="0 0 (\d+)', text) == ["720", "380"]


def test_names_too_long_for_one_row_are_all_there():
    cuts = tuple((float(at), f"block{at}_pool") for at in range(1, 6))
    axis = Axis("cut", 0.5, 5.5, cuts, names=True)
    chart = Chart("words", axis, Y, (Series("a", (Point(1, 0),), Look("h0", marker=0)),))
    wide, narrow = str(both(chart)).split("</svg>")[:2]
    label = re.compile(r'class="tick mid" x="[\d.]+" y="([\d.]+)">(block\d)_pool<')
    wide_rows, narrow_rows = ({float(y) for y, _ in label.findall(one)} for one in (wide, narrow))
    assert (len(wide_rows), len(narrow_rows)) == (1, 2)
    assert len(label.findall(wide)) == len(label.findall(narrow)) == 5
    assert places(narrow)[0][1] < min(narrow_rows)  # the second row takes its room from the drawing


def test_what_is_no_number_leaves_a_gap():
    text = drawn(Point(0, 1), Point(1, math.nan), Point(2, 3), Point(3, 4))
    assert len(places(text)) == 6
    (line, _) = re.findall(r'class="line" d="([^"]*)"', text)
    assert re.sub(r"[\d. ]+", "", line) == "MML"
    assert path_through([None, None]) == ""


def test_a_band_needs_two_intervals_and_whiskers_one():
    points = Point(0, 5, 4, 6), Point(1, 5)
    assert 'class="band"' not in drawn(*points)
    assert drawn(*points, intervals="bars").count('class="whisker"') == 2
    assert drawn(*points, Point(2, 5, 3, 7)).count('class="band"') == 2


def test_everything_is_escaped():
    text = str(element("text", {"x": '"><script>'}, "<b>&\x1b"))
    assert text == '<text x="&#34;&gt;&lt;script&gt;">&lt;b&gt;&amp;\\x1b</text>'


@pytest.mark.parametrize(
    ("axis", "ends", "ticks"),
    [
        (linear_axis("", [3.0, 3.0]), (3, 4), None),
        (linear_axis("", [math.nan]), (0, 1), None),
        (linear_axis("", [0, 77]), (0, 80), ["0", "20", "40", "60", "80"]),
        (percent_axis("", [100.0, 100.0]), (97.5, 100), None),
        (percent_axis("", [0.1, 0.2]), (0, 3), None),
        (percent_axis("", [25.0, 97.5]), (20, 100), [f"{at}" for at in range(20, 101, 10)]),
        (log_axis("", [0.5]), (0.1, 1), ["0.1", "1"]),
        (log_axis("", [0.0, math.inf]), (0.1, 1), None),
        (size_axis("", {7: "7"}), (3.5, 14), ["7"]),
    ],
)
def test_axes(axis, ends, ticks):
    assert (axis.low, axis.high) == pytest.approx(ends)
    assert axis.low < axis.high
    assert ticks is None or [text for _, text in axis.ticks] == ticks


def test_labels_that_would_touch_are_left_out():
    axis = size_axis("", {n: f"{n:g}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 100000)})
    kept = axis.ticks_within(300, 12)
    ats = [axis.share(value) * 300 for value, _ in kept]
    assert len(kept) < 9
    assert kept[0][1] == "1"
    assert all(b - a >= 14 for a, b in itertools.pairwise(ats))
    assert len(axis.ticks_within(3000, 12)) == 9


def test_every_marker_is_an_outline_of_its_own():
    assert len(set(MARKERS)) == len(MARKERS)
    assert all(outline.startswith("M") and outline.endswith("Z") for _, outline in MARKERS)
