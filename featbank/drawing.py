"""How every figure looks, and how it becomes a file: the same bytes for the same data, with no display."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "GREY",
    "MARKERS",
    "OKABE_ITO",
    "Display",
    "check_format",
    "depth_colors",
    "fitted",
    "grouped_legend",
    "head_axes",
    "head_figure",
    "heading",
    "new_figure",
    "note",
    "percent",
    "percent_axis",
    "split_look",
    "styled",
    "tick_sizes",
]

#: Okabe and Ito's palette without its yellow, which no thin line on white survives; black comes last.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Solid first; the others keep their look on a thin line and in a small legend.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
GREY = "#5f6368"
FORMATS = ("png", "svg")

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa0a6",
    "axes.grid": True,
    "axes.labelcolor": "#202124",
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that a figure is the same everywhere
    "font.size": 10,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.title_fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "featbank",
    "text.parse_math": False,  # a class called "$a" is a name, not a formula
    "xtick.color": "#9aa0a6",
    "xtick.labelcolor": "#3c4043",
    "ytick.color": "#9aa0a6",
    "ytick.labelcolor": "#3c4043",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with featbank's settings on top of matplotlib's defaults, whatever a matplotlibrc says."""
    import matplotlib

    base: dict[Any, Any] = {
        k: v for k, v in matplotlib.rcParamsDefault.items() if k not in ("backend", "backend_fallback")
    }
    with matplotlib.rc_context(base | _STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) that pyplot does not know, with room made for everything on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def pair_of_axes(ax: Any, width: float, height: float, what: str) -> NDArray[Any]:
    """Return the caller's two axes as an array, or two beside each other on a new figure (inches).

    Raises
    ------
    InvalidInputError
        If `ax` is not two axes; `what` says what is drawn on them.
    """
    pair = np.ravel(np.array(new_figure(width, height).subplots(1, 2) if ax is None else ax, dtype=object))
    if len(pair) != 2:
        raise InvalidInputError(f"{what} is drawn on two axes, got {len(pair)}")
    return pair


def depth_colors(n: int) -> list[str]:
    """Return `n` colours from dark to light for things that have an order, told apart in grey too."""
    import matplotlib
    from matplotlib.colors import to_hex

    # Viridis without its last fifth: its yellow is too light for a line on white.
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, max(n, 2)))[:n]]


def percent_axis(axes: Axes) -> None:
    """Give the vertical axis of percentages a little room, and no room above 100."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.0), min(high, 102.0))


def heading(text: str) -> Any:
    """Return a legend entry that heads the ones below it."""
    from matplotlib.text import Text

    return Text(text=text, fontweight="bold", color="#202124")


def note(text: str) -> Any:
    """Return a legend entry that is only text, flush with the headings."""
    from matplotlib.text import Text

    return Text(text=text, color="#3c4043")


def grouped_legend(owner: Any, entries: Sequence[Any], *, outside: bool) -> None:
    """Draw a legend of lines, headings and notes; outside the axes it makes its own room.

    Matplotlib has no headings inside a legend. Here a heading is drawn where the handle of a line would be,
    and the label beside it is only measured, so that the legend is as wide as it has to be.
    """
    from matplotlib.legend_handler import HandlerBase
    from matplotlib.text import Text

    class HeadingHandler(HandlerBase):
        def create_artists(  # type: ignore[no-untyped-def]  # matplotlib's own signature has no types
            self, legend, orig_handle, xdescent, ydescent, width, height, fontsize, trans
        ):
            return [
                Text(
                    -xdescent,
                    -ydescent,
                    orig_handle.get_text(),
                    fontsize=fontsize,
                    fontweight=orig_handle.get_fontweight(),
                    color=orig_handle.get_color(),
                    transform=trans,
                    verticalalignment="baseline",
                )
            ]

    labels = [one.get_text() if isinstance(one, Text) else one.get_label() for one in entries]
    legend = owner.legend(
        handles=list(entries),
        labels=labels,
        handler_map={Text: HeadingHandler()},
        handlelength=3.0,
        loc="outside right center" if outside else "best",
        frameon=not outside,
        framealpha=0.85,
    )
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        text.set_parse_math(False)
        if isinstance(entry, Text):
            text.set_visible(False)


def split_look(split: str) -> dict[str, Any]:
    """Return how training, validation and test are drawn wherever they stand side by side."""
    at = ("train", "val", "test").index(split)
    return {
        "color": (OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[1])[at],
        "linestyle": (DASHES[2], DASHES[1], "-")[at],
    }


def percent(values: Any) -> Any:
    """Return shares as percent; None (no interval) becomes NaN, which draws nothing."""
    return 100.0 * np.asarray(values, dtype=np.float64)


def tick_sizes(sizes: Sequence[float], most: int = 9) -> list[float]:
    """Choose which of the ascending `sizes` get a tick on a log2 axis so that labels do not touch."""
    gap = 0.045 * float(np.log2(sizes[-1] / sizes[0]))
    while True:
        kept = [sizes[0]]
        for size in sizes[1:]:
            if np.log2(size / kept[-1]) >= gap > 0:
                kept.append(size)
        if len(kept) <= most:
            return kept
        gap *= 1.3


def fitted(text: str, inches: float, size: float = 11.0) -> str:
    """Break a title into lines that fit into a width, so that a long name is not cut off."""
    # DejaVu Sans is 0.6 of its size wide, on average and with a little to spare.
    width = max(8, int(72 * inches / (0.62 * size)))
    return "\n".join(line for one in text.splitlines() for line in textwrap.wrap(one, width) or [""])


def head_figure(figure: Figure, title: str) -> None:
    """Write a title over a whole figure, in as many lines as it takes."""
    width = float(figure.get_size_inches()[0])
    figure.suptitle(
        fitted(title, width - 0.4), x=0.01, horizontalalignment="left", fontsize=11, parse_math=False
    )


def head_axes(axes: Axes, title: str, inches: float) -> None:
    """Write a title over axes that are about so wide, in as many lines as it takes."""
    axes.set_title(fitted(title, inches, 12.0), parse_math=False)


def check_format(path: Path) -> str:
    """Return the format a file name asks for; raises `InvalidInputError` for other than PNG and SVG."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidInputError(f"cannot write a figure to {str(path)!r}; end it in .png or .svg")
    return kind


class Display:
    """What all displays share: `plot` draws and returns the display, `save` writes the figure.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure drawn last.
    ax_ : matplotlib.axes.Axes or ndarray of them
        The axes drawn on last.
    """

    figure_: Figure
    ax_: Any

    def plot(self, ax: Any = None) -> Display:
        """Draw; each display says on what."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing yet; give it a plot method")

    def _start(self, ax: Axes | None, width: float, height: float) -> Axes:
        """Take the caller's axes, or make a figure with one."""
        if ax is None:
            ax = new_figure(width, height).add_subplot()
        figure = ax.get_figure(root=True)
        if figure is None:
            raise InvalidInputError("ax belongs to no figure any more; make new axes")
        self.ax_, self.figure_ = ax, figure
        return ax

    def _image(self, kind: str) -> bytes:
        if not hasattr(self, "figure_"):
            self.plot()
        buffer = io.BytesIO()
        with styled(), warnings.catch_warnings():
            # A name in a script the font lacks comes out as boxes; that is no reason to fail or to shout.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
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
        target = Path(path)
        kind = check_format(target)
        data = self._image(kind)
        _atomic.make_folder(target.parent)
        _atomic.write_file(target, data)
        return target

    def _repr_png_(self) -> bytes:
        """Show the figure where the last line of a notebook cell is a display."""
        return self._image("png")
