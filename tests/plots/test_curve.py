"""Bands of a learning curve: all of a few, the best of many, and what the legend says of them."""

from __future__ import annotations

import pytest

from featbank.plots import CurveDisplay
from featbank.plots.curve import MOST_BANDS


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


def test_a_few_curves_have_a_band_each():
    bands, said = drawn(CurveDisplay([*points("a", "softmax", 0.5), *points("b", "softmax", 0.6)]))
    assert bands == 2
    assert "95 % interval of the\nmean of 5 repeats" in said
    assert "best" not in said


def test_of_many_heads_the_best_of_each_cut_has_one():
    heads = [f"head{at}" for at in range(4)]
    display = CurveDisplay(
        [one for cut in "ab" for at, head in enumerate(heads) for one in points(cut, head, 0.5 + at / 10)]
    )
    assert display._banded() == {("a", "head3", None), ("b", "head3", None)}
    bands, said = drawn(display)
    assert bands == 2
    assert said.endswith("(best head of each cut)")


@pytest.mark.parametrize(("n_cuts", "said"), [(8, "(of the 5 best cuts)"), (1, "(of the best head)")])
def test_of_many_cuts_or_heads_the_best(n_cuts, said):
    n_heads = 1 if n_cuts > 1 else 8
    display = CurveDisplay(
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
    _, said = drawn(CurveDisplay(points("a", "softmax", 0.5), band="95 % interval over\n256 test images"))
    assert said.endswith("95 % interval over\n256 test images")
