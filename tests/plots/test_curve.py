"""Bands of a learning curve: all of a few, the best of many, and what the legend says of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from featbank.metrics import fit_power_law
from featbank.plots import CurveDisplay
from featbank.plots.curve import MOST_BANDS
from featbank.sweep import CurvePoint


def curve_of(values, **options):
    return CurveDisplay([CurvePoint.from_dict(one) for one in values], **options)


def points(cut, head, end, sizes=(4, 8)):
    return [
        {
            "cut": cut,
            "head": head,
            "n_per_class": n,
            "n_repeats": 5,
            "top1_mean": end - 0.1 * (n < max(sizes)),
            "top1_low": end - 0.12,
            "top1_high": end + 0.01,
        }
        for n in sizes
    ]


def drawn(display) -> tuple[int, str]:
    """Return how many bands there are, and what the legend says."""
    display.plot()
    (legend,) = display.figure_.legends
    return len(display.ax_.collections), " | ".join(text.get_text() for text in legend.get_texts())


def words(said: str) -> str:
    """What a legend says, wherever its lines are broken."""
    return said.replace(" | ", " ")


def test_a_few_curves_have_a_band_each():
    bands, said = drawn(curve_of([*points("a", "softmax", 0.5), *points("b", "softmax", 0.6)]))
    assert bands == 2
    assert "95 % interval for other training images (5 draws)" in words(said)
    assert "best" not in said


def test_of_many_heads_the_best_of_each_cut_has_one():
    heads = [f"head{at}" for at in range(4)]
    display = curve_of(
        [one for cut in "ab" for at, head in enumerate(heads) for one in points(cut, head, 0.5 + at / 10)]
    )
    assert display._banded() == {("a", "head3", None), ("b", "head3", None)}
    bands, said = drawn(display)
    assert bands == 2
    assert words(said).endswith("of each cut's best head")


@pytest.mark.parametrize(("n_cuts", "said"), [(8, "of the 5 best curves"), (1, "of the best head")])
def test_of_many_cuts_or_heads_the_best(n_cuts, said):
    n_heads = 1 if n_cuts > 1 else 8
    display = curve_of(
        [
            one
            for at in range(n_cuts)
            for of in range(n_heads)
            for one in points(f"cut{at}", f"head{of}", 0.1 + (at + of) / 10)
        ]
    )
    bands, told = drawn(display)
    assert bands == (MOST_BANDS if n_cuts > 1 else 1)
    assert told.endswith(said)
    assert ("cut7", "head0", None) in display._banded() or ("cut0", "head7", None) in display._banded()
    assert ("cut0", "head0", None) not in display._banded()


def test_a_band_of_another_kind_says_so():
    _, said = drawn(curve_of(points("a", "softmax", 0.5), band="95 % interval over 256 test images"))
    assert words(said).endswith("95 % interval over 256 test images")


def few(n_draws, n=4, **more):
    """A point of so many draws: as `SweepResult.curve` gives it, without an interval."""
    (one,) = points("a", "softmax", 0.5, sizes=(n,))
    return {
        **one,
        "n_draws": n_draws,
        "top1_low": None,
        "top1_high": None,
        "top1_min": 0.45,
        "top1_max": 0.55,
        **more,
    }


UNEVEN = {"fewest_per_class": 20, "most_per_class": 41, "mean_per_class": 28.25, "all_samples": True}


def test_all_of_uneven_classes_is_no_size_even_where_its_mean_is_whole():
    everything = few(1, "all", **{**UNEVEN, "mean_per_class": 50.0})
    other = curve_of([*points("a", "softmax", 0.5, sizes=(4, 50)), {**everything, "cut": "b"}]).plot()
    assert [label.get_text() for label in other.ax_.get_xticklabels()] == ["4", "50, all"]
    display = curve_of([*points("a", "softmax", 0.5, sizes=(4, 8)), everything]).plot()
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["4", "8", "all"]


def test_one_draw_is_said_and_nothing_is_drawn_around_it():
    display = curve_of(
        [*points("a", "softmax", 0.5, sizes=(4, 8)), few(1, "all", **UNEVEN), few(1, 16, all_samples=True)]
    )
    _, said = drawn(display)
    assert "no interval: 16 (one draw, all samples); all (one draw)" in words(said)
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["4", "8", "16", "all"]
    assert words(said).endswith("Ring: all samples all (20-41 per class), mean 28.25")
    assert display.ax_.lines[0].get_xdata().tolist() == [4, 8, 16]  # no line leads to what is no such size
    assert any(line.get_xdata().tolist() == [28.25] for line in display.ax_.lines)
    assert np.isfinite(display.ax_.collections[0].get_paths()[0].vertices).all()
    _, said = drawn(curve_of([few(1)]))
    assert said.endswith("Spread | no interval: one draw")


def test_two_draws_are_dots():
    display = curve_of([few(2, 4), few(2, 8)])
    _, said = drawn(display)
    assert said.endswith("Spread | no interval: 2 draws | small dots: the 2 draws")
    dots = [line for line in display.ax_.lines if line.get_marker() == "."]
    np.testing.assert_allclose([line.get_ydata() for line in dots], [[45.0, 45.0], [55.0, 55.0]])
    np.testing.assert_array_less(display.ax_.get_ylim()[0], 45.0)


def test_an_interval_without_a_neighbour_is_a_bar():
    (one,) = points("a", "softmax", 0.5, sizes=(4,))
    display = curve_of([one, few(1, 8)])
    display.plot()
    bars = [
        segment
        for lines in display.ax_.collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    ]
    assert [sorted(bar[:, 1].round(1).tolist()) for bar in bars] == [[38.0, 51.0]]


def headings(display) -> list[str]:
    display.plot()
    (legend,) = display.figure_.legends
    return [text.get_text() for text in legend.get_texts() if not text.get_visible()]


def test_the_legend_says_what_tells_curves_apart():
    warm = [{**one, "temperature": t} for t in (0.5, 1, 2) for one in points("softmax", "ncm", 0.5)]
    display = curve_of(warm)
    assert "Softmax temperature T" in headings(display)
    assert "T = 0.5" in drawn(display)[1].split(" | ")
    family = [one for C in ("0.1", "1", "10") for one in points("fc7", f"logreg(C={C})", 0.5)]
    display = curve_of(family)
    assert "logreg, by C on fc7" in headings(display)
    assert drawn(display)[1].split(" | ")[1:4] == ["C = 0.1", "C = 1", "C = 10"]
    mixed = curve_of([*points("softmax", "a", 0.5), *points("fc7", "a", 0.6)])
    assert headings(mixed)[0] == "Cut, shallow to deep"


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("kind", ["cuts", "heads"])
def test_up_to_twelve_curves_are_told_apart_and_fit(n, kind):
    sizes = (1, 2, 3, 4, 6, 8, 12, 16, 24)
    names = [
        ("cut" * 4 + str(at), "softmax") if kind == "cuts" else ("fc7", f"logreg(C={at + 1})")
        for at in range(n)
    ]
    law = fit_power_law(sizes, [0.9 - 0.5 * size**-0.6 for size in sizes], n_bootstrap=10)
    display = curve_of(
        [one for at, name in enumerate(names) for one in points(*name, 0.4 + at / 30, sizes=sizes)],
        laws={(*name, None): law for name in names},
        until=200,
        title="digits, minivgg",
    ).plot()
    figure = display.figure_
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    measured = [line for line in display.ax_.lines if len(line.get_xdata()) == len(sizes)]
    looks = {(str(line.get_color()), line.get_marker(), line.get_markerfacecolor()) for line in measured}
    assert len(looks) == n
    boxes = [label.get_window_extent() for label in display.ax_.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    ticks = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert {"1", "2", "4", "8", "24", "200"} <= set(ticks)
    assert figure.legends[0].get_window_extent().x0 > display.ax_.get_window_extent().x1
    assert display.ax_.get_window_extent().width / figure.dpi > 3.5


def test_markers_of_many_sizes_do_not_run_together():
    many = curve_of(points("a", "softmax", 0.5, sizes=range(1, 65))).plot().ax_.lines[0]
    some = curve_of(points("a", "softmax", 0.5)).plot().ax_.lines[0]
    assert many.get_markersize() < some.get_markersize() == 5.5


def test_curves_of_one_size_stand_side_by_side():
    display = curve_of([one for cut in "abc" for one in points(cut, "softmax", 0.5, sizes=(8,))]).plot()
    places = [
        float(line.get_xdata()[0]) for line in display.ax_.lines if line.get_label().startswith("softmax")
    ]
    assert len(set(places)) == 3
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["8"]
