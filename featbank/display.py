"""What all displays share: axes made or taken, title, legend, and files with equal bytes for equal data."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._cache import user_path
from featbank.drawing import check_format, fitted, grouped_legend, new_figure, styled, use_installed_fonts
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Display"]


def _head_figure(figure: Figure, title: str) -> None:
    """Write a title over a whole figure, in as many lines as it takes."""
    width = float(figure.get_size_inches()[0])
    figure.suptitle(
        fitted(title, width - 0.4), x=0.01, horizontalalignment="left", fontsize=11, parse_math=False
    )


def _head_axes(axes: Axes, title: str, inches: float) -> None:
    """Write a title over axes that are about so wide, in as many lines as it takes."""
    axes.set_title(fitted(title, inches, 12.0), parse_math=False)


def _make_room(figure: Figure, legend: Any) -> None:
    """Enlarge a figure whose legend would leave the axes too little, or be cut off."""
    box = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]  # Agg has one
    width, height = (float(one) for one in figure.get_size_inches())
    head = 0.3 * len(figure.get_suptitle().splitlines())
    figure.set_size_inches(
        max(width, box.width / figure.dpi + 4.8), max(height, box.height / figure.dpi + 0.4 + head)
    )


class Display:
    """What all displays share: `plot` draws and returns the display, `save` writes the figure.

    A display says how many axes it needs (`_n_axes`), how large its figure is (`_size`, or `_new_axes`
    for more than one), and draws (`_draw`). Whose axes these are, title and legend are settled here.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure drawn last.
    ax_ : matplotlib.axes.Axes or ndarray of them
        The axes drawn on last.
    """

    figure_: Figure
    ax_: Any
    #: Above the figure.
    title: str | None = None
    #: What it is, for messages.
    _noun = "a figure"

    def plot(self, ax: Any = None) -> Self:
        """Draw on a new figure, or on axes of the caller's.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or sequence of them, optional
            As many as the display says; by default a new figure, with room for its title and legend.

        Returns
        -------
        Display
            This display, with `figure_` and `ax_` (the axes, an array of them where there are several).

        Raises
        ------
        InvalidInputError
            If these are more or fewer axes than the display is drawn on, or they belong to no figure.
        """
        with styled():
            own = ax is None
            panels = np.ravel(np.array(self._new_axes() if own else ax, dtype=object))
            n_axes = self._n_axes()
            if len(panels) != (n_axes or 1):
                raise InvalidInputError(f"{self._noun} is drawn on {n_axes or 1} axes, got {len(panels)}")
            figure = panels[0].get_figure(root=True)
            if figure is None:
                raise InvalidInputError("ax belongs to no figure any more; make new axes")
            self.figure_, self.ax_ = figure, panels[0] if n_axes is None else panels
            entries = self._draw(panels, own=own)
            title = self._heading()
            if title and own:
                _head_figure(figure, title)
            elif title and n_axes is None:
                _head_axes(panels[0], title, panels[0].get_position().width * figure.get_size_inches()[0])
            legend = grouped_legend(figure if own else panels[-1], entries, outside=own) if entries else None
            use_installed_fonts(figure)
            if legend is not None and own:
                _make_room(figure, legend)
        return self

    def _n_axes(self) -> int | None:
        """How many axes it is drawn on; None for one, which `ax_` then is."""
        return None

    def _new_axes(self) -> Any:
        """Make a figure, and return the axes on it that are drawn on."""
        return new_figure(*self._size()).add_subplot()

    def _size(self) -> tuple[float, float]:
        """Width and height of a figure with one axes, in inches."""
        return 8.0, 4.8

    def _heading(self) -> str | None:
        return self.title

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw on the axes, and return the entries of the legend; `own` if the figure is the display's."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing yet; give it a _draw method")

    def _image(self, kind: str) -> bytes:
        if not hasattr(self, "figure_"):
            self.plot()
        buffer = io.BytesIO()
        with styled():
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            self.figure_.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure as PNG or SVG, by the ending of `path`; it is drawn first if it was not yet.

        Equal data give equal bytes (for one version of matplotlib). The file is whole or absent.

        Parameters
        ----------
        path : path-like
            Where to; missing folders are made.

        Returns
        -------
        pathlib.Path
            `path`.

        Raises
        ------
        InvalidInputError
            If the ending is neither ``.png`` nor ``.svg``.
        CacheWriteError
            If the file cannot be written.
        """
        target = user_path(path)
        kind = check_format(target)
        data = self._image(kind)
        _atomic.make_folder(target.parent)
        _atomic.write_file(target, data)
        return target

    def _repr_png_(self) -> bytes:
        """Show the figure where the last line of a notebook cell is a display."""
        return self._image("png")
