"""What all displays share."""

from __future__ import annotations

from pathlib import Path

import pytest

from featbank import drawing
from featbank.errors import InvalidInputError


@pytest.mark.parametrize(("name", "kind"), [("a.png", "png"), ("b/c.SVG", "svg"), ("x.pdf.png", "png")])
def test_the_format_is_told_by_the_ending(name: str, kind: str) -> None:
    assert drawing.check_format(Path(name)) == kind


@pytest.mark.parametrize("name", ["curve.pdf", "curve", "png", ".png"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        drawing.check_format(Path(name))
    assert str(caught.value) == f"cannot write a figure to {name!r}; end it in .png or .svg"


def test_titles_are_broken_into_lines() -> None:
    assert drawing.fitted("short", 5) == "short"
    assert drawing.fitted("one two three four", 1.2) == "one two\nthree four"
    assert drawing.fitted("above\nbelow", 5) == "above\nbelow"
    assert max(map(len, drawing.fitted("x" * 100, 2).splitlines())) == 21
