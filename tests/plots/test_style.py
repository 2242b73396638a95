"""Settings, sizes and formats of every figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from featbank.errors import InvalidInputError
from featbank.plots import display


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "png"), ("b/c.SVG", "svg"), ("x.pdf.png", "png"), ("a.PDF", "pdf"), ("a.eps", "eps")],
)
def test_the_format_is_told_by_the_ending(name: str, kind: str) -> None:
    assert display.check_format(Path(name)) == kind


@pytest.mark.parametrize("name", ["curve.gif", "curve", "png", ".png"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        display.check_format(Path(name))
    assert str(caught.value) == f"cannot write a figure to {name!r}; end it in .png, .svg, .pdf or .eps"


def test_titles_are_broken_into_lines() -> None:
    assert display.fitted("short", 5) == "short"
    assert display.fitted("one two three four", 1.2) == "one two\nthree four"
    assert display.fitted("above\nbelow", 5) == "above\nbelow"
    assert max(map(len, display.fitted("x" * 100, 2).splitlines())) == 21


def test_the_lines_of_a_label_are_about_equally_long() -> None:
    label = "Top-1 accuracy on test images (%)"
    assert display.fitted(label, 2.8).splitlines()[-1] == "(%)"
    assert display.fitted(label, 2.8, balanced=True) == "Top-1 accuracy on\ntest images (%)"
