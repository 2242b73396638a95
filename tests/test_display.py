"""What all displays share: whose axes, which title, how large a figure."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from featbank.display import Display
from featbank.errors import InvalidInputError


class Line(Display):
    """A display of one axes."""

    _noun = "a line"
    title = "a title"

    def _draw(self, panels, *, own):
        panels[0].plot([0, 1], [0, 1])
        self.own = own
        return []


class Pair(Line):
    def _n_axes(self):
        return 2

    def _new_axes(self):
        return Figure(figsize=(6, 3)).subplots(1, 2)


def test_a_display_draws_something() -> None:
    with pytest.raises(NotImplementedError, match="Display draws nothing yet"):
        Display().plot()


def test_one_axes_of_its_own_or_of_the_caller() -> None:
    display = Line().plot()
    assert (display.own, display.figure_.get_suptitle(), display.ax_.get_title(loc="left")) == (
        True,
        "a title",
        "",
    )
    axes = Figure().subplots()
    assert Line().plot(axes).ax_ is axes
    assert (axes.get_title(loc="left"), axes.get_figure().get_suptitle()) == ("a title", "")


def test_several_axes() -> None:
    display = Pair().plot()
    assert (len(display.ax_), display.own) == (2, True)
    axes = Figure().subplots(1, 2)
    display = Pair().plot(axes)
    assert list(display.ax_) == list(axes)
    assert (display.own, display.figure_.get_suptitle()) == (False, "")


@pytest.mark.parametrize(
    ("kind", "n", "message"),
    [
        (Line, 2, "a line is drawn on 1 axes, got 2"),
        (Pair, 1, "a line is drawn on 2 axes, got 1"),
    ],
)
def test_the_wrong_number_of_axes(kind, n, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        kind().plot(Figure().subplots(1, n))
    assert str(caught.value) == message


def test_axes_that_were_removed() -> None:
    axes = Figure().subplots()
    axes.remove()
    with pytest.raises(InvalidInputError, match="ax belongs to no figure any more; make new axes"):
        Line().plot(axes)
