"""Pictures of several networks beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
from featbank.plots.display import Display, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BesideDisplay"]


class BesideDisplay(Display):
    """Displays beside each other, such as the filters of a network and of the same with other weights.

    Each is drawn as it is alone, in pixels: its text is none in a PDF or SVG either. Drawn on as many axes as
    there are displays.

    Parameters
    ----------
    displays : sequence of Display
        From left to right.

    Raises
    ------
    InvalidInputError
        If there is none.

    Examples
    --------
    >>> from featbank.inspection import FiltersDisplay
    >>> random = np.random.default_rng(0)
    >>> left, right = (FiltersDisplay(random.normal(size=(4, 3, 3, 3)), title=one) for one in "ab")
    >>> len(BesideDisplay([left, right]).plot().ax_)
    2
    """

    def __init__(self, displays: Sequence[Display]) -> None:
        if not displays:
            raise InvalidInputError("there is nothing to draw; give at least one display")
        self.displays = tuple(displays)

    _noun = "a picture of several displays"

    def _n_axes(self) -> int:
        return len(self.displays)

    def _new_axes(self) -> Any:
        sizes = [np.asarray(one.plot().figure_.get_size_inches()) for one in self.displays]
        widths = [float(width) for width, _ in sizes]
        figure = new_figure(sum(widths), max(float(height) for _, height in sizes))
        return figure.subplots(1, len(sizes), width_ratios=widths, squeeze=False)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        for axes, display in zip(panels, self.displays, strict=True):
            _show(axes, display)
        return []


def _show(axes: Axes, display: Display) -> None:
    from matplotlib.image import imread

    axes.imshow(imread(io.BytesIO(display._repr_png_())), interpolation="antialiased")
    axes.set_axis_off()
    axes.set_anchor("N")
